"""A run's process and checkpoints, without fairseq: what is read, mended, and refused."""

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from sharp_plugins.glue import training
from sharp_plugins.glue.checkpoints import is_trained, read_checkpoint
from sharp_plugins.glue.methods import find_method
from sharp_plugins.glue.tasks import TASKS
from sharp_plugins.glue.training import Run, RunBusy, RunFailed, check, clean_up, finish, follow, locked, parse, train

CONFIG = {"optimization": {"max_update": 10, "lr": [0.1]}, "task": {"data": "here"}, "common": {"cpu": True}}


class Backbone:
    checksums = {"model.pt": "a"}


class Prepared:
    source, directory, files = {"data": {"train": "b"}}, Path("prepared"), {"train": "train.tsv"}


def make_run(directory, config=CONFIG):
    return Run(TASKS["RTE"], find_method("sam"), 1, directory, config, Backbone, Prepared)


# ---------------------------------------------------------------------- the log


@pytest.mark.parametrize(
    "line, expected",
    [
        ('{"epoch": 1, "valid_accuracy": "53.8"}', {"epoch": 1, "valid_accuracy": "53.8"}),
        ("Saving checkpoint", None),
        ('{"epoch": 1, "val', None),
        ('{"other": 1}', None),
    ],
)
def test_entries_of_the_log(line, expected):
    assert parse(line) == expected


def test_entries_are_shown_while_the_process_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "PAUSE", 0.01)
    log = tmp_path / "log"
    log.write_text('{"epoch": 0, "of": "an earlier process"}\n')
    start = log.stat().st_size
    # An entry in two halves, and the last one without the end of its line.
    code = (
        "import sys, time\n"
        "for part in ('noise\\n{\"epoch\": 1, ', '\"a\": 1}\\n', '{\"epoch\": 2}\\n'):\n"
        "    sys.stdout.write(part); sys.stdout.flush(); time.sleep(0.2)\n"
    )
    with open(log, "a") as output:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=output)
    shown, alive = [], []
    follow(process, log, start, lambda entry: (shown.append(entry), alive.append(process.poll() is None)))
    assert shown == [{"epoch": 1, "a": 1}, {"epoch": 2}] and alive == [True, True]


# ---------------------------------------------------------------------- checkpoints


def save(path, updates=10, epoch=2, number=0.0):
    state = {
        "optimizer_history": [{"num_updates": 3}, {"num_updates": updates}],
        "extra_state": {"train_iterator": {"epoch": epoch, "iterations_in_epoch": 0}, "previous_training_time": 90.0},
        "model": {"w": torch.full((3000,), number)},
    }
    torch.save(state, path)
    return path


def test_half_a_checkpoint_is_none(tmp_path):
    whole = save(tmp_path / "checkpoint_best.pt", number=1.0)
    assert read_checkpoint(whole)["model"]["w"][0] == 1
    last = tmp_path / "checkpoint_last.pt"
    assert read_checkpoint(last) is None
    data = whole.read_bytes()
    for length in (0, 3, 100, len(data) // 2, len(data) - 1):
        last.write_bytes(data[:length])
        assert read_checkpoint(last) is None, length


@pytest.mark.parametrize("error", [RuntimeError("unable to mmap: Cannot allocate memory"), OSError(5, "I/O error")], ids=str)
def test_a_whole_checkpoint_that_cannot_be_read_now_is_no_half_one(tmp_path, monkeypatch, error):
    last = save(tmp_path / "checkpoint_last.pt", number=2.0)

    def load(*args, **how):
        raise error

    monkeypatch.setattr(torch.serialization, "load", load)
    with pytest.raises(OSError, match=r"checkpoint_last\.pt: cannot be read: .*(memory|I/O)"):
        read_checkpoint(last)


@pytest.mark.parametrize(
    "limits, updates, epoch, expected",
    [
        ({"max_update": 10}, 9, 5, False),
        ({"max_update": 10}, 10, 1, True),
        ({"max_update": 10, "max_epoch": 3}, 4, 3, False),
        ({"max_update": 10, "max_epoch": 3}, 4, 4, True),  # the epoch to go on in
        ({}, 99, 99, False),
    ],
)
def test_whether_training_is_over(tmp_path, limits, updates, epoch, expected):
    assert not is_trained(tmp_path, limits)
    save(tmp_path / "checkpoint_last.pt", updates, epoch)
    assert is_trained(tmp_path, limits) is expected


# ---------------------------------------------------------------------- runs


def write_traces(run):
    run.directory.mkdir(parents=True)
    (run.directory / training.MADE_OF).write_text(json.dumps(run.made_of))
    (run.directory / training.CONFIG).write_text(OmegaConf.to_yaml(OmegaConf.create(run.config)))


def test_a_directory_with_another_run_is_refused(tmp_path):
    run = make_run(tmp_path / "run")
    check(run)  # nothing there yet
    write_traces(run)
    check(run)
    check(run._replace(config={**CONFIG, "task": {"data": "elsewhere"}}))  # moved
    with pytest.raises(ValueError, match=r"run: .* differs in optimization\.max_update, .*--out"):
        check(run._replace(config={**CONFIG, "optimization": {"max_update": 11, "lr": [0.1]}}))

    class Other:
        checksums, source = {"model.pt": "c"}, {"data": {"train": "d"}}

    with pytest.raises(ValueError, match="differs in the backbone, the data, "):
        check(run._replace(backbone=Other, prepared=Other))


def test_a_run_that_another_process_is_at_is_left_alone(tmp_path):
    run = make_run(tmp_path / "run")
    run.directory.mkdir()
    with open(run.directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunBusy, match="RTE sam seed 1: another process"), locked(run):
            raise AssertionError("both have it")
    assert [path.name for path in run.directory.iterdir()] == ["lock"]


def test_leftovers_of_a_killed_process_go(tmp_path):
    run = make_run(tmp_path / "run")
    (run.directory / ".unfinished-abc").mkdir(parents=True)
    for name in (".unfinished-abc/checkpoint_last.pt", "checkpoint_best.pt.tmp", "checkpoint_best.pt"):
        (run.directory / name).write_text("")
    with locked(run):
        assert sorted(path.name for path in run.directory.iterdir()) == ["checkpoint_best.pt", "lock"]


@pytest.mark.parametrize("name", [training.MADE_OF, training.CONFIG])
def test_a_damaged_file_of_a_run_is_named(tmp_path, name):
    run = make_run(tmp_path / "run")
    write_traces(run)
    (run.directory / name).write_text("{[")
    with pytest.raises(ValueError, match=f"{name}: cannot be read: .*; delete .*run to run it again"):
        check(run)


def test_the_end_of_the_log_tells_why_a_run_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "COMMAND", ["-c", "print('out of patience'); raise SystemExit(3)"])
    run = make_run(tmp_path / "run")
    with (
        pytest.raises(RunFailed, match="RTE sam seed 1: fairseq-hydra-train ended with 3(.|\n)*out of patience"),
        locked(run) as lock,
    ):
        train(run, print, lock)
    # The next call is free to try again.
    with pytest.raises(RunFailed), locked(run) as lock:
        train(run, print, lock)
    assert (run.directory / training.LOG).read_text().count("out of patience") == 2


def test_modules_in_a_runs_directory_are_not_run(tmp_path):
    """A directory that was copied from elsewhere may hold some; hydra itself says here that the config is none."""
    run = make_run(tmp_path / "run", {**CONFIG, "no_such_part": {"x": 1}})
    for name in ("torch", "fairseq_cli", "fairseq", "hydra", "json", "multiprocessing"):
        (run.directory / name).mkdir(parents=True)
        (run.directory / name / "__init__.py").write_text(f"print('{name} of the run'); raise SystemExit(0)")
    with pytest.raises(RunFailed, match="no_such_part"), locked(run) as lock:
        train(run, print, lock)
    assert "of the run" not in (run.directory / training.LOG).read_text()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 looks there in processes that are spawned")
def test_nor_are_they_by_the_processes_that_it_starts(tmp_path, monkeypatch):
    (tmp_path / "run" / "multiprocessing").mkdir(parents=True)
    (tmp_path / "run" / "multiprocessing" / "__init__.py").write_text("print('of the run')")
    spawn = "from multiprocessing import get_context as of; child = of('spawn').Process(target=print, args=('done',)); "
    monkeypatch.setattr(
        training, "COMMAND", ["-c", training.START + spawn + "child.start(); child.join(); sys.exit(child.exitcode)"]
    )
    run = make_run(tmp_path / "run")
    with locked(run) as lock:
        train(run, print, lock)
    assert (run.directory / training.LOG).read_text() == "done\n"


def test_a_trained_run_is_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "COMMAND", ["-c", "raise SystemExit(3)"])
    run = make_run(tmp_path / "run")
    run.directory.mkdir()
    save(run.directory / "checkpoint_last.pt", updates=10)
    with locked(run) as lock:
        train(run, print, lock)
    assert not (run.directory / training.LOG).exists()


def test_an_interruption_stops_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "PAUSE", 0.01)
    marker = tmp_path / "stopped"
    code = (
        "import pathlib, signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(marker)!r}).touch(), sys.exit(0)))\n"
        "print('{\"epoch\": 1}', flush=True)\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(training, "COMMAND", ["-c", code])

    def interrupt(entry):
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), locked(make_run(tmp_path / "run")) as lock:
        train(make_run(tmp_path / "run"), interrupt, lock)
    assert marker.exists() and time.monotonic() - start < 30


# ---------------------------------------------------------------------- scores

# Writes the arguments that it was given, and its own number, as the metrics.
SCORES = (
    "import json, os, sys; line = sys.argv; scores = open(line[line.index('--json') + 1], 'w'); "
    "json.dump({'line': line, 'process': os.getpid()}, scores)"
)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    write_traces(run)
    for name in ("checkpoint_best.pt", "checkpoint_last.pt"):
        save(run.directory / name)
    monkeypatch.setattr(training, "EVALUATE", SCORES)
    return run


def checkpoints(run):
    return sorted(path.name for path in run.directory.glob("*.pt"))


def test_scores_come_from_a_process_of_its_own(trained):
    with locked(trained) as lock:
        result = finish(trained, lock, submission=True)
    line = " ".join(result.metrics["line"])
    assert result.metrics["process"] != os.getpid()
    assert line.startswith(f"-c evaluate checkpoint_best.pt {Path('prepared').resolve()} --json ")
    assert line.endswith("--device cpu --submission submission")
    assert (result.minutes, result.best_epoch, result.updates, result.checkpoints) == (1.5, 1, 10, "deleted")
    assert sorted(os.listdir(trained.directory)) == ["lock", "made_of.json", "result.json", "run.yaml", "threads.json", "train.log"]


def test_a_score_that_fails_is_told_and_tried_again(trained, monkeypatch):
    monkeypatch.setattr(training, "EVALUATE", "import sys; sys.exit('error: CUDA out of memory')")
    words = "RTE sam seed 1: scoring the best epoch (.|\n)*CUDA out of memory"
    with locked(trained) as lock, pytest.raises(RunFailed, match=words):
        finish(trained, lock)
    assert not trained.is_finished and checkpoints(trained) == ["checkpoint_best.pt", "checkpoint_last.pt"]
    monkeypatch.setattr(training, "EVALUATE", SCORES)
    with locked(trained) as lock:
        finish(trained, lock)
    assert trained.is_finished


def test_checkpoints_that_were_to_go_go_and_others_stay(trained, monkeypatch):
    def killed(run):
        raise KeyboardInterrupt

    with locked(trained) as lock:
        finish(trained, lock, keep_checkpoints=True)
    clean_up(trained)  # a later call without --keep-checkpoints
    assert checkpoints(trained) == ["checkpoint_best.pt", "checkpoint_last.pt"]
    with monkeypatch.context() as patch, locked(trained) as lock, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "clean_up", killed)
        finish(trained, lock)
    assert trained.is_finished and checkpoints(trained) == ["checkpoint_best.pt", "checkpoint_last.pt"]
    clean_up(trained)
    assert checkpoints(trained) == []
    # Of older versions nobody knows what was wanted.
    save(trained.directory / "checkpoint_best.pt")
    result = json.loads((trained.directory / "result.json").read_text())
    del result["checkpoints"]
    for text in (json.dumps(result), "{[", "[]"):
        (trained.directory / "result.json").write_text(text)
        clean_up(trained)
        assert checkpoints(trained) == ["checkpoint_best.pt"]
