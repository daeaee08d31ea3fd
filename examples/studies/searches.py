"""What the searches saw: of each value, the pilot seeds' scores on what chose it. A study's report adds them to its table."""

import math
from pathlib import Path
from typing import Callable, Container, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Set, Tuple

from raw import digits, refuse

from sharp_plugins.files.yaml import read_yaml
from sharp_plugins.runs.record import Result
from sharp_plugins.runs.statistics import summarize
from sharp_plugins.runs.store import directory_of, load_results, stored

COLUMNS = ("layers", "cell", "method", "setting", "value", "seed", "score")


def words_of(settings: Sequence[str]) -> str:
    """
    >>> words_of(["optimization.lr=1e-4", "optimizer.sam_rho=0.01"])
    'lr=1e-4, sam rho=0.01'
    """
    return ", ".join(setting.split(".", 1)[1].replace("_", " ") for setting in settings)


class Pilot(NamedTuple):
    """A search.

    Attributes:
        layers: of the encoder.
        cell: its name, or the task's.
        setting: what was searched, such as "optimizer.sam_rho".
        found: of each value as given, the scores by seed.
    """

    layers: int
    cell: str
    method: str
    setting: str
    found: Dict[str, Dict[int, float]]


def read(
    directory: Path,
    benchmark: str,
    cell: str,
    method: str,
    search: str,
    score: Callable[[Result], float],
    seeds: Sequence[int],
    others: bool = False,
) -> Pilot:
    """The finished runs of a search, and the values of which all have failed.

    Args:
        search: as --sweep has it, such as "optimizer.sam_rho=0.01,0.02".
        seeds: of the pilots.
        others: whether what else was tried in the same place is told, too.
    """
    setting, values = search.split("=")
    found: Dict[str, Dict[int, float]] = {value: {} for value in values.split(",")}
    results = load_results(directory, benchmark)
    layers = layers_of(directory, results[0]) if results else 0
    begun = {record.axes[setting] for _, record in stored(directory, benchmark) if setting in record.axes}
    if others:
        found.update({text_of(value): {} for value in sorted(begun - set(map(float, found)))})
        found = {value: found[value] for value in sorted(found, key=float)}
    found = {value: own for value, own in found.items() if float(value) in begun}  # study.py may have been given fewer
    for result in results:
        for value in found:
            if float(value) == result.record.axes[setting] and result.record.seed in seeds:
                found[value][result.record.seed] = score(result)
    return Pilot(layers, cell, method, setting, found)


def text_of(value: float) -> str:
    """A value with all its digits, in the form that the plan has.

    >>> text_of(2e-5), text_of(0.03)
    ('2e-5', '0.03')
    """
    return repr(value).replace("e-0", "e-")


def config_of(out: Path, result: Result) -> Dict:
    """A run's own, of a call of the engine with that --out."""
    return read_yaml(directory_of(out, result.record) / "run.yaml")


def layers_of(out: Path, result: Result) -> int:
    return config_of(out, result)["model"]["encoder_layers"]


def from_rows(rows: Iterable[Dict[str, str]]) -> List[Pilot]:
    """Those of a file, whose rows are by `COLUMNS`."""
    found: Dict[Tuple[int, str, str, str], Pilot] = {}
    for row in rows:
        key = int(row["layers"]), row["cell"], row["method"], row["setting"]
        own = found.setdefault(key, Pilot(*key, {})).found
        own.setdefault(row["value"], {}).update({int(row["seed"]): float(row["score"])} if row["seed"] else {})
    return list(found.values())


def joined(old: Sequence[Pilot], new: Sequence[Pilot], trained: Container[Tuple[int, str, str]]) -> List[Pilot]:
    """*new*, and of *old* the methods of cells that *new* has not, or has searched less of.

    Args:
        trained: (layers, cell, method) of which *new* has fresh runs, too.

    Raises:
        ValueError: *old* has runs of what is trained that *new* has not.
    """
    theirs, ours = runs_of(old), runs_of(new)
    replaced = {key for key in ours if key in trained or theirs.get(key, set()) <= ours[key]}
    refuse(sorted(run for key in replaced for run in theirs.get(key, set()) - ours[key]), COLUMNS[:-1])
    return [*(pilot for pilot in old if pilot[:3] not in replaced), *(pilot for pilot in new if pilot[:3] in replaced)]


def runs_of(pilots: Sequence[Pilot]) -> Dict[Tuple[int, str, str], Set[Tuple]]:
    """The runs of each (layers, cell, method), by `COLUMNS` without the score; a value may be written in several forms."""
    runs: Dict[Tuple[int, str, str], Set[Tuple]] = {}
    for pilot in pilots:
        own = ((*pilot[:4], float(value), seed) for value, own in pilot.found.items() for seed in own)
        runs.setdefault(pilot[:3], set()).update(own)
    return runs


def table_rows(pilots: Sequence[Pilot], scored: str) -> List[List[str]]:
    """Means of the pilot seeds, with a head. A value that lacks runs says of how many its mean is.

    Args:
        scored: what the scores are, for the head.
    """
    rows = [["layers", "cell", "method", "searched", f"{scored}, by value", "best"]]
    for pilot in pilots:
        most = max(map(len, pilot.found.values()))
        means = []
        for value, own in pilot.found.items():
            seeds = "" if len(own) == most else f" ({len(own)} of {most} runs)"
            means += [f"{value}: {summarize(list(own.values())).mean:.2f}{seeds}"] if own else [f"{value}: failed"]
        rows.append([str(pilot.layers), pilot.cell, pilot.method, words_of([pilot.setting]), ", ".join(means), best_of(pilot)])
    return rows


def best_of(pilot: Pilot) -> str:
    """The values with the best mean of those that have all runs; at an end of what was tried, one beyond it may be better still.

    >>> best_of(Pilot(6, "CoLA-300", "base", "optimization.lr", {"1e-4": {101: 70.0}, "3e-4": {101: 60.0}}))
    '1e-4, the smallest tried'
    """
    most = max(map(len, pilot.found.values()))
    # To so many digits, as --sweep chooses: the mean of the same scores in another order is the same.
    means = {value: round(summarize(list(own.values())).mean, 9) for value, own in pilot.found.items() if len(own) == most}
    known = [mean for mean in means.values() if not math.isnan(mean)]
    best = [value for value in means if known and means[value] == max(known)]
    tried = sorted(pilot.found, key=float)
    ends = [name for end, name in ((tried[0], "smallest"), (tried[-1], "largest")) if end in best and len(means) > 1]
    return " and ".join(best) + (f", the {' and the '.join(ends)} tried" if ends else "")


def csv_rows(pilots: Sequence[Pilot]) -> Iterator[List]:
    """Each run by `COLUMNS`, and each value without runs: those that failed are none, and would not be told."""
    for pilot in pilots:
        for value, own in pilot.found.items():
            yield from ([*pilot[:4], value, seed, digits(score)] for seed, score in sorted(own.items()))
            if not own:
                yield [*pilot[:4], value, "", ""]
