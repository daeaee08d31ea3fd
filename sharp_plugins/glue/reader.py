"""GLUE's tab-separated files, row by row: as published, or with the columns of `tasks`, gzip-compressed or not."""

from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from sharp_plugins.files.rows import Maker, RowError, Rows, read_rows
from sharp_plugins.files.text import read_class, read_number
from sharp_plugins.glue.tasks import COLA_COLUMNS, MOST, REQUIRED, Names, Task

ENDINGS = (".tsv", ".tsv.gz")
# What other distributions of GLUE have for the labels of test sets.
UNKNOWN = -1


class Row(NamedTuple):
    """One instance.

    Attributes:
        index: as the file numbers it, or its number from 0.
        sentences: one or two, without white space around them.
        label: as the file has it; None in a test file without labels.
    """

    index: str
    sentences: Tuple[str, ...]
    label: Optional[str]


def find_files(directory: Path, task: Task) -> Dict[str, Path]:
    """The file of each of fairseq's splits that is there.

    Args:
        directory: with one directory for each task.

    Raises:
        FileNotFoundError: the training or development set is not there.
        ValueError: the development set is a part of the training set.
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


def is_stand_in(path, task: Task, split: str) -> bool:
    """Whether a file's name says that it stands for the published one.

    >>> from sharp_plugins.glue.tasks import TASKS
    >>> is_stand_in("train_10k.tsv.gz", TASKS["MNLI"], "train")
    True
    """
    return Path(path).name.split(".")[0] != task.splits[split].names[0]


def read(path, task: Task, split: str, skip_malformed: bool = False) -> Rows:
    """Read the file of one of fairseq's splits; the rows are `Row`.

    Args:
        skip_malformed: leave out rows that cannot be read, and say how many in a warning.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is empty, cut off, or a row is not what the task's rows are; names file and line.
    """

    def unnamed(fields: List[str]) -> Optional[Names]:
        is_row = task.name == "CoLA" and len(fields) == len(COLA_COLUMNS) and fields[1] in task.classes
        return COLA_COLUMNS if is_row else None

    advice = " (--skip-malformed leaves such rows out)"
    rows, warnings = read_rows(path, lambda names: _maker(names, path, task, split), unnamed, skip_malformed, advice)
    if any(row.label is None for row in rows):
        rows = [row._replace(label=None) for row in rows]
    official = task.splits[split]
    if not is_stand_in(path, task, split) and len(rows) != official.rows:
        warnings.append(f"{path}: {len(rows)} rows, and GLUE's {task.name} has {official.rows}")
    return Rows(rows, warnings)


def _maker(names: Sequence[str], path, task: Task, split: str) -> Maker:
    """What makes a `Row`, of columns with these names."""

    def find(wanted: Names) -> Optional[int]:
        return next((names.index(name) for name in wanted if name in names), None)

    is_test = split.startswith("test")
    sentences, label, index = [find(wanted) for wanted in task.sentences], find(task.label), find(("index", "id"))
    missing = [" or ".join(wanted) for wanted, position in zip(task.sentences, sentences) if position is None]
    if label is None and not is_test:
        missing.append(" or ".join(task.label))
    if missing:
        raise ValueError(f"{path}:1: no column {', '.join(missing)}; there are {', '.join(names)}")

    def make(fields: List[str], number: int, where: str) -> Row:
        # Some published sentences (SST-2's) end in a space, which byte-level BPE would make a token of.
        texts = tuple(fields[position].strip() for position in sentences)
        if not any(texts):
            raise RowError(f"{where}: no text")
        known = label is not None and not (is_test and read_number(fields[label]) == UNKNOWN)
        return Row(str(number) if index is None else fields[index], texts, _label(fields[label], task, where) if known else None)

    return make


def _label(text: str, task: Task, where: str) -> str:
    """A label as the task writes it."""
    if task.is_regression:
        found, wanted = text.strip() if read_number(text, 0, MOST) is not None else None, f"a number from 0 to {MOST:g}"
    else:
        found, wanted = read_class(text, task.classes), f"one of {', '.join(task.classes)}"
    if found is None:
        raise RowError(f"{where}: the label is {text!r}, and should be {wanted}")
    return found
