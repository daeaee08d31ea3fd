"""What the commands ``python -m sharp_plugins.glue``, ``.lora`` and ``.convert`` have in common."""

import argparse
import logging
import os
import sys
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterable, Iterator, Optional

from sharp_plugins.files.writing import refuse_special

# What a user can mend; others are defects, and are shown with their traceback.
MENDABLE = (ValueError, OSError, ImportError)


def output_file(text: str) -> Path:
    """The ``type`` of a flag that names a file to write: one that cannot be written is refused before any work.

    >>> output_file("scores/of/today.json").name
    'today.json'

    Raises:
        argparse.ArgumentTypeError: it is empty, a directory, a device or the like, below a file, or where nothing can be written.
    """
    with _named(text) as path:
        if path.is_dir():
            raise argparse.ArgumentTypeError(f"{path}: it is a directory, and a file is wanted")
        refuse_special(path)
        above = Path(os.path.realpath(path)).parents
        _refuse_a_file(path, above)
        _try_to_write(path, above)
    return path


def output_directory(text: str) -> Path:
    """The ``type`` of a flag that names a directory to write to, or one in which all may be already: a file, what is below one,
    and what cannot be made are refused before any work.

    >>> output_directory("runs/today").name
    'today'

    Raises:
        argparse.ArgumentTypeError: it is empty, a file, below one, or not there where nothing can be written.
    """
    with _named(text) as path:
        places = (path, *path.absolute().parents)
        _refuse_a_file(path, places)
        if not path.is_dir():
            _try_to_write(path, places)
    return path


def filled_directory(text: str) -> Path:
    """As `output_directory`, where files are written in any case: into one that is there, too, it must be allowed.

    >>> filled_directory("backbones/bert").name
    'bert'

    Raises:
        argparse.ArgumentTypeError: as for `output_directory`, or nothing can be written in it.
    """
    path = output_directory(text)
    with _named(text):
        if path.is_dir():
            _try_to_write(path, [path])
    return path


@contextmanager
def _named(text: str) -> Iterator[Path]:
    """The path of a flag; each OSError, of a place that must not be looked at, say, is one of the flag's value."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty, as a variable that is not set is")
    try:
        yield Path(text)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}" if error.strerror else str(error)) from None


def _refuse_a_file(path: Path, directories: Iterable[Path]) -> None:
    file = next((place for place in directories if place.is_file()), None)
    if file:
        raise argparse.ArgumentTypeError(f"{path}: {file} is a file, and no directory")


def _try_to_write(path: Path, directories: Iterable[Path]) -> None:
    """Raise where nothing can be written in the first of the *directories* that is there."""
    place = next(place for place in directories if place.is_dir())
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path}: cannot be written in {place}: {error.strerror}") from None


def check_input_files(flag: str, paths: Iterable[Path]) -> None:
    """Refuse what no data can be made of. A pipe, as ``<(zcat rows.gz)`` makes one, is empty once its checksum has been taken.

    Args:
        flag: what names the files, for errors.

    Raises:
        OSError: one is not there, or no plain file.
    """
    for path in paths:
        if path.is_dir():
            raise IsADirectoryError(f"{flag} {path}: a directory, and no file")
        if not path.exists():
            raise FileNotFoundError(f"{flag} {path}: not there")
        if not path.is_file():
            raise OSError(
                f"{flag} {path}: no plain file. Files are read twice, which a pipe or a device does not allow; write one first"
            )


def be_quiet() -> None:
    """Keep other libraries' log lines and warnings from the terminal; LOGLEVEL=INFO, as fairseq has it, shows the log lines.

    Modules of fairseq set the root logger up as they are imported, and one of them lets all out then, hydra's DEBUG lines too: a
    program calls this before it imports fairseq.
    """
    level = os.environ.get("LOGLEVEL", "ERROR").upper()
    logging.basicConfig(level=level)
    logging.getLogger().setLevel(level)
    warnings.simplefilter("ignore")


def run_command(work: Callable[[], Optional[str]]) -> int:
    """Print what *work* returns, if anything; what a user can mend is told in one line, without a traceback.

    Returns:
        the command's exit status: 0; 1 after an error; 141 where what reads the output stops early.
    """
    be_quiet()
    try:
        text = work()
    except BrokenPipeError:  # what reads the output has had enough, as `| head` has
        return _closed()
    except MENDABLE as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if text is not None:
        try:
            print(text, flush=True)
        except BrokenPipeError:
            return _closed()
    return 0


def _closed() -> int:
    """The exit status of a program whose output nobody reads any longer; Python would complain as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
