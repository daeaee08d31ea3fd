"""Two calls may share a directory: a run is locked while a process is at it."""

import fcntl
from contextlib import contextmanager
from pathlib import Path

from sharp_plugins.files.writing import remove_left


class RunBusy(Exception):
    """Another process is at this run."""


@contextmanager
def locked(directory: Path, name: str):
    """Keep other processes away from the run in *directory*; yields the file that is locked.

    A process that is started with this file open holds the lock too, should it outlive this one.

    Args:
        name: the run's, for the message.

    Raises:
        RunBusy: another process is at the run.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunBusy(f"{name}: another process is at it") from None
        # What a killed process had not finished writing.
        remove_left(directory)
        for path in directory.glob("*.pt.tmp"):
            path.unlink()
        yield lock
