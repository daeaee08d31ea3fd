"""fairseq's own programs on cloze prompts: train from a converted model, validate, evaluate, resume; two ranks."""

import json

import clozes
import pytest
from processes import assert_close, assert_same_training, console, last, line, start, start_ranks, stats

pytestmark = pytest.mark.slow

ADAM = "--optimizer adam --lr 0.02 --batch-size 8 --dropout 0.1 --attention-dropout 0.1".split()
TASK = ["--task", "cloze"]
CRITERION = ["--criterion", "cloze"]


def arguments(data, save_dir, *flags, **parts):
    return line(data, save_dir, *TASK, *flags, **{"model": clozes.LORA, "criterion": CRITERION, **parts})


def train(data, save_dir, *flags, **parts):
    return start(arguments(data, save_dir, *flags, **parts), save_dir / "train.log").succeed()


@pytest.fixture(scope="module")
def trained(data, backbone, tmp_path_factory):
    """LoRA and an untied head from the converted model, with validation: the log and the directory."""
    save_dir = tmp_path_factory.mktemp("trained")
    flags = [*ADAM, "--max-epoch", "12", "--finetune-from-model", backbone / "model.pt"]
    words = arguments(data, save_dir, *flags, "--best-checkpoint-metric", "accuracy", "--maximize-best-checkpoint-metric")
    words.remove("--disable-validation")
    return start(words, save_dir / "train.log").succeed().text, save_dir


def test_it_learns(trained, data, backbone, tmp_path):
    text, save_dir = trained
    assert "--train-lm-head untied: 6,391 of" in text and "6,135 of them in the masked-language-model head" in text
    entries = stats(text, "valid")
    assert len(entries) == 12 and entries[-1]["valid_accuracy"] >= 90
    best = max(entries, key=lambda entry: entry["valid_accuracy"])
    scores = {}
    for name, path in (("best", save_dir / "checkpoint_best.pt"), ("zero-shot", backbone / "model.pt")):
        assert clozes.main("evaluate", path, data, "--json", tmp_path / "scores.json") == 0
        scores[name] = json.loads((tmp_path / "scores.json").read_text())
    assert scores["best"]["valid"]["accuracy"] == pytest.approx(best["valid_accuracy"], abs=0.01)
    assert scores["zero-shot"]["valid"]["accuracy"] < scores["best"]["valid"]["accuracy"]
    assert scores["best"]["test"]["accuracy"] > 80


def test_fairseq_validate(trained, data):
    text, save_dir = trained
    flags = ["--path", save_dir / "checkpoint_last.pt", "--cpu", "--batch-size", "5", "--log-format", "json"]
    output = console("fairseq-validate", data, "--user-dir", clozes.toy.PLUGIN, *TASK, *flags, directory=save_dir, is_fresh=True)
    (entry,) = stats(output, "valid")
    assert entry["valid_accuracy"] == pytest.approx(stats(text, "valid")[-1]["valid_accuracy"], abs=0.01)


def test_resuming_goes_on_as_if_nothing_had_been(data, backbone, tmp_path):
    flags = [*ADAM, "--finetune-from-model", backbone / "model.pt"]
    train(data, tmp_path / "whole", *flags, "--max-epoch", "2")
    train(data, tmp_path / "parts", *flags, "--max-epoch", "1")
    train(data, tmp_path / "parts", *flags, "--max-epoch", "2")
    assert_same_training(tmp_path / "whole", tmp_path / "parts")


def test_two_ranks_train_as_one(data, tmp_path):
    """48 rows: 6 batches an epoch, 3 for each rank, which accumulate in the run on one."""
    flags = "--optimizer sgd --lr 0.1 --clip-norm 0 --dropout 0 --attention-dropout 0 --batch-size 8 --max-epoch 1".split()
    runs = start_ranks(data, tmp_path / "two", *TASK, *flags, model=clozes.LORA, criterion=CRITERION)
    try:
        two = stats([run.succeed() for run in runs][0].text)
    finally:
        for run in runs:
            run.process.kill()
    one = stats(train(data, tmp_path / "one", *flags, "--update-freq", "2").text)
    assert_close(last(tmp_path / "two")["model"], last(tmp_path / "one")["model"], relative=1e-5)
    assert [entry["bsz"] for entry in two] == [entry["bsz"] for entry in one] == [16] * 3
    assert [entry["accuracy"] for entry in two] == [entry["accuracy"] for entry in one]
