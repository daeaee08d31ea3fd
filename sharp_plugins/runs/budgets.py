"""What each method reaches with the same number of updates, or in the same time.

The methods of a task need not make equally many updates, and SAM's take twice as long. For each seed the budget is what the method
that stopped first had used; every method is credited with its best validation until then. So this reads the training's own
validations and not the final measurement, and no run is made for it.
"""

from statistics import fmean
from typing import Callable, Dict, List, NamedTuple, Optional

from sharp_plugins.runs.coordinates import Coordinates, is_comparable
from sharp_plugins.runs.lines import Group, Grouped
from sharp_plugins.runs.record import Measure, Result, Validation
from sharp_plugins.runs.statistics import Summary, summarize


class Reached(NamedTuple):
    """What a method reached within the least common budget.

    Attributes:
        task, axes, method: whose.
        budget: updates or minutes, on average over the seeds.
        seeds: that all methods of the task have.
        summary: of the best validation value of each seed; None where a seed has none by then.
    """

    task: str
    axes: Coordinates
    method: str
    budget: float
    seeds: int
    summary: Optional[Summary]


def equal_budgets(grouped: Grouped, unit: str, measure: Callable[[str], Measure]) -> List[Reached]:
    """Compare the methods at the least common budget of each task and seed.

    Only seeds that all methods of the task have are taken. A method without any validation in the measure, or with a single update,
    has no part in it, and a task where fewer than two methods remain is left out.

    Args:
        unit: "updates" or "minutes".
        measure: of a task; it is looked up in `Validation.metrics`.
    """
    reached = []
    for task in grouped.tasks:
        by = measure(task)
        for axes in _widest(grouped, task):
            groups = {method: grouped.beside(task, axes, method) or {} for method in grouped.methods}
            groups = {method: _validated(runs, by) for method, runs in groups.items()}
            groups = {method: runs for method, runs in groups.items() if runs}
            seeds = [seed for seed in next(iter(groups.values()), {}) if all(seed in runs for runs in groups.values())]
            if len(groups) < 2 or not seeds:
                continue
            least = {seed: min(_used(runs[seed], unit) for runs in groups.values()) for seed in seeds}
            for method, runs in groups.items():
                values = [_best_within(runs[seed], unit, least[seed], by) for seed in seeds]
                known = [value for value in values if value is not None]
                summary = summarize(known, by.higher_is_better) if len(known) == len(values) else None
                reached.append(Reached(task, axes, method, fmean(least.values()), len(seeds), summary))
    return reached


def _widest(grouped: Grouped, task: str) -> List[Coordinates]:
    """Coordinates that are not a part of others: a method without an axis is shown beside the others at each of its values."""
    every = grouped.axes_of(task)
    return [axes for axes in every if not any(axes != other and is_comparable(axes, other) for other in every)]


def _validated(runs: Group, measure: Measure) -> Dict[int, Result]:
    # A single update is made only to get a checkpoint, of an untrained model, say: it would be everybody's budget.
    trained = {seed: run for seed, run in runs.items() if run.updates > 1}
    return {seed: run for seed, run in trained.items() if any(measure.told_by(one.metrics) is not None for one in run.validations)}


def _used(run: Result, unit: str) -> float:
    return run.updates if unit == "updates" else run.minutes


def _when(one: Validation, run: Result, unit: str) -> float:
    """When a validation was made. The run's clock was read as its last checkpoint began, and a validation's time is told a little
    later and rounded: no validation of the training that the run counts is after its end."""
    if unit == "updates":
        return one.update
    return min(one.minutes, run.minutes) if one.update <= run.updates else one.minutes


def _best_within(run: Result, unit: str, budget: float, measure: Measure) -> Optional[float]:
    values = [measure.told_by(one.metrics) for one in run.validations if _when(one, run, unit) <= budget]
    known = [value for value in values if value is not None]
    return summarize(known, measure.higher_is_better).best if known else None
