"""Tables of made-up runs, against numbers worked out by hand."""

import csv
import math

import pytest

from sharp_plugins.glue.results import Result, load_results, overheads, summarize, write_report
from sharp_plugins.glue.tasks import TASKS

FILES = {"train": "train.tsv", "valid": "dev.tsv"}


def save(out, task, method, seed, minutes, files=FILES, **metrics):
    result = Result(task, method, seed, metrics or {"valid": {}}, minutes, 2, 100, files)
    directory = out / task / method / f"seed{seed}"
    directory.mkdir(parents=True)
    result.save(directory)


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


def test_means_standard_deviations_and_best_ones(out):
    lines = summarize(load_results(out), ["base", "sam", "dsam"])
    lines = {(line.task, line.metric, line.method): line for line in lines}
    assert len(lines) == 2 * 2 + 3
    # (70 + 72 + 77) / 3 = 73; deviations -3, -1, 4; sqrt((9 + 1 + 16) / 2) = sqrt(13)
    line = lines["MRPC", "accuracy", "sam"]
    assert (line.runs, line.mean, line.best, line.minutes) == (3, pytest.approx(73), 77, pytest.approx(12))
    assert line.std == pytest.approx(13**0.5)
    # (80 + 79 + 81) / 3 = 80; deviations 0, -1, 1; sqrt(2 / 2) = 1
    assert lines["MRPC", "F1", "sam"][4:7] == (pytest.approx(80), pytest.approx(1), 81)
    alone = lines["MRPC", "accuracy", "dsam"]
    assert (alone.runs, alone.mean, alone.std, alone.best) == (1, 75, None, 75)


def test_what_delta_sam_costs(out):
    rows = overheads(summarize(load_results(out), ["sam", "dsam"]))
    assert [row[0] for row in rows] == ["MRPC", "RTE"]
    assert rows[0][1:] == [pytest.approx(12), pytest.approx(15), pytest.approx(25)]
    assert rows[1][1:] == [pytest.approx(20), pytest.approx(22), pytest.approx(10)]


def test_the_papers_own_minutes_give_its_18_percent(tmp_path):
    """Table 4: the average over tasks of how much longer δ-SAM took."""
    tasks = ("MNLI", "QQP", "RTE", "QNLI", "MRPC", "CoLA", "SST-2", "STS-B")
    sam, dsam = (1240, 818, 15, 349, 12, 25, 118, 26), (1436, 1075, 16, 415, 15, 28, 130, 32)
    for task, one, other in zip(tasks, sam, dsam):
        for method, minutes in (("sam", one), ("dsam", other)):
            save(tmp_path, task, method, 1, float(minutes), valid={TASKS[task].selected: 50.0})
    write_report(tmp_path, ["sam", "dsam"], "made up")
    (average,) = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("| average")]
    assert float(average.split("|")[-2]) == pytest.approx(18, abs=0.5)


def cells(text, heading):
    """The rows of the first table after a heading."""
    rows = []
    for line in text.split(heading, 1)[1].splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    return [rows[0], *rows[2:]]


def test_the_files(out):
    written = write_report(out, ["base", "sam", "dsam"], "Backbone: made up.")
    text = (out / "table.md").read_text(encoding="utf-8")
    assert "Backbone: made up." in text and "Not the published" not in text
    assert cells(text, "## Best of the runs") == [
        ["method", "MRPC, accuracy", "RTE, accuracy", "average"],
        ["base", "", "58.00", ""],
        ["sam", "77.00", "60.00", "68.50"],
        ["dsam", "75.00", "66.50", "70.75"],
    ]
    table = cells(text, "## All runs")
    assert table[0] == ["task", "metric", "method", "runs", "mean", "std", "best", "minutes"]
    assert ["MRPC", "accuracy", "sam", "3", "73.00", "3.61", "77.00", "12.00"] in table
    assert ["MRPC", "accuracy", "dsam", "1", "75.00", "", "75.00", "15.00"] in table
    assert cells(text, "## What δ-SAM costs over SAM")[1:] == [
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


def test_a_single_run_is_drawn_without_a_bar(out, monkeypatch):
    from matplotlib.axes import Axes

    drawn, stock = [], Axes.errorbar

    def errorbar(axis, x, y, bars, **how):
        drawn.append(bars)
        return stock(axis, x, y, bars, **how)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    write_report(out, ["base", "sam", "dsam"], "made up")
    (three, one), alone = drawn  # MRPC: SAM's three runs, one of δ-SAM's; RTE: one of each
    assert three == pytest.approx(13**0.5) and math.isnan(one)
    assert len(alone) == 3 and all(map(math.isnan, alone))


def test_without_matplotlib_there_are_tables_alone(out, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert [path.name for path in write_report(out, ["sam"], "")] == ["table.md", "table.csv"]
    assert not (out / "table.png").exists()


def test_no_runs_no_table(tmp_path):
    assert write_report(tmp_path, ["sam"], "") == [] and list(tmp_path.iterdir()) == []


def test_stand_ins_are_told_and_mnli_has_two_rows(tmp_path):
    metrics = {"valid": {"accuracy": 80.0}, "valid1": {"accuracy": 81.0}, "test": {"accuracy": 1.0}}
    files = {"train": "train_10k.tsv.gz", "valid": "dev_matched.tsv.gz", "valid1": "dev_mismatched.tsv"}
    save(tmp_path, "MNLI", "base", 1, 5.0, files=files, **metrics)
    write_report(tmp_path, [], "")
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
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
        load_results(out)
