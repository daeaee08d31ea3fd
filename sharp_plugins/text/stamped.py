"""Directories of data with a stamp, the file that says what they were made of: whether the data that are wanted are there."""

import os
from pathlib import Path
from typing import Collection, Dict

from sharp_plugins.files.text import read_json
from sharp_plugins.files.writing import PREFIX


def check_out(out: Path) -> None:
    """Raise ValueError where *out* cannot be a directory, as it or a directory above it is a file."""
    other = next((path for path in (out, *out.parents) if path.exists() and not path.is_dir()), None)
    if other:
        raise ValueError(f"--out {out}: {other} is a file, and no directory")


def holds(out: Path, stamp: str, version: int, source: Dict, own: Collection[str]) -> bool:
    """Whether the directory *out* holds the data of *source*, by its file *stamp*, which has a "version" and a "source".

    Args:
        own: names of files that a run which was killed may have left without a stamp.

    Raises:
        ValueError: it holds something else.

    >>> holds(Path("not there"), "stamp.json", 1, {}, own=())
    False
    """
    if not out.exists():
        return False
    if (out / stamp).is_file():
        found = read_json(out / stamp)
        if found.get("version") != version:
            raise ValueError(f"{out}: holds data that another version wrote; choose another --out, or remove it")
        if found.get("source") == source:
            return True
        raise ValueError(f"{out}: holds data of other files or settings; choose another --out, or remove it")
    others = [name for name in os.listdir(out) if name not in own and not name.startswith(PREFIX)]
    if others:
        raise ValueError(f"{out}: holds something else ({sorted(others)[0]}); choose another --out")
    return False
