"""Two calls may share a directory: a run is locked while a process is at it."""

import errno
import fcntl
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Optional

from sharp_plugins.files.writing import remove_left

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)

# Seconds that a run's lock is waited for. A killed training's workers, which load the data, hold it too, and look every 5 seconds
# whether they are alone.
PATIENCE = 8.0
PAUSE = 0.2


class RunBusy(Exception):
    """Another process is at this run."""


@contextmanager
def locked(directory: Path, name: str, wait: Callable[[float], object] = time.sleep, patience: Optional[float] = None):
    """Keep other processes away from the run in *directory*; yields the file that is locked.

    A process that is started with this file open holds the lock too, should it outlive this one.

    Args:
        name: the run's, for the message.
        wait: is given seconds to wait for; true where they are not to be waited for any more.
        patience: seconds in which the other process may go; default: `PATIENCE`.

    Raises:
        RunBusy: another process is at the run.
        OSError: the file system has no locks, or the file cannot be made.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        end = time.monotonic() + (PATIENCE if patience is None else patience)
        while not _is_taken(lock):
            if time.monotonic() >= end or wait(PAUSE):
                raise RunBusy(f"{name}: another process is at it")
        # What a killed process had not finished writing.
        remove_left(directory)
        for path in directory.glob("*.pt.tmp"):
            path.unlink()
        yield lock


def _is_taken(lock) -> bool:
    """Whether the lock is this process's now."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        words = f"its file system has no locks ({error.strerror}), and two processes could be at one run"
        raise OSError(f"{lock.name}: {words}; choose an --out on another") from None
    return True
