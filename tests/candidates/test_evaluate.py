"""What a checkpoint chooses: the same as in fairseq's validation, with LoRA, a prefix, or untrained."""

import json
import logging
import math

import choices
import prompts
import pytest
import torch
import toy

from sharp_plugins.candidates.evaluate import Checkpoint, choices_of
from sharp_plugins.models import loading

WRAPPED = {
    "plain": prompts.MODEL,
    "lora": ["--arch", "lora", "--base-arch", "sharp_decoder", *prompts.MODEL[2:], "--lora-rank", "2"],
    "prefix": ["--arch", "prefix", "--base-arch", "sharp_decoder", *prompts.MODEL[2:], "--prefix-length", "3"],
}

KEPT = "--no-save-optimizer-state"  # which is gathered where fairseq trains


def save(trainer, path, by=0.2):
    """A checkpoint of the trainer, with weights that are large enough to matter."""
    trained = [p.requires_grad for p in trainer.get_model().parameters()]
    choices.shaken(trainer.get_model(), by)
    for p, was in zip(trainer.get_model().parameters(), trained):
        p.requires_grad_(was)
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}})
    return path


@pytest.fixture(scope="module")
def checkpoints(data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoints")
    return {name: save(choices.trainer(data, KEPT, model=model), directory / f"{name}.pt") for name, model in WRAPPED.items()}


@pytest.mark.parametrize("arch", WRAPPED)
def test_scores_are_those_of_the_criterion(data, checkpoints, arch):
    found = Checkpoint(checkpoints[arch], data, "cpu").choose("valid", 3)
    trainer = choices.trainer(data, model=WRAPPED[arch])
    trainer.get_model().load_state_dict(torch.load(checkpoints[arch], weights_only=False)["model"])
    trainer.task.load_dataset("valid")
    dataset, model, criterion = trainer.task.dataset("valid"), trainer.get_model().eval(), trainer.get_criterion()
    sample = dataset.collater([dataset[i] for i in range(8)])
    with torch.no_grad():
        scores, (loss, _, log) = criterion.scores(model, sample), criterion(model, sample)
    assert scores.max() - scores[:, :2].min() > 0.5
    for choice, row in zip(found.choices, scores):
        torch.testing.assert_close(torch.tensor(choice.scores), row[: len(choice.scores)], rtol=0, atol=1e-5)
    wanted = {
        "accuracy": 100 * int(log["ncorrect"]) / 8,
        "loss": pytest.approx(loss.item() / 8 / math.log(2), abs=1e-5),
        "examples": 8,
    }
    assert found.scores() == wanted and 0 < wanted["accuracy"] < 100


def test_the_command(data, backbone, tmp_path, capsys):
    """Zero-shot: a converted model that was not trained."""
    files = ["--json", tmp_path / "scores.json", "--predictions", tmp_path / "predictions.jsonl"]
    assert choices.run("evaluate", backbone / "model.pt", data, *files, "--batch-size", 2, "--device", "cpu") == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert {split: found["examples"] for split, found in scores.items()} == {"valid": 8, "test": 7}
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [(line["split"], line["id"]) for line in lines] == [("valid", i) for i in range(8)] + [("test", i) for i in range(7)]
    for line, (_, candidates, answers) in zip(lines, choices.rows(8, 8) + choices.rows(7, 7)):
        assert line["candidate"] == candidates[line["chosen"]] and line["answers"] == answers
        assert line["right"] == (line["chosen"] in answers) and line["chosen"] == line["scores"].index(max(line["scores"]))
    assert sum(line["right"] for line in lines[:8]) * 100 / 8 == scores["valid"]["accuracy"]
    output = capsys.readouterr().out.splitlines()
    assert "8 examples, " in output[0] and output[0].endswith(" a second")
    assert output[-2].startswith(f"valid: accuracy {scores['valid']['accuracy']:.2f}, loss ")
    assert choices.run("evaluate", backbone / "model.pt", data, "--splits", "train", "--json", tmp_path / "train.json") == 0
    assert list(json.loads((tmp_path / "train.json").read_text())) == ["train"]


def test_progress_is_told(data, backbone, monkeypatch):
    monkeypatch.setattr(loading, "EVERY", 0.0)
    told = []
    Checkpoint(backbone / "model.pt", data, "cpu", told.append).choose("valid", 3)
    assert [line.partition(" examples")[0] for line in told] == [f"valid: {n} of 8" for n in (3, 6)] + ["valid: 8"]


def test_a_model_that_learnt_to_write_texts(data, backbone, tmp_path, caplog):
    """COPA's way: teacher forcing with ``--task prompted_generation``, then the choice."""
    caplog.set_level(logging.WARNING)
    lines = prompts.write_lines(tmp_path / "rows.jsonl", prompts.pairs(8))
    other = prompts.prepare(backbone, tmp_path / "other", "--train", lines, "--format", "lora-gpt2")
    path = save(prompts.trainer(other, KEPT, model=WRAPPED["lora"]), tmp_path / "trained.pt")
    caplog.clear()
    assert Checkpoint(path, data, "cpu").choose("valid").scores()["examples"] == 8
    assert "format" not in caplog.text


def test_what_cannot_be_evaluated(data, backbone, checkpoints, translation_data, tmp_path, capsys):
    def refused(*arguments):
        assert choices.run("evaluate", *arguments, "--device", "cpu") == 1
        return capsys.readouterr().err

    assert "nowhere.pt: not there" in refused(tmp_path / "nowhere.pt", data)
    assert f"{tmp_path}: it is a directory, and a checkpoint is wanted" in refused(tmp_path, data)
    assert "candidates prepare` writes such a directory" in refused(backbone / "model.pt", tmp_path)
    assert "--splits more: " in refused(backbone / "model.pt", data, "--splits", "more")
    assert "--batch-size must be 1 or larger, and is 0" in refused(backbone / "model.pt", data, "--batch-size", "0")
    other = prompts.write_backbone(tmp_path / "smollm", is_gpt2=False)
    assert "are another model's than those of" in refused(other / "model.pt", data)
    encoder = toy.build_trainer(translation_data, KEPT, "--optimizer", "sgd", *toy.SGD)
    encoder.save_checkpoint(str(tmp_path / "encoder.pt"), {"train_iterator": {"epoch": 1}})
    assert "its architecture, transformer, is none of a published decoder" in refused(tmp_path / "encoder.pt", data)
    for arch, name, value in (("plain", "decoder_layers", 2000), ("lora", "lora_rank", 3), ("prefix", "prefix_length", 9)):
        state = torch.load(checkpoints[arch], weights_only=False)
        was = state["cfg"]["model"][name] if isinstance(state["cfg"]["model"], dict) else getattr(state["cfg"]["model"], name)
        state["cfg"]["model"] = {**_settings(state), name: value}
        torch.save(state, tmp_path / "changed.pt")
        assert f"its config says {name} {value}, and its weights have {was}" in refused(tmp_path / "changed.pt", data)


def test_scores_are_printed_though_they_cannot_be_written(data, backbone, tmp_path, monkeypatch, capsys):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sharp_plugins.candidates.__main__.write_text", full)
    assert choices.run("evaluate", backbone / "model.pt", data, "--splits", "valid", "--json", tmp_path / "scores.json") == 1
    shown = capsys.readouterr()
    assert "valid: accuracy " in shown.out and "No space left" in shown.err


@pytest.mark.parametrize("splits", [[], ["--splits", "valid", "train"]], ids=["test", "train"])
def test_what_is_longer_than_a_prefix_leaves_is_refused_before_any_split_is_scored(backbone, checkpoints, tmp_path, capsys, splits):
    """Training looks at no test set, and leaves out what is too long of its own."""
    short, long = choices.rows(4), [("Ann " * 40 + "is", choices.WORDS, [0])]
    flags = ["--valid", choices.write_lines(tmp_path / "valid.jsonl", short)]
    for split in ("train", "test"):
        flags += [f"--{split}", choices.write_lines(tmp_path / f"{split}.jsonl", short + long)]
    data, line = tmp_path / "data", ["evaluate", checkpoints["prefix"], tmp_path / "data", *splits, "--device", "cpu"]
    choices.prepare(backbone, data, *flags)
    capsys.readouterr()
    assert choices.run(*line, "--json", tmp_path / "scores.json") == 1
    shown, name = capsys.readouterr(), splits[-1] if splits else "test"
    words = f"{data}: the longest sequence of {name} takes 63 positions, and the model has 61 beside its prefix of 3; "
    assert f"error: {words}prepare the data again with `--max-positions 62`" in shown.err and shown.out == ""
    with pytest.raises(ValueError, match=f"the longest sequence of {name} takes 63 positions"):
        Checkpoint(checkpoints["prefix"], data, "cpu").choose(name)
    line[2] = choices.prepare(backbone, tmp_path / "shorter", *flags, "--max-positions", 62)
    assert choices.run(*line) == 0


def _settings(state):
    model = state["cfg"]["model"]
    return model if isinstance(model, dict) else vars(model)


def test_scores_that_are_no_numbers():
    with pytest.raises(ValueError, match="valid: the scores are no finite numbers; the model's training diverged"):
        choices_of([torch.tensor([0.0, math.nan])], [[0]], "valid", [])
