"""Predictions and metrics of checkpoints, against the model run one row at a time."""

import json
import re
import shutil

import glue_files
import pytest
import torch
from glue_models import outputs, train_a_little
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from sharp_plugins.glue import binarize, evaluate
from sharp_plugins.glue.__main__ import main
from sharp_plugins.glue.binarize import prepare
from sharp_plugins.glue.evaluate import Checkpoint
from sharp_plugins.glue.tasks import TASKS
from sharp_plugins.models import loading
from sharp_plugins.text.encoder_directory import load_backbone


@pytest.mark.parametrize(
    "kind, task, lora",
    [("bert", "MRPC", False), ("roberta", "CoLA", False), ("bert", "CoLA", True)],
    ids=["bert", "roberta", "lora"],
)
def test_metrics_of_classes(request, tmp_path, monkeypatch, kind, task, lora):
    path, prepared, trainer = train_a_little(tmp_path, request.getfixturevalue(kind), task, lora)
    monkeypatch.setattr(evaluate, "BATCH", 16)  # several batches
    checkpoint = Checkpoint(path, prepared, "cpu")
    found = checkpoint.score()
    assert set(found) == set(prepared.rows) - {"train"}
    for split in found:
        logits, targets = outputs(trainer, split)
        predictions = logits.argmax(1)
        assert 0 < predictions.sum() < len(predictions)  # both classes, or the metrics would tell nothing
        assert checkpoint.predict(split).values == [TASKS[task].classes[i] for i in predictions]
        expected = {
            "MRPC": {"accuracy": accuracy_score(targets, predictions), "f1": f1_score(targets, predictions)},
            "CoLA": {"mcc": matthews_corrcoef(targets, predictions)},
        }[task]
        assert found[split] == pytest.approx({name: 100 * value for name, value in expected.items()})


def test_metrics_of_scores_and_the_command(bert, tmp_path, capsys):
    path, prepared, trainer = train_a_little(tmp_path, bert, "STS-B")
    logits, targets = outputs(trainer, "test")
    line = ["evaluate", path, prepared.directory, "--device", "cpu", "--submission", tmp_path / "submission"]
    line += ["--json", tmp_path / "scores.json"]
    assert main([str(part) for part in line]) == 0
    printed = capsys.readouterr().out.splitlines()
    values = logits.view(-1).double()
    expected = f"pearson {100 * pearsonr(values, targets)[0]:.2f}, spearman {100 * spearmanr(values, targets)[0]:.2f}"
    scores = json.loads((tmp_path / "scores.json").read_text())
    exact = {"pearson": 100 * pearsonr(values, targets)[0], "spearman": 100 * spearmanr(values, targets)[0]}
    assert scores["test"] == pytest.approx(exact, rel=1e-4) and set(scores) == {"valid", "test"}
    assert f"test: {expected}" in printed and any(line.startswith("valid: ") for line in printed)
    rows = (tmp_path / "submission" / "STS-B.tsv").read_text().splitlines()
    assert rows[0] == "index\tprediction" and len(rows) == 31
    for number, (row, value) in enumerate(zip(rows[1:], values.tolist(), strict=True)):
        index, prediction = row.split("\t")
        assert index == str(number) and float(prediction) == pytest.approx(min(max(5 * value, 0), 5), abs=2e-3)


def test_sets_without_labels_are_not_predicted_for_a_score(bert, tmp_path, monkeypatch):
    path, _, _ = train_a_little(tmp_path, bert, "RTE")
    glue_files.write_task(tmp_path / "official", "RTE")
    prepared = prepare(tmp_path / "official", load_backbone(bert), TASKS["RTE"], tmp_path / "new", max_positions=256)
    assert "test" in prepared.rows
    checkpoint, predicted, predict = Checkpoint(path, prepared), [], Checkpoint.predict
    monkeypatch.setattr(Checkpoint, "predict", lambda self, split: (predicted.append(split), predict(self, split))[1])
    assert list(checkpoint.score()) == ["valid"] == predicted


def test_outputs_that_are_no_numbers_are_no_predictions(bert, tmp_path):
    path, prepared, _ = train_a_little(tmp_path, bert, "RTE")
    state = torch.load(path, weights_only=True)
    state["model"]["classification_heads.sentence_classification_head.out_proj.bias"].fill_(float("nan"))
    torch.save(state, path)
    with pytest.raises(ValueError, match="no finite numbers"):
        Checkpoint(path, prepared).score()


def test_rows_that_are_longer_than_the_model_are_refused_before_any_split_is_scored(bert, tmp_path, monkeypatch, capsys):
    """The data may be another model's, with the same vocabulary and more positions."""
    path, _, _ = train_a_little(tmp_path, bert, "RTE")
    glue_files.write_task(tmp_path / "official", "RTE")
    with open(tmp_path / "official" / "RTE" / "test.tsv", "a") as file:
        file.write(f"99\t{'cat ' * 290}\tdog\n")
    larger = load_backbone(bert)._replace(max_positions=400)
    prepare(tmp_path / "official", larger, TASKS["RTE"], tmp_path / "new", max_positions=400)
    line = ["evaluate", str(path), str(tmp_path / "new")]
    assert main(line) == 0  # the test set has no labels
    monkeypatch.setattr(Checkpoint, "predict", None)
    assert main([*line, "--submission", str(tmp_path / "submission")]) == 1
    words = "the longest row of test has 294 tokens, and the model 256 positions; prepare the data again with `--max-positions 256`"
    assert f"error: {tmp_path / 'new'}: {words}" in capsys.readouterr().err
    monkeypatch.setattr(Checkpoint, "has_labels", lambda self, split: True)
    assert main(line) == 1 and words in capsys.readouterr().err


def test_a_submission_without_a_test_set(bert, tmp_path, monkeypatch, capsys):
    path, prepared, _ = train_a_little(tmp_path, bert, "RTE")
    rows = {split: count for split, count in prepared.rows.items() if not split.startswith("test")}
    with pytest.raises(ValueError, match="--submission: .* has no test set"):
        Checkpoint(path, prepared._replace(rows=rows)).write_submissions(tmp_path / "submission")
    assert not (tmp_path / "submission").exists()
    # The command says so before it evaluates, and not instead of the metrics.
    scored = []
    monkeypatch.setattr(Checkpoint, "score", lambda self: scored.append(self))
    monkeypatch.setattr(binarize, "read_prepared", lambda directory: prepared._replace(rows=rows))
    line = ["evaluate", path, prepared.directory, "--device", "cpu", "--submission", tmp_path / "submission"]
    assert main([str(part) for part in line]) == 1 and not scored
    assert "error: --submission: " in capsys.readouterr().err


def test_the_progress_is_told(bert, tmp_path, monkeypatch, capsys):
    path, prepared, _ = train_a_little(tmp_path, bert, "STS-B")
    monkeypatch.setattr(evaluate, "BATCH", 16)
    monkeypatch.setattr(loading, "EVERY", -1.0)
    assert main(["evaluate", str(path), str(prepared.directory), "--device", "cpu"]) == 0
    assert re.search(r"^test: 16 of 30 rows, [\d.]+ a second\n", capsys.readouterr().out, re.M)


def test_sets_with_typing_errors_are_told_and_not_submitted(bert, tmp_path, capsys):
    path, _, _ = train_a_little(tmp_path, bert, "RTE")
    glue_files.write_task(tmp_path / "files", "RTE")
    prepare(tmp_path / "files", load_backbone(bert), TASKS["RTE"], tmp_path / "typos", 64, typos=0.5)
    line = ["evaluate", str(path), str(tmp_path / "typos"), "--device", "cpu"]
    assert main(line) == 0
    told = "with typing errors in 50 % of the words of four letters or more:"
    assert capsys.readouterr().out.splitlines()[0] == told
    assert main([*line, "--submission", str(tmp_path / "submission")]) == 1
    assert "error: --submission: " in (shown := capsys.readouterr()).err and "without --typos" in shown.err
    assert not (tmp_path / "submission").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(bert, tmp_path):
    path, prepared, _ = train_a_little(tmp_path, bert, "RTE")
    with pytest.raises(ValueError, match="--device cuda: "):
        Checkpoint(path, prepared, "cuda")


def test_what_cannot_be_evaluated(bert, tmp_path, capsys):
    path, prepared, _ = train_a_little(tmp_path, bert, "RTE")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        Checkpoint(tmp_path / "nowhere.pt", prepared)
    half = tmp_path / "half.pt"
    half.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"half\.pt: .* cut off"):
        Checkpoint(half, prepared)
    unsafe = tmp_path / "unsafe.pt"
    torch.save({"path": tmp_path}, unsafe)
    with pytest.raises(ValueError, match=r"unsafe\.pt: cannot be read safely: it holds an object of pathlib"):
        Checkpoint(unsafe, prepared)
    glue_files.write_task(tmp_path / "data", "MNLI", layouts=glue_files.PLAIN)
    mnli = prepare(tmp_path / "data", load_backbone(bert), TASKS["MNLI"], tmp_path / "mnli", max_positions=256)
    with pytest.raises(ValueError, match="no classifier with 3 outputs"):
        Checkpoint(path, mnli)
    torch.save(torch.zeros(2), tmp_path / "tensor.pt")
    for other, words in ((bert / "model.pt", "no classifier"), (tmp_path / "tensor.pt", "it holds a Tensor")):
        with pytest.raises(ValueError, match=words):
            Checkpoint(other, prepared)
    shutil.copytree(prepared.directory, tmp_path / "other")
    with open(tmp_path / "other" / "input0" / "dict.txt", "a") as file:
        file.write("extra 1\n")
    with pytest.raises(ValueError, match=r"checkpoint\.pt: cannot be loaded on .*other"):
        Checkpoint(path, prepared._replace(directory=tmp_path / "other"))
    assert main(["evaluate", str(path), str(tmp_path / "data")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_scores_are_printed_though_they_cannot_be_written(bert, tmp_path, monkeypatch, capsys):
    path, prepared, _ = train_a_little(tmp_path, bert, "RTE")

    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sharp_plugins.glue.__main__.write_text", full)
    assert main(["evaluate", str(path), str(prepared.directory), "--json", str(tmp_path / "scores.json")]) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("valid: accuracy ") and "No space left" in shown.err


def test_memory_that_is_not_there_is_told_in_a_line(bert, tmp_path, monkeypatch, capsys):
    path, prepared, _ = train_a_little(tmp_path, bert, "RTE")

    def predict(self, split):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(Checkpoint, "predict", predict)
    assert main(["evaluate", str(path), str(prepared.directory), "--json", str(tmp_path / "scores.json")]) == 1
    assert capsys.readouterr().err == f"error: {path}: cannot be evaluated: CUDA out of memory\n"
    assert not (tmp_path / "scores.json").exists()
