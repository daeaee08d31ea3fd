"""Files that are either complete or not there."""

import hashlib
import os
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator


@contextmanager
def unfinished_in(directory: Path) -> Iterator[Path]:
    """A directory inside *directory*, from which complete files are moved to it; it goes, whatever happens, and after an error so
    do directories that were made for it."""
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=directory) as unfinished:
            yield Path(unfinished)
    except BaseException:
        with suppress(OSError):  # another process may have put something there
            for path in made:
                path.rmdir()
        raise


@contextmanager
def filling(directory: Path, last: str) -> Iterator[Path]:
    """A directory to write files to, which at the end are moved to *directory* one by one, the file *last* after all others: where
    that one is there, the others are. After an error none is moved."""
    with unfinished_in(directory) as unfinished:
        yield unfinished
        for name in sorted(os.listdir(unfinished), key=lambda name: name == last):
            os.replace(unfinished / name, directory / name)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to. What is there at the end becomes *path*; after an error *path* is as it was."""
    with unfinished_in(path.parent) as unfinished:
        yield unfinished / path.name
        os.replace(unfinished / path.name, path)


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
