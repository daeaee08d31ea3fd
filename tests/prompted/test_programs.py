"""fairseq's own programs on prompts: train from a converted model, validate, generate, type prompts; resume; two ranks."""

import re

import prompts
import pytest
import toy
from processes import assert_close, assert_same_training, console, last, line, start, start_ranks, stats

pytestmark = pytest.mark.slow

ADAM = "--optimizer adam --lr 0.01 --batch-size 8 --dropout 0.1 --attention-dropout 0.1".split()
TASK = ["--task", "prompted_generation"]
CRITERION = "--criterion label_smoothed_cross_entropy --label-smoothing 0.1".split()
LORA = ["--arch", "lora", "--base-arch", "sharp_decoder", *prompts.MODEL[2:], "--lora-rank", "2"]


def arguments(data, save_dir, *flags, **parts):
    return line(data, save_dir, *TASK, *flags, **{"model": prompts.MODEL, "criterion": CRITERION, **parts})


def train(data, save_dir, *flags, **parts):
    return start(arguments(data, save_dir, *flags, **parts), save_dir / "train.log").succeed()


@pytest.fixture(scope="module")
def trained(data, backbone, tmp_path_factory):
    """From the converted model, with validation: the log and the directory."""
    save_dir = tmp_path_factory.mktemp("trained")
    words = arguments(data, save_dir, *ADAM, "--max-epoch", "40", "--finetune-from-model", backbone / "model.pt")
    words.remove("--disable-validation")
    return start(words, save_dir / "train.log").succeed().text, save_dir


def program(name, data, save_dir, *flags, is_fresh=False):
    words = [data, "--user-dir", toy.PLUGIN, "--path", save_dir / "checkpoint_last.pt", "--cpu", *flags]
    return console(name, *words, directory=save_dir, is_fresh=is_fresh)


def lines_of(output, kind):
    """What was printed of each sentence: (number from 0) -> the last field."""
    found = re.findall(rf"^{kind}-(\d+)\t(?:-?[\d.]+\t)?(.*)$", output, re.M)
    return {int(number): text for number, text in found}


def test_it_learns(trained):
    text, _ = trained
    losses = [entry["valid_nll_loss"] for entry in stats(text, "valid")]
    assert len(losses) == 40 and losses[-1] < losses[0] / 4
    assert stats(text)[-1]["loss"] < 4


def test_fairseq_validate(trained, data):
    text, save_dir = trained
    output = program(
        "fairseq-validate", data, save_dir, *TASK, "--batch-size", "2", "--log-format", "json", "--valid-subset", "valid,test"
    )
    (entry,) = stats(output, "valid")
    assert entry["valid_loss"] == pytest.approx(stats(text, "valid")[-1]["valid_loss"], abs=2e-3)
    assert stats(output, "test")[0]["test_nll_loss"] > 0


def test_fairseq_generate(trained, data):
    flags = [*TASK, "--beam", "3", "--max-len-b", "24", "--batch-size", "2"]
    output = program("fairseq-generate", data, trained[1], *flags)
    wanted = prompts.pairs(5, 5)
    assert lines_of(output, "S") == {i: prompt for i, (prompt, _) in enumerate(wanted)}
    assert lines_of(output, "T") == {i: texts[0] for i, (_, texts) in enumerate(wanted)}
    written = lines_of(output, "D")
    assert set(written) == set(range(5)) and not any(text.startswith(" ") or "Ġ" in text for text in written.values())
    # With the first symbols of the texts given, the outputs begin so.
    output = program("fairseq-generate", data, trained[1], *flags, "--prefix-size", "6")
    beginnings = {i: symbols.split()[:6] for i, symbols in lines_of(output, "H").items()}
    assert beginnings[1] == "Ġ B o b Ġlives Ġin".split()
    return written


def test_fairseq_interactive_writes_what_fairseq_generate_writes(trained, data, tmp_path):
    written = test_fairseq_generate(trained, data)
    (tmp_path / "raw.txt").write_text("".join(f"{prompt}\n" for prompt, _ in prompts.pairs(5, 5)), encoding="utf-8")
    flags = [*TASK, "--beam", "3", "--max-len-b", "24", "--input", tmp_path / "raw.txt", "--buffer-size", "5", "--batch-size", "2"]
    output = program("fairseq-interactive", data, trained[1], *flags, is_fresh=True)
    assert lines_of(output, "D") == written and set(lines_of(output, "S")) == set(range(5))


@pytest.mark.parametrize(
    "flags, outputs",
    [
        (["--beam", "2", "--nbest", "2", "--fp16"], 2),
        (["--beam", "1", "--bf16"], 1),
        (["--beam", "3", "--nbest", "3", "--sampling", "--sampling-topk", "5", "--temperature", "0.7"], 3),
    ],
    ids=["nbest and fp16", "bf16", "samples of two models"],
)
def test_generate_in_half_precision_and_with_two_models(trained, data, flags, outputs):
    _, save_dir = trained
    models = (
        f"{save_dir / 'checkpoint_best.pt'}:{save_dir / 'checkpoint_last.pt'}" if outputs == 3 else save_dir / "checkpoint_last.pt"
    )
    flags = [*TASK, "--path", models, "--max-len-b", "12", "--batch-size", "2", *flags]
    output = program("fairseq-generate", data, save_dir, *flags)
    for kind in "HDP":
        numbers = re.findall(rf"^{kind}-(\d+)\t", output, re.M)
        assert sorted(numbers) == sorted(str(n) for n in range(5) for _ in range(outputs))
    scores = re.findall(r"^H-\d+\t(\S+)\t", output, re.M)
    assert all(-20 < float(score) <= 0 for score in scores)


def test_generation_refuses_another_models_data(trained, smollm, tmp_path):
    rows = prompts.write_lines(tmp_path / "rows.jsonl", prompts.pairs(3))
    other = prompts.prepare(smollm, tmp_path / "other", "--test", rows)
    with pytest.raises(AssertionError, match="its dict.txt and tokenizer.json are another model's"):
        program("fairseq-generate", other, trained[1], *TASK)


@pytest.mark.parametrize(
    "flags, parts",
    [
        (ADAM, {}),
        ("--optimizer dsam --lr 0.01 --batch-size 8".split(), {"model": LORA}),
        (ADAM, {"criterion": ["--criterion", "r3f_label_smoothed_cross_entropy"]}),
        (["--optimizer", "dsam", *ADAM[2:], "--fp16", "--fp16-no-flatten-grads", "--fp16-init-scale", "4"], {}),
    ],
    ids=["adam", "LoRA with δ-SAM", "R3F", "δ-SAM in fp16"],
)
def test_resuming_in_the_middle_of_an_epoch_equals_never_having_stopped(data, tmp_path, flags, parts):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(data, halves, *flags, "--max-update", "3", **parts)
    assert last(halves)["extra_state"]["train_iterator"]["iterations_in_epoch"] == 3
    train(data, halves, *flags, "--max-update", "8", **parts)
    train(data, whole, *flags, "--max-update", "8", **parts)
    assert_same_training(halves, whole)


@pytest.mark.parametrize("backend", ["legacy_ddp", "pytorch_ddp"])
def test_two_ranks_equal_one(data, tmp_path, backend):
    """48 rows: 6 batches an epoch, 3 for each rank. The mean is over the symbols that both count."""
    flags = "--optimizer sgd --lr 0.1 --clip-norm 0 --dropout 0 --attention-dropout 0 --batch-size 8 --max-epoch 2".split()
    parts = {"model": prompts.MODEL, "criterion": CRITERION}
    runs = start_ranks(data, tmp_path / "two", *TASK, *flags, "--ddp-backend", backend, **parts)
    try:
        two = stats([run.succeed() for run in runs][0].text)
    finally:
        for run in runs:
            run.process.kill()
    one = stats(train(data, tmp_path / "one", *flags, "--update-freq", "2").text)
    assert_close(last(tmp_path / "two")["model"], last(tmp_path / "one")["model"], relative=1e-5)
    for name in ("wpb", "bsz"):
        assert [entry[name] for entry in two] == [entry[name] for entry in one]
