"""The files of raw numbers: what they have of runs that this machine has not stays, or a report that would lose it is refused."""

import csv
from pathlib import Path
from typing import Collection, Container, Dict, Iterable, List, Sequence, Tuple

from plan import Cell

from sharp_plugins.files.writing import replacing

WHERE = ("layers", "task", "rows", "noise", "noisy_selection")
COLUMNS = (*WHERE, "method", "settings", "seed", "metric", "value", "selection", "minutes")  # of a study's fresh runs
ALL = "all"  # rows
Row = Dict[str, str]  # of a file, by its columns


def where_of(cell: Cell) -> List[str]:
    """`WHERE` without the layers."""
    return [cell.task, str(cell.rows or ALL), f"{cell.noise:g}", str(int(cell.noisy_selection))]


def read_csv(path: Path) -> List[Row]:
    """Nothing where there is no such file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence]) -> None:
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])


def refuse(lost: Collection[Tuple], names: Sequence[str]) -> None:
    """Raise ValueError where runs, by the columns *names*, are *lost*: they would be written over."""
    if lost:
        first = " ".join(map(str, next(iter(lost))))
        raise ValueError(
            f"{len(lost)} runs are there and not in --out, such as {first} ({', '.join(names)}); give another --to or --name"
        )


def refuse_lost(path: Path, there: Container[Tuple[str, ...]], names: Sequence[str]) -> None:
    """Raise ValueError where the file has runs, by the columns *names*, that are not *there*."""
    try:
        refuse([run for run in (by(row, names) for row in read_csv(path)) if run not in there], names)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def joined(old: Sequence[Row], new: Sequence[Row], baseline: str) -> List[Row]:
    """*new*, and of *old* the methods of cells that *new* has not.

    Raises:
        ValueError: *old* has runs of such a method that *new* has not, or the methods of a cell have not the settings of its
            *baseline* in common.
    """
    where, names = (*WHERE, "method"), (*WHERE, "method", "seed")
    trained, there = ({by(row, columns) for row in new} for columns in (where, names))
    kept = [row for row in old if by(row, where) not in trained]
    refuse([by(row, names) for row in old if by(row, where) in trained and by(row, names) not in there], names)
    settings = {by(row, WHERE): row["settings"] for row in (*kept, *new) if row["method"] == baseline}
    for row in (*kept, *new):
        shared = settings.get(by(row, WHERE), "")
        if row["settings"].split()[: len(shared.split())] != shared.split():
            words = f"{' '.join(by(row, where))} ({', '.join(where)}) has {row['settings']}, and {baseline} has {shared}"
            raise ValueError(f"{words}: train it again, or give another --to")
    return [*kept, *new]


def by(row: Row, names: Sequence[str]) -> Tuple[str, ...]:
    return tuple(row[name] for name in names)
