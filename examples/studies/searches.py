"""What the searches saw: of each value, the pilot seeds' scores on what chose it. A study's report adds them to its table."""

from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

from sharp_plugins.runs.record import Result
from sharp_plugins.runs.statistics import summarize
from sharp_plugins.runs.store import load_results

COLUMNS = ("cell", "method", "setting", "value", "seed", "score")


def words_of(settings: Sequence[str]) -> str:
    """
    >>> words_of(["optimization.lr=1e-4", "optimizer.sam_rho=0.01"])
    'lr=1e-4, sam rho=0.01'
    """
    return ", ".join(setting.split(".", 1)[1].replace("_", " ") for setting in settings)


class Pilot(NamedTuple):
    """A search.

    Attributes:
        cell: its name, or the task's.
        setting: what was searched, such as "optimizer.sam_rho".
        found: of each value as given, the scores by seed.
    """

    cell: str
    method: str
    setting: str
    found: Dict[str, Dict[int, float]]


def read(
    directory: Path, benchmark: str, cell: str, method: str, search: str, score: Callable[[Result], float], seeds: Sequence[int]
) -> Pilot:
    """The finished runs of a search. What an earlier one in the same place had beyond it is left out.

    Args:
        search: as --sweep has it, such as "optimizer.sam_rho=0.01,0.02".
        seeds: of the pilots.
    """
    setting, values = search.split("=")
    found: Dict[str, Dict[int, float]] = {value: {} for value in values.split(",")}
    for result in load_results(directory, benchmark):
        for value in found:
            if float(value) == result.record.axes[setting] and result.record.seed in seeds:
                found[value][result.record.seed] = score(result)
    return Pilot(cell, method, setting, found)


def from_rows(rows: Iterable[Dict[str, str]]) -> List[Pilot]:
    """Those of a file, whose rows are by `COLUMNS`."""
    found: Dict[Tuple[str, str, str], Pilot] = {}
    for row in rows:
        key = row["cell"], row["method"], row["setting"]
        own = found.setdefault(key, Pilot(*key, {})).found
        own.setdefault(row["value"], {})[int(row["seed"])] = float(row["score"])
    return list(found.values())


def joined(old: Sequence[Pilot], new: Sequence[Pilot]) -> List[Pilot]:
    """*new*, and of *old* the cells that *new* has not."""
    cells = {pilot.cell for pilot in new}
    return [*(pilot for pilot in old if pilot.cell not in cells), *new]


def table_rows(pilots: Sequence[Pilot], scored: str) -> List[List[str]]:
    """Means of the pilot seeds, with a head.

    Args:
        scored: what the scores are, for the head.
    """
    rows = [["cell", "method", "searched", f"{scored}, by value"]]
    for pilot in pilots:
        means = [f"{value}: {summarize(list(own.values())).mean:.2f}" for value, own in pilot.found.items() if own]
        rows.append([pilot.cell, pilot.method, words_of([pilot.setting]), ", ".join(means)])
    return rows


def csv_rows(pilots: Sequence[Pilot]) -> Iterator[List]:
    """Each run by `COLUMNS`."""
    for pilot in pilots:
        for value, own in pilot.found.items():
            yield from (
                [pilot.cell, pilot.method, pilot.setting, value, seed, f"{score:.4f}"] for seed, score in sorted(own.items())
            )
