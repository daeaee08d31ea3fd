"""The study of what survives, with an engine that makes up its scores and with models that are not there."""

import csv
import importlib
import statistics
from pathlib import Path

import pytest
import torch
from scipy import stats
from study_engine import flags

from sharp_plugins.runs.command import RUNS_FAILED


@pytest.fixture
def survives(scripts, monkeypatch):
    module = importlib.import_module("survives")
    scripts.together = []

    def engines(lines, environment):
        scripts.together.append((len(lines), environment))
        return [scripts.engine(line) for line in lines]

    monkeypatch.setattr(module, "run_programs", engines)
    return module


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


def test_two_tasks_with_both_methods(scripts, survives, measured, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(survives, "usable_cores", lambda: range(7))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    line = ["--backbone", "B", "--data", "D", "--out", str(tmp_path / "out"), "--to", str(tmp_path / "to"), "--jobs", "2"]
    assert survives.main([*line, "--rows", "300", "--seeds", "1", "2"]) == 0
    then, rate, rho = [call for call in scripts.calls if "--sweep" in call]
    assert "MRPC" in then and flags(then, "--methods") == ["base"] and flags(then, "--backbone") == ["B"]
    assert flags(rate, "--methods") == ["base"] and "optimizer.sam_start=0.75" not in rate
    assert {"optimizer.sam_start=0.75", "optimization.lr=5e-5"} <= set(rho)
    # SAM's first epochs are Adam's: the last one is measured, in all runs.
    assert all("dataset.validate_interval=4" in call for call in scripts.calls)
    second = [call for call in scripts.calls if "MRPC" in call and "--sweep" not in call]
    assert all("optimization.lr=5e-5" in call for call in second)  # what was chosen for it
    assert len(second) == 4 and all(flags(call, "--jobs") == ["1"] for call in second)
    assert [number for number, _ in scripts.together] == [2, 2]  # --jobs of them side by side, which share the threads
    assert all(environment == {"OMP_NUM_THREADS": "3"} for _, environment in scripts.together)
    assert len({call[call.index("--backbone") + 1] for call in second}) == 4  # each from an encoder of its own
    assert len(measured) == 16 and {metric for _, metric in measured} == {"accuracy"}
    with open(tmp_path / "to" / "survives.csv") as file:
        assert [(row["method"], row["seed"], row["trained"]) for row in csv.DictReader(file)] == [
            (method, seed, "3.0") for method in ("base", "sam") for seed in "12"
        ]
    assert (
        "Seeds 101 and 102 chose optimization.lr=5e-5, optimizer.sam_rho=0.005, optimization.lr=5e-5 for MRPC."
        in (tmp_path / "to" / "survives.md").read_text()
    )
    with open(tmp_path / "to" / "survives-search.csv") as file:
        searched = [(row["cell"], row["method"], row["setting"], row["score"]) for row in csv.DictReader(file)]
    assert searched == [
        *(("MRPC-300", "base", "optimization.lr", "71.0"),) * 8,
        *(("SST-2-300", "base", "optimization.lr", "71.0"),) * 8,
        *(("SST-2-300", "sam", "optimizer.sam_rho", "71.0"),) * 10,
    ]
    assert "| 3 | SST-2-300 | sam | sam rho | 0.005: 71.00, 0.01: 71.00" in (tmp_path / "to" / "survives.md").read_text()
    assert (tmp_path / "to" / "survives.png").stat().st_size > 5000
    assert "at least 0.5 of 2 seeds" in (tmp_path / "to" / "survives.md").read_text()
    # Other rows, another task or fewer seeds are other studies, whose files are not written over.
    assert survives.main([*line, "--rows", "1000", "--seeds", "1", "2"]) == 1 and len(measured) == 16
    assert "4 runs are there that this call has not, such as base 1 (method, seed); give another --to" in capsys.readouterr().err
    assert survives.main([*line, "--rows", "300", "--seeds", "1"]) == 1 and len(measured) == 16
    assert "2 runs are there that this call has not, such as base 2 (method, seed)" in capsys.readouterr().err
    assert survives.main([*line, "--name", "more", "--rows", "1000", "--seeds", "1", "2"]) == 0 and len(measured) == 32
    cola = [*line, "--name", "cola", "--rows", "1000", "--seeds", "1", "--second", "CoLA"]
    assert survives.main(cola) == 0 and len(measured) == 40
    with open(tmp_path / "to" / "cola.csv") as file:
        assert [(row["seed"], row["trained"], row["the second task"]) for row in csv.DictReader(file)] == [
            ("1", "10.0", "70.0")
        ] * 2
    assert (
        survives.main([*line, "--name", "more", "--rows", "1000", "--seeds", "1", "2"]) == 0 and len(measured) == 40
    )  # all was there


def test_a_second_task_that_fails_is_told_and_the_same_command_goes_on(scripts, survives, measured, tmp_path, monkeypatch, capsys):
    line = ["--backbone", "B", "--data", "D", "--out", str(tmp_path), "--rows", "300", "--seeds", "1", "2", "3", "--jobs", "2"]

    def engines(lines, environment):
        return [RUNS_FAILED if "2" in flags(line, "--seeds") else scripts.engine(line) for line in lines]

    with monkeypatch.context() as patch:
        patch.setattr(survives, "run_programs", engines)
        assert survives.main(line) == 1
    told = capsys.readouterr().err
    assert (
        "error: MRPC-300: not all fresh runs are finished; run the same command again" in told
        and f"ended with {RUNS_FAILED}: " in told
    )
    scripts.calls.clear()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert survives.main(line) == 0 and len(measured) == 24
    second = [call for call in scripts.calls if "MRPC" in call and "--sweep" not in call]
    assert sorted(flags(call, "--seeds")[0] for call in second) == ["1", "1", "2", "2", "3", "3"]
    assert {environment["OMP_NUM_THREADS"] for _, environment in scripts.together} == {"1"}  # the user's


def test_another_seed_takes_no_method_from_the_table_where_it_is_interrupted(scripts, survives, measured, tmp_path, monkeypatch):
    line = ["--backbone", "B", "--data", "D", "--out", str(tmp_path), "--rows", "300", "--seeds", "1", "2"]
    assert survives.main(line) == 0
    whole = survives.look

    def look(args, home, first, method, seed, trained):
        if (method, seed) == ("sam", 1):
            raise KeyboardInterrupt
        return whole(args, home, first, method, seed, trained)

    monkeypatch.setattr(survives, "look", look)
    assert survives.main([*line, "3"]) == 130
    with open(tmp_path / "survives.csv") as file:
        runs = {(row["method"], row["seed"]) for row in csv.DictReader(file)}
    assert runs == {(method, seed) for method in ("base", "sam") for seed in "12"}


def test_what_was_measured_is_kept_and_is_of_one_training(scripts, survives, measured, tmp_path, monkeypatch, capsys):
    line = ["--backbone", "B", "--data", "D", "--out", str(tmp_path), "--rows", "300", "--seeds", "1", "2"]
    whole, looks = survives.look, []

    def look(args, home, first, method, seed, trained):
        if len(looks) == 3:
            raise KeyboardInterrupt
        looks.append((method, seed))
        return whole(args, home, first, method, seed, trained)

    before = survives.check_origin

    def check_origin(home, trained, first):
        (trained / survives.BEST).write_text("weights")
        before(home, trained, first)

    with monkeypatch.context() as patch:
        patch.setattr(survives, "look", look)
        patch.setattr(survives, "check_origin", check_origin)
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
