"""The numbers of a report: one line for each task, further coordinates, measure and method, without any formatting."""

from statistics import fmean
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from sharp_plugins.runs.coordinates import Coordinates, coordinates, in_order, is_comparable
from sharp_plugins.runs.record import Measure, Result
from sharp_plugins.runs.selection import Search, coordinates_of_sweep
from sharp_plugins.runs.statistics import Comparison, Summary, compare, correct, summarize

Measures = Callable[[str], Sequence[Measure]]
Group = Dict[int, Result]  # by seed


class Line(NamedTuple):
    """A method's runs on a task, in one measure.

    Attributes:
        task, method, measure: of what.
        axes: further coordinates, such as (("examples", 16),).
        chosen: the value of the swept settings that the runs have; empty without a sweep.
        summary: runs, mean, standard deviation and best.
        comparison: to the baseline; None for the baseline, or where the two share no seed.
        minutes: of one run, on average.
        memory: in bytes, the most of the runs; None where no run knows.
    """

    task: str
    axes: Coordinates
    measure: Measure
    method: str
    chosen: Coordinates
    summary: Summary
    comparison: Optional[Comparison]
    minutes: float
    memory: Optional[int]


class Grouped(NamedTuple):
    """Results by task, coordinates and method, with the order in which each is shown."""

    tasks: List[str]
    methods: List[str]
    runs: Dict[Tuple[str, Coordinates, str], Group]

    def axes_of(self, task: str) -> List[Coordinates]:
        return in_order(axes for name, axes, _ in self.runs if name == task)

    def beside(self, task: str, axes: Coordinates, method: str) -> Optional[Group]:
        """A method's runs that are compared with those at *axes*: of the same coordinates, as far as the method has them.

        It may lack settings that it has no use for, such as base a radius. The benchmark's own axes, whose names have no dot, tell
        which data a run has, and must be the same."""
        fitting = [own for name, own, other in self.runs if (name, other) == (task, method) and is_comparable(own, axes)]
        return self.runs[task, max(fitting, key=len), method] if fitting else None


def group(results: Sequence[Result], methods: Sequence[str], tasks: Sequence[str], search: Optional[Search] = None) -> Grouped:
    """Group the results, of a search those with the chosen values.

    Args:
        methods, tasks: in their order; others that have results follow.

    Raises:
        ValueError: two results are of one run.
    """
    swept = search.axes if search else ()
    kept = [result for result in results if search is None or search.keeps(result.record)]
    runs: Dict[Tuple[str, Coordinates, str], Group] = {}
    for result in kept:
        record = result.record
        key = record.task, coordinates(record, without=swept), record.method
        if record.seed in runs.setdefault(key, {}):
            raise ValueError(f"two results are of one run: {record}")
        runs[key][record.seed] = result
    there = [result.record.task for result in kept], [result.record.method for result in kept]
    order = [[name for name in dict.fromkeys([*first, *found]) if name in found] for first, found in zip((tasks, methods), there)]
    return Grouped(order[0], order[1], {key: dict(sorted(of.items())) for key, of in runs.items()})


def values_of(runs: Group, measure: Measure) -> Dict[int, float]:
    """By seed, of the runs that have the measure."""
    found = {seed: measure.of(run) for seed, run in runs.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def lines_of(grouped: Grouped, measures: Measures, baseline: Optional[str], search: Optional[Search] = None) -> List[Line]:
    """A line for each task, measure, coordinates and method of which there are runs, with p corrected for all of them."""
    lines = []
    for task in grouped.tasks:
        for measure in measures(task):
            for axes in grouped.axes_of(task):
                for method in grouped.methods:
                    runs = grouped.runs.get((task, axes, method), {})
                    values = values_of(runs, measure)
                    if values:
                        other = grouped.beside(task, axes, baseline) if baseline and method != baseline else None
                        better = measure.higher_is_better
                        comparison = compare(values, values_of(other, measure), better) if other else None
                        measured = [runs[seed] for seed in values]
                        summary = summarize(list(values.values()), better)
                        if summary.std == 0 and not any(run.updates for run in measured):
                            summary = summary._replace(std=None)  # nothing trained: one value, and no spread of seeds
                        chosen = _chosen(runs, search)
                        cost = minutes_of(measured), memory_of(measured)
                        lines.append(Line(task, axes, measure, method, chosen, summary, comparison, *cost))
    corrected = correct([line.comparison for line in lines])
    return [line._replace(comparison=comparison) for line, comparison in zip(lines, corrected)]


def _chosen(runs: Group, search: Optional[Search]) -> Coordinates:
    return coordinates_of_sweep(next(iter(runs.values())).record, search.axes) if search else ()


def minutes_of(runs: Sequence[Result]) -> float:
    """Of one run, on average."""
    return fmean(run.minutes for run in runs)


def memory_of(runs: Sequence[Result]) -> Optional[int]:
    """The most that one of the runs held, in bytes."""
    return max((run.memory for run in runs if run.memory is not None), default=None)


class Cost(NamedTuple):
    """What a method's runs cost, beside those of another method.

    Attributes:
        minutes, memory: as of `Line`.
        other_minutes, other_memory: the other method's; None where there is none, or it does not know.
    """

    task: str
    axes: Coordinates
    method: str
    minutes: float
    memory: Optional[int]
    other_minutes: Optional[float]
    other_memory: Optional[int]

    @property
    def more_minutes(self) -> Optional[float]:
        """Percent.

        >>> Cost("RTE", (), "dsam", 15.0, None, 12.0, None).more_minutes
        25.0
        """
        return 100 * (self.minutes / self.other_minutes - 1) if self.other_minutes else None

    @property
    def more_memory(self) -> Optional[float]:
        """Percent."""
        return 100 * (self.memory / self.other_memory - 1) if self.memory is not None and self.other_memory else None


def costs_of(grouped: Grouped, over: Optional[str]) -> List[Cost]:
    """What the runs of each method that trains cost on each task, beside those of the method *over*."""
    costs = []
    for task in grouped.tasks:
        for axes in grouped.axes_of(task):
            for method in grouped.methods:
                runs = grouped.runs.get((task, axes, method))
                own = list(runs.values()) if runs else []
                if any(run.updates for run in own):
                    other = grouped.beside(task, axes, over) if over and method != over else None
                    others = list(other.values()) if other else []
                    beside = minutes_of(others) if others else None, memory_of(others)
                    costs.append(Cost(task, axes, method, minutes_of(own), memory_of(own), *beside))
    return costs
