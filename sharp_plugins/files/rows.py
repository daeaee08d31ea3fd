"""Tab-separated tables from elsewhere, row by row: a row that cannot be read is named by file and line, or left out and counted.

The rules of `sharp_plugins.files.text` hold: compressed or not, UTF-8, only line feeds end a line. A quotation mark is text.
"""

from itertools import chain
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional, Sequence

from sharp_plugins.files.text import TextError, byte_lines, decode

# Makes a row of its fields, its number from 0, and its file and line.
Maker = Callable[[List[str], int, str], Any]


class RowError(ValueError):
    """A row that cannot be read; *skip_malformed* leaves it out."""


class Rows(NamedTuple):
    """A file's rows, and what a user should know of them."""

    rows: List
    warnings: List[str]


def read_rows(
    path,
    understand: Callable[[Sequence[str]], Maker],
    unnamed: Callable[[List[str]], Optional[Sequence[str]]] = lambda fields: None,
    skip_malformed: bool = False,
    advice: str = "",
    fit: Callable[[List[str], int], List[str]] = lambda fields, count: fields,
) -> Rows:
    """Read a table.

    Args:
        understand: is given the names of the columns, and returns what makes a row; this raises `RowError` where it cannot.
        unnamed: is given the first line's fields, and returns the columns' names where that line is a row already.
        skip_malformed: leave out rows that cannot be read, and say how many in a warning.
        advice: what the error about such a row ends with, such as the flag that leaves them out.
        fit: is given a row's fields and the number of the columns' names, and makes the row as long where that can be done.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is empty, cut off, or has a row that cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = Path(directory, "train.tsv")
    ...     _ = path.write_text("sentence\\tlabel\\nthe cat\\t1\\n")
    ...     read_rows(path, lambda names: lambda fields, number, where: dict(zip(names, fields))).rows
    [{'sentence': 'the cat', 'label': '1'}]
    """
    path = Path(path)
    lines = byte_lines(path)
    number, first = next(lines, (0, b""))
    if not number:
        raise ValueError(f"{path}: empty, without even a line of column names")
    fields = _fields(first, f"{path}:1")
    names = unnamed(fields)
    has_names = names is None
    names = fields if names is None else names
    make = understand(names)
    if not has_names:
        lines = chain([(number, first)], lines)
    rows, skipped, ends_with_break = [], [], True
    for index, (number, line) in enumerate(lines):
        ends_with_break, where = line.endswith(b"\n"), f"{path}:{number}"
        try:
            fields = fit(_fields(line, where), len(names))
            if fields == [""] and len(names) > 1:
                raise RowError(f"{where}: the line is empty")
            if len(fields) != len(names):
                like = "the first line" if has_names else "a row of this task"
                raise RowError(f"{where}: {len(fields)} fields, and {like} has {len(names)}")
            rows.append(make(fields, index, where))
        except RowError as error:
            if not skip_malformed:
                cut = "" if ends_with_break else "; the file ends there without a line break: it seems to be cut off"
                raise ValueError(f"{error}{cut}{advice}") from None
            skipped.append(error)
    if not rows:
        raise ValueError(f"{path}: it has no rows" + (f" that can be read; the first: {skipped[0]}" if skipped else ""))
    warnings = []
    if skipped:
        warnings.append(f"{path}: {len(skipped)} malformed rows left out, the first of them: {skipped[0]}")
    if not ends_with_break:
        warnings.append(f"{path}:{number}: the last line has no line break; the file may be cut off")
    return Rows(rows, warnings)


def _fields(line: bytes, where: str) -> List[str]:
    try:
        return decode(line, where).split("\t")
    except TextError as error:
        raise RowError(str(error)) from None
