"""The scripts of examples/studies that measure checkpoints again, with real ones: `elsewhere.py` and `survives.py`."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import glue_files
import pytest
import torch
from glue_models import outputs, train_a_little

from sharp_plugins.glue.binarize import prepare
from sharp_plugins.glue.sample import Sample
from sharp_plugins.glue.tasks import TASKS
from sharp_plugins.runs.checkpoints import BEST
from sharp_plugins.runs.record import Record, Result
from sharp_plugins.runs.store import RECORD, RESULT, directory_of
from sharp_plugins.text.encoder_directory import load_backbone

STUDIES = Path(__file__).resolve().parents[2] / "examples" / "studies"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(STUDIES))
    return importlib.import_module


def share(predicted, right):
    return 100 * sum(a == b for a, b in zip(predicted, right)) / len(right)


@pytest.mark.slow
def test_models_of_mnli_are_tested_on_other_sets(script, bert, tmp_path, capsys):
    """MNLI's own development rows, written as SNLI's file and as RTE's, have the accuracy that the model itself has on them."""
    path, _, trainer = train_a_little(tmp_path / "trained", bert, "MNLI")
    logits, targets = (part.tolist() for part in outputs(trainer, "valid"))
    classes = TASKS["MNLI"].classes
    predicted, right = ([classes[i] for i in numbers] for numbers in (torch.tensor(logits).argmax(1).tolist(), targets))
    assert 0 < share(predicted, right) < 100
    rows = glue_files.make_rows("MNLI", 150, 1)
    assert [label for _, label in rows] == right
    snli, rte = tmp_path / "snli.tsv", tmp_path / "rte.tsv"
    lines = ["sentence1\tsentence2\tlabel", *("\t".join([*sentences, label]) for sentences, label in rows), "a\tb\t-"]
    snli.write_text("".join(line + "\n" for line in lines))
    two = [label if label == "entailment" else "not_entailment" for label in right]
    lines = ["index\tsentence1\tsentence2\tlabel"]
    lines += ["\t".join([str(number), *sentences, label]) for number, ((sentences, _), label) in enumerate(zip(rows, two))]
    rte.write_text("".join(line + "\n" for line in lines))

    elsewhere = script("elsewhere")
    [cell] = elsewhere.STUDY.cells
    for seed, method in ((1, "base"), (2, "base"), (1, "sam"), (2, "sam")):
        record = Record("glue", "MNLI", method, seed, {})
        final = elsewhere.place(tmp_path / "out", cell, method, "final")
        directory = directory_of(final, record)
        directory.mkdir(parents=True)
        (directory / BEST).write_bytes(path.read_bytes())
        result = Result(record, {"valid": {}, "dev": {}}, 1.0, 1, 1, None, [], {})._asdict()
        (directory / RECORD).write_text(json.dumps(record._asdict()))
        (directory / RESULT).write_text(json.dumps({**result, "record": record._asdict(), "checkpoints": "kept"}))
    line = ["--backbone", bert, "--snli", snli, "--rte", rte, "--out", tmp_path / "out", "--to", tmp_path / "to", "--device", "cpu"]
    assert elsewhere.main([*map(str, line), "--name", "small"]) == 0
    assert {path.name for path in (tmp_path / "to").iterdir()} == {"small.csv", "small.md", "small.png"}
    told = capsys.readouterr().out
    entailed = ([label == "entailment" for label in labels] for labels in (predicted, two))
    expected = {"SNLI": share(predicted, right), "RTE": share(*entailed)}
    assert all(f"sam, seed 2, {name}: {value:.2f}" in told for name, value in expected.items())
    rows = [line.split(",") for line in (tmp_path / "to" / "small.csv").read_text().splitlines()[1:]]
    assert len(rows) == 8 and {(row[0], row[3]) for row in rows} == {(name, repr(value)) for name, value in expected.items()}


@pytest.mark.slow
def test_what_survives_is_measured_of_the_weights_that_are_meant(script, bert, tmp_path):
    survives = script("survives")
    path, _, trainer = train_a_little(tmp_path / "first", bert, "RTE")
    state, metric, work = survives.read_torch(path), TASKS["RTE"].selected, tmp_path / "work"
    work.mkdir()
    # As in the study, where other rows of the training set are "valid", and the development set is "dev".
    how = load_backbone(bert), TASKS["RTE"], tmp_path / "prepared"
    prepared = prepare(tmp_path / "first" / "data", *how, max_positions=256, sample=Sample(seed=1, rows=10, selection=9))

    def measured(one):
        return survives.measure(one, prepared.directory, work, metric, "cpu")

    def plain():
        logits, targets = outputs(trainer, "valid")
        return share(logits.argmax(1).tolist(), targets.tolist())

    assert measured(state) == pytest.approx(plain())
    model = trainer.get_model()
    kept = {name: p.detach().clone() for name, p in model.named_parameters()}
    for bits in (8, 2):
        with torch.no_grad():
            for row in (row for p in model.parameters() if p.dim() > 1 for row in p.flatten(1)):
                step = row.abs().max() / (2 ** (bits - 1) - 1)
                row.copy_((row / step).round() * step if step else row)
        assert measured(survives.rounded_state(state, bits)) == pytest.approx(plain())
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(kept[name])
    assert measured(survives.rounded_state(state, 2)) != measured(state)
    # Another task's encoder under this classifier; the backbone that it was trained from has this task's encoder.
    survives.write_backbone(tmp_path / "backbone", Path(bert), state)
    later, _, other = train_a_little(tmp_path / "second", tmp_path / "backbone", "SST-2")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "classification_heads" not in name:
                p.copy_(dict(other.get_model().named_parameters())[name])
    joined = survives.with_head_of(survives.read_torch(later), state)
    assert measured(joined) == pytest.approx(plain())
    assert not list(work.iterdir())


def test_the_scores_file_is_whole(script, tmp_path, monkeypatch, capsys):
    """What was measured is read, and not measured again."""
    survives = script("survives")
    scores = dict(zip((*survives.COLUMNS, survives.SECOND), (80.0, 79.0, 60.0, 70.0, 75.0)))
    home = tmp_path / "sam" / "seed3"
    home.mkdir(parents=True)
    (home / "scores.json").write_text(json.dumps(scores))
    monkeypatch.setattr(survives, "measure", None)
    found = survives.look(SimpleNamespace(cpu=True), home, survives.Cell("SST-2", 300), "sam", 3, tmp_path / "trained")
    assert found == survives.Value("sam", 3, scores)
    told = "sam, seed 3: trained 80.00, 8 bits 79.00, 4 bits 60.00, after the second task 70.00, the second task 75.00\n"
    assert capsys.readouterr().out == told
