"""The studies of examples/studies with an engine that makes up its scores: what is searched, what is trained, and the tables."""

import csv
import importlib
import itertools
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from scipy import stats
from study_engine import BETA, RATE, RHO, ROOT, STUDIES, flags, run

from sharp_plugins.glue.tasks import TASKS
from sharp_plugins.runs.command import RUNS_FAILED
from sharp_plugins.runs.store import RESULT


def test_pilots_choose_and_fresh_seeds_are_trained_with_what_they_chose(scripts, tmp_path):
    best = {"base": {RATE: "3e-4"}, "sam": {RHO: "0.02"}, "dsam": {RHO: "0.05", BETA: "10"}}

    def score(method, settings, seed):
        return 60.0 + sum(settings.get(name) == value for name, value in best.get(method, {}).items())

    scripts.score = score
    assert run(scripts, tmp_path, "few", "--cells", "SST-2-300", "--seeds", "1", "2", "3") == 0
    steps = [
        (flags(line, "--methods"), flags(line, "--sweep"), [one for one in flags(line, "--set") if "sam" in one])
        for line in scripts.calls
    ]
    rates, rhos, betas = scripts.plan.FULL_RATES, scripts.plan.RHOS, scripts.plan.BETAS
    assert steps == [
        (["base"], [rates], []),
        (["base"], [], []),
        (["sam"], [rhos], []),
        (["sam"], [], [f"{RHO}=0.02"]),
        (["dsam"], [rhos], []),
        (["dsam"], [betas], [f"{RHO}=0.05"]),
        (["dsam"], [], [f"{RHO}=0.05", f"{BETA}=10"]),
    ]
    seeds = [line[line.index("--seeds") + 1 : line.index("--jobs")] for line in scripts.calls]
    pilots, fresh = ["101", "102"], ["1", "2", "3"]
    assert seeds == [pilots, fresh, pilots, fresh, pilots, pilots, fresh]
    # All methods have the learning rate that was chosen for the baseline.
    rates = [[setting for setting in flags(line, "--set") if setting.startswith(RATE)] for line in scripts.calls]
    assert rates == [[], *[[f"{RATE}=3e-4"]] * 6]
    # The settings for MiniLM are in fp16 for some tasks, which a CPU does not train in: the studies are alike on both.
    assert all("common.fp16=false" in flags(line, "--set") for line in scripts.calls)
    # 4 epochs of 300 rows by 32, and 500 other rows choose.
    assert all("optimization.max_update=40" in line and flags(line, "--selection-rows") == ["500"] for line in scripts.calls)


@pytest.mark.parametrize("task", ["SST-2", "MRPC", "CoLA", "MNLI"])
def test_a_cell_is_four_passes_over_its_rows(scripts, task):
    settings = yaml.safe_load((ROOT / "sharp_plugins" / "glue" / "configs" / "minilm" / f"{task}.yaml").read_text())
    batch = settings["dataset"]["batch_size"]
    for rows in (300, 1000):
        assert f"optimization.max_update={4 * -(-rows // batch)}" in scripts.plan.Cell(task, rows).flags("sam")


def test_loras_methods_have_the_learning_rate_that_was_chosen_for_lora(scripts, tmp_path):
    scripts.score = lambda method, settings, seed: 60.0 + (settings.get("optimization.lr") == "5e-4")
    assert run(scripts, tmp_path, "few-lora", "--cells", "CoLA-1000", "--seeds", "1") == 0
    assert all("optimization.lr=5e-4" in line for line in scripts.calls[1:])
    assert [flags(line, "--methods")[0] for line in scripts.calls] == [
        "lora",
        "lora",
        *["lora-sam"] * 2,
        *["lora-obar"] * 2,
        *["lora-nbar"] * 2,
    ]


def test_a_value_that_is_given_is_not_searched(scripts, tmp_path, capsys):
    given = ["--search", "base", f"{RATE}=1e-4", "--search", "dsam", f"{RHO}=0.05", "--search", "dsam", f"{BETA}=1,3"]
    line = ["--cells", "SST-2-300", "--methods", "dsam", "--seeds", "1", "2"]
    assert run(scripts, tmp_path / "out", "few", *line, *given) == 0
    steps = [(flags(line, "--methods")[0], flags(line, "--sweep"), flags(line, "--set")[3:]) for line in scripts.calls]
    assert steps == [
        ("base", [], [f"{RATE}=1e-4"]),
        ("dsam", [f"{BETA}=1,3"], [f"{RATE}=1e-4", f"{RHO}=0.05"]),
        ("dsam", [], [f"{RATE}=1e-4", f"{RHO}=0.05", f"{BETA}=1"]),
    ]
    capsys.readouterr()
    assert scripts.report.main(["few", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to")]) == 0
    text = capsys.readouterr().out
    assert "Given, and not searched: SST-2-300, base: lr=0.0001; SST-2-300, dsam: sam rho=0.05.\n" in text
    assert "| dsam | dsam beta | 1: 71.00, 3: 71.00 | 1 and 3, the smallest and the largest tried |" in text
    for name, more, words in (
        ("few", ["--methods", "bar"], "--methods bar: the methods are base, sam, dsam"),
        ("whole", ["--methods", "dsam", "dsam-r3f"], "--methods dsam dsam-r3f: r3f must be there, too"),
        ("few", ["--search", "sam", RHO], f"--search sam {RHO}: should be part.name=number"),
        ("few", ["--search", "sam", f"{RHO}=0.1,x"], f"--search sam {RHO}=0.1,x: should be part.name=number"),
        ("few", ["--search", "sam", f"{BETA}=1"], f"the searches are base {RATE}, sam {RHO}, dsam {RHO}, dsam {BETA}"),
    ):
        with pytest.raises(SystemExit):
            run(scripts, tmp_path, name, *more)
        assert words in capsys.readouterr().err


def test_a_baseline_with_delta_sams_time_has_more_passes_and_a_rate_of_its_own(scripts, tmp_path, capsys):
    gains = {"dsam": (3.0, 1.0, 4.0), "base": (1.0, 2.0, 1.5)}  # over the baseline, of the longer one and of delta-SAM

    def score(method, settings, seed):
        is_longer = "optimization.max_update=288" in scripts.calls[-1]
        if "--sweep" in scripts.calls[-1]:
            return 60.0 + (settings.get(RATE) == ("2e-5" if is_longer else "3e-4"))
        return 60.0 + seed + (gains[method][seed - 1] if is_longer or method == "dsam" else 0)

    scripts.score = score
    line = ["--cells", "SST-2-1000-noise0.2", "--methods", "dsam", "base-longer", "--seeds", "1", "2", "3"]
    assert run(scripts, tmp_path / "out", "noise", *line) == 0
    calls = [(flags(line, "--methods")[0], flags(line, "--sweep"), flags(line, "--set")) for line in scripts.calls[-2:]]
    rates = "optimization.lr=2e-5,5e-5,1e-4"
    # 1,000 rows are 32 batches of 32: 9 passes in place of 4. 6 % of the updates warm up.
    passes = ["optimization.max_update=288", "lr_scheduler.warmup_updates=17"]
    for (method, sweep, settings), own in zip(calls, ([rates], [])):
        assert method == "base" and sweep == own and settings[:2] == passes and not any("sam" in one for one in settings)
    assert all("optimization.max_update=128" in line for line in scripts.calls[:-2]) and "optimization.lr=2e-5" in calls[1][2]
    capsys.readouterr()
    assert scripts.report.main(["noise", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to")]) == 0
    lines = [one.split(" | ")[3:] for one in capsys.readouterr().out.splitlines() if "SST-2, accuracy" in one]
    assert [one[:1] + one[3:4] for one in lines] == [["base", ""], ["dsam", lines[1][3]], ["base-longer", lines[2][3]]]
    assert lines[1][3].startswith("+2.67 ") and lines[2][3].startswith("+1.50 ") and "lr=2e-05" in lines[2]
    # Its rate is not delta-SAM's: neither is refused when the report is written again.
    assert scripts.report.main(["noise", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to")]) == 0
    # 2, -1 and 2.5 more: on average 1.17, with a standard error of 1.0929 and Student's 4.3027.
    words = "With 9 passes for the baseline, which take δ-SAM's time: SST-2-1000-noise0.2, dsam over base-longer:"
    assert f"{words} +1.17 (-3.54 to +5.87), p 0.5, not corrected." in capsys.readouterr().out


def test_whole_tasks_have_the_settings_passes(scripts):
    """Nothing is said of updates: the engine makes the settings' passes over what is left (tests/glue/test_run.py)."""
    cells = scripts.plan.STUDIES["whole"].cells
    assert {cell.task for cell in cells} == set(TASKS)
    for cell in cells:
        assert cell.flags("sam") == ["--tasks", cell.task, "--selection-rows", "500"]


def test_what_joins_two_methods_has_what_both_chose(scripts, tmp_path, capsys):
    weight = "criterion.r3f_lambda"
    best = {RATE: "2e-4", RHO: "0.01", BETA: "1", weight: "0.5", "criterion.rdrop_alpha": "0.1"}
    scripts.score = lambda method, settings, seed: 60.0 + sum(settings.get(name) == value for name, value in best.items())
    assert run(scripts, tmp_path / "out", "whole", "--cells", "RTE", "--seeds", "1", "2") == 0
    assert not [word for line in scripts.calls for word in line if word == "--train-rows" or "update" in word]
    finals = {flags(line, "--methods")[0]: flags(line, "--set")[1:] for line in scripts.calls if "--sweep" not in line}
    rate, rho, beta, weighed = (f"{name}={best[name]}" for name in (RATE, RHO, BETA, weight))
    assert finals == {
        "base": [rate],
        "sam": [rate, rho],
        "dsam": [rate, rho, beta],
        "r3f": [rate, weighed],
        "rdrop": [rate, "criterion.rdrop_alpha=0.1"],
        "dsam-r3f": [rate, rho, beta, weighed],
    }
    capsys.readouterr()
    assert scripts.report.main(["whole", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to"), "--name", "w3"]) == 0
    assert {path.name for path in (tmp_path / "to").iterdir()} == {"w3.csv", "w3-search.csv", "w3.md", "w3.png"}
    text = capsys.readouterr().out
    assert "| 3 | RTE, accuracy | all | dsam-r3f |" in text and "sam rho=0.01, dsam beta=1, r3f lambda=0.5" in text


def test_the_tables_are_of_the_fresh_seeds(scripts, tmp_path, capsys):
    gains = {1: 1.0, 2: 2.5, 3: -0.5, 4: 1.5}

    def score(method, settings, seed):
        return 60.0 + seed + (gains.get(seed, 9) if method == "sam" else 0.0)

    scripts.score = score
    assert run(scripts, tmp_path / "out", "few", "--cells", "SST-2-300", "MRPC-300", "--seeds", "1", "2", "3", "4") == 0
    capsys.readouterr()
    assert scripts.report.main(["few", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to")]) == 0
    text = capsys.readouterr().out
    low, high = stats.t.interval(0.95, 3, loc=statistics.fmean(gains.values()), scale=stats.sem(list(gains.values())))
    [line] = [line for line in text.splitlines() if "| SST-2, accuracy |" in line and "| sam |" in line]
    # What chose is the other rows, of the pilot seeds: 60 + 101 or 102 + what SAM adds there + 1.
    values = ", ".join(f"{value}: 171.50" for value in scripts.plan.RHOS.split("=")[1].split(","))
    assert f"| SST-2-300 | sam | sam rho | {values} |" in text
    assert (
        f"+{statistics.fmean(gains.values()):.2f} ({low:+.2f} to {high:+.2f})" in line
        and "3 of 4" in line
        # Of 16 choices of signs 4 are as far from zero; the other task's rows do not count.
        and "| 0.25 | 0.25 |" in line
        and "lr=5e-05, sam rho=0.005" in line
    )
    with open(tmp_path / "to" / "few.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 4 and {row["seed"] for row in rows} == {"1", "2", "3", "4"}
    assert float(rows[0]["selection"]) == float(rows[0]["value"]) + 1 and rows[0]["layers"] == "3"
    assert (tmp_path / "to" / "few.png").stat().st_size > 5000
    assert (tmp_path / "to" / "few.md").read_text().startswith("## Few examples")


def test_gains_of_as_many_rows_are_equal_in_the_test(scripts, tmp_path, capsys):
    """Shares of 872 rows have many digits, and without the last of them 4 + 4 and 8 rows are not as far from zero."""
    right, more = {1: 704, 2: 700, 3: 700, 4: 700}, {1: 4, 2: 8, 3: 8, 4: -4}

    def score(method, settings, seed):
        return 100 * (right.get(seed, 700) + (more.get(seed, 0) if method == "sam" else 0)) / 872

    scripts.score = score
    line = ("--cells", "SST-2-300", "--methods", "sam", "--seeds", "1", "2", "3", "4")
    assert run(scripts, tmp_path / "out", "few", *line) == 0
    capsys.readouterr()
    report = ["few", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to")]
    assert scripts.report.main(report) == 0
    sums = [abs(sum(sign * rows for sign, rows in zip(signs, more.values()))) for signs in itertools.product((1, -1), repeat=4)]
    p = sum(one >= sum(more.values()) for one in sums) / len(sums)
    [told] = [line for line in capsys.readouterr().out.splitlines() if "| sam | 4 |" in line]
    assert p == 0.375 and f"| {p} | {p} |" in told
    # A file of four digits, as were written before, has the same runs.
    file = tmp_path / "to" / "few.csv"
    with open(file, newline="") as text:
        rows = list(csv.DictReader(text))
    short = [{**row, **{name: f"{float(row[name]):.4f}" for name in ("value", "selection")}} for row in rows]
    scripts.report.write_csv(file, rows[0], (row.values() for row in short))
    (tmp_path / "out" / "SST-2-300" / "sam").rename(tmp_path / "sam")
    assert scripts.report.main(report) == 0
    assert "| sam | 4 |" in capsys.readouterr().out


def test_cells_of_another_machine_stay(scripts, tmp_path, capsys):
    """Each machine has the runs of its own cells, and the files are of all."""

    def report(*names):
        capsys.readouterr()
        for name in names:
            scripts.score = lambda method, settings, seed: 60.0 + seed + len(name) + (method == "sam") * seed
            assert run(scripts, tmp_path / "out", "few", "--cells", name, "--seeds", "1", "2", "3") == 0
        code = scripts.report.main(["few", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to")])
        return code, capsys.readouterr()

    def files():
        return {path.name: path.read_bytes() for path in (tmp_path / "to").iterdir()}

    assert report("MRPC-300", "SST-2-300")[0] == 0
    at_once = files()
    for name in ("to", "out"):
        (tmp_path / name).rename(tmp_path / f"{name} at once")
    assert report("SST-2-300")[0] == 0
    (tmp_path / "out").rename(tmp_path / "out of one machine")
    assert report("MRPC-300")[0] == 0
    by_turns = files()
    for name in ("few.csv", "few-search.csv"):
        assert sorted(by_turns[name].splitlines()) == sorted(at_once[name].splitlines())
    lines = by_turns["few.md"].decode().splitlines()
    assert [line for line in lines if "SST-2, accuracy" in line] == [
        line for line in at_once["few.md"].decode().splitlines() if "SST-2, accuracy" in line
    ]
    assert sorted(lines) == sorted(at_once["few.md"].decode().splitlines())
    # A cell that has lost runs is not written over.
    (tmp_path / "out").rename(tmp_path / "out of another machine")
    assert run(scripts, tmp_path / "out", "few", "--cells", "MRPC-300", "--seeds", "1", "2") == 0
    code, told = report()
    assert code == 1 and files() == by_turns
    assert "few.csv: 3 runs are there that this call has not, such as 3 MRPC 300 0 0 base 3 (layers, task, rows" in told.err


def test_a_figures_points_stand_beside_their_setting(scripts, tmp_path, monkeypatch):
    from matplotlib import pyplot

    from sharp_plugins.runs.statistics import compare

    one = compare({1: 60.0, 2: 62.0}, {1: 59.0, 2: 60.0})
    settings = {"one": ["sam"], "four": ["sam", "dsam", "r3f", "rdrop"], "a long name " * 9: ["r3f"], "last": ["dsam", "rdrop"]}
    figures = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    gains = [scripts.gains.Gain(where, method, one) for where, methods in settings.items() for method in methods]
    scripts.gains.draw(gains, "base", "All", tmp_path / "all.png")
    [axis] = figures[0].axes
    ticks = [float(tick) for tick in axis.get_yticks()]
    found = {bars.get_label(): [float(y) for y in bars.lines[0].get_ydata()] for bars in axis.containers}
    beside = {method: [min(range(4), key=lambda n: abs(ticks[n] - y)) for y in own] for method, own in found.items()}
    assert beside == {"sam": [0, 1], "dsam": [1, 3], "r3f": [1, 2], "rdrop": [1, 3]}
    heights = sorted(y for own in found.values() for y in own)
    assert min(b - a for a, b in zip(heights, heights[1:])) >= 1 and ticks == sorted(ticks)
    bottom, top = axis.get_ylim()
    assert top < heights[0] and heights[-1] < bottom


def test_a_figure_shows_gains_with_their_intervals(scripts, tmp_path, monkeypatch):
    from matplotlib import pyplot

    from sharp_plugins.runs.statistics import compare

    baseline, own = {1: 60.0, 2: 61.0, 3: 63.0}, {"sam": (1.0, 2.5, -0.5), "dsam": (3.0, 1.0)}
    gains = [scripts.gains.Gain("MRPC-300", "base", None)]
    for method, differences in own.items():
        values = {seed: baseline[seed] + one for seed, one in zip(baseline, differences)}
        gains.append(scripts.gains.Gain("MRPC-300", method, compare(values, baseline)))
    figures = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    scripts.gains.draw(gains, "base", "Few examples", tmp_path / "few.png")
    [axis] = figures[0].axes
    assert axis.get_xlabel() == "gain over base, points, with its 95 % interval"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["MRPC-300\nseeds: 2 or 3"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == list(own)
    for bars, differences in zip(axis.containers, own.values()):
        [segment] = bars.lines[2][0].get_segments()
        degrees = len(differences) - 1
        low, high = stats.t.interval(0.95, degrees, loc=statistics.fmean(differences), scale=stats.sem(differences))
        assert bars.lines[0].get_xdata() == pytest.approx([statistics.fmean(differences)])
        assert segment[:, 0] == pytest.approx([low, high])


def test_pilot_seeds_are_not_used_again(scripts, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(scripts, tmp_path, "few", "--seeds", "1", "101")
    assert "the pilot seeds, which choose" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(scripts, tmp_path, "few", "--cells", "RTE-5")
    assert "--cells RTE-5: there are SST-2-300" in capsys.readouterr().err and not scripts.calls
    assert scripts.report.main(["few", "--out", str(tmp_path)]) == 1
    assert "no finished run of few" in capsys.readouterr().err


def test_a_cell_that_fails_ends_no_other(scripts, tmp_path, monkeypatch, capsys):
    whole = scripts.study.run_program
    monkeypatch.setattr(scripts.study, "run_program", lambda line: RUNS_FAILED if "MRPC" in line else whole(line))
    assert run(scripts, tmp_path, "few", "--seeds", "1") == 1
    told = capsys.readouterr().err
    assert f"error: ended with {RUNS_FAILED}: " in told and "error: 2 of 6 cells are not finished: MRPC-300, MRPC-1000" in told
    assert {Path(flags(line, "--out")[0]).parts[-3] for line in scripts.calls} == {
        f"{task}-{rows}" for task in ("SST-2", "CoLA") for rows in (300, 1000)
    }
    # Where all runs are there, an engine that failed has failed in something else.
    monkeypatch.setattr(scripts.study, "run_program", lambda line: RUNS_FAILED)
    assert run(scripts, tmp_path, "few", "--cells", "SST-2-300") == 1
    assert "SST-2-300: base: not all fresh runs are finished; run the same command again" in capsys.readouterr().err


def test_a_value_whose_run_fails_is_not_chosen(scripts, tmp_path, monkeypatch, capsys):
    """ρ = 0.05 is the best with one seed, and diverges with the other; 0.1 diverges with both."""
    whole, lost, status = scripts.study.run_program, [], 1

    def engine(line):
        whole(line)
        for result in tmp_path.rglob(RESULT):
            if "sam_rho=0.1/" in str(result) or ("sam_rho=0.05" in str(result) and "seed102" in str(result)):
                result.unlink()
                lost.append(result)
        return status if any(value in str(line) for value in ("0.05", "0.1")) else 0

    monkeypatch.setattr(scripts.study, "run_program", engine)
    scripts.score = lambda method, settings, seed: 70.0 + {"0.05": 9, "0.02": 5}.get(settings.get(RHO), 0)
    line = (scripts, tmp_path / "out", "few", "--cells", "SST-2-300", "--seeds", "1", "2")
    # What is missing for another reason, as another process is at the run, has not failed: nothing is chosen without it.
    assert run(*line) == 1 and lost
    assert "SST-2-300: ended with 1: " in capsys.readouterr().err
    status = RUNS_FAILED
    assert run(*line) == 0 and len(lost) > 1
    told = capsys.readouterr().out
    assert (
        "optimizer.sam_rho: not chosen, as a run failed: 0.05" in told
        and "SST-2-300, sam: optimizer.sam_rho=0.02 is chosen" in told
    )
    assert scripts.report.main(["few", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to")]) == 0
    assert "0.02: 76.00, 0.05: 80.00 (1 of 2 runs), 0.1: failed | 0.02 |" in (tmp_path / "to" / "few.md").read_text()
    # Nothing failed, and yet one is missing: no choice.
    with pytest.raises(importlib.import_module("calls").Unfinished, match="not all runs of the search"):
        scripts.study.best(tmp_path / "out" / "SST-2-300" / "sam" / "pilot1", scripts.plan.RHOS)


CHILD = """
import pathlib, signal, sys, time
def end(*_):
    time.sleep(int(sys.argv[1]) ** 2 / 2)
    pathlib.Path(f"ended{sys.argv[1]}").write_text("")
    sys.exit(130)
signal.signal(signal.SIGTERM, end)
pathlib.Path(f"begun{sys.argv[1]}").write_text("")
time.sleep(60)
"""
PARENT = """
import sys, calls
line = [sys.executable, "-c", sys.argv[1]]
sys.exit(calls.guarded(lambda: max(calls.run_programs([[*line, "1"], [*line, "2"]]))))
"""


def test_programs_run_side_by_side(scripts, tmp_path):
    """Each waits for a file of the other; the statuses are in the order of the lines."""
    code = "import os, pathlib, sys, time\npathlib.Path(sys.argv[1]).touch()\n"
    code += "while not pathlib.Path(sys.argv[2]).exists():\n    time.sleep(0.01)\n"
    code += "sys.exit(int(os.environ['OWN']) + sys.argv[1].endswith('b'))"
    calls = importlib.import_module("calls")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    lines = [[sys.executable, "-c", code, *order] for order in ((a, b), (b, a))]
    assert calls.run_programs(lines, {"OWN": "4"}) == [4, 5]


def test_what_ends_a_study_ends_its_engines(tmp_path):
    """SIGTERM comes to the study alone; it waits for its engines, which stop their trainings."""
    environment = {**os.environ, "PYTHONPATH": f"{STUDIES}:{ROOT}"}
    # Into a file: the end of a pipe would be waited for until the engines ended, too.
    with (
        open(tmp_path / "told", "w") as told,
        subprocess.Popen([sys.executable, "-c", PARENT, CHILD], cwd=tmp_path, env=environment, stderr=told) as study,
    ):
        start = time.monotonic()
        while not all((tmp_path / f"begun{number}").exists() for number in (1, 2)):
            assert study.poll() is None and time.monotonic() - start < 300
            time.sleep(0.05)
        study.terminate()
        study.wait(timeout=30)
    assert study.returncode == 130 and all((tmp_path / f"ended{number}").exists() for number in (1, 2))
    assert (tmp_path / "told").read_text() == "interrupted; run the same command again to go on\n"


def test_programs_find_the_plugin_of_this_repository(scripts, tmp_path):
    """And nothing else does: the environment is as it was before the scripts were imported."""
    code = f"import os, pathlib; pathlib.Path({str(tmp_path / 'path')!r}).write_text(os.environ['PYTHONPATH'])"
    assert importlib.import_module("calls").run_programs([[sys.executable, "-c", code]]) == [0]
    found, own = (tmp_path / "path").read_text().split(os.pathsep), os.environ.get("PYTHONPATH", "").split(os.pathsep)
    assert found[0] == str(ROOT) and found[1:] == [path for path in own if path]


def test_values_beyond_the_plan_are_told(scripts, tmp_path, capsys):
    scripts.score = lambda method, settings, seed: 60.0 + (settings.get(RHO) == "0.03") + (settings.get(RATE) == "2e-5")
    given = ["--search", "base", f"{RATE}=2e-5,3e-5", "--search", "sam", f"{RHO}=0.02,0.03"]
    assert run(scripts, tmp_path / "out", "few", "--cells", "SST-2-300", "--methods", "sam", "--seeds", "1", "2", *given) == 0
    capsys.readouterr()
    assert scripts.report.main(["few", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to")]) == 0
    text = capsys.readouterr().out
    rows = {tuple(line.split(" | ")[2:4]): line for line in text.splitlines() if line.startswith("| 3 | SST-2-300 |")}
    assert "| 0.02: 62.00, 0.03: 63.00 | 0.03, the largest tried |" in rows["sam", "sam rho"]
    assert "| 2e-5: 62.00, 3e-5: 61.00 | 2e-5, the smallest tried |" in rows["base", "lr"] and "Given" not in text
    with open(tmp_path / "to" / "few-search.csv", newline="") as file:
        found = {(row["method"], row["value"], row["seed"], row["score"]) for row in csv.DictReader(file)}
    assert {("sam", "0.03", "102", "63.0"), ("base", "3e-5", "101", "61.0")} <= found and len(found) == 8


def test_runs_of_two_encoders_stand_apart(scripts, tmp_path, monkeypatch, capsys):
    """In the figure, and in what is told below the table."""
    line = ["--cells", "SST-2-300", "--methods", "sam", "--seeds", "1", "2", "--search", "sam", f"{RHO}=0.02"]
    assert run(scripts, tmp_path / "out", "few", *line) == 0
    drawn, there = [], ["few", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to")]
    monkeypatch.setattr(scripts.report, "draw", lambda gains, *rest: drawn.append([one.where for one in gains]))
    assert scripts.report.main(there) == 0
    path = tmp_path / "to" / "few.csv"
    path.write_text("".join(f"6{row[1:]}" if row.startswith("3,") else row for row in path.read_text().splitlines(keepends=True)))
    capsys.readouterr()
    assert scripts.report.main(there) == 0
    assert drawn == [["SST-2-300"] * 2, ["SST-2-300, 6 layers"] * 2 + ["SST-2-300, 3 layers"] * 2]
    assert "SST-2-300, 6 layers, sam: sam rho=0.02; SST-2-300, 3 layers, sam: sam rho=0.02." in capsys.readouterr().out


def test_searches_of_another_machine_stay(scripts):
    """Of a cell that was but begun here, and of an encoder with fewer layers; those that would be lost are told."""
    searches = importlib.import_module("searches")

    def pilot(layers, cell, *scores):
        return searches.Pilot(layers, cell, "sam", RHO, {"0.01": dict(zip((101, 102), scores))})

    theirs, ours = [pilot(6, "SST-2-300", 70.0, 71.0), pilot(3, "SST-2-300", 60.0, 61.0)], pilot(6, "MRPC-300", 80.0, 81.0)
    begun = pilot(6, "SST-2-300", 72.0)
    assert searches.joined(theirs, [begun, ours], {(6, "MRPC-300", "sam")}) == [*theirs, ours]
    whole = pilot(6, "SST-2-300", 72.0, 73.0)
    assert searches.joined(theirs, [whole, ours], {(6, "SST-2-300", "sam"), (6, "MRPC-300", "sam")}) == [theirs[1], whole, ours]
    with pytest.raises(
        ValueError, match="1 runs are there that this call has not, such as 6 SST-2-300 sam optimizer.sam_rho 0.01 102 "
    ):
        searches.joined(theirs, [begun], {(6, "SST-2-300", "sam")})
    assert searches.from_rows(dict(zip(searches.COLUMNS, map(str, row))) for row in searches.csv_rows(theirs)) == theirs


@pytest.mark.parametrize(
    "scores, best",
    [
        ({"1e-4": (70, 72), "3e-4": (70, 70), "5e-5": (60, 60)}, "1e-4"),
        ({"1e-4": (70, 70), "3e-4": (70, 72), "5e-5": (60, 60)}, "3e-4, the largest tried"),
        ({"1e-4": (70, 70), "3e-4": (60, 60), "5e-5": (71, 69)}, "1e-4 and 5e-5, the smallest tried"),
        ({"1": (70, 70), "3": (70, 70)}, "1 and 3, the smallest and the largest tried"),
        ({"1": (70, 70), "3": (90,), "10": ()}, "1"),
        ({"0.5": (70, 70)}, "0.5"),
        ({"1": (70.0, 70.6), "3": (70.2, 70.4), "10": (60, 60)}, "1 and 3, the smallest tried"),  # 2e-14 apart
    ],
)
def test_a_best_value_at_an_end_of_its_grid_is_told(scripts, scores, best):
    """One beyond it may be better: with wrong labels the learning rate was."""
    searches = importlib.import_module("searches")
    pilot = searches.Pilot(6, "CoLA-300", "base", RATE, {value: dict(zip((101, 102), own)) for value, own in scores.items()})
    [head, row] = searches.table_rows([pilot], "score")
    assert (head[-1], row[-1]) == ("best", best)


def test_a_search_that_goes_on_is_told_again(scripts):
    """Before its method has fresh runs, too; and of an earlier one on another machine what it saw more."""
    searches = importlib.import_module("searches")

    def pilot(scores):
        return searches.Pilot(6, "CoLA-300", "sam", RHO, {value: {101: score} for value, score in scores.items()})

    begun, whole = pilot({"1e-2": 70.0}), pilot({"0.01": 70.0, "0.02": 80.0})
    assert searches.joined([begun], [whole], set()) == [whole] == searches.joined([whole], [begun], set())


def test_a_value_that_failed_is_told_wherever_the_table_is_written_from(scripts):
    """Else the value before it would look like the end of the grid."""
    searches = importlib.import_module("searches")
    pilot = searches.Pilot(6, "CoLA-300", "sam", RHO, {"0.01": {101: 70.0}, "0.05": {101: 71.0}, "0.1": {}})
    [again] = searches.from_rows(dict(zip(searches.COLUMNS, map(str, row))) for row in searches.csv_rows([pilot]))
    assert again == pilot and searches.best_of(again) == "0.05"
    diverged = again._replace(found={"0.01": {101: math.nan}, "0.05": {101: 71.0}})
    assert searches.best_of(diverged) == "0.05, the largest tried"
    assert searches.table_rows([again], "score")[1][-2] == "0.01: 70.00, 0.05: 71.00, 0.1: failed"
