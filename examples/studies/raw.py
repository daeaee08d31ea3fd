"""The files of raw numbers: what they have of runs that this machine has not stays, or a report that would lose it is refused."""

import csv
import math
from pathlib import Path
from typing import Callable, Collection, Container, Dict, Iterable, List, Sequence, Tuple

from plan import Cell

from sharp_plugins.files.writing import replacing

WHERE = ("layers", "task", "rows", "noise", "noisy_selection")
COLUMNS = (*WHERE, "method", "settings", "seed", "metric", "value", "selection", "minutes")  # of a study's fresh runs
KEY = ("method", "seed")  # of a run in the other scripts' files
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


def digits(score: float) -> str:
    """All of a score's digits. Where the gains of some seeds are as large as those of others, rounded ones are not, and the
    sign-flip test would not count them as equal.

    >>> digits(100 * 706 / 872)
    '80.96330275229357'
    """
    return repr(float(score))


def same(one: str, other: str) -> bool:
    """Whether two texts are of one score. A file that was written earlier may have but four digits after the point.

    >>> same("80.9633", "80.96330275229357"), same("nan", "nan"), same("80.9", "81.0")
    (True, True, False)
    """
    return one == other or math.isclose(float(one), float(other), rel_tol=0, abs_tol=1e-4)


def refuse(lost: Collection[Tuple], names: Sequence[str]) -> None:
    """Raise ValueError where runs, by the columns *names*, are *lost*: they would be written over."""
    if lost:
        first = " ".join(map(str, next(iter(lost))))
        words = f"{len(lost)} runs are there that this call has not, such as {first} ({', '.join(names)})"
        raise ValueError(f"{words}; give another --to or --name")


def losing(path: Path, there: Container[Tuple[str, ...]], names: Sequence[str]) -> List[Tuple[str, ...]]:
    """The file's runs, by the columns *names*, that are not *there*."""
    return [run for run in (by(row, names) for row in read_csv(path)) if run not in there]


def refuse_lost(path: Path, there: Container[Tuple[str, ...]], names: Sequence[str]) -> None:
    """Raise ValueError where the file has runs, by the columns *names*, that are not *there*."""
    try:
        refuse(losing(path, there, names), names)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def joined(old: Sequence[Row], new: Sequence[Row], baseline: str, bases: Callable[[str], Sequence[str]]) -> List[Row]:
    """*new*, and of *old* the methods of cells that *new* has not.

    Args:
        baseline: what the other methods are compared with.
        bases: the methods that a method has settings from.

    Raises:
        ValueError: *old* has runs of *new*'s methods that *new* has not; or has methods that *new* has not beside a baseline that
            has other scores there; or a method has not the settings of those it has them from.
    """
    where, names = (*WHERE, "method"), (*WHERE, "method", "seed")
    trained, there = ({by(row, columns) for row in new} for columns in (where, names))
    kept = [row for row in old if by(row, where) not in trained]
    refuse([by(row, names) for row in old if by(row, where) in trained and by(row, names) not in there], names)
    both, scores = [*kept, *new], {by(row, names): row["value"] for row in old}
    changed = {by(row, where) for row in new if not same(scores.get(by(row, names), row["value"]), row["value"])}
    settings = {by(row, where): settings_in(row) for row in both}
    for row in both:
        own, key = settings_in(row), by(row, where)
        *place, method = key
        told = f"{' '.join(key)} ({', '.join(where)})"
        for base in bases(method):
            theirs = settings.get((*place, base), {})
            other = [name for name, value in theirs.items() if own.get(name) != value]
            if other:
                words = f"{told} has {own.get(other[0])} for {other[0]}, and {base} has {theirs[other[0]]}"
                raise ValueError(f"{words}: train it again, or give another --to or --name")
        if key not in trained and (*place, baseline) in changed:
            words = f"{told} was compared with other runs of {baseline} than those of --out"
            raise ValueError(f"{words}: train it here too, or give another --to or --name")
    return both


def settings_in(row: Row) -> Dict[str, str]:
    return dict(setting.split("=") for setting in row["settings"].split())


def by(row: Row, names: Sequence[str]) -> Tuple[str, ...]:
    return tuple(row[name] for name in names)
