"""A run that two calls are at: the one that comes second looks again at what is there."""

import json

import pytest
from engine import python

from sharp_plugins.runs.benchmark import Benchmark
from sharp_plugins.runs.execution import Worker
from sharp_plugins.runs.methods import find_method
from sharp_plugins.runs.processes import Stop
from sharp_plugins.runs.progress import Screen
from sharp_plugins.runs.record import Measure, Record
from sharp_plugins.runs.schedule import Slot
from sharp_plugins.runs.stages import Stage
from sharp_plugins.runs.store import Run, begin, check


class Scores(Benchmark):
    """Nothing is trained: a stage writes a score."""

    name, tasks = "made-up", ("RTE",)

    def stages(self, run):
        return [Stage("evaluate", python("open('scores.json', 'w').write('{\"valid\": {\"accuracy\": 1.0}}')"), "scores.json")]

    def measures(self, task):
        return [Measure("valid", "accuracy", "accuracy")]


def run_of(out, rate=0.1, data="one"):
    config = {"optimization": {"lr": [rate]}, "common": {}, "checkpoint": {}}
    return Run(Record("made-up", "RTE", "base", 1, {}), find_method("base"), out / "RTE" / "base" / "seed1", config, {"data": data})


def work(run, out):
    Worker(Scores(), out, [run], Screen(), Stop(), False)(run, Slot())


@pytest.mark.parametrize("other", [{"rate": 0.2}, {"data": "two"}])
@pytest.mark.parametrize("is_finished", [False, True])
def test_a_run_that_another_call_began_meanwhile_with_other_settings_is_left_alone(tmp_path, capsys, other, is_finished):
    ours, theirs = run_of(tmp_path), run_of(tmp_path, **other)
    check(ours)  # when it is planned there is none
    work(theirs, tmp_path) if is_finished else begin(theirs)
    before = {path.name: path.read_bytes() for path in theirs.directory.iterdir()}
    capsys.readouterr()
    work(ours, tmp_path)
    assert "holds a run that differs in " in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in theirs.directory.iterdir()}.items() >= before.items()
    assert theirs.is_finished is is_finished
    # The same settings go on with it.
    work(run_of(tmp_path, **other), tmp_path)
    assert json.loads((theirs.directory / "result.json").read_text())["metrics"] == {"valid": {"accuracy": 1.0}}
