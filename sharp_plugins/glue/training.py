"""One run: a ``fairseq-hydra-train`` process that goes on from its last checkpoint, and what came out of it.

RUN/run.yaml          the whole config; also by hand: cd RUN; fairseq-hydra-train --config-dir . --config-name run
RUN/made_of.json      checksums of the backbone and of the data
RUN/threads.json      how many CPU threads it has, and how they wait, see `sharp_plugins.runs.threads`
RUN/train.log         what fairseq printed, and what the scoring of the best epoch did
RUN/checkpoint_*.pt   until the run is finished, unless they are to be kept
RUN/result.json       when it is finished
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Dict, NamedTuple, Optional, Sequence

from omegaconf import OmegaConf

from sharp_plugins.files.text import read_json
from sharp_plugins.files.writing import unfinished_in, write_text
from sharp_plugins.files.yaml import read_yaml
from sharp_plugins.glue.backbone import Backbone
from sharp_plugins.glue.binarize import Prepared
from sharp_plugins.glue.checkpoints import BEST, LAST, is_trained, read_checkpoint
from sharp_plugins.glue.methods import Method, differences
from sharp_plugins.glue.results import RESULT, Result
from sharp_plugins.glue.tasks import Task
from sharp_plugins.runs import threads

CONFIG, MADE_OF, LOG, SUBMISSION, THREADS = "run.yaml", "made_of.json", "train.log", "submission", "threads.json"
# Modules are found where they are found here. Python would look into the run's directory first, where the process works, and
# run a torch.py that came with a copied one.
PLACES = [os.path.abspath(place) for place in sys.path]
START = f"import sys; sys.path[:] = {PLACES!r}; "
# `python -m fairseq_cli.hydra_train`. The config's name must not be that of fairseq's own, "config".
COMMAND = ["-c", START + "from fairseq_cli.hydra_train import cli_main; cli_main()", "--config-dir", ".", "--config-name", "run"]
COMMAND += ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=stdout"]
# `python -m sharp_plugins.glue`
EVALUATE = START + "from sharp_plugins.glue.__main__ import main; sys.exit(main())"
# Seconds between two looks at the log.
PAUSE = 0.3
# Seconds that a process gets to stop.
PATIENCE = 20


class Run(NamedTuple):
    """A run of one method on one task with one seed."""

    task: Task
    method: Method
    seed: int
    directory: Path
    config: Dict
    backbone: Backbone
    prepared: Prepared

    @property
    def name(self) -> str:
        return f"{self.task.name} {self.method.name} seed {self.seed}"

    @property
    def is_finished(self) -> bool:
        return (self.directory / RESULT).is_file()

    @property
    def made_of(self) -> Dict:
        return {"backbone": self.backbone.checksums, "data": self.prepared.source}


class RunFailed(Exception):
    """The training process failed; the message holds the end of its log."""


class RunBusy(Exception):
    """Another process is at this run."""


def check(run: Run) -> None:
    """Raise ValueError where *run*'s directory holds a run of something else, finished or not."""
    check_made_of(run.directory, run.backbone.checksums, run.prepared.source)
    path = run.directory / CONFIG
    if path.is_file():
        try:
            before = read_yaml(path)
        except ValueError as error:
            raise ValueError(f"{error}; delete {run.directory} to run it again") from error
        _refuse(run.directory, differences(before, run.config))


def check_made_of(directory: Path, backbone: Dict, data: Optional[Dict]) -> None:
    """Raise ValueError where the run in *directory* was of another backbone or (unless None is given) other data."""
    path = directory / MADE_OF
    if path.is_file():
        try:
            before = read_json(path)
            now = {"backbone": backbone, "data": before.get("data") if data is None else data}
            different = [f"the {part}" for part in now if before.get(part) != now[part]]
        except ValueError as error:
            raise ValueError(f"{error}; delete {directory} to run it again") from error
        _refuse(directory, different)


def _refuse(directory: Path, different: Sequence[str]) -> None:
    if different:
        raise ValueError(
            f"{directory}: holds a run that differs in {', '.join(different)}, and would be in one table with these; "
            "use the same settings, choose another --out, or delete it"
        )


@contextmanager
def locked(run: Run):
    """Keep other processes away from *run*; yields the file that is locked.

    Raises:
        RunBusy: another process is at it.
    """
    run.directory.mkdir(parents=True, exist_ok=True)
    with open(run.directory / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunBusy(f"{run.name}: another process is at it") from None
        # What a killed process had not finished writing.
        for path in (*run.directory.glob(".unfinished-*"), *run.directory.glob("*.pt.tmp")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield lock


def train(run: Run, show: Callable[[Dict], None], lock) -> None:
    """Train to the end, from the last checkpoint where there is one.

    Args:
        show: is given each entry of fairseq's log.
        lock: from `locked`.

    Raises:
        RunFailed: the process failed.
    """
    write_text(run.directory / MADE_OF, json.dumps(run.made_of, indent=2) + "\n")
    write_text(run.directory / CONFIG, "# @package _group_\n" + OmegaConf.to_yaml(OmegaConf.create(run.config)))
    if not is_trained(run.directory, run.config["optimization"]):
        _run_process(run, COMMAND, show, lock)


def _run_process(run: Run, command: Sequence[str], show: Callable[[Dict], None], lock) -> None:
    """Run Python with *command* in the run's directory, its output to the log.

    Raises:
        RunFailed: it ended with an error.
    """
    log = run.directory / LOG
    # Its own processes do not look there either (Python 3.11 and later).
    environment = {**os.environ, "PYTHONSAFEPATH": "1", **threads.for_run(run.directory / THREADS)}
    with open(log, "a") as output:
        start = output.tell()
        # The process holds the lock too: it keeps others away should it outlive this one.
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=run.directory,
            pass_fds=[lock.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        follow(process, log, start, show)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if process.returncode != 0:
        end = "\n  ".join(log.read_text(errors="replace").splitlines()[-12:])
        name = "fairseq-hydra-train" if command is COMMAND else "scoring the best epoch"
        raise RunFailed(f"{run.name}: {name} ended with {process.returncode}; {log} ends with\n  {end}")


def follow(process, log: Path, start: int, show: Callable[[Dict], None]) -> None:
    """Hand the entries of a log to *show* as they appear, until the process has ended."""
    rest = ""
    with open(log, errors="replace") as file:
        file.seek(start)
        while True:
            has_ended = process.poll() is not None
            *lines, rest = (rest + file.read()).split("\n")
            for line in lines:
                entry = parse(line)
                if entry is not None:
                    show(entry)
            if has_ended:
                return
            time.sleep(PAUSE)


def parse(line: str) -> Optional[Dict]:
    """An entry of fairseq's log with ``--log-format json``; None for other lines."""
    if not line.startswith('{"epoch"'):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None


def finish(run: Run, lock, keep_checkpoints: bool = False, submission: bool = False) -> Result:
    """Evaluate the best epoch, write ``result.json``, and delete the checkpoints unless they are to be kept.

    Args:
        lock: from `locked`.
        submission: also write the test sets' predictions, into RUN/submission.

    Raises:
        RunFailed: there is no checkpoint, or it cannot be evaluated.
    """
    best, last = read_checkpoint(run.directory / BEST), read_checkpoint(run.directory / LAST)
    if best is None or last is None:
        raise RunFailed(f"{run.name}: no checkpoint that can be read; see {run.directory / LOG}")
    place = best["extra_state"]["train_iterator"]
    facts = {
        "minutes": last["extra_state"]["previous_training_time"] / 60,
        # After the last batch of an epoch the iterator's place is the beginning of the next.
        "best_epoch": place["epoch"] - (place["iterations_in_epoch"] == 0),
        "updates": last["optimizer_history"][-1]["num_updates"],
    }
    del best, last
    metrics = score(run, lock, submission)
    checkpoints = "kept" if keep_checkpoints else "deleted"
    about = dict(metrics=metrics, files=dict(run.prepared.files), checkpoints=checkpoints, **facts)
    result = Result(run.task.name, run.method.name, run.seed, **about)
    result.save(run.directory)
    clean_up(run)
    return result


def score(run: Run, lock, submission: bool = False) -> Dict[str, Dict[str, float]]:
    """The metrics of the best epoch, by split and name, from a process of its own: its GPU memory goes with it.

    Raises:
        RunFailed: the process failed.
    """
    with unfinished_in(run.directory) as unfinished:
        scores = unfinished.resolve() / "scores.json"
        command = ["-c", EVALUATE, "evaluate", BEST, str(run.prepared.directory.resolve()), "--json", str(scores)]
        command += ["--device", "cpu"] if run.config["common"].get("cpu") else []
        command += ["--submission", SUBMISSION] if submission else []
        _run_process(run, command, lambda entry: None, lock)
        return json.loads(scores.read_text(encoding="utf-8"))


def clean_up(run: Run) -> None:
    """Delete the checkpoints of a finished run that were not to be kept; a process may have been killed before it had done so."""
    try:
        result = json.loads((run.directory / RESULT).read_text(encoding="utf-8"))
    except ValueError:
        return  # who reads all results says so
    if isinstance(result, dict) and result.get("checkpoints") == "deleted":
        for checkpoint in run.directory.glob("checkpoint*.pt"):
            checkpoint.unlink(missing_ok=True)  # another call may be at it
