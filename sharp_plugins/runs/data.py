"""Data that a benchmark makes: complete or not there, made once, and stamped with what they were made of."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Callable, Collection, Dict, Mapping, Optional, Sequence

from sharp_plugins.files.text import read_json
from sharp_plugins.files.writing import PREFIX, remove_left, unfinished_in, write_text
from sharp_plugins.runs.processes import Stop, interpreter, run_process, shell_line

STAMP = "prepared.json"


def make_once(
    out: Path,
    source: Dict,
    own: Collection[str],
    make: Callable[[Path], Optional[Dict]],
    is_stamp: Callable[[Dict], bool] = lambda stamp: True,
    replaces: bool = True,
) -> bool:
    """Make data in the directory *out*, which appears when all of them are there. Data that were made of something else are
    replaced, or refused. Two calls may make the same at once.

    Args:
        source: checksums and the like, in JSON's types; it stands in the stamp.
        own: names of all that is made in *out*.
        make: is given the directory to make the data in; returns what else the stamp is to say, in JSON's types.
        is_stamp: whether a stamp that is there is a whole one.
        replaces: whether data that were made of something else are replaced.

    Returns:
        whether they were made; False where they had been there.

    Raises:
        ValueError: *out* holds something else, or data that are not replaced.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     def make(directory):
    ...         (directory / "words").write_text("a b")
    ...     [make_once(Path(place, "data"), {"version": version}, ["words"], make) for version in (1, 1, 2)]
    [True, False, True]
    """
    if _is_made_of(out, source, is_stamp):
        return False
    there = {path.name for path in out.iterdir() if not path.name.startswith(PREFIX)} if out.exists() else set()
    others = sorted(there - {STAMP, *own})
    if others:
        raise ValueError(
            f"{out}: holds other data, which would be replaced, and with them {', '.join(others)}, which is none of them; "
            "choose another place"
        )
    if not replaces and (out / STAMP).is_file():
        raise ValueError(f"{out}: holds data of other files or settings; choose another --out, or remove it")
    remove_left(out.parent)
    with unfinished_in(out.parent) as unfinished:
        new = unfinished / "new"
        new.mkdir()
        stamp = {"source": source, **(make(new) or {})}
        write_text(new / STAMP, json.dumps(stamp, indent=2) + "\n")
        if _is_made_of(out, source, is_stamp):  # another call has made them meanwhile, and its runs read them
            return False
        if out.exists():
            with suppress(FileNotFoundError):
                out.rename(unfinished / "old")
        try:
            new.rename(out)
        except OSError:
            if not _is_made_of(out, source, is_stamp):
                raise
            return False
    return True


def _is_made_of(out: Path, source: Dict, is_stamp: Callable[[Dict], bool]) -> bool:
    try:
        stamp = read_json(out / STAMP)
    except (FileNotFoundError, ValueError):  # of half a stamp
        return False
    return stamp.get("source") == source and is_stamp(stamp)


def do_steps(steps: Mapping[str, Sequence[str]], directory: Path, place: Path, tell: Callable[[str], None] = print) -> None:
    """Do commands, one after the other, in *directory*; each leaves NAME.log there.

    Args:
        steps: the commands by name, as of `sharp_plugins.runs.stages.Stage`.
        place: where the directory will be, for the lines that are told.
        tell: is given each command, as a line for a shell.

    Raises:
        ValueError: one fails; the message has the end of its log.
    """
    for name, command in steps.items():
        log = directory / f"{name}.log"
        tell(f"+ {shell_line(command, place, log.name)}")
        status = run_process(interpreter(command), directory, log, Stop())
        if status != 0:
            end = "\n  ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
            raise ValueError(f"{command[0]} ended with {status}; its log ends with\n  {end}")
