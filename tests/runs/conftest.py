import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).resolve().parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """A run that is locked is busy at once."""
    from sharp_plugins.runs import locks

    monkeypatch.setattr(locks, "PATIENCE", 0)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The data of the tasks."""
    import made_up

    benchmark = made_up.Backwards()
    benchmark.sentences, benchmark.data = 32, tmp_path_factory.mktemp("data") / "data"
    benchmark.prepare("short"), benchmark.prepare("long")
    return benchmark.data


@pytest.fixture
def call(prepared, tmp_path, monkeypatch):
    """Calls the command in this process; `call.done` lists the stages that were done, which make what real ones make."""
    import engine
    import made_up

    from sharp_plugins.runs import stages

    shutil.copytree(prepared, tmp_path / "out" / "data")
    done = []

    def perform(run, stage, lock, stop, show=None, environment=None):
        done.append(f"{run.name}, {stage.name}")
        call.before(run, stage)
        if stage.trains:
            for name in ("checkpoint_best.pt", "checkpoint_last.pt"):
                engine.save(run.directory / name, updates=run.config["optimization"]["max_update"])
        else:
            (run.directory / stage.makes).write_text(json.dumps({"valid": {"words": call.value(run)}}))
            stages._mark(run, {**stages._marks(run), stage.name: list(stage.command)})

    monkeypatch.setattr(stages, "perform", perform)

    def call(line="--tasks short --methods base --seeds 1", *more):
        done.clear()
        flags = ["--out", str(tmp_path / "out"), "--cpu", *shlex.split(line), *map(str, more)]
        return made_up.main(made_up.Backwards(), flags)

    call.done, call.out = done, tmp_path / "out"
    call.value, call.before = lambda run: 50.0, lambda run, stage: None
    return call
