"""The stages of a run: each a process with a log and a resume of its own.

A stage that is done is not done again; one that was killed is completed by the same command. ``train`` goes on from fairseq's last
checkpoint; any other stage starts again, and what it makes is taken when its process has ended well.
"""

import json
import os
from pathlib import Path
from typing import Callable, Dict, Mapping, NamedTuple, Optional, Sequence

from sharp_plugins.files.text import read_json
from sharp_plugins.files.writing import replace, unfinished_in, write_text
from sharp_plugins.runs import threads
from sharp_plugins.runs.checkpoints import LAST, is_trained, minutes_before, read_checkpoint
from sharp_plugins.runs.processes import Stop, interpreter, run_process, shell_line
from sharp_plugins.runs.store import MEMORY, THREADS, Run

STAGES = "stages.json"
TRAINING = "train"
TRAIN_LOG = f"{TRAINING}.log"
# The config's name must not be that of fairseq's own, "config".
TRAIN = ("fairseq-hydra-train", "--config-dir", ".", "--config-name", "run")
TRAIN += ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=stdout")


class RunFailed(Exception):
    """A stage's process failed; the message holds the end of its log."""


class Stage(NamedTuple):
    """A stage.

    Attributes:
        name: such as "generate"; its log is NAME.log.
        command: as a user would type it in the run's directory: one of fairseq's scripts, ``python -m MODULE ...``, or any other.
        makes: the file in the run's directory that it makes; None for the training alone, whose name is "train". An older one is
            deleted before the stage begins.
        takes_output: whether that file is its standard output; else the command itself writes it.
        is_temporary: whether the file goes with the checkpoints when the run is finished.
        title: for the message when it fails; by default the command's first word.

    >>> Stage("generate", ["fairseq-generate", "data", "--path", "checkpoint_best.pt"], "generated.txt", takes_output=True).log
    'generate.log'
    """

    name: str
    command: Sequence[str]
    makes: Optional[str] = None
    takes_output: bool = False
    is_temporary: bool = False
    title: str = ""

    @property
    def log(self) -> str:
        return f"{self.name}.log"

    @property
    def trains(self) -> bool:
        return self.makes is None

    def line(self, directory: Path, environment: Mapping[str, str] = {}) -> str:
        """For a shell."""
        return shell_line(self.command, directory, self.log, self.makes if self.takes_output else None, environment)


def train(run: Run) -> Stage:
    """The stage that trains by the run's config, with the limit of time that is the run's own, see `_limits`."""
    hours = _limits(run).get("stop_time_hours")
    if hours == run.config["optimization"].get("stop_time_hours"):
        return Stage(TRAINING, TRAIN)
    return Stage(TRAINING, (*TRAIN, f"optimization.stop_time_hours={hours}"))


def _limits(run: Run) -> Dict:
    """The limits of a training. fairseq's clock goes on from that of the checkpoint that training starts from, so the limit of
    time is later by as much; the other run's time is known only when it is finished, and is in no config."""
    kept = run.config.get("checkpoint", {})
    limits = {**run.config["optimization"], "patience": kept.get("patience") or 0}
    hours = limits.get("stop_time_hours")
    before = minutes_before(kept.get("finetune_from_model")) if hours else 0
    return {**limits, "stop_time_hours": hours + before / 60} if before else limits


def check_stages(stages: Sequence[Stage]) -> None:
    """Raise ValueError where two stages have one name, or a stage without a file is not the training: it would never be done, or
    be taken as done with the training."""
    names = [stage.name for stage in stages]
    for stage in stages:
        if names.count(stage.name) > 1:
            raise ValueError(f"stage {stage.name}: there is more than one of that name; each has a log and a mark of its own")
        if stage.trains and stage.name != TRAINING:
            raise ValueError(
                f"stage {stage.name}: say in Stage.makes which file it makes; only the training, whose name is {TRAINING}, has none"
            )


def is_done(run: Run, stage: Stage) -> bool:
    """Whether a stage has nothing left to do.

    Raises:
        OSError: the last checkpoint cannot be read now.
    """
    mark = _marks(run).get(stage.name)
    if stage.trains:
        # fairseq may end before all limits, where a task of one's own has no more data, say: the mark tells.
        return is_trained(run.directory, _limits(run)) or (mark is not None and read_checkpoint(run.directory / LAST) is not None)
    return mark == list(stage.command) and (run.directory / stage.makes).is_file()


def remaining(run: Run, stages: Sequence[Stage]) -> Sequence[Stage]:
    """The stages that are to be done: the first that is not done, and all that follow it, as they build on it.

    Raises:
        OSError: a file that tells cannot be read now.
    """
    number = next((number for number, stage in enumerate(stages) if not is_done(run, stage)), len(stages))
    names = [stage.name for stage in stages[number:]]
    marks = _marks(run)
    if marks.keys() & set(names):
        _mark(run, {name: mark for name, mark in marks.items() if name not in names})
    return stages[number:]


def perform(
    run: Run,
    stage: Stage,
    lock,
    stop: Stop,
    show: Callable[[Dict], None] = lambda entry: None,
    environment: Optional[Dict[str, str]] = None,
) -> None:
    """Do a stage to its end.

    Args:
        lock: from `locked`.
        show: is given each entry of fairseq's log.
        environment: changes of this process's, from `environment_of`.

    Raises:
        RunFailed: the process failed, or did not make its file.
        KeyboardInterrupt: *stop* was asked for.
    """
    log = run.directory / stage.log
    # With several workers the process only starts others, which train.
    alone = run.config.get("distributed_training", {}).get("distributed_world_size", 1) == 1
    memory = (run.directory / MEMORY).resolve() if stage.trains and alone else None
    environment = environment_of(run) if environment is None else environment
    with unfinished_in(run.directory) as unfinished:
        output = unfinished / Path(stage.makes).name if stage.takes_output else None
        if stage.makes and not output:
            (run.directory / stage.makes).unlink(missing_ok=True)  # an old one would be taken for what it has made
        how = dict(lock=lock, output=output, environment=environment, show=show)
        status = run_process(interpreter(stage.command, memory), run.directory, log, stop, **how)
        if status == 0 and output:
            replace(output, run.directory / stage.makes)
    missing = status == 0 and not stage.trains and not (run.directory / stage.makes).is_file()
    if status != 0 or missing:
        end = "\n  ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
        happened = f"did not write {stage.makes}" if missing else f"ended with {status}"
        raise RunFailed(f"{run.name}: {stage.title or stage.command[0]} {happened}; {log} ends with\n  {end}")
    _mark(run, {**_marks(run), stage.name: list(stage.command)})


def environment_of(run: Run, device: Optional[str] = None, share: Optional[int] = None) -> Dict[str, str]:
    """What a run's processes find changed in their environment: CPU threads, and the GPU.

    Args:
        device: the GPU, as CUDA_VISIBLE_DEVICES names it; None for all.
        share: how many CPU threads a run gets whose number is not chosen yet; None: as many as are free.
    """
    path = run.directory / THREADS
    if share is not None and threads.THREADS not in os.environ and not path.is_file():
        threads.for_run(path, {**os.environ, threads.THREADS: str(share)})  # which the file remembers
    return {**threads.for_run(path), **({} if device is None else {"CUDA_VISIBLE_DEVICES": device})}


def _marks(run: Run) -> Dict:
    path = run.directory / STAGES
    try:
        return read_json(path) if path.is_file() else {}
    except ValueError as error:
        raise OSError(f"{error}; delete it to do the stages again") from error


def _mark(run: Run, marks: Dict) -> None:
    write_text(run.directory / STAGES, json.dumps(marks, indent=2) + "\n")
