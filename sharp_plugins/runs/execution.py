"""Doing one run: its stages, its result, and its checkpoints."""

import json
from contextlib import suppress
from pathlib import Path
from typing import List, Sequence

from sharp_plugins.command_line import MENDABLE
from sharp_plugins.runs import memory, stages
from sharp_plugins.runs.benchmark import Benchmark
from sharp_plugins.runs.checkpoints import LAST, UNTRAINED, minutes_before, read_trained
from sharp_plugins.runs.locks import RunBusy, locked
from sharp_plugins.runs.needs import check_start, is_needed
from sharp_plugins.runs.processes import Stop
from sharp_plugins.runs.progress import Progress, Screen
from sharp_plugins.runs.record import Result
from sharp_plugins.runs.schedule import Slot
from sharp_plugins.runs.stages import RunFailed
from sharp_plugins.runs.store import MEMORY, RESULT, Run, begin, check, has_numbers, key, save_result
from sharp_plugins.runs.training_log import read_validations


class Worker:
    """Does runs, from several threads if need be.

    Args:
        out: where all runs are, those of other calls too.
        runs: all of this call.
        keep_checkpoints: of finished runs too.
    """

    def __init__(self, benchmark: Benchmark, out: Path, runs: Sequence[Run], screen: Screen, stop: Stop, keep_checkpoints: bool):
        self.benchmark, self.out, self.runs, self.screen, self.stop = benchmark, out, runs, screen, stop
        self.keep_checkpoints = keep_checkpoints
        self.is_held_up = False  # whether a run was not done for another reason than its own failure

    def __call__(self, run: Run, slot: Slot) -> None:
        """Do what is missing of a run; a failure is told on the screen, and the other runs go on."""
        start = self.start_of(run)
        try:
            with locked(run.directory, run.name, self.stop.wait) as lock:
                check(run)  # again: another call may have begun or done it meanwhile, and with other settings
                if not run.is_finished:
                    self._do(run, slot, start, lock)
            for one in (run, run.needs):
                if one is not None:
                    self.clean_up(one)
        except (RunFailed, RunBusy, *MENDABLE) as error:
            self.is_held_up |= not isinstance(error, RunFailed)
            self.tell_error(str(error))

    def _do(self, run: Run, slot: Slot, start: str, lock) -> None:
        check_start(run, self.benchmark)
        self.benchmark.check_data(run)
        begin(run)
        environment = stages.environment_of(run, slot.device, slot.share)
        for stage in stages.remaining(run, self.benchmark.stages(run)):
            self.screen.tell(
                f"{start}: {stage.name}, log in {run.directory / stage.log}\n+ {stage.line(run.directory, environment)}"
            )
            progress = Progress(start, run.config, self.screen)
            try:
                stages.perform(run, stage, lock, self.stop, progress, environment)
            finally:
                progress.end()
        result = finish(run, self.benchmark, self.keep_checkpoints)
        self.screen.tell(f"{start}: {describe(result, self.benchmark)}")

    def start_of(self, run: Run) -> str:
        """What the lines about a run begin with."""
        return f"[{1 + [key(one.record) for one in self.runs].index(key(run.record))}/{len(self.runs)}] {run.name}"

    def tell_error(self, text: str) -> None:
        """Print an error line."""
        self.screen.tell(f"error: {text}", is_error=True)

    def cannot(self, run: Run) -> None:
        """Tell that a run is not begun, for want of another."""
        self.tell_error(f"{run.name}: not begun; it needs {run.needs.name}, which is not finished")

    def clean_up(self, run: Run) -> None:
        """`clean_up`, unless a run of this or another call still needs the checkpoints, or another process is at the run."""
        if deletable(run, self.benchmark) and not is_needed(run, self.benchmark, self.out):
            with suppress(RunBusy), locked(run.directory, run.name, patience=0):
                clean_up(run, self.benchmark)


def finish(run: Run, benchmark: Benchmark, keep_checkpoints: bool = False) -> Result:
    """Collect what came out of a run whose stages are done, and write ``result.json``.

    Raises:
        RunFailed: there is no checkpoint that can be read, or no metrics by split and name.
    """
    trains = any(stage.trains for stage in benchmark.stages(run))
    trained = read_trained(run.directory, benchmark.measured) if trains else UNTRAINED
    if trained is None:
        raise RunFailed(f"{run.name}: no checkpoint that can be read; see {run.directory / stages.TRAIN_LOG}")
    try:
        metrics = benchmark.collect(run)
    except ValueError as error:
        raise RunFailed(f"{run.name}: no metrics: {error}") from error
    result = Result(
        record=run.record,
        metrics=metrics,
        minutes=trained.minutes - minutes_before(run.config["checkpoint"].get("finetune_from_model") if trains else None),
        updates=trained.updates,
        best_update=trained.best_update if trains and benchmark.measured != LAST else None,
        memory=memory.read(run.directory / MEMORY),
        validations=read_validations(run.directory / stages.TRAIN_LOG),
        notes={"best_epoch": trained.best_epoch, **benchmark.notes(run)},
    )
    if not has_numbers(result):  # before it is saved: no later call would read it
        wanted = "numbers by split and name, such as {'test': {'bleu': 31.5}}"
        raise RunFailed(f"{run.name}: no metrics: Benchmark.collect is to return {wanted}, not {str(metrics)[:200]}")
    save_result(run.directory, result, "kept" if keep_checkpoints else "deleted")
    return result


def deletable(run: Run, benchmark: Benchmark) -> List[Path]:
    """The large files of a finished run that were not to be kept; a process may have been killed before it had deleted them."""
    try:
        result = json.loads((run.directory / RESULT).read_text(encoding="utf-8"))
    except (ValueError, FileNotFoundError):
        return []  # who reads all results says so
    if not (isinstance(result, dict) and result.get("checkpoints") == "deleted"):
        return []
    large = [run.directory / stage.makes for stage in benchmark.stages(run) if stage.is_temporary]
    return [*run.directory.glob("checkpoint*.pt"), *(path for path in large if path.is_file())]


def clean_up(run: Run, benchmark: Benchmark) -> None:
    """Delete what is `deletable`."""
    for path in deletable(run, benchmark):
        path.unlink(missing_ok=True)


def describe(result: Result, benchmark: Benchmark) -> str:
    """A line on a finished run."""
    found = []
    for measure in benchmark.measures(result.record.task):
        value = measure.of(result)
        found += [] if value is None else [f"{measure.heading} {value:.2f}"]
    epoch = f" in epoch {result.notes['best_epoch']}" if result.best_update is not None else ""
    return f"{', '.join(found) or 'finished'}{epoch}; {result.updates} updates, {result.minutes:.1f} min"
