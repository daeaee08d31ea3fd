"""A study that goes on from the file of another machine's runs (--known), and what a report joins with such a file."""

import csv
from types import SimpleNamespace

import pytest
from study_engine import RATE, RHO, flags, run

CELL = ("--cells", "SST-2-300")
SEEDS = ("--seeds", "1", "2", "3")


@pytest.fixture
def layers(monkeypatch):
    """Sets the number of the backbone's layers; the engine's runs have 3."""

    def set_to(number):
        sizes = {"encoder_layers": number}
        monkeypatch.setattr("sharp_plugins.text.encoder_directory.load_backbone", lambda path: SimpleNamespace(sizes=sizes))

    set_to(3)
    return set_to


def score(method, settings, seed):
    return 60.0 + seed + (float(settings[RATE]) == 3e-4) + 2 * (settings.get(RHO) == "0.02") + (method == "dsam") * seed


@pytest.fixture
def study(scripts, layers, tmp_path):
    """Runs a study and its report in a folder of its own, and returns the methods that were trained."""
    scripts.score = score

    def trained(out, name, *more):
        scripts.calls.clear()
        assert run(scripts, tmp_path / out, name, *SEEDS, *more) == 0
        return list(dict.fromkeys(flags(line, "--methods")[0] for line in scripts.calls))

    return trained


@pytest.fixture
def report(scripts, tmp_path):
    return lambda out, name="few": scripts.report.main([name, "--out", str(tmp_path / out), "--to", str(tmp_path / "to")])


def rows_in(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def keep(path, is_kept):
    """Leave out the other rows of a file."""
    rows = rows_in(path)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row for row in rows if is_kept(row))


def files(to):
    return [sorted(map(str, rows_in(to / name))) for name in ("few.csv", "few-search.csv")] + [(to / "few.md").read_text()]


def test_a_cell_that_was_begun_on_another_machine_goes_on(scripts, study, report, tmp_path):
    """What is whole in its file is not trained again; a method of which a seed is missing is, and its search."""
    assert study("there", "few", *CELL) == ["base", "sam", "dsam"] and report("there") == 0
    to = tmp_path / "to"
    at_once = files(to)
    assert len(rows_in(to / "few.csv")) == 9
    keep(to / "few.csv", lambda row: row["method"] != "dsam" or row["seed"] == "1")
    known = ("--known", str(to / "few.csv"))
    assert study("here", "few", *CELL, *known) == ["dsam"]
    assert all({f"{RATE}=0.0003"} < set(flags(line, "--set")) for line in scripts.calls)
    assert report("here") == 0 and files(to) == at_once
    # What is begun here goes on here.
    assert study("here", "few", *CELL, *known) == ["dsam"]


def test_another_encoder_has_no_known_runs(study, report, layers, tmp_path, capsys):
    assert study("there", "few", *CELL) and report("there") == 0
    layers(6)
    assert study("here", "few", *CELL, "--known", str(tmp_path / "to" / "few.csv")) == ["base", "sam", "dsam"]
    assert "SST-2-300, 6 layers: " in (told := capsys.readouterr().out) and "few.csv has no method whole" in told


def test_a_new_method_is_compared_with_known_runs(scripts, study, report, tmp_path, monkeypatch):
    assert study("there", "few", *CELL) and report("there") == 0
    few = scripts.plan.STUDIES["few"]
    monkeypatch.setitem(scripts.plan.STUDIES, "few", few._replace(methods=("base", "sam", "rdrop", "dsam")))
    assert study("here", "few", *CELL, "--known", str(tmp_path / "to" / "few.csv")) == ["rdrop"] and report("here") == 0
    lines = [line for line in (tmp_path / "to" / "few.md").read_text().splitlines() if "| SST-2, accuracy | 300 |" in line]
    assert [line.split(" | ")[3] for line in lines] == ["base", "sam", "rdrop", "dsam"]
    assert all("+" in line.split(" | ")[6] for line in lines[1:])


def test_a_method_with_another_given_value_is_not_known(study, report, tmp_path):
    assert study("there", "few", *CELL) and report("there") == 0
    more = ("--known", str(tmp_path / "to" / "few.csv"), "--search", "sam", f"{RHO}=0.05")
    assert study("here", "few", *CELL, *more) == ["sam"]


def test_what_joins_a_method_that_is_trained_is_trained_too(scripts, study, report, tmp_path, capsys):
    """Its settings are that method's: without it the report is refused."""
    assert study("there", "whole", "--cells", "RTE") and report("there", "whole") == 0
    path = tmp_path / "to" / "whole.csv"
    keep(path, lambda row: (row["method"], row["seed"]) != ("dsam", "2"))
    assert study("here", "whole", "--cells", "RTE", "--known", str(path)) == ["dsam", "dsam-r3f"]
    scripts.score = lambda method, settings, seed: score(method, settings, seed) + 5 * (settings.get(RHO) == "0.01")
    assert study("elsewhere", "whole", "--cells", "RTE", "--known", str(path))[0] == "dsam"
    for place in (tmp_path / "elsewhere" / "RTE").iterdir():
        if place.name == "dsam-r3f":
            place.rename(tmp_path / "away")
    assert report("elsewhere", "whole") == 1
    words = "dsam-r3f (layers, task, rows, noise, noisy_selection, method) has 0.02 for optimizer.sam_rho, and dsam has 0.01"
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, cell, methods, told",
    [
        ("few", "SST-2-300", ["sam", "dsam"], "SST-2 300 0 0 sam"),
        ("noise", "SST-2-1000-noise0.2", ["base-longer"], "SST-2 1000 0.2 0 base-longer"),  # whose settings are its own
    ],
)
def test_a_baseline_is_not_replaced_under_the_methods_that_were_compared_with_it(
    scripts, study, report, tmp_path, capsys, name, cell, methods, told
):
    line = (name, "--cells", cell, "--methods", *methods)
    assert study("there", *line) and report("there", name) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()}
    scripts.score = lambda method, settings, seed: score(method, settings, seed) + seed % 2
    assert study("here", *line)
    for method in methods:
        (tmp_path / "here" / cell / method).rename(tmp_path / method)
    assert report("here", name) == 1 and {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()} == before
    where = "(layers, task, rows, noise, noisy_selection, method)"
    assert f"{told} {where} was compared with other runs of base" in capsys.readouterr().err
    for method in methods:
        (tmp_path / method).rename(tmp_path / "here" / cell / method)
    assert report("here", name) == 0


def test_a_method_of_another_call_is_compared_with_other_settings(scripts, study, tmp_path, capsys):
    """Each may have the learning rate that is best for it. What compares them otherwise refuses that."""
    values = ("--search", "dsam", f"{RHO}=0.05", "--search", "dsam", "optimizer.dsam_beta=3")
    assert study("low", "few", *CELL, "--methods", "base") == ["base"]
    assert study("high", "few", *CELL, "--methods", "dsam", "--search", "base", f"{RATE}=6e-4", *values) == ["base", "dsam"]
    others = ("few", "--out", str(tmp_path / "low"), "--from", "dsam", str(tmp_path / "high"), "--to", str(tmp_path / "to"))
    assert scripts.report.main(others) == 0
    rows = rows_in(tmp_path / "to" / "few.csv")
    assert [(row["method"], row["seed"], row["value"]) for row in rows] == [
        *(("base", seed, f"{61 + int(seed):.1f}") for seed in "123"),
        *(("dsam", seed, f"{60 + 2 * int(seed):.1f}") for seed in "123"),
    ]
    assert {row["settings"].split()[0] for row in rows if row["method"] == "dsam"} == {f"{RATE}=0.0006"}
    text = (tmp_path / "to" / "few.md").read_text()
    assert "Given, and not searched: SST-2-300, dsam: lr=0.0006, sam rho=0.05, dsam beta=3." in text
    [line] = [line for line in text.splitlines() if "| dsam | 3 |" in line]
    assert f"{(1 + 2 + 3) / 3 - 1:+.2f} (" in line  # the gain over base of the other rate
    assert scripts.report.main(others) == 0 and rows_in(tmp_path / "to" / "few.csv") == rows
    # Where nothing was searched, no table of searches is shown.
    there = ("few", "--out", str(tmp_path / "high"), "--to", str(tmp_path / "to"), "--name", "given")
    assert scripts.report.main(there) == 0 and not (tmp_path / "to" / "given-search.csv").exists()
    assert "What the searches saw" in text and "What the searches saw" not in (tmp_path / "to" / "given.md").read_text()
    capsys.readouterr()
    assert scripts.report.main([*others[:3], *others[6:]]) == 1
    assert f"has 0.0006 for {RATE}, and base has 0.0003" in capsys.readouterr().err
    assert scripts.report.main([*others[:5], str(tmp_path / "low"), *others[6:]]) == 1
    assert f"error: --from dsam {tmp_path / 'low'}: no finished run of few" in capsys.readouterr().err
    assert scripts.report.main([*others[:2], str(tmp_path / "none"), *others[3:]]) == 1
    assert f"error: --out {tmp_path / 'none'}: no finished run of few" in capsys.readouterr().err
    for wrong in ("base", "rdrop"):
        with pytest.raises(SystemExit):
            scripts.report.main([*others[:4], wrong, *others[5:]])
        assert f"--from {wrong}: the methods are sam, dsam" in capsys.readouterr().err


def test_a_file_that_has_no_known_runs_is_refused(scripts, study, report, tmp_path, capsys):
    assert study("there", "few", *CELL) and report("there") == 0
    scripts.calls.clear()
    for name, file, words in (
        ("few", "gone.csv", "gone.csv: there is no such file"),
        ("few", "few-search.csv", "few-search.csv: not the runs of a study that report.py wrote, such as few.csv"),
        ("elsewhere", "few.csv", "--known: the models of this study are measured on other data"),
    ):
        with pytest.raises(SystemExit) as end:
            run(scripts, tmp_path / "here", name, "--known", str(tmp_path / "to" / file))
        assert end.value.code == 2 and words in capsys.readouterr().err and not scripts.calls
