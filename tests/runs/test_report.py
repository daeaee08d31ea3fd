"""Tables of made-up runs, against numbers worked out by hand."""

import csv
import math
import sys

import pytest
from made_up_results import ACCURACY, F1, LOSS, cells, result
from scipy.stats import ttest_rel

from sharp_plugins.runs.record import Measure, Validation
from sharp_plugins.runs.report import write_report
from sharp_plugins.runs.selection import choose

METHODS = ["base", "sam", "dsam"]


def measures(task):
    return {"MRPC": [ACCURACY, F1], "loss": [LOSS]}.get(task, [ACCURACY])


@pytest.fixture
def report(tmp_path):
    def write(results, **changes):
        how = dict(
            measures=measures, methods=METHODS, tasks=["MRPC", "RTE"], baseline="base", title="Made up", about="Of the tests."
        )
        how.update(changes)
        write.files = write_report(tmp_path, results, **how)
        return (tmp_path / "table.md").read_text(encoding="utf-8")

    return write


@pytest.fixture
def results():
    values = [("sam", 1, 10.0, 70.0, 80.0), ("sam", 2, 14.0, 72.0, 79.0), ("sam", 3, 12.0, 77.0, 81.0)]
    values += [("dsam", 1, 15.0, 75.0, 83.0)]
    made = [result("MRPC", method, seed, minutes, accuracy=accuracy, f1=f1) for method, seed, minutes, accuracy, f1 in values]
    made += [
        result("RTE", method, 1, minutes, accuracy=value) for method, minutes, value in [("sam", 20.0, 60.0), ("dsam", 22.0, 66.5)]
    ]
    return [result("RTE", "base", 1, 9.0, accuracy=58.0), *made]


def rows_of_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_best_and_all_runs(report, results, tmp_path):
    text = report(results, notes=["Not the published sets: RTE's valid set is dev.tsv.gz."])
    start = (
        "# Made up\n\nOf the tests.\n\nNot the published sets: RTE's valid set is dev.tsv.gz.\n\n## Best of the runs\n\n| method"
    )
    assert text.startswith(start)
    assert cells(text, "## Best of the runs") == [
        ["method", "MRPC, accuracy", "RTE, accuracy", "average"],
        ["base", "", "58.00", ""],
        ["sam", "77.00", "60.00", "68.50"],
        ["dsam", "75.00 (1 of 3 runs)", "66.50", "70.75"],
    ]
    assert cells(text, "## Mean of the runs")[1:] == [
        ["base", "", "58.00", ""],
        ["sam", "73.00 ± 3.61", "60.00", "66.50"],
        ["dsam", "75.00 (1 of 3 runs)", "66.50", "70.75"],
    ]
    table = cells(text, "## All runs")
    assert table[0] == ["task", "metric", "method", "runs", "mean", "std", "best", "minutes"]
    # (70 + 72 + 77) / 3 = 73; deviations -3, -1, 4; sqrt((9 + 1 + 16) / 2) = sqrt(13)
    assert table[1] == ["MRPC", "accuracy", "sam", "3", "73.00", "3.61", "77.00", "12.00"]
    assert table[2] == ["MRPC", "accuracy", "dsam", "1", "75.00", "", "75.00", "15.00"]
    assert [row[:3] for row in table[3:]] == [
        ["MRPC", "F1", "sam"],
        ["MRPC", "F1", "dsam"],
        *(["RTE", "accuracy", method] for method in METHODS),
    ]
    rows = {(row["task"], row["metric"], row["method"]): row for row in rows_of_csv(tmp_path / "table.csv")}
    assert len(rows) == 7 and float(rows["MRPC", "accuracy", "sam"]["std"]) == pytest.approx(13**0.5)
    assert rows["RTE", "accuracy", "base"]["std"] == "" and float(rows["RTE", "accuracy", "base"]["best"]) == 58
    pytest.importorskip("matplotlib")
    assert [path.name for path in report.files] == ["table.md", "table.csv", "table.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.csv", "table.md", "table.png"]


def test_what_nothing_trained_has_no_spread_of_seeds(report):
    values = {"zero-shot": (60.0, 60.0), "drawn": (60.0, 61.0), "base": (60.0, 60.0)}
    updates = {"zero-shot": 0, "drawn": 0, "base": 5}
    made = [result("RTE", m, seed, updates=updates[m], accuracy=v) for m in values for seed, v in enumerate(values[m], 1)]
    rows = dict(cells(report(made), "## Mean of the runs")[1:])
    assert rows == {"zero-shot": "60.00", "drawn": "60.50 ± 0.71", "base": "60.00 ± 0.00"}


def test_what_one_method_costs_over_another(report, results):
    text = report(results, costs=[("dsam", "sam"), ("sam", "nothing")])
    assert cells(text, "## What dsam costs over sam") == [
        ["task", "sam, min", "dsam, min", "more, %"],
        ["MRPC", "12.00", "15.00", "25.00"],
        ["RTE", "20.00", "22.00", "10.00"],
        ["average", "", "", "17.50"],
    ]
    assert "over nothing" not in text


def test_the_papers_own_minutes_give_its_18_percent(report):
    """δ-SAM, Table 4: the average over tasks of how much longer δ-SAM took."""
    tasks = ("MNLI", "QQP", "RTE", "QNLI", "MRPC", "CoLA", "SST-2", "STS-B")
    minutes = {"sam": (1240, 818, 15, 349, 12, 25, 118, 26), "dsam": (1436, 1075, 16, 415, 15, 28, 130, 32)}
    made = [result(task, method, 1, of[i], accuracy=50.0) for method, of in minutes.items() for i, task in enumerate(tasks)]
    text = report(made, baseline="sam", tasks=tasks)
    assert [row[0] for row in cells(text, "## What a run costs")[1:-1:2]] == list(tasks)
    average = cells(text, "## What a run costs")[-1]
    assert average[:3] == ["average", "dsam", ""] and float(average[3]) == pytest.approx(18, abs=0.5)


def test_memory(report, results):
    text = report(results)
    assert cells(text, "## What a run costs")[0] == ["task", "method", "minutes", "more than base, %"]
    made = [result("RTE", "base", 1, memory=2 * 2**20, accuracy=1.0)]
    made += [result("RTE", "sam", seed, memory=memory, accuracy=1.0) for seed, memory in [(1, 2**20), (2, 3 * 2**20), (3, None)]]
    table = cells(report(made), "## What a run costs")
    assert table[0][-2:] == ["memory, MiB", "more memory than base, %"]
    assert [row[-2:] for row in table[1:]] == [["2", ""], ["3", "50.00"]]  # the most of the runs
    many = [one._replace(memory=one.memory * 2**13) for one in made if one.memory]
    assert [row[-2] for row in cells(report(many), "## What a run costs")] == ["memory, GiB", "16.0", "24.0"]


def paired(task, method, values):
    return [result(task, method, seed, accuracy=value) for seed, value in values.items()]


def test_differences_are_paired_tested_and_corrected(report, tmp_path):
    made = paired("RTE", "base", {1: 60.0, 2: 61.0, 3: 59.0}) + paired("MRPC", "base", {1: 80.0, 2: 81.0})
    made += paired("RTE", "sam", {3: 60.0, 1: 63.0, 2: 63.0, 4: 99.0})  # +3, +2, +1
    made += paired("MRPC", "sam", {1: 79.0, 2: 79.0}) + paired("MRPC", "dsam", {1: 85.0})  # -1, -2; +5
    text = report(made)
    low, high = ttest_rel([63, 63, 60], [60, 61, 59]).confidence_interval()
    lower, higher = ttest_rel([79, 79], [80, 81]).confidence_interval()
    table = cells(text, "## Differences to base")
    assert table[0] == ["task", "metric", "method", "seeds", "minus base", "95 % interval", "better in", "p", "p, corrected"]
    # p: 2 of 4 and 2 of 8; Holm: 2 x 0.25, then no less than that.
    assert table[1:] == [
        ["MRPC", "accuracy", "sam", "2", "-1.50", f"{lower:+.2f} to {higher:+.2f}", "0 of 2", "0.5", "0.5"],
        ["MRPC", "accuracy", "dsam", "1", "+5.00", "–", "1 of 1", "–", "–"],
        ["RTE", "accuracy", "sam", "3", "+2.00", f"{low:+.2f} to {high:+.2f}", "3 of 3", "0.25", "0.5"],
    ]
    assert "With 3 seeds, the most that a comparison has here, p cannot be below 0.25, nor corrected below 0.5: too few" in text
    assert "**No difference is shown at 5 %, corrected.**" in text
    rows = {(row["task"], row["method"]): row for row in rows_of_csv(tmp_path / "table.csv")}
    row = rows["RTE", "sam"]
    assert [row["runs"], row["pairs"], row["better"], row["p"], row["corrected"]] == ["4", "3", "3", "0.25", "0.5"]
    assert [float(row["low"]), float(row["high"])] == pytest.approx([low, high])
    assert rows["MRPC", "base"]["pairs"] == "" and rows["MRPC", "dsam"]["low"] == ""


def test_a_comparison_with_a_run_that_diverged_is_counted_in_the_words_too(report):
    made = [result("RTE", "base", seed, accuracy=60.0) for seed in range(1, 7)]
    made += [result("RTE", "sam", seed, accuracy=60.0 + seed) for seed in range(1, 7)]
    made += [result("RTE", "dsam", seed, accuracy=math.nan if seed == 1 else 61.0) for seed in range(1, 7)]
    text = report(made)
    [row] = [row for row in cells(text, "## Differences to base") if row[2] == "sam"]
    assert row[-2:] == ["0.0312", "0.0625"]  # 2 / 2**6, and twice that
    assert "p cannot be below 0.0312, nor corrected below 0.0625: too few seeds" in text and "diverged (2)" in text


def test_what_is_shown_is_said_with_its_direction(report):
    made = []
    for seed in range(1, 9):
        made += [result("loss", "base", seed, loss=2.0), result("loss", "sam", seed, loss=2.0 + 0.1 * seed)]
        made += [result("RTE", "base", seed, accuracy=60.0), result("RTE", "sam", seed, accuracy=60.0 + seed)]
    text = report(made)
    # 2 / 2**8 = 0.0078125, twice that after Holm.
    assert [row[-2:] for row in cells(text, "## Differences")[1:]] == [["0.00781", "0.0156"]] * 2
    assert "nor corrected below 0.0156. Shown at 5 %" in text
    assert "corrected: sam is better than base on RTE (accuracy); sam is worse than base on loss (loss)." in text
    assert [row[1] for row in cells(text, "## Differences")[1:]] == ["accuracy", "loss, lower is better"]
    # Of an accuracy and a loss there is no average.
    assert cells(text, "## Best of the runs")[0] == ["method", "RTE, accuracy", "loss, loss, lower is better"]
    assert cells(text, "## Best of the runs")[1:] == [["base", "60.00", "2.00"], ["sam", "68.00", "2.10"]]


def test_without_a_baseline_nothing_is_compared(report, results):
    for baseline in (None, "nbar"):
        text = report(results, baseline=baseline)
        assert "Differences" not in text and "more than" not in text


def validations(*points):
    return [Validation(update, minutes, {"accuracy": value}) for update, minutes, value in points]


def test_equal_updates_and_equal_time(report):
    made = [
        # base: 300 updates in 3 minutes; sam: 400 in 8; of the second seed sam makes the fewest.
        result(
            "RTE", "base", 1, 3.0, updates=300, validations=validations((100, 1, 60), (200, 2, 64), (300, 3, 62)), accuracy=64.0
        ),
        result("RTE", "sam", 1, 8.0, updates=400, validations=validations((100, 2, 61), (200, 4, 66), (400, 8, 70)), accuracy=70.0),
        result("RTE", "base", 2, 3.0, updates=300, validations=validations((100, 1, 58), (300, 3, 66)), accuracy=66.0),
        result("RTE", "sam", 2, 4.0, updates=200, validations=validations((100, 2, 63), (200, 4, 62)), accuracy=63.0),
        result("RTE", "base", 3, 3.0, updates=300, validations=validations((300, 3, 99)), accuracy=99.0),  # sam has no such seed
        result("RTE", "dsam", 1, 0.1, updates=1, accuracy=1.0),  # was not validated
    ]
    text = report(made)
    # Budgets 300 and 200: base 64, 58; sam 66, 63.
    assert cells(text, "## With the same number of updates") == [
        ["task", "metric", "method", "seeds", "updates", "mean", "std"],
        ["RTE", "accuracy", "base", "2", "250", "61.00", f"{18**0.5:.2f}"],
        ["RTE", "accuracy", "sam", "2", "250", "64.50", f"{4.5**0.5:.2f}"],
    ]
    # 3 minutes each: base 64, 66; sam 61, 63.
    assert [row[3:] for row in cells(text, "## In the same time")[1:]] == [
        ["2", "3.00", "65.00", f"{2**0.5:.2f}"],
        ["2", "3.00", "62.00", f"{2**0.5:.2f}"],
    ]
    slow = result("RTE", "sam", 1, 9.0, validations=validations((100, 9.0, 70)), accuracy=70.0)
    assert [row[-2:] for row in cells(report([*made[:1], slow]), "## In the same time")[1:]] == [["64.00", ""], ["–", "–"]]
    assert "## In the same time" not in report(made[:1])


def test_a_budget_in_a_measure_where_lower_is_better(report):
    points = [Validation(100, 1.0, {"loss": 3.0}), Validation(200, 2.0, {"loss": 2.0}), Validation(300, 3.0, {"loss": 2.5})]
    made = [result("RTE", method, 1, 3.0, updates=300, validations=points, accuracy=1.0) for method in ("base", "sam")]
    text = report(made, selection=lambda task: LOSS)
    assert cells(text, "## In the same time")[1] == ["RTE", "loss, lower is better", "base", "1", "3.00", "2.00", ""]
    assert "## In the same time" not in report(made)  # accuracy was not validated


def test_what_is_untrained_is_nobodys_budget(report):
    made = [result("RTE", m, 1, 3.0, updates=300, validations=validations((300, 3.0, 70)), accuracy=70.0) for m in ("base", "sam")]
    untrained = result("RTE", "untrained", 1, 0.1, updates=1, validations=validations((1, 0.1, 50)), accuracy=50.0)
    rows = cells(report([*made, untrained]), "## With the same number of updates")
    assert [(row[2], row[4], row[5]) for row in rows[1:]] == [("base", "300", "70.00"), ("sam", "300", "70.00")]


def swept(split="valid"):
    values = {("sam", 0.01): (70.0, 72.0), ("sam", 0.05): (75.0, 71.0), ("dsam", 0.01): (80.0, 82.0), ("dsam", 0.05): (60.0,)}
    made = []
    for (method, rho), accuracies in values.items():
        for seed, value in enumerate(accuracies, start=1):
            made.append(result("RTE", method, seed, axes={"optimizer.sam_rho": rho}, split=split, accuracy=value))
            made[-1].metrics["test"] = {"accuracy": value / 2}
    base = [result("RTE", "base", seed, split=split, accuracy=70.0) for seed in (1, 2)]
    for one in base:
        one.metrics["test"] = {"accuracy": 35.0}
    return base + made


def test_a_search_is_shown_and_the_chosen_runs_are_reported(report, tmp_path):
    made = swept()
    search = choose(made, {"optimizer.sam_rho": [0.01, 0.05]}, lambda task: ACCURACY)
    text = report(made, chosen=search, methods=["base", "dsam", "sam"])
    assert cells(text, "## The search") == [
        ["task", "metric", "method", "optimizer.sam_rho", "runs", "mean", "std", ""],
        ["RTE", "accuracy", "dsam", "0.01", "2", "81.00", "1.41", "chosen"],
        ["RTE", "accuracy", "dsam", "0.05", "1", "60.00", "", ""],
        ["RTE", "accuracy", "sam", "0.01", "2", "71.00", "1.41", ""],
        ["RTE", "accuracy", "sam", "0.05", "2", "73.00", "2.83", "chosen"],
    ]
    assert "chosen on the development set that is reported, as the papers do" in text
    assert "Some values have fewer runs than others" in text and "equally many values" not in text
    assert [row[2:6] for row in cells(text, "## All runs")[1:]] == [
        ["base", "2", "70.00", "0.00"],
        ["dsam", "2", "81.00", "1.41"],
        ["sam", "2", "73.00", "2.83"],
    ]
    rows = rows_of_csv(tmp_path / "table.csv")
    assert [(row["method"], row["optimizer.sam_rho"]) for row in rows] == [("base", ""), ("dsam", "0.01"), ("sam", "0.05")]
    # +11, +1 and +10, +12 beside base, which has no rho.
    assert [row[4] for row in cells(text, "## Differences")[1:]] == ["+11.00", "+3.00"]


def test_where_the_value_was_chosen_is_said(report):
    made = swept("selection")
    test = Measure("test", "accuracy", "accuracy")
    by = Measure("selection", "accuracy", "accuracy")
    names = ["optimizer.sam_rho"]
    text = report(made, chosen=choose(made, names, lambda task: by), measures=lambda task: [test])
    assert "By accuracy, chosen on the set `selection`, which is not reported." in text and "too good" not in text
    assert [row[4] for row in cells(text, "## All runs")[1:]] == ["35.00", "36.50", "40.50"]
    drawn = by._replace(split="valid", chosen_on="other rows of the training set")
    text = report(made, chosen=choose(made, names, lambda task: drawn), measures=lambda task: [test])
    assert "By accuracy, chosen on other rows of the training set, which are not reported." in text and "development" not in text
    text = report(made, chosen=choose(made, names, lambda task: test), measures=lambda task: [test])
    assert "chosen on the set `test` that is reported.**" in text and "as the papers do" not in text
    fewer = [one for one in made if (one.record.method, one.record.axes.get(names[0])) != ("dsam", 0.05)]
    fewer += [
        one._replace(record=one.record._replace(axes={names[0]: 0.1})) for one in made if one.record.axes.get(names[0]) == 0.05
    ]
    assert "equally many values" in report(fewer, chosen=choose(fewer, names, lambda task: by), measures=lambda task: [test])


def study():
    made = []
    for noise in (0.0, 0.5):
        for examples in (32, 16):
            for method, more in (("base", 0), ("sam", 10)):
                for seed in (1, 2):
                    axes = {"examples": examples, "noise": noise}
                    made.append(result("RTE", method, seed, axes=axes, accuracy=examples + more + seed - noise))
    return made


def test_further_axes_are_columns(report):
    text = report(study())
    assert cells(text, "## Best of the runs")[0] == ["method", "examples", "noise", "RTE, accuracy"]
    assert cells(text, "## Best of the runs")[1:4] == [
        ["base", "16", "0", "18.00"],
        ["sam", "16", "0", "28.00"],
        ["base", "16", "0.5", "17.50"],
    ]
    table = cells(text, "## Differences to base")
    assert [row[:7] for row in table[1:]] == [
        ["RTE", examples, noise, "accuracy", "sam", "2", "+10.00"] for examples in ("16", "32") for noise in ("0", "0.5")
    ]
    assert cells(text, "## All runs")[1][:7] == ["RTE", "16", "0", "accuracy", "base", "2", "17.50"]


def test_a_baseline_without_an_axis_stands_beside_each_value(report):
    made = [result("RTE", "base", 1, 2.0, validations=validations((100, 2.0, 60)), accuracy=60.0)]
    for rho, value in ((0.05, 63.0), (0.01, 61.0)):
        made.append(result("RTE", "sam", 1, 3.0, {"optimizer.rho": rho}, validations((100, 2.0, value)), accuracy=value))
    text = report(made)
    assert [(row[1], row[5]) for row in cells(text, "## Differences to base")[1:]] == [("0.01", "+1.00"), ("0.05", "+3.00")]
    assert [row[4] for row in cells(text, "## What a run costs")[1:3]] == ["", "50.00"]
    table = [(row[1], row[3], row[6]) for row in cells(text, "## In the same time")[1:]]
    assert table == [("0.01", "base", "60.00"), ("0.01", "sam", "61.00"), ("0.05", "base", "60.00"), ("0.05", "sam", "63.00")]


def test_methods_without_an_axis_are_compared_once_at_each_value(report):
    made = [result("RTE", method, 1, validations=validations((100, 1.0, 60)), accuracy=60.0) for method in ("base", "dsam")]
    made.append(result("RTE", "sam", 1, 3.0, {"optimizer.rho": 0.05}, validations((100, 1.0, 61)), accuracy=61.0))
    table = [(row[1], row[3]) for row in cells(report(made), "## With the same number of updates")[1:]]
    assert table == [("0.05", "base"), ("0.05", "sam"), ("0.05", "dsam")]


def test_methods_on_other_data_are_not_compared(report):
    """An axis without a dot tells which data a run has: base on the whole set is no baseline of sam on 300 rows."""
    made = [result("RTE", "base", 1, validations=validations((100, 1.0, 60)), accuracy=60.0)]
    made.append(result("RTE", "sam", 1, 3.0, {"train-rows": 300}, validations((100, 1.0, 31)), accuracy=31.0))
    text = report(made)
    assert "31.00" in text and "-29.00" not in text and "−29.00" not in text
    assert "## With the same number of updates" not in text
    made.append(result("RTE", "base", 1, 3.0, {"train-rows": 300}, validations((100, 1.0, 30)), accuracy=30.0))
    assert [(row[1], row[5]) for row in cells(report(made), "## Differences to base")[1:]] == [("300", "+1.00")]


def test_nothing_is_lost_or_left_half(report, results, tmp_path, monkeypatch):
    assert write_report(tmp_path / "none", [], measures=measures, methods=[], tasks=[], baseline=None, title="", about="") == []
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="two results are of one run: .*'sam', seed=1"):
        report([*results, result("RTE", "sam", 1, accuracy=1.0)])
    report(results, methods=[], tasks=[])  # all that there are follow
    text = report([*results, result("new", "nbar", 1, accuracy=1.0)])
    assert cells(text, "## Best of the runs")[0][-2] == "new, accuracy" and cells(text, "## Best of the runs")[-1][0] == "nbar"
    # A run that does not have the measure yet.
    text = report([result("RTE", "sam", 1, f1=1.0)])
    assert "## All runs" not in text and cells(text, "## What a run costs")[1] == ["RTE", "sam", "1.00"]
    before = (tmp_path / "table.csv").read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        report(results)
    assert (tmp_path / "table.csv").read_bytes() == before


def test_without_matplotlib_there_are_tables_alone(report, results, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report(results)
    assert [path.name for path in report.files] == ["table.md", "table.csv"] and not (tmp_path / "table.png").exists()


@pytest.fixture
def drawn(monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.axes import Axes

    calls, stock = [], Axes.errorbar

    def errorbar(axis, x, y, bars, **how):
        calls.append((axis, list(x), list(y), list(bars), how))
        return stock(axis, x, y, bars, **how)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    return calls


def test_a_single_run_is_drawn_without_a_bar(report, results, drawn, tmp_path):
    report(results)
    (three, one), alone = (bars for _, _, _, bars, _ in drawn)  # MRPC: SAM's three runs, one of δ-SAM's; RTE: one of each
    assert three == pytest.approx(13**0.5) and math.isnan(one)
    assert len(alone) == 3 and all(map(math.isnan, alone))
    assert [call[0].get_title() for call in drawn] == ["MRPC, accuracy", "RTE, accuracy"]
    from matplotlib import image

    assert image.imread(tmp_path / "table.png").std() > 0.01  # something is drawn


def test_curves_over_numeric_axes(report, drawn):
    report(study())
    curves = [(axis.get_xlabel(), how["label"], x, y) for axis, x, y, _, how in drawn if how.get("marker")]
    assert ("examples", "sam, noise 0.5", [16, 32], [27, 43]) in curves  # 16 + 10 + 1.5 - 0.5, 32 + 10 + 1.5 - 0.5
    assert ("noise", "base, examples 16", [0, 0.5], [17.5, 17]) in curves
    assert len(curves) == 4 + 4


def test_curves_over_the_search(report, drawn):
    made = swept()
    report(made, chosen=choose(made, ["optimizer.sam_rho"], lambda task: ACCURACY))
    curves = {how["label"]: (x, y) for axis, x, y, _, how in drawn if axis.get_xlabel() == "optimizer.sam_rho"}
    assert curves == {"sam": ([0.01, 0.05], [71, 73]), "dsam": ([0.01, 0.05], [81, 60])}
    rings = [line for axis in {call[0] for call in drawn} for line in axis.lines if line.get_fillstyle() == "none"]
    assert sorted((*ring.get_xdata(), *ring.get_ydata()) for ring in rings) == [(0.01, 81), (0.05, 73)]
    report([one for one in made if one.record.method != "dsam"], chosen=None)
    levels = [line for line in drawn[-1][0].lines if line.get_label() == "base"]
    assert [list(line.get_ydata()) for line in levels] == [[70, 70]]  # base has no rho


def test_who_is_done_first_has_its_last_validation_in_time(report):
    """The run's clock is read before its last checkpoint is written, and its validation is told after that, in whole seconds."""
    made = [
        result("RTE", "base", 1, 2.96, updates=300, validations=validations((300, 3.0, 60)), accuracy=60.0),
        result("RTE", "sam", 1, 8.0, updates=400, validations=validations((200, 2.9, 61), (400, 8.0, 70)), accuracy=70.0),
    ]
    assert [row[4:6] for row in cells(report(made), "## In the same time")[1:]] == [["2.96", "60.00"], ["2.96", "61.00"]]
