"""Runs that start from another run: its checkpoints stay until they are finished, whichever call is to do them."""

from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Sequence

from sharp_plugins.runs.benchmark import Benchmark
from sharp_plugins.runs.checkpoints import read_checkpoint
from sharp_plugins.runs.record import Record
from sharp_plugins.runs.store import RECORD, RESULT, Run, stored, write_record


def announce(runs: Sequence[Run]) -> None:
    """Write the records of the runs that start from another one, before anything is done: every call sees then what they need."""
    for run in runs:
        if run.needs is not None and not run.is_finished and not (run.directory / RECORD).is_file():
            write_record(run)


def is_needed(run: Run, benchmark: Benchmark, out: Path) -> bool:
    """Whether one of the runs below *out* that are not finished starts from *run*, or may do so.

    Raises:
        ValueError: a record cannot be read, or `Benchmark.needs` has no answer for it.
    """
    for directory, record in stored(out, benchmark.name):
        if not (directory / RESULT).is_file():
            with known(directory, record):
                need = benchmark.needs(record)
            if need is not None and may_be(run.record, need):
                return True
    return False


def may_be(record: Record, need: Record) -> bool:
    """Whether *record* may be the run that `Benchmark.needs` told: of the swept settings it has those that it has use for.

    >>> lora = Record("webnlg", "text", "lora", 1, {"model.lora_rank": 4, "optimization.lr": 0.1})
    >>> base = lora._replace(method="base", axes={"optimization.lr": 0.1})
    >>> may_be(base, lora._replace(method="base")), may_be(base._replace(seed=2), lora._replace(method="base"))
    (True, False)
    """
    same = record[:4] == need[:4] and own_axes(record) == own_axes(need)
    return same and all(name in need.axes and need.axes[name] == value for name, value in record.axes.items())


def own_axes(record: Record) -> dict:
    """The axes that are the benchmark's own, and no swept settings."""
    return {name: value for name, value in record.axes.items() if "." not in name}


def check_start(run: Run, benchmark: Benchmark) -> None:
    """Raise ValueError where the run that *run* starts from is finished and its checkpoint is gone."""
    need = run.needs
    if need is not None and read_checkpoint(need.directory / benchmark.measured) is None:
        raise ValueError(
            f"--methods {run.record.method}: starts from {need.name}, whose checkpoint is gone; delete {need.directory} to train "
            f"it again, in one call with --methods {need.record.method} {run.record.method}, or before with --keep-checkpoints"
        )


@contextmanager
def known(directory: Path, record: Record) -> Iterator[None]:
    """Where the benchmark looks a stored run's axes up in vain, a ValueError that names them."""
    try:
        yield
    except LookupError as error:
        axes = ", ".join(f"{name}={value}" for name, value in record.axes.items()) or "none"
        raise ValueError(
            f"{directory}: its axes are {axes}, and the benchmark finds nothing for {error}; use the flags of the call that made "
            "it, choose another --out, or move it away"
        ) from error
