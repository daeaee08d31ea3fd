"""The studies of examples/studies with an engine that makes up its scores: what is searched, what is trained, and the tables."""

import csv
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pairs
import pytest
import torch
import yaml
from scipy import stats

from sharp_plugins.glue.tasks import TASKS
from sharp_plugins.runs.record import Record, Result
from sharp_plugins.runs.store import RECORD, RESULT, directory_of

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ROOT / "examples" / "studies"
RATE, RHO, BETA = "optimization.lr", "optimizer.sam_rho", "optimizer.dsam_beta"


@pytest.fixture
def scripts(monkeypatch):
    """The scripts by name, and the calls of the engine."""
    monkeypatch.syspath_prepend(str(STUDIES))
    found = SimpleNamespace(**{name: importlib.import_module(name) for name in ("plan", "study", "report")}, calls=[])
    found.score = lambda method, settings, seed: 70.0

    def engine(line):
        found.calls.append(line)
        words = {flag: [] for flag in ("--set", "--sweep", "--seeds", "--methods", "--out", "--tasks", "--train-rows")}
        flag = None
        for word in line:
            if word.startswith("--"):
                flag = word
            elif flag in words:
                words[flag].append(word)
        fixed = dict(setting.split("=") for setting in words["--set"])
        name, _, values = (words["--sweep"] or ["=one"])[0].partition("=")
        for value in values.split(","):
            for seed in map(int, words["--seeds"]):
                settings = {**fixed, **({name: value} if name else {})}
                rows = {"train-rows": int(words["--train-rows"][0])} if words["--train-rows"] else {}
                axes = {**rows, **({name: float(value)} if name else {})}
                record = Record("glue", words["--tasks"][0], words["--methods"][0], seed, axes)
                save(Path(words["--out"][0]), record, settings, found.score(record.method, settings, seed))
        return 0

    monkeypatch.setattr(found.study, "run_program", engine)
    return found


def save(out, record, settings, score):
    directory = directory_of(out, record)
    directory.mkdir(parents=True, exist_ok=True)
    metric = {"CoLA": "mcc"}.get(record.task, "accuracy")
    metrics = {"valid": {metric: score + 1}, "dev": {metric: score}}
    result = Result(record, metrics, 0.5, 40, 20, None, [], {})
    (directory / RECORD).write_text(json.dumps(record._asdict()))
    (directory / RESULT).write_text(json.dumps({**result._asdict(), "record": record._asdict(), "checkpoints": "deleted"}))
    config = {"task": {"data": "DATA"}, "model": {"encoder_layers": 3}}
    for name, value in settings.items():
        part, key = name.split(".")
        config.setdefault(part, {})[key] = False if value == "false" else float(value)
    (directory / "run.yaml").write_text(yaml.safe_dump(config))


def flags(line, flag):
    return [line[place + 1] for place, word in enumerate(line[:-1]) if word == flag]


def run(scripts, tmp_path, name, *more):
    line = [name, "--backbone", "B", "--data", "D", "--out", str(tmp_path), *more]
    return scripts.study.main(line)


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
        assert f"optimization.max_update={4 * -(-rows // batch)}" in scripts.plan.Cell(task, rows).flags


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


def test_whole_tasks_have_the_settings_passes(scripts):
    """Nothing is said of updates: the engine makes the settings' passes over what is left (tests/glue/test_run.py)."""
    cells = scripts.plan.STUDIES["whole"].cells
    assert {cell.task for cell in cells} == set(TASKS)
    for cell in cells:
        assert cell.flags == ["--tasks", cell.task, "--selection-rows", "500"]


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
        and "lr=0.0001, sam rho=0.005" in line
    )
    with open(tmp_path / "to" / "few.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 4 and {row["seed"] for row in rows} == {"1", "2", "3", "4"}
    assert float(rows[0]["selection"]) == float(rows[0]["value"]) + 1 and rows[0]["layers"] == "3"
    assert (tmp_path / "to" / "few.png").stat().st_size > 5000
    assert (tmp_path / "to" / "few.md").read_text().startswith("## Few examples")


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
    assert "few.csv: 3 runs are there and not in --out, such as 3 MRPC 300 0 0 base 3 (layers, task, rows" in told.err


def test_a_figure_shows_gains_with_their_intervals(scripts, tmp_path, monkeypatch):
    from matplotlib import pyplot

    from sharp_plugins.runs.statistics import compare

    baseline, own = {1: 60.0, 2: 61.0, 3: 63.0}, {"sam": (1.0, 2.5, -0.5), "dsam": (3.0, 1.0)}
    gains = [scripts.report.Gain("MRPC-300", "base", None)]
    for method, differences in own.items():
        values = {seed: baseline[seed] + one for seed, one in zip(baseline, differences)}
        gains.append(scripts.report.Gain("MRPC-300", method, compare(values, baseline)))
    figures = []
    monkeypatch.setattr(pyplot, "close", figures.append)
    scripts.report.draw(gains, "base", "Few examples", tmp_path / "few.png")
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
    monkeypatch.setattr(scripts.study, "run_program", lambda line: 1 if "MRPC" in line else whole(line))
    assert run(scripts, tmp_path, "few", "--seeds", "1") == 1
    told = capsys.readouterr().err
    assert "error: ended with 1: " in told and "error: 2 of 6 cells are not finished: MRPC-300, MRPC-1000" in told
    assert {Path(flags(line, "--out")[0]).parts[-3] for line in scripts.calls} == {
        f"{task}-{rows}" for task in ("SST-2", "CoLA") for rows in (300, 1000)
    }
    # Where all runs are there, an engine that failed has failed in something else.
    monkeypatch.setattr(scripts.study, "run_program", lambda line: 1)
    assert run(scripts, tmp_path, "few", "--cells", "SST-2-300") == 1
    assert "SST-2-300: base: not all fresh runs are finished; run the same command again" in capsys.readouterr().err


def test_a_value_whose_run_fails_is_not_chosen(scripts, tmp_path, monkeypatch, capsys):
    """ρ = 0.05 is the best with one seed, and diverges with the other."""
    whole, lost = scripts.study.run_program, []

    def engine(line):
        whole(line)
        for result in tmp_path.rglob(RESULT):
            if "sam_rho=0.05" in str(result) and "seed102" in str(result):
                result.unlink()
                lost.append(result)
                return 1
        return 0

    monkeypatch.setattr(scripts.study, "run_program", engine)
    scripts.score = lambda method, settings, seed: 70.0 + {"0.05": 9, "0.02": 5}.get(settings.get(RHO), 0)
    assert run(scripts, tmp_path / "out", "few", "--cells", "SST-2-300", "--seeds", "1", "2") == 0 and lost
    told = capsys.readouterr().out
    assert (
        "optimizer.sam_rho: not chosen, as a run failed: 0.05" in told
        and "SST-2-300, sam: optimizer.sam_rho=0.02 is chosen" in told
    )
    assert scripts.report.main(["few", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to")]) == 0
    assert "0.02: 76.00, 0.05: 80.00 (1 of 2 runs), 0.1: 71.00" in (tmp_path / "to" / "few.md").read_text()
    # Nothing failed, and yet one is missing: no choice.
    with pytest.raises(importlib.import_module("calls").Unfinished, match="not all runs of the search"):
        scripts.study.best(tmp_path / "out" / "SST-2-300" / "sam" / "pilot1", scripts.plan.RHOS)


CHILD = """
import pathlib, signal, sys, time
def end(*_):
    time.sleep(0.3)
    pathlib.Path("ended").write_text("")
    sys.exit(130)
signal.signal(signal.SIGTERM, end)
pathlib.Path("begun").write_text("")
time.sleep(60)
"""
PARENT = "import sys, calls; sys.exit(calls.guarded(lambda: calls.run_program([sys.executable, '-c', sys.argv[1]])))"


def test_what_ends_a_study_ends_its_engine(tmp_path):
    """SIGTERM comes to the study alone; it waits for its engine, which stops its trainings."""
    environment = {**os.environ, "PYTHONPATH": f"{STUDIES}:{ROOT}"}
    how = dict(cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", PARENT, CHILD], **how) as study:
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        study.terminate()
        _, told = study.communicate(timeout=30)
    assert study.returncode == 130 and (tmp_path / "ended").exists()
    assert told == "interrupted; run the same command again to go on\n"


# ---------------------------------------------------------------------- what survives


@pytest.fixture
def survives(scripts):
    return importlib.import_module("survives")


def test_a_later_encoder_is_measured_under_the_first_classifier(survives):
    def state(value):
        names = ("encoder.sentence_encoder.a", "encoder.classification_heads.sentence_classification_head.dense")
        return {"cfg": value, "model": {name: torch.full((2, 2), float(value)) for name in names}}

    joined = survives.with_head_of(state(7), state(3))
    assert joined["cfg"] == 3
    assert [weight[0, 0].item() for weight in joined["model"].values()] == [7, 3]


def test_a_backbone_has_the_trained_encoder_and_keeps_what_no_classifier_has(survives, tmp_path):
    published, trained = tmp_path / "published", {"model": {"encoder.sentence_encoder.a": torch.ones(2), "head": torch.ones(1)}}
    published.mkdir()
    own = {"encoder.sentence_encoder.a": torch.zeros(2), "encoder.pooler.b": torch.zeros(3)}
    torch.save({"args": {"arch": "x"}, "model": own}, published / "model.pt")
    for name in ("dict.txt", "tokenizer.json"):
        (published / name).write_text(name)
    survives.write_backbone(tmp_path / "new", published, trained)
    made = torch.load(tmp_path / "new" / "model.pt", weights_only=True)
    assert made["args"] == {"arch": "x"} and {name: weight.tolist() for name, weight in made["model"].items()} == {
        "encoder.sentence_encoder.a": [1, 1],
        "encoder.pooler.b": [0, 0, 0],
    }
    assert (tmp_path / "new" / "dict.txt").read_text() == "dict.txt"
    with pytest.raises(SystemExit, match="has no encoder.sentence_encoder.a"):
        survives.write_backbone(tmp_path / "other", published, {"model": {}})


def test_what_is_lost_is_compared_by_seed(survives):
    numbers = {
        "base": [(80, 79, 60, 70), (82, 82, 61, 75), (81, 80, 63, 70)],
        "sam": [(81, 81, 66, 76), (82, 81, 70, 75), (84, 83, 65, 79)],
    }
    values = [
        survives.Value(method, seed, {**dict(zip(survives.COLUMNS, map(float, row))), survives.SECOND: 70.0})
        for method, rows in numbers.items()
        for seed, row in enumerate(rows, 1)
    ]
    lines = {
        line.split(" | ")[0].strip("| "): line.split(" | ")
        for line in survives.table(values, survives.compared(values)).splitlines()
    }
    lost = {method: [row[0] - row[3] for row in rows] for method, rows in numbers.items()}
    differences = [b - a for a, b in zip(lost["base"], lost["sam"])]
    half = stats.t.ppf(0.975, 2) * statistics.stdev(differences) / 3**0.5
    mean = statistics.mean(differences)
    found = lines["lost: after the second task"]
    assert found[1].startswith(f"{statistics.mean(lost['base']):.2f} ± {statistics.stdev(lost['base']):.2f}")
    assert found[3] == f"{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})"


@pytest.fixture
def measured(survives, monkeypatch):
    """Nothing is loaded: a checkpoint is its path, and its score the rows that its first task had."""
    monkeypatch.setattr(survives, "read_torch", lambda path: {"model": {}, "path": str(path)})
    monkeypatch.setattr(
        survives, "write_backbone", lambda directory, *_: [directory.mkdir(parents=True), (directory / "model.pt").touch()]
    )
    found = []

    def measure(state, data, work, metric, device):
        found.append((state["path"], metric))
        return float(next(part for part in Path(state["path"]).parts if part.startswith("train-rows=")).split("=")[1]) / 100

    monkeypatch.setattr(survives, "measure", measure)
    return found


def test_two_tasks_with_both_methods(scripts, survives, measured, tmp_path, capsys):
    line = ["--backbone", "B", "--data", "D", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to"), "--jobs", "2"]
    assert survives.main([*line, "--rows", "300", "--seeds", "1", "2"]) == 0
    then, rate, rho = [call for call in scripts.calls if "--sweep" in call]
    assert "MRPC" in then and flags(then, "--methods") == ["base"] and flags(then, "--backbone") == ["B"]
    assert flags(rate, "--methods") == ["base"] and "optimizer.sam_start=0.75" not in rate
    assert {"optimizer.sam_start=0.75", "optimization.lr=1e-4"} <= set(rho)
    # SAM's first epochs are Adam's: the last one is measured, in all runs.
    assert all("dataset.validate_interval=4" in call for call in scripts.calls)
    second = [call for call in scripts.calls if "MRPC" in call and "--sweep" not in call]
    assert all("optimization.lr=1e-4" in call for call in second)  # what was chosen for it
    assert len(second) == 4 and all(flags(call, "--jobs") == ["1"] for call in second)
    assert len({call[call.index("--backbone") + 1] for call in second}) == 4  # each from an encoder of its own
    assert len(measured) == 16 and {metric for _, metric in measured} == {"accuracy"}
    with open(tmp_path / "to" / "survives.csv") as file:
        assert [(row["method"], row["seed"], row["trained"]) for row in csv.DictReader(file)] == [
            (method, seed, "3.0000") for method in ("base", "sam") for seed in "12"
        ]
    assert (
        "Seeds 101 and 102 chose optimization.lr=1e-4, optimizer.sam_rho=0.005, optimization.lr=1e-4 for MRPC."
        in (tmp_path / "to" / "survives.md").read_text()
    )
    assert (tmp_path / "to" / "survives.png").stat().st_size > 5000
    assert "at least 0.5 of 2 seeds" in (tmp_path / "to" / "survives.md").read_text()
    # Other rows, another task or fewer seeds are other studies, whose files are not written over.
    assert survives.main([*line, "--rows", "1000", "--seeds", "1", "2"]) == 1 and len(measured) == 16
    assert "4 runs are there that this call has not, such as base 1 (method, seed); give another --to" in capsys.readouterr().err
    assert survives.main([*line, "--name", "more", "--rows", "1000", "--seeds", "1", "2"]) == 0 and len(measured) == 32
    cola = [*line, "--name", "cola", "--rows", "1000", "--seeds", "1", "--second", "CoLA"]
    assert survives.main(cola) == 0 and len(measured) == 40
    with open(tmp_path / "to" / "cola.csv") as file:
        assert [(row["seed"], row["trained"], row["the second task"]) for row in csv.DictReader(file)] == [
            ("1", "10.0000", "70.0000")
        ] * 2
    assert (
        survives.main([*line, "--name", "more", "--rows", "1000", "--seeds", "1", "2"]) == 0 and len(measured) == 40
    )  # all was there


def test_what_was_measured_is_kept_and_is_of_one_training(scripts, survives, measured, tmp_path, monkeypatch, capsys):
    line = ["--backbone", "B", "--data", "D", "--out", str(tmp_path), "--rows", "300", "--seeds", "1", "2"]
    whole, looks = survives.look, []

    def look(args, first, second, method, seed, trained, settings):
        if len(looks) == 3:
            raise KeyboardInterrupt
        looks.append((method, seed))
        (trained / survives.BEST).write_text("weights")
        return whole(args, first, second, method, seed, trained, settings)

    with monkeypatch.context() as patch:
        patch.setattr(survives, "look", look)
        assert survives.main(line) == 130
    with open(tmp_path / "survives.csv") as file:  # beside the runs, where --to does not say another place
        assert (
            [(row["method"], int(row["seed"])) for row in csv.DictReader(file)] == looks == [("base", 1), ("base", 2), ("sam", 1)]
        )
    # The models were not copied to this machine: the scores were.
    for path in tmp_path.rglob(survives.BEST):
        path.rename(path.with_name("elsewhere"))
    assert survives.main(line) == 0 and len(measured) == 16
    # Another training of the first task, in the place of one that was measured.
    kept = next(path for path in tmp_path.rglob("elsewhere") if "base" in path.parts)
    kept.with_name(survives.BEST).write_text("others")
    capsys.readouterr()
    assert survives.main(line) == 1
    assert "is of another training of SST-2-300; delete it, and it is made again" in capsys.readouterr().err


# ---------------------------------------------------------------------- other data


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
        assert {row["accuracy"] for row in csv.DictReader(file)} == {"50.0000"}
    for model in calls[:2]:
        model.write_text("back")
    assert elsewhere.main([*line, *rte, *snli]) == 0 and len(calls) == 6 + 2 + 6  # two others' weights, and another set
    capsys.readouterr()
    assert elsewhere.main([*line, *rte]) == 1  # it would leave SNLI out
    assert "6 runs are there that this call has not, such as SNLI base 1 (set, method, seed)" in capsys.readouterr().err


def test_searches_of_another_machine_stay(scripts):
    """Of a cell that was but begun here, and of an encoder with fewer layers; those that would be lost are told."""
    searches = importlib.import_module("searches")

    def pilot(layers, cell, *scores):
        return searches.Pilot(layers, cell, "sam", RHO, {"0.01": dict(zip((101, 102), scores))})

    theirs, ours = [pilot(6, "SST-2-300", 70.0, 71.0), pilot(3, "SST-2-300", 60.0, 61.0)], pilot(6, "MRPC-300", 80.0, 81.0)
    begun = pilot(6, "SST-2-300", 72.0)
    assert searches.joined(theirs, [begun, ours], {(6, "MRPC-300")}) == [*theirs, ours]
    whole = pilot(6, "SST-2-300", 72.0, 73.0)
    assert searches.joined(theirs, [whole, ours], {(6, "SST-2-300"), (6, "MRPC-300")}) == [theirs[1], whole, ours]
    with pytest.raises(ValueError, match="1 runs are there and not in --out, such as 6 SST-2-300 sam optimizer.sam_rho 0.01 102 "):
        searches.joined(theirs, [begun], {(6, "SST-2-300")})
    assert searches.from_rows(dict(zip(searches.COLUMNS, map(str, row))) for row in searches.csv_rows(theirs)) == theirs
