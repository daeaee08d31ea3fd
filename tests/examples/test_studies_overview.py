"""The figure of all studies, from files as the studies write them."""

import csv
import importlib
import statistics
from pathlib import Path

import pytest
from scipy import stats

STUDIES = Path(__file__).resolve().parents[2] / "examples" / "studies"
ADAM, GAINS = {1: 60.0, 2: 61.5, 3: 63.0}, (1.0, 2.5, -0.5)


@pytest.fixture
def overview(monkeypatch):
    monkeypatch.syspath_prepend(str(STUDIES))
    return importlib.import_module("overview")


def write(path, columns, runs):
    """A file with *runs*, methods with what each adds to Adam's scores."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for fixed, score, added in runs:
            scores = zip(ADAM.items(), added)
            writer.writerows({**fixed, "seed": seed, score: adam + more} for (seed, adam), more in scores)


def write_study(path, methods, **fixed):
    columns = importlib.import_module("report").COLUMNS
    own = {"layers": 6, "task": "MRPC", "rows": 300, "noise": 0, "noisy_selection": 0, **fixed}
    write(path, columns, [({**own, "method": method}, "value", added) for method, added in methods.items()])


def test_each_setting_is_compared_with_its_own_baseline(overview, tmp_path, monkeypatch, capsys):
    from matplotlib import pyplot

    write_study(tmp_path / "few.csv", {"base": (0, 0, 0), "sam": GAINS, "dsam": (1, 1, 2)})
    write_study(tmp_path / "few-lora.csv", {"lora": (-9, -9, -9), "lora-obar": (-8, -8, -5)}, rows=1000)
    write_study(tmp_path / "noise-3-layers.csv", {"base": (-1, 0, 2), "sam": (0, 0, 0)}, layers=3, noise=0.2, noisy_selection=1)
    figures = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    assert overview.main(["--to", str(tmp_path)]) == 0
    [axis] = figures[0].axes
    places = [
        "MRPC, 300 rows",
        "MRPC, 1000 rows, LoRA",
        "MRPC, 300 rows, 20 % wrong labels, also where\nthe epoch is chosen, 3 layers",  # else the intervals are narrow
    ]
    assert [label.get_text() for label in axis.get_yticklabels()] == [f"{place}\nseeds: 3" for place in places]
    assert axis.get_xlabel() == "gain over Adam, points, with its 95 % interval"
    drawn = {
        (text.get_text(), round(float(middle), 6)): segment[:, 0]
        for text, bars in zip(axis.get_legend().get_texts(), axis.containers)
        for middle, segment in zip(bars.lines[0].get_xdata(), bars.lines[2][0].get_segments())
    }
    wanted = [("SAM", GAINS), ("SAM", (1, 0, -2)), ("δ-SAM", (1, 1, 2)), ("oBAR", (1, 1, 4))]
    assert len(drawn) == len(wanted)
    for method, gains in wanted:
        low, high = stats.t.interval(0.95, 2, loc=statistics.fmean(gains), scale=stats.sem(gains))
        assert drawn[method, round(statistics.fmean(gains), 6)] == pytest.approx([low, high])
    assert f"MRPC, 300 rows, SAM: {statistics.fmean(GAINS):+.2f} (" in capsys.readouterr().out
    assert (tmp_path / "overview.png").stat().st_size > 5000


def test_the_other_studies_files_are_read(overview, tmp_path, capsys):
    similarity = [({"method": "base"}, "average", (-9,)), *(({"method": "mirror" + one}, "average", GAINS) for one in ("", "-r3f"))]
    write(tmp_path / "similarity-3-layers.csv", ["method", "seed", "average"], similarity)
    sets = [({"set": "SNLI", "method": method}, "accuracy", added) for method, added in (("base", GAINS), ("dsam", GAINS))]
    write(tmp_path / "elsewhere-sets.csv", ["set", "method", "seed", "accuracy"], sets)
    write_study(tmp_path / "noise-rate-1e-4.csv", {"base": GAINS, "sam": GAINS}, noise=0.4)
    write_study(tmp_path / "noise-own-rates.csv", {"base": GAINS, "dsam": GAINS, "base-longer": GAINS}, noise=0.2)
    columns = importlib.import_module("survives").COLUMNS
    survivors = [
        ({"method": method, **dict.fromkeys(columns, 50)}, "8 bits", added) for method, added in (("base", (0,)), ("sam", (2,)))
    ]
    write(tmp_path / "survives.csv", ["method", "seed", *columns], survivors)
    assert overview.main(["--to", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "MNLI, tested on SNLI, δ-SAM: +0.00" in lines and "sentence similarity, 3 layers, R3F: +0.00" in lines
    assert "MRPC, 300 rows, 40 % wrong labels, rate 1e-4, SAM: +0.00" in lines
    assert "SAM in the last quarter, rounded to 8 bits, SAM: +2.00" in lines
    assert "SAM in the last quarter, after the second task, SAM: +0.00" in lines
    assert "MRPC, 300 rows, 20 % wrong labels, own rates, δ-SAM: +0.00" in lines
    assert "MRPC, 300 rows, 20 % wrong labels, own rates, Adam, 9 epochs: +0.00" in lines
    assert len(lines) == 5 + len(columns)


def test_every_method_has_a_name(overview):
    plan = importlib.import_module("plan")
    assert all(overview.called(method) for study in plan.STUDIES.values() for method in study.methods)


def test_what_stands_in_the_project_is_what_its_files_say(overview):
    """Every study's file beside the script is shown, by a method that has a name."""
    shown = {path.stem for path in STUDIES.glob("*.csv") if not path.stem.endswith("-search")}
    assert shown and shown <= set(overview.READERS)
    assert overview.gains_of(list(overview.read(STUDIES)))


def test_every_method_of_the_studies_has_a_name(overview):
    methods = {method for study in overview.STUDIES.values() for method in study.methods}
    methods |= set(importlib.import_module("similarity").SEARCHES)
    assert all(overview.called(method) for method in methods)


def test_no_numbers_are_told(overview, tmp_path, capsys):
    write_study(tmp_path / "few.csv", {"sam": GAINS})  # without its baseline
    assert overview.main(["--to", str(tmp_path)]) == 1
    assert "report.py writes them" in capsys.readouterr().err and not list(tmp_path.glob("*.png"))
