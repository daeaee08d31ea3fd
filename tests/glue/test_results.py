"""GLUE's tables of made-up runs, against numbers worked out by hand."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_up_results import cells

from sharp_plugins.glue.benchmark import Glue
from sharp_plugins.glue.tasks import TASKS
from sharp_plugins.runs import command
from sharp_plugins.runs.methods import find_method
from sharp_plugins.runs.record import Record, Result
from sharp_plugins.runs.store import Run, begin, directory_of, save_result

FILES = {"train": "train.tsv", "valid": "dev.tsv"}


def save(out, task, method, seed, minutes, files=FILES, **metrics):
    record = Record("glue", task, method, seed, {})
    begin(Run(record, find_method(method), directory_of(out, record), {}, {}))
    result = Result(record, metrics or {"valid": {}}, minutes, 100, 50, None, [], {"best_epoch": 2, "files": files})
    save_result(directory_of(out, record), result, "deleted")


def report(out, methods=("base", "sam", "dsam")):
    """The files, and the text of table.md."""
    benchmark = Glue()
    benchmark.args = SimpleNamespace(out=out, backbone=Path("made-up"), methods=methods, sweeps=[])
    return command.report(benchmark, benchmark.args), (out / "table.md").read_text(encoding="utf-8")


@pytest.fixture
def out(tmp_path):
    pairs = [("sam", 1, 10.0, 70.0, 80.0), ("sam", 2, 14.0, 72.0, 79.0), ("sam", 3, 12.0, 77.0, 81.0)]
    pairs += [("dsam", 1, 15.0, 75.0, 83.0)]
    for method, seed, minutes, accuracy, f1 in pairs:
        save(tmp_path, "MRPC", method, seed, minutes, valid={"accuracy": accuracy, "f1": f1})
    save(tmp_path, "RTE", "sam", 1, 20.0, valid={"accuracy": 60.0})
    save(tmp_path, "RTE", "dsam", 1, 22.0, valid={"accuracy": 66.5})
    save(tmp_path, "RTE", "base", 1, 9.0, valid={"accuracy": 58.0}, files={"train": "train.tsv", "valid": "dev.tsv.gz"})
    return tmp_path


def test_the_papers_own_minutes_give_its_18_percent(tmp_path):
    """Table 4: the average over tasks of how much longer δ-SAM took."""
    tasks = ("MNLI", "QQP", "RTE", "QNLI", "MRPC", "CoLA", "SST-2", "STS-B")
    sam, dsam = (1240, 818, 15, 349, 12, 25, 118, 26), (1436, 1075, 16, 415, 15, 28, 130, 32)
    for task, one, other in zip(tasks, sam, dsam):
        for method, minutes in (("sam", one), ("dsam", other)):
            save(tmp_path, task, method, 1, float(minutes), valid={TASKS[task].selected: 50.0})
    _, text = report(tmp_path)
    *rows, average = cells(text, "## What dsam costs over sam")[1:]
    assert [row[0] for row in rows] == list(TASKS) and average[0] == "average"
    assert float(average[-1]) == pytest.approx(18, abs=0.5)


def test_the_files(out):
    written, text = report(out)
    assert text.startswith("# GLUE, development sets\n\nBackbone: made-up. Runs and settings: ") and "Not the published" not in text
    assert cells(text, "## Best of the runs") == [
        ["method", "MRPC, accuracy", "RTE, accuracy", "average"],
        ["base", "", "58.00", ""],
        ["sam", "77.00", "60.00", "68.50"],
        ["dsam", "75.00 (1 of 3 runs)", "66.50", "70.75"],
    ]
    table = cells(text, "## All runs")
    assert table[0] == ["task", "metric", "method", "runs", "mean", "std", "best", "minutes"]
    assert ["MRPC", "accuracy", "sam", "3", "73.00", "3.61", "77.00", "12.00"] in table
    assert ["MRPC", "accuracy", "dsam", "1", "75.00", "", "75.00", "15.00"] in table
    # (80 + 79 + 81) / 3 = 80; deviations 0, -1, 1; sqrt(2 / 2) = 1
    assert ["MRPC", "F1", "sam", "3", "80.00", "1.00", "81.00", "12.00"] in table and len(table) == 1 + 2 * 2 + 3
    assert cells(text, "## What dsam costs over sam")[1:] == [
        ["MRPC", "12.00", "15.00", "25.00"],
        ["RTE", "20.00", "22.00", "10.00"],
        ["average", "", "", "17.50"],
    ]
    with open(out / "table.csv", newline="") as file:
        rows = {(row["task"], row["metric"], row["method"]): row for row in csv.DictReader(file)}
    assert float(rows["MRPC", "accuracy", "sam"]["std"]) == pytest.approx(13**0.5)
    assert rows["RTE", "accuracy", "base"]["std"] == "" and float(rows["RTE", "accuracy", "base"]["best"]) == 58
    pytest.importorskip("matplotlib")
    assert [path.name for path in written] == ["table.md", "table.csv", "table.png"]
    assert (out / "table.png").read_bytes().startswith(b"\x89PNG")
    from matplotlib import image

    assert image.imread(out / "table.png").std() > 0.01  # something is drawn


def test_stand_ins_are_told_and_mnli_has_two_rows(tmp_path):
    metrics = {"valid": {"accuracy": 80.0}, "valid1": {"accuracy": 81.0}, "test": {"accuracy": 1.0}}
    files = {"train": "train_10k.tsv.gz", "valid": "dev_matched.tsv.gz", "valid1": "dev_mismatched.tsv"}
    save(tmp_path, "MNLI", "base", 1, 5.0, files=files, **metrics)
    _, text = report(tmp_path, [])
    assert "Not the published sets: MNLI's train set is train_10k.tsv.gz." in text
    assert cells(text, "## Best of the runs") == [["method", "MNLI, accuracy"], ["base", "80.00"]]
    assert [row[1:5] for row in cells(text, "## All runs")[1:]] == [
        ["accuracy", "base", "1", "80.00"],
        ["accuracy, mismatched", "base", "1", "81.00"],
    ]


@pytest.mark.parametrize("content", ["{", '{"task": "RTE"}', "[]"])
def test_a_result_that_cannot_be_read_is_named(out, content):
    path = out / "RTE" / "sam" / "seed1" / "result.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"RTE/sam/seed1/result\.json: (not a run's result|cannot be read).*; delete it"):
        report(out)


@pytest.mark.parametrize("files", [[], None, {"train": 3}, {"../train": "train.tsv"}], ids=str)
def test_names_of_files_that_are_none_are_named(out, files):
    """A result may be from elsewhere."""
    path = out / "RTE" / "sam" / "seed1" / "result.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "notes": {"files": files}}))
    with pytest.raises(ValueError, match="RTE sam seed 1: not a run's result: its files are no names by split; delete"):
        report(out)
