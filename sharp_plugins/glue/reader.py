"""GLUE's tab-separated files, row by row: as published, or with the columns of `tasks`, gzip-compressed or not."""

from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

from sharp_plugins.files.text import TextError, byte_lines, decode, read_class, read_number
from sharp_plugins.glue.tasks import COLA_COLUMNS, MOST, REQUIRED, Names, Task

ENDINGS = (".tsv", ".tsv.gz")
# What other distributions of GLUE have for the labels of test sets.
UNKNOWN = -1


class Row(NamedTuple):
    """One instance.

    index: as the file numbers it, or its number from 0.
    sentences: one or two, without white space around them.
    label: as the file has it; None in a test file without labels.
    """

    index: str
    sentences: Tuple[str, ...]
    label: Optional[str]


class Table(NamedTuple):
    """A file's rows, and what a user should know of them."""

    path: Path
    rows: List[Row]
    warnings: List[str]


class RowError(ValueError):
    """A row that cannot be read; ``--skip-malformed`` leaves it out."""


def find_files(directory: Path, task: Task) -> Dict[str, Path]:
    """The file of each of fairseq's splits that is there.

    Args:
        directory: with one directory for each task.

    Raises:
        FileNotFoundError: the training or development set is not there.
    """
    found = {}
    for split, (names, _, _) in task.splits.items():
        paths = [Path(directory) / task.name / f"{name}{ending}" for name in names for ending in ENDINGS]
        there = [path for path in paths if path.is_file()]
        if there:
            found[split] = there[0]
        elif split in REQUIRED:
            raise FileNotFoundError(
                f"{paths[0]}: not there (nor {', '.join(path.name for path in paths[1:])}); --data wants a directory "
                f"with GLUE's {task.name}/{paths[0].name}, and --download fetches it"
            )
    if is_stand_in(found["valid"], task, "valid") and not is_stand_in(found["train"], task, "train"):
        raise ValueError(
            f"{found['valid']}: holds rows of the training set, and {found['train'].name} beside it is all of that; "
            f"put {task.name}/{task.splits['valid'].names[0]}.tsv there, or a sample for training"
        )
    return found


def read(path: Path, task: Task, split: str, skip_malformed: bool = False) -> Table:
    """Read the file of one of fairseq's splits.

    Args:
        skip_malformed: leave out rows that cannot be read, and say how many in a warning.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is empty, cut off, or a row is not what the task's rows are; names file and line.
    """
    path = Path(path)
    lines = byte_lines(path)
    number, first = next(lines, (0, None))
    if first is None:
        raise ValueError(f"{path}: empty, without even a line of column names")
    columns = _columns(path, task, split, first)
    if not columns.in_file:
        lines = _again(number, first, lines)
    rows, skipped, ends_with_break = [], [], True
    for index, (number, line) in enumerate(lines):
        ends_with_break = line.endswith(b"\n")
        try:
            rows.append(_row(path, number, line, columns, task, split, index))
        except RowError as error:
            if not skip_malformed:
                cut = "" if ends_with_break else "; the file ends there without a line break: it seems to be cut off"
                raise ValueError(f"{error}{cut} (--skip-malformed leaves such rows out)") from None
            skipped.append(error)
    if not rows:
        raise ValueError(f"{path}: it has no rows" + (f" that can be read; the first: {skipped[0]}" if skipped else ""))
    if any(row.label is None for row in rows):
        rows = [row._replace(label=None) for row in rows]

    warnings = []
    if skipped:
        warnings.append(f"{path}: {len(skipped)} malformed rows left out, the first of them: {skipped[0]}")
    if not ends_with_break:
        warnings.append(f"{path}:{number}: the last line has no line break; the file may be cut off")
    official = task.splits[split]
    if not is_stand_in(path, task, split) and len(rows) != official.rows:
        warnings.append(f"{path}: {len(rows)} rows, and GLUE's {task.name} has {official.rows}")
    return Table(path, rows, warnings)


def is_stand_in(path: Path, task: Task, split: str) -> bool:
    """Whether a file's name says that it stands for the published one."""
    return Path(path).name.split(".")[0] != task.splits[split].names[0]


def _again(number: int, first: bytes, lines):
    yield number, first
    yield from lines


class _Columns(NamedTuple):
    """Where things are in a row: positions, or None. *in_file*: whether the file's first line names the columns."""

    count: int
    sentences: Tuple[int, ...]
    label: Optional[int]
    index: Optional[int]
    in_file: bool


def _fields(path: Path, number: int, line: bytes) -> List[str]:
    try:
        return decode(line, f"{path}:{number}").split("\t")
    except TextError as error:
        raise RowError(str(error)) from None


def _columns(path: Path, task: Task, split: str, first: bytes) -> _Columns:
    names = _fields(path, 1, first)
    in_file = not (task.name == "CoLA" and len(names) == len(COLA_COLUMNS) and names[1] in task.classes)
    if not in_file:
        names = list(COLA_COLUMNS)

    def find(wanted: Names) -> Optional[int]:
        return next((names.index(name) for name in wanted if name in names), None)

    sentences, label = [find(wanted) for wanted in task.sentences], find(task.label)
    missing = [" or ".join(wanted) for wanted, position in zip(task.sentences, sentences) if position is None]
    if label is None and not split.startswith("test"):
        missing.append(" or ".join(task.label))
    if missing:
        raise ValueError(f"{path}:1: no column {', '.join(missing)}; there are {', '.join(names)}")
    return _Columns(len(names), tuple(sentences), label, find(("index", "id")), in_file)


def _row(path: Path, number: int, line: bytes, columns: _Columns, task: Task, split: str, index: int) -> Row:
    fields = _fields(path, number, line)
    if len(fields) != columns.count:
        where = "the first line" if columns.in_file else "a row of this task"
        raise RowError(f"{path}:{number}: {len(fields)} fields, and {where} has {columns.count}")
    # Some published sentences (SST-2's) end in a space, which byte-level BPE would make a token of.
    sentences = tuple(fields[position].strip() for position in columns.sentences)
    if not any(sentences):
        raise RowError(f"{path}:{number}: no text")
    label = None if columns.label is None else fields[columns.label]
    if split.startswith("test") and label is not None and read_number(label) == UNKNOWN:
        label = None
    if label is not None:
        label = _label(label, task, f"{path}:{number}")
    return Row(str(index) if columns.index is None else fields[columns.index], sentences, label)


def _label(text: str, task: Task, where: str) -> str:
    """A label as the task writes it."""
    if task.is_regression:
        found, wanted = text.strip() if read_number(text, 0, MOST) is not None else None, f"a number from 0 to {MOST:g}"
    else:
        found, wanted = read_class(text, task.classes), f"one of {', '.join(task.classes)}"
    if found is None:
        raise RowError(f"{where}: the label is {text!r}, and should be {wanted}")
    return found
