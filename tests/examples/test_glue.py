"""``examples/glue/run.py``: what it refuses before any training, what it goes on with, and what its tables say."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "examples" / "glue" / "run.py"
CONFIGS = RUN.parent / "configs"
if str(ROOT / "tests" / "glue") not in sys.path:
    sys.path.insert(0, str(ROOT / "tests" / "glue"))

import glue_files
import processes

from sharp_plugins.glue import runs
from sharp_plugins.glue.results import Result
from sharp_plugins.glue.training import RunFailed

pytest.importorskip("tokenizers")  # backbones are converted with it


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return glue_files.convert_small(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    for task in ("RTE", "STS-B", "CoLA"):
        glue_files.write_task(directory, task, counts=(64, 40, 4))
    return directory


@pytest.fixture
def start(bert, data, tmp_path, monkeypatch):
    """Calls `main` in this process; trains nothing, but for what a test puts there."""
    trained = []
    monkeypatch.setattr(runs, "train", lambda run, show, lock: trained.append(run.name))

    def call(*flags, backbone=bert, data=data, out="out"):
        line = ["--backbone", backbone, "--data", data, "--out", tmp_path / out, "--max-positions", 64, *flags]
        return runs.main([str(part) for part in line], configs=CONFIGS)

    call.trained = trained
    return call


# ---------------------------------------------------------------------- before training


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--seeds 1 2 1", "--seeds: 1 given more than once"),
        ("--tasks RTE CoLA RTE", "--tasks: RTE given more than once"),
        ("--methods sam sam", "--methods: sam given more than once"),
        ("--tasks WNLI", "--tasks WNLI: there is no such task; choose from CoLA"),
        ("--methods sgd", "--methods sgd: there is no such method"),
        ("--methods nbar", "--methods nbar: BAR balances LoRA"),
        ("--tasks MNLI", "MNLI/train.tsv: not there"),
        ("--max-positions 999", "--max-positions must be"),
        ("--set lr=3", "--set lr=3: should be part.name=value"),
        ("--configs /nowhere", "RTE.yaml: not there"),
    ],
)
def test_what_does_not_fit_is_told_before_training(start, capsys, flags, words):
    assert start(*"--tasks RTE --methods base --seeds 1".split(), *flags.split()) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and words in shown and "Traceback" not in shown
    assert start.trained == []


def test_a_backbone_that_is_missing_or_does_not_fit(start, bert, tmp_path, capsys):
    assert start("--tasks", "RTE", backbone=tmp_path / "nowhere") == 1
    assert "--backbone wants what `python -m sharp_plugins.convert` wrote" in capsys.readouterr().err
    shutil.copytree(bert, tmp_path / "bert")
    with open(tmp_path / "bert" / "dict.txt", "a") as file:
        file.write("extra 1\n")
    assert start("--tasks", "RTE", backbone=tmp_path / "bert") == 1
    assert "vocabulary does not fit" in capsys.readouterr().err
    assert start.trained == []


def test_all_data_are_read_before_the_first_run(start, data, tmp_path, capsys):
    shutil.copytree(data, tmp_path / "data")
    with open(tmp_path / "data" / "CoLA" / "dev.tsv", "a") as file:
        file.write("gj04\t7\t\tA sentence .\n")
    assert start("--tasks", "RTE", "CoLA", data=tmp_path / "data") == 1
    assert "dev.tsv:41: the label is '7'" in capsys.readouterr().err and start.trained == []


def test_a_second_call_with_other_settings_is_refused(start, tmp_path, capsys, monkeypatch):
    from sharp_plugins.glue import training

    monkeypatch.setattr(training, "COMMAND", ["-c", "raise SystemExit(1)"])
    monkeypatch.setattr(runs, "train", training.train)
    flags = "--tasks RTE --methods base --seeds 1".split()
    assert start(*flags) == 1  # the process fails, and its directory stays
    assert start(*flags, "--set", "dataset.batch_size=3") == 1
    assert "differs in dataset.batch_size" in capsys.readouterr().err


def test_a_table_is_of_one_backbone_data_and_settings(start, bert, data, tmp_path, capsys, monkeypatch):
    """Also where the call's own runs are others than those that are there."""
    from sharp_plugins.glue import training

    monkeypatch.setattr(training, "COMMAND", ["-c", "raise SystemExit(1)"])
    monkeypatch.setattr(runs, "train", training.train)
    assert start(*"--tasks RTE --methods base --seeds 1".split()) == 1
    capsys.readouterr()
    other = "--methods sam --seeds 2".split()
    assert start("--tasks", "RTE", *other, "--set", "dataset.batch_size=3") == 1
    assert "base/seed1: holds a run that differs in dataset.batch_size, and would be" in capsys.readouterr().err
    # The data of the run that is there are not replaced.
    stamp = (tmp_path / "out" / "data" / "RTE" / "prepared.json").read_text()
    assert start("--tasks", "RTE", *other, "--max-positions", 32) == 1
    assert "base/seed1: holds a run that differs in the data," in capsys.readouterr().err
    assert (tmp_path / "out" / "data" / "RTE" / "prepared.json").read_text() == stamp
    another = shutil.copytree(bert, tmp_path / "another")
    with open(another / "tokenizer.json", "a") as file:
        file.write("\n")
    assert start("--tasks", "CoLA", *other, backbone=another) == 1  # of another task, even
    assert "base/seed1: holds a run that differs in the backbone," in capsys.readouterr().err
    assert not (tmp_path / "out" / "data" / "CoLA").exists()


@pytest.mark.parametrize(
    "setting",
    [
        "optimizer.unknown=1",
        "optimizer.bar_alhpa=1",
        "optimization.max_updates=3",
        "task.clases=2",
        "criterion.rdrop_beta=1",
        "criterion.unknown=1",
        "model.lora_rnak=4",
        "model.adapter_sizes=4",
        "model.unknown=1",
    ],
)
def test_settings_that_fairseq_does_not_know_are_told_before_training(start, capsys, setting):
    assert start(*"--tasks RTE --methods base sam --seeds 1".split(), "--set", setting) == 1
    shown = capsys.readouterr().err
    assert "error: RTE " in shown and ": fairseq does not know such a setting" in shown and start.trained == []
    assert setting.split("=")[0].split(".")[1] in shown


def test_what_is_in_the_place_of_a_run_is_named(start, tmp_path, capsys):
    (tmp_path / "out" / "RTE" / "old-sam" / "seed1").mkdir(parents=True)
    assert start("--tasks", "RTE", "--methods", "base") == 1 and not start.trained
    assert "out/RTE/old-sam/seed1: in a run's place, and old-sam is no method" in capsys.readouterr().err


def test_submissions_that_cannot_be_written_are_told_before_training(start, data, tmp_path, monkeypatch, capsys):
    flags = "--tasks RTE --methods base --seeds 1".split()
    monkeypatch.setattr(runs, "finish", lambda run, *rest: finished(run, 50.0))
    assert start(*flags) == 0
    assert start(*flags, "--submission") == 1
    assert "--submission: " in (shown := capsys.readouterr().err) and "seed1 was finished without it" in shown
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "RTE" / "test.tsv").unlink()
    assert start(*flags, "--submission", data=tmp_path / "data", out="other") == 1
    assert "--submission: there is no test set of RTE" in capsys.readouterr().err


def test_data_are_fetched_where_they_are_missing(start, tmp_path, monkeypatch, capsys):
    asked = []

    def download(task, directory):
        asked.append(task.name)
        glue_files.write_task(Path(directory), task.name)

    monkeypatch.setattr(runs, "download", download)
    monkeypatch.setattr(runs, "finish", lambda run, *rest: finished(run, 50.0))
    assert start("--tasks", "RTE", "--methods", "base", "--seeds", 1, "--download", data=tmp_path / "new") == 0
    assert asked == ["RTE"] and start.trained == ["RTE base seed 1"]


# ---------------------------------------------------------------------- the order of runs, and what they leave


def finished(run, value):
    result = Result(run.task.name, run.method.name, run.seed, {"valid": {run.task.selected: value}}, 1.5, 2, 16, {})
    run.directory.mkdir(parents=True, exist_ok=True)
    result.save(run.directory)
    return result


def test_missing_runs_are_done_and_finished_ones_skipped(start, tmp_path, monkeypatch, capsys):
    values = iter([60.0, 62.0, 61.0, 65.0, 40.0])
    monkeypatch.setattr(runs, "finish", lambda run, *rest: finished(run, next(values)))
    assert start("--tasks", "RTE", "--methods", "base", "sam", "--seeds", 1, 2) == 0
    assert start.trained == ["RTE base seed 1", "RTE sam seed 1", "RTE base seed 2", "RTE sam seed 2"]
    shown = capsys.readouterr().out
    assert "4 runs, 0 of them finished before" in shown
    assert "[2/4] RTE sam seed 1: accuracy 62.00 in epoch 2; 16 updates, 1.5 min" in shown
    text = (tmp_path / "out" / "table.md").read_text()
    assert "60.50 | 0.71 | 61.00" in text and "63.50 | 2.12 | 65.00" in text  # base: 60, 61; sam: 62, 65
    # One more method: its run alone.
    start.trained.clear()
    assert start("--tasks", "RTE", "--methods", "base", "lora", "--seeds", 1) == 0
    assert start.trained == ["RTE lora seed 1"]
    assert "2 runs, 1 of them finished before" in capsys.readouterr().out
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| lora " in text and "| sam " in text


def test_a_run_that_fails_does_not_stop_the_others(start, tmp_path, monkeypatch, capsys):
    def train(run, show, lock):
        if run.method.name == "base":
            raise RunFailed("RTE base seed 1: out of memory")

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(runs, "finish", lambda run, *rest: finished(run, 50.0))
    assert start("--tasks", "RTE", "--methods", "base", "sam", "--seeds", 1) == 1
    shown = capsys.readouterr()
    assert "error: RTE base seed 1: out of memory" in shown.err and "1 of 2 runs are not finished" in shown.err
    assert "RTE sam seed 1: accuracy 50.00" in shown.out and "| sam " in (tmp_path / "out" / "table.md").read_text()


def test_a_file_that_cannot_be_read_does_not_stop_the_others(start, monkeypatch, capsys):
    def train(run, show, lock):
        if run.method.name == "base":
            raise OSError("checkpoint_last.pt: cannot be read: Cannot allocate memory")
        start.trained.append(run.name)
        raise runs.RunFailed("enough")

    monkeypatch.setattr(runs, "train", train)
    assert start(*"--tasks RTE --methods base sam --seeds 1".split()) == 1
    shown = capsys.readouterr().err
    assert start.trained == ["RTE sam seed 1"] and "error: checkpoint_last.pt: cannot be read" in shown
    assert "error: 2 of 2 runs are not finished" in shown


def test_what_a_killed_call_left_of_finished_runs_goes(start, tmp_path, monkeypatch):
    def finish(run, *rest):
        finished(run, 50.0)._replace(checkpoints="deleted").save(run.directory)
        (run.directory / "checkpoint_best.pt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "finish", finish)
    line = "--tasks RTE --methods base --seeds 1".split()
    left = tmp_path / "out" / "RTE" / "base" / "seed1" / "checkpoint_best.pt"
    assert start(*line) == runs.INTERRUPTED
    assert start(*line, "--keep-checkpoints") == 0 and left.exists()
    assert start(*line) == 0 and not left.exists()


def test_what_another_call_has_done_is_not_a_failure(start, tmp_path, monkeypatch, capsys):
    """The other call is at the second run while this one passes it, and has finished it before this one ends."""
    import fcntl

    busy = tmp_path / "out" / "RTE" / "sam" / "seed1"
    busy.mkdir(parents=True)
    lock = open(busy / "lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)

    def finish(run, *rest):
        if run.method.name == "lora":
            finished(run._replace(method=run.method._replace(name="sam"), directory=busy), 70.0)
        return finished(run, 50.0)

    monkeypatch.setattr(runs, "finish", finish)
    line = ("--tasks", "RTE", "--seeds", 1, "--methods", "base", "sam")
    assert start(*line) == 1
    assert "RTE sam seed 1: another process is at it" in capsys.readouterr().err
    assert start(*line, "lora") == 0 and "sam" not in "".join(start.trained)
    lock.close()


def test_an_error_in_the_evaluation_does_not_stop_the_others(start, tmp_path, monkeypatch, capsys):
    from sharp_plugins.glue import training

    state = {
        "optimizer_history": [{"num_updates": 1}],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 1}, "previous_training_time": 1.0},
    }
    monkeypatch.setattr(training, "read_checkpoint", lambda path: state)

    monkeypatch.setattr(training, "EVALUATE", "import sys; sys.exit('error: CUDA out of memory')")
    assert start(*"--tasks RTE --methods base sam --seeds 1".split()) == 1
    assert start.trained == ["RTE base seed 1", "RTE sam seed 1"]
    shown = capsys.readouterr().err
    assert shown.count("error: CUDA out of memory") == 2 and "RTE base seed 1: scoring the best epoch ended with 1" in shown


def test_an_interruption_says_how_to_go_on(start, monkeypatch, capsys):
    def train(run, show, lock):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(runs, "train", train)
    assert start("--tasks", "RTE", "--methods", "base", "--seeds", 1) == runs.INTERRUPTED
    assert "run the same command again" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


class Terminal(io.StringIO):
    def isatty(self):
        return True


class FakeRun:
    config = {"optimization": {"max_update": 20}, "checkpoint": {"best_checkpoint_metric": "mcc"}}


def test_progress():
    entries = [
        {"epoch": 1, "num_updates": "5", "loss": "1"},
        {"epoch": 1, "valid_mcc": "12.5", "valid_num_updates": "8"},
        {"epoch": 1, "train_loss": "0.9", "train_num_updates": "8"},
        {"epoch": 2, "num_updates": "9"},
    ]
    log, terminal = io.StringIO(), Terminal()
    for stream in (log, terminal):
        progress = runs.Progress("[1/2] CoLA sam seed 1", FakeRun, stream)
        for entry in entries:
            progress(entry)
        progress.end()
    assert log.getvalue() == "[1/2] CoLA sam seed 1: epoch 1, update 8 of 20, mcc 12.5\n"
    shown = [part.rstrip() for part in terminal.getvalue().split("\r") if part.strip()]
    assert shown == [
        "[1/2] CoLA sam seed 1: epoch 1, update 5 of 20",
        "[1/2] CoLA sam seed 1: epoch 1, update 8 of 20, mcc 12.5",
        "[1/2] CoLA sam seed 1: epoch 2, update 9 of 20, mcc 12.5",
    ]


# ---------------------------------------------------------------------- real processes

TINY = "optimization.max_update={} optimization.lr=[0.01] lr_scheduler.warmup_updates=2 common.log_interval=1"


def command(bert, data, out, updates, *flags):
    line = [sys.executable, RUN, "--backbone", bert, "--data", data, "--out", out, "--max-positions", 64, "--cpu"]
    for change in TINY.format(updates).split():
        line += ["--set", change]
    return [str(part) for part in (*line, *flags)]


def entries(log):
    """The whole entries of a log; a killed process leaves half a line at its end."""
    lines = [line for line in log.read_text().splitlines() if line.startswith('{"epoch"') and line.endswith("}")]
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_real_runs(bert, data, tmp_path):
    methods = ("lora-nbar", "dsam-r3f", "houlsby", "smart")
    flags = f"--tasks RTE --methods {' '.join(methods)} --seeds 3 --submission".split()
    line = command(bert, data, tmp_path / "out", 20, *flags)
    shown = processes.execute(line, tmp_path)
    assert "4 runs, 0 of them finished before" in shown and "DEBUG" not in shown
    logs = {}
    for method in methods:
        directory = tmp_path / "out" / "RTE" / method / "seed3"
        result = json.loads((directory / "result.json").read_text())
        found = entries(directory / "train.log")
        # fairseq's own validations: the best of them, the last of equal ones, and its epoch.
        validated = [(float(entry["valid_accuracy"]), entry["epoch"]) for entry in found if "valid_accuracy" in entry]
        assert [epoch for _, epoch in validated] == [1, 2, 3]  # 64 rows in batches of 8: 8, 16, 20 updates
        best, epoch = max(validated)
        assert result["metrics"]["valid"]["accuracy"] == pytest.approx(best, abs=0.051)
        assert result["best_epoch"] == epoch and result["updates"] == 20
        wall = max(float(entry["train_wall"]) for entry in found if "train_wall" in entry)
        assert 0 < result["minutes"] * 60 <= wall + 5
        assert f"RTE {method} seed 3: accuracy {result['metrics']['valid']['accuracy']:.2f}" in shown
        assert not list(directory.glob("*.pt"))
        submitted = (directory / "submission" / "RTE.tsv").read_text().splitlines()
        assert submitted[0] == "index\tprediction" and len(submitted) == 5
        logs[method] = found
    last = {method: [entry for entry in found if "num_updates" in entry][-1] for method, found in logs.items()}
    assert "bar_alpha" in last["lora-nbar"] and "bar_alpha" not in last["smart"]
    assert {"dsam_r", "sam_radius", "symm_kl"} <= last["dsam-r3f"].keys() and "sam_radius" not in last["smart"]
    assert "smart_bregman" in last["smart"]
    trained = {
        m: re.search(r"adapters of size 64: ([\d,]+) of", (tmp_path / "out/RTE" / m / "seed3/train.log").read_text())
        for m in methods
    }
    assert [method for method in methods if trained[method]] == ["houlsby"]
    # Again: nothing is trained, and the table is the same.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "RTE").rglob("*")}
    table = (tmp_path / "out" / "table.md").read_text()
    assert "4 runs, 4 of them finished before" in processes.execute(line, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "RTE").rglob("*")} == before
    assert (tmp_path / "out" / "table.md").read_text() == table


@pytest.mark.slow
def test_real_runs_of_other_metrics(data, tmp_path):
    roberta = glue_files.convert_small(tmp_path, "roberta")
    line = command(roberta, data, tmp_path / "out", 16, *"--tasks STS-B CoLA --methods sam --seeds 1".split())
    processes.execute(line, tmp_path)
    for task, metric in (("STS-B", "pearson"), ("CoLA", "mcc")):
        directory = tmp_path / "out" / task / "sam" / "seed1"
        metrics = json.loads((directory / "result.json").read_text())["metrics"]["valid"]
        logged = [entry.get(f"valid_{metric}") for entry in entries(directory / "train.log")]
        logged = [float(value) for value in logged if value is not None]
        assert metrics[metric] == pytest.approx(max(logged), abs=0.051) and len(logged) > 1
        assert set(metrics) == {"STS-B": {"pearson", "spearman"}, "CoLA": {"mcc"}}[task]


def kill_when(process, directory, log_words):
    """Kill a process and all its children once *log_words* are in the run's log."""
    start = time.monotonic()
    log = directory / "train.log"
    while not (log.exists() and log_words in log.read_text()):
        assert process.poll() is None and time.monotonic() - start < processes.LIMIT
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been_killed(bert, data, tmp_path):
    flags = "--tasks RTE --methods dsam --seeds 1 --keep-checkpoints".split()
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    line = command(bert, data, killed, 80, *flags)
    process = subprocess.Popen(line, env=environment, start_new_session=True, **quiet)
    directory = killed / "RTE" / "dsam" / "seed1"
    kill_when(process, directory, "Saved checkpoint")
    assert not (directory / "result.json").exists() and (directory / "checkpoint_last.pt").exists()
    before = len(entries(directory / "train.log"))

    assert "1 runs, 0 of them finished before" in processes.execute(line, tmp_path)
    resumed = entries(directory / "train.log")[before:]
    assert int(resumed[0]["num_updates"]) > 8  # not from the beginning
    processes.execute(command(bert, data, whole, 80, *flags), tmp_path)
    processes.assert_same_training(directory, whole / "RTE" / "dsam" / "seed1")
    ours, theirs = (json.loads((out / "RTE" / "dsam" / "seed1" / "result.json").read_text()) for out in (killed, whole))
    for key in ("metrics", "best_epoch", "updates"):
        assert ours[key] == theirs[key]
