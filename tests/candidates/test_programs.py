"""Real processes: fairseq-train with validation, the best checkpoint, evaluation; two ranks; SmolLM2 untrained."""

import json

import choices
import prompts
import pytest
from processes import assert_close, last, line, start, start_ranks, stats

pytestmark = pytest.mark.slow

LORA = ["--arch", "lora", "--base-arch", "sharp_decoder", *prompts.MODEL[2:], "--lora-rank", "4"]
PARTS = {"model": LORA, "criterion": choices.CRITERION}


def test_training_validation_and_evaluation(data, backbone, tmp_path):
    flags = "--task candidates --optimizer dsam --lr 0.03 --batch-size 8 --max-epoch 12 --dropout 0 --attention-dropout 0".split()
    flags += "--best-checkpoint-metric accuracy --maximize-best-checkpoint-metric".split()
    words = line(data, tmp_path, *flags, "--finetune-from-model", backbone / "model.pt", **PARTS)
    words.remove("--disable-validation")
    text = start(words, tmp_path / "train.log").succeed().text
    found = stats(text, "valid")
    assert len(found) == 12 and found[-1]["valid_loss"] < found[0]["valid_loss"] - 0.1
    assert found[-1]["valid_best_accuracy"] == max(entry["valid_accuracy"] for entry in found)
    assert {entry["bsz"] for entry in stats(text)} == {8.0} and stats(text)[-1]["accuracy"] > stats(text)[0]["accuracy"]
    scores = tmp_path / "scores.json"
    assert choices.run("evaluate", tmp_path / "checkpoint_best.pt", data, "--splits", "valid", "--json", scores) == 0
    ours = json.loads(scores.read_text())["valid"]
    best = max(reversed(found), key=lambda entry: entry["valid_accuracy"])  # the last of equals, as fairseq keeps it
    assert ours["accuracy"] == pytest.approx(best["valid_accuracy"], abs=0.01)
    assert ours["loss"] == pytest.approx(best["valid_loss"], abs=2e-3)


def test_two_ranks_equal_one(data, tmp_path):
    """24 examples: 6 batches an epoch, 3 for each rank. The mean is over the examples that both count."""
    flags = "--task candidates --optimizer sgd --lr 0.1 --clip-norm 0 --dropout 0 --attention-dropout 0".split()
    flags += "--batch-size 4 --max-epoch 2".split()
    runs = start_ranks(data, tmp_path / "two", *flags, "--ddp-backend", "legacy_ddp", **PARTS)
    try:
        two = stats([run.succeed() for run in runs][0].text)
    finally:
        for run in runs:
            run.process.kill()
    words = line(data, tmp_path / "one", *flags, "--update-freq", "2", **PARTS)
    one = stats(start(words, tmp_path / "one" / "train.log").succeed().text)
    assert_close(last(tmp_path / "two")["model"], last(tmp_path / "one")["model"], relative=1e-5)
    assert [entry["accuracy"] for entry in two] == [entry["accuracy"] for entry in one]


ROWS = [
    ("a gripping, funny and tender film. It was", [" terrible", " great"], [1]),
    ("the plot is a mess and the acting is worse. It was", [" terrible", " great"], [0]),
    ("The woman was hungry so", [" she ate a sandwich.", " she flew to the moon.", " she the of a"], [0]),
    (
        "Title: Paris\nContext: Paris is the capital of France.\nQuestion: Of what is Paris the capital?\nAnswer:",
        [" France", " Peru"],
        [0],
    ),
]


def test_smollm2_untrained(smollm2_converted, smollm2_transformers, tmp_path):
    """The choices and scores of transformers' model, one candidate at a time."""
    import torch
    import transformers

    lines = choices.write_lines(tmp_path / "test.jsonl", ROWS)
    data = choices.prepare(smollm2_converted, tmp_path / "data", "--test", lines)
    predictions = tmp_path / "predictions.jsonl"
    assert choices.run("evaluate", smollm2_converted / "model.pt", data, "--predictions", predictions, "--device", "cpu") == 0
    model = transformers.AutoModelForCausalLM.from_pretrained(str(smollm2_transformers), dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(smollm2_transformers))
    begin = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    for row, (prompt, candidates, answers) in zip(map(json.loads, predictions.read_text().splitlines()), ROWS):
        before = len(tokenizer.encode(prompt, add_special_tokens=False))
        for candidate, score in zip(candidates, row["scores"]):
            ids = tokenizer.encode(prompt + candidate, add_special_tokens=False)
            with torch.no_grad():
                wanted = choices.plain_score(lambda tokens: model(tokens).logits, torch.tensor([begin, *ids]), len(ids) - before)
            assert score == pytest.approx(float(wanted), abs=2e-4)
        assert row["answers"] == answers
    assert row["right"]
