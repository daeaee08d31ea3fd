"""Two calls may share a directory: a run is locked while a process is at it."""

import errno
import fcntl
from contextlib import contextmanager
from pathlib import Path

from sharp_plugins.files.writing import remove_left

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


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
        OSError: the file system has no locks, or the file cannot be made.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunBusy(f"{name}: another process is at it") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            words = f"its file system has no locks ({error.strerror}), and two processes could be at one run"
            raise OSError(f"{lock.name}: {words}; choose an --out on another") from None
        # What a killed process had not finished writing.
        remove_left(directory)
        for path in directory.glob("*.pt.tmp"):
            path.unlink()
        yield lock
