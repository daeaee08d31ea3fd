"""Files that are either complete or not there.

They are written in a directory beside their place, ``.unfinished-...``. A file in it is locked as long as its process lives. What a
killed process left is removed when the same is written again.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Collection, Iterator, Optional, Tuple

PREFIX = ".unfinished-"
# A file and not the directory itself: over NFS a lock on a directory is the machine's own, and one on a file is everybody's.
LOCK = ".lock"
# Errors that say that what was written is lost.
LOST = (errno.EIO, errno.ENOSPC, errno.EDQUOT)


@contextmanager
def unfinished_in(directory: Path) -> Iterator[Path]:
    """A directory inside *directory*, from which complete files are moved to it; it goes, whatever happens, and after an error so
    do directories that were made for it."""
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        unfinished, lock = _locked_in(directory)
        try:
            yield unfinished
        finally:
            # What cannot be removed, as read-only directories, stays: the files that were to be written are there.
            shutil.rmtree(unfinished, ignore_errors=True)
            _close(lock, unfinished)
    except BaseException:
        with suppress(OSError):  # another process may have put something there
            for path in made:
                path.rmdir()
        raise


def _locked_in(directory: Path) -> Tuple[Path, int]:
    """A new directory, and the open lock that says that this process is at it."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=directory))
        with suppress(FileNotFoundError):
            lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT)
            with suppress(OSError):  # file systems without locks, where none is ever removed
                fcntl.flock(lock, fcntl.LOCK_SH)
            if (path / LOCK).exists():
                return path, lock
            os.close(lock)
        # Another process took it for one that was left, before it was locked.


def remove_left(directory: Path, name: Optional[str] = None) -> None:
    """Remove what killed processes left in *directory*; with a *name* only where it is a file of that name."""
    for path in directory.glob(f"{PREFIX}*"):
        with suppress(OSError):  # a living process has the lock, or it is gone, or another user's
            if path.is_symlink() or (name is not None and not (path / name).exists()):
                continue
            lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                _close(lock, path)


def _close(lock: int, directory: Path) -> None:
    """Close the lock in a directory that was to be removed: over NFS a file that is open stays, and the directory with it."""
    os.close(lock)
    with suppress(OSError):  # it is gone, or a living process's
        directory.rmdir()


@contextmanager
def filling(directory: Path, last: str) -> Iterator[Path]:
    """A directory to write files to, which at the end are moved to *directory* one by one, the file *last* after all others: where
    that one is there, the others are, and of the same writing. After an error in the block none is moved.

    Raises:
        IsADirectoryError: a file's place is taken by a directory. Nothing is changed then.
        OSError: what was written cannot be put on the disk. Nothing is changed then.
    """
    remove_left(directory)
    with unfinished_in(directory) as unfinished:
        yield unfinished
        names = sorted({*os.listdir(unfinished)} - {LOCK})
        for path in (directory / name for name in names):
            if path.is_dir() and not path.is_symlink():
                raise IsADirectoryError(f"{path}: it is a directory, and a file of this name is to be written; move it away")
        for name in names:
            put_on_disk(unfinished / name)
        (directory / last).unlink(missing_ok=True)  # an old one, beside files of which some are new
        for name in sorted(names, key=lambda name: name == last):
            os.replace(unfinished / name, directory / name)
        put_on_disk(directory, told=())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to. What is there at the end becomes *path*, or the file that *path* is a link to; after an error all is as
    it was.

    Raises:
        OSError: it is a device or the like, which no file may replace, or cannot be written.
    """
    refuse_special(path)
    real = Path(os.path.realpath(path))
    remove_left(real.parent, path.name)
    with unfinished_in(real.parent) as unfinished:
        yield unfinished / path.name  # by the name that was asked for, whose end may say the format
        replace(unfinished / path.name, real)


def replace(new, path) -> None:
    """Give the file *new* the name *path*, as os.replace does, and have both on the disk: after a power cut the name could be there
    without what was written, and what was deleted in its favour be gone.

    Raises:
        OSError: as of os.replace; or what was written cannot be put on the disk, and *path* is as it was.
    """
    put_on_disk(new)
    os.replace(new, path)
    put_on_disk(Path(path).parent, told=())


def put_on_disk(path, told: Collection[int] = LOST) -> None:
    """Have the system write a file, or a directory's names, to the disk now.

    Raises:
        OSError: one of *told*; a file system that cannot do it is none.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in told:
            raise


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Do the block when no other process is at one with the same file *lock*, which is made for it and goes; at once where no file
    can be locked."""
    file = None
    with suppress(OSError):
        file = _locked_file(lock)
    try:
        yield
    finally:
        if file is not None:
            with suppress(OSError):
                lock.unlink()
            file.close()


def _locked_file(path: Path) -> IO:
    while True:
        file = open(path, "a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()  # it has been removed by whom it was waited for


def refuse_special(path: Path) -> None:
    """Raise OSError where *path* is what no file may replace: a directory, a device, or the file that the output is printed to."""
    if not path.exists():
        return
    if not path.is_file():
        raise OSError(f"{path}: it is no regular file, and is not replaced by one")
    if any(_is_printed_to(path, stream) for stream in (1, 2)):
        raise OSError(f"{path}: it is the file that the output is printed to, and is not replaced by another one")


def _is_printed_to(path: Path, stream: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(stream))
    except OSError:  # a stream that is closed
        return False


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """The checksum of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
