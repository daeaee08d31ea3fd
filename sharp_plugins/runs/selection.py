"""A search's result: which value of the swept settings each method keeps.

Each method of each task is given the value with the best mean, over the seeds, of one measure. It is best taken on data that are
not reported. The papers choose on the development set that they report; the table then says so.
"""

import math
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from sharp_plugins.runs.coordinates import Coordinates, coordinates, in_order
from sharp_plugins.runs.record import Measure, Record, Result, Value
from sharp_plugins.runs.statistics import Summary, summarize

Axes = Union[Sequence[str], Mapping[str, Sequence[Value]]]


class Candidate(NamedTuple):
    """A method's runs with one value of the swept settings.

    Attributes:
        task, method: whose.
        axes: its coordinates that are not swept; each combination of them is given a value of its own.
        value: of the swept settings; empty for a method that has none of them.
        summary: of the measure that chooses; None where no run has it.
        chosen: whether this value is the one that is kept.
    """

    task: str
    method: str
    axes: Coordinates
    value: Coordinates
    summary: Optional[Summary]
    chosen: bool


class Search(NamedTuple):
    """What `choose` found.

    Attributes:
        axes: names of the swept settings.
        measures: by task, what chose.
        candidates: of all tasks and methods, in the order of the results; a method's values in the order given.
        unfinished: (task, method) of which not all values have the same seeds, or none has any, so that the choice may change.
        left_out: (task, method, number) of the runs that lie beside those of their method's search and had none.
    """

    axes: Tuple[str, ...]
    measures: Dict[str, Measure]
    candidates: List[Candidate]
    unfinished: List[Tuple[str, str]]
    left_out: List[Tuple[str, str, int]] = []

    def keeps(self, record: Record) -> bool:
        """Whether it is a run with the chosen value."""
        kept = {one[:4] for one in self.candidates if one.chosen}
        return (*_owner(record, self.axes), coordinates_of_sweep(record, self.axes)) in kept

    def ordered(self, tasks: Sequence[str], methods: Sequence[str]) -> "Search":
        """The same, with the candidates by task, by their other coordinates and by method, in the orders given."""
        axes = in_order(one.axes for one in self.candidates)
        there = [one for one in self.candidates if one.task in tasks and one.method in methods]
        order = sorted(there, key=lambda one: (tasks.index(one.task), axes.index(one.axes), methods.index(one.method)))
        return self._replace(candidates=order)

    def searched(self) -> List[Candidate]:
        """Candidates that had a rival."""
        owners = [one[:3] for one in self.candidates]
        return [one for one in self.candidates if owners.count(one[:3]) > 1]


def coordinates_of_sweep(record: Record, axes: Sequence[str]) -> Coordinates:
    return coordinates(record, without=[name for name in record.axes if name not in axes])


def _owner(record: Record, axes: Sequence[str]) -> Tuple[str, str, Coordinates]:
    return record.task, record.method, coordinates(record, without=axes)


def choose(results: Sequence[Result], axes: Axes, measure: Callable[[str], Measure]) -> Search:
    """For each task and method, the value of the swept settings with the best mean of a measure over the seeds.

    Only values that have all seeds are compared: one whose other runs failed, as training diverged, must not win by those that are
    left. Where none has all, means are over the seeds that all have, if there are any. Of equal means the value given first is
    taken. A run that diverged (NaN) makes its value the worst. Of a method with swept runs only these are looked at: its other
    runs had no search.

    Args:
        results: of all values.
        axes: the swept settings' names, or better each name with its values in the order given. Values that are not in it follow.
        measure: of a task, what chooses.

    >>> accuracy = Measure("valid", "accuracy", "accuracy")
    >>> def run(rho, seed, value):
    ...     record = Record("glue", "RTE", "sam", seed, {"rho": rho})
    ...     return Result(record, {"valid": {"accuracy": value}}, 1.0, 10, None, None, [], {})
    >>> results = [run(0.01, 1, 70.0), run(0.01, 2, 72.0), run(0.05, 1, 73.0), run(0.05, 2, 71.0)]
    >>> search = choose(results, {"rho": [0.05, 0.01]}, lambda task: accuracy)
    >>> [one.value for one in search.candidates if one.chosen]
    [(('rho', 0.05),)]
    >>> [result.record.seed for result in results if search.keeps(result.record)]
    [1, 2]
    """
    names = tuple(axes)
    given = {name: list(axes[name]) if isinstance(axes, Mapping) else [] for name in names}
    runs: Dict[Tuple[str, str, Coordinates], Dict[Coordinates, List[Result]]] = {}
    for result in results:
        values = runs.setdefault(_owner(result.record, names), {})
        values.setdefault(coordinates_of_sweep(result.record, names), []).append(result)
    measures = {task: measure(task) for task, _, _ in runs}

    def place(value: Coordinates) -> List[int]:
        own = dict(value)
        return [given[name].index(own[name]) if own.get(name) in given[name] else len(given[name]) for name in names]

    candidates: List[Candidate] = []
    unfinished: List[Tuple[str, str]] = []
    left_out: Dict[Tuple[str, str], int] = {}
    for (task, method, others), values in runs.items():
        by = measures[task]
        # Values that were not given stay in the order of the results.
        ordered = sorted((value for value in values if value or len(values) == 1), key=place)
        if () in values and () not in ordered:
            left_out[task, method] = left_out.get((task, method), 0) + len(values[()])
        seeds = [{run.record.seed for run in values[value] if by.of(run) is not None} for value in ordered]
        every = set.union(*seeds)
        whole = [of == every for of in seeds]
        if not all(whole) or not every:  # or no run tells the measure
            unfinished.append((task, method))
        common = every
        if not any(whole):
            common, whole = set.intersection(*filter(None, seeds)) or every, [True] * len(seeds)
        summaries = [_summary(values[value], by) for value in ordered]
        compared = [_summary([run for run in values[value] if run.record.seed in common], by) for value in ordered]
        worth = [_worth(one if has_all else None, by) for one, has_all in zip(compared, whole)]
        kept = worth.index(max(worth))  # the first of equal ones
        for number, (value, summary) in enumerate(zip(ordered, summaries)):
            candidates.append(Candidate(task, method, others, value, summary, number == kept))
    return Search(names, measures, candidates, list(dict.fromkeys(unfinished)), [(*of, runs) for of, runs in left_out.items()])


def _summary(results: Sequence[Result], measure: Measure) -> Optional[Summary]:
    known = [value for value in map(measure.of, results) if value is not None]
    return summarize(known, measure.higher_is_better) if known else None


def _worth(summary: Optional[Summary], measure: Measure) -> float:
    if summary is None or math.isnan(summary.mean):
        return -math.inf
    # Equal means may differ in their last bits, by the order of the seeds.
    return round(summary.mean if measure.higher_is_better else -summary.mean, 9)
