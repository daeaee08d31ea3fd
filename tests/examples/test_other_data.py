"""Models of MNLI on other sets, with an engine that makes up its scores."""

import csv
import importlib
import statistics
from types import SimpleNamespace

import pairs
import pytest
from scipy import stats
from study_engine import RESULT, run


def test_models_for_other_data_keep_their_checkpoints(scripts, tmp_path):
    for name, keeps in (("elsewhere", True), ("few", False)):
        scripts.calls.clear()
        assert run(scripts, tmp_path / name, name, "--seeds", "1") == 0
        fresh = [line for line in scripts.calls if "--sweep" not in line]
        assert fresh and all(("--keep-checkpoints" in line) == keeps for line in fresh)


def test_what_is_missing_is_told_before_any_work(scripts, tmp_path, capsys):
    elsewhere = importlib.import_module("elsewhere")
    line = ["--backbone", "B", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to"), "--rte", str(tmp_path / "none.tsv")]
    assert elsewhere.main(line) == 1 and "no finished run; study.py elsewhere" in capsys.readouterr().err
    assert run(scripts, tmp_path / "out", "elsewhere", "--seeds", "1") == 0
    capsys.readouterr()
    assert elsewhere.main(line) == 1 and capsys.readouterr().err.startswith(f"error: {tmp_path / 'none.tsv'}: ")
    assert not (tmp_path / "to").exists()


def test_other_sets_are_compared_by_seed(scripts, tmp_path):
    elsewhere = importlib.import_module("elsewhere")
    scores = {"base": (60, 62, 61), "sam": (63, 62, 64), "dsam": (60, 61, 60)}
    values = [elsewhere.Value("RTE", method, seed, score) for method in scores for seed, score in enumerate(scores[method], 1)]
    lines = [
        line.strip("| ").split(" | ")
        for line in elsewhere.table(values, elsewhere.compared(values)).splitlines()
        if line.startswith("| RTE")
    ]
    assert [line[3] for line in lines] == ["61.00 ± 1.00", "63.00 ± 1.00", "60.33 ± 0.58"]
    difference = [b - a for a, b in zip(scores["base"], scores["sam"])]
    half = stats.t.ppf(0.975, 2) * statistics.stdev(difference) / 3**0.5
    assert lines[1][4] == f"+2.00 ({2 - half:+.2f} to {2 + half:+.2f})"
    elsewhere.report(SimpleNamespace(to=tmp_path, name="elsewhere-sets"), values)
    with open(tmp_path / "elsewhere-sets.csv", newline="") as file:
        rows = [(row["method"], row["seed"], float(row["accuracy"])) for row in csv.DictReader(file)]
    assert rows == [(one.method, str(one.seed), one.accuracy) for one in values]
    assert (tmp_path / "elsewhere-sets.png").stat().st_size > 5000


def test_rte_is_entailment_or_not(scripts):
    elsewhere = importlib.import_module("elsewhere")
    predicted = ["entailment", "contradiction", "neutral", "entailment"]
    assert elsewhere.accuracy(predicted, ["entailment", "neutral", "neutral", "neutral"], "RTE") == 75
    assert elsewhere.accuracy(predicted, ["entailment", "neutral", "neutral", "neutral"], "SNLI") == 50


def test_rows_without_an_agreed_label_are_left_out_and_no_others(scripts, tmp_path, capsys):
    elsewhere, backbone = importlib.import_module("elsewhere"), pairs.write_backbone(tmp_path / "backbone", "bert")
    rows = ["a man\tsleeps\tentailment", "a man\truns\t-", "a dog\truns\tneutral"]
    file = tmp_path / "test.tsv"
    file.write_text("\n".join(["sentence1\tsentence2\tlabel", *rows]) + "\n")
    assert elsewhere.prepare(file, "SNLI", backbone, tmp_path / "sets").rows["valid"] == 2
    assert f"{file}: 2 rows, 1 without an agreed label left out" in capsys.readouterr().out
    file.write_text("\n".join(["sentence1\tsentence2\tlabel", *rows, "a dog\tsits\t2"]) + "\n")
    with pytest.raises(ValueError, match="test.tsv:5: the label is '2'"):
        elsewhere.prepare(file, "SNLI", backbone, tmp_path / "again")


def test_other_sets_are_measured_once(scripts, tmp_path, monkeypatch, capsys):
    """A model that was measured need not be there, as where --out came from another machine without the checkpoints."""
    elsewhere, calls = importlib.import_module("elsewhere"), []
    assert run(scripts, tmp_path / "out", "elsewhere", "--seeds", "1", "2") == 0
    for result in (tmp_path / "out").rglob(f"final/**/{RESULT}"):
        result.with_name(elsewhere.BEST).write_text(str(result))

    class Checkpoint:
        def __init__(self, path, data, device):
            calls.append(path)

        def predict(self, split):
            return SimpleNamespace(values=["entailment", "neutral"], targets=["entailment", "entailment"])

    monkeypatch.setattr("sharp_plugins.glue.evaluate.Checkpoint", Checkpoint)
    monkeypatch.setattr(elsewhere, "prepare", lambda *_: None)
    for name in ("snli", "rte"):
        (tmp_path / f"{name}.tsv").write_text(name)
    line = ["--backbone", "B", "--out", str(tmp_path / "out")]
    rte, snli = ["--rte", str(tmp_path / "rte.tsv")], ["--snli", str(tmp_path / "snli.tsv")]
    assert elsewhere.main([*line, *rte]) == 0 and len(calls) == 6
    for model in dict.fromkeys(calls[:2]):
        model.unlink()
    assert elsewhere.main([*line, *rte]) == 0 and len(calls) == 6
    with open(tmp_path / "out" / "elsewhere-sets.csv", newline="") as file:
        assert {row["accuracy"] for row in csv.DictReader(file)} == {"50.0"}
    for model in calls[:2]:
        model.write_text("back")
    assert elsewhere.main([*line, *rte, *snli]) == 0 and len(calls) == 6 + 2 + 6  # two others' weights, and another set
    capsys.readouterr()
    assert elsewhere.main([*line, *rte]) == 1  # it would leave SNLI out
    assert "6 runs are there that this call has not, such as SNLI base 1 (set, method, seed)" in capsys.readouterr().err
