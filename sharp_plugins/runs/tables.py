"""The tables of a report, in Markdown, from the numbers of `sharp_plugins.runs.lines` and `budgets`.

Axes that are not swept, such as the number of examples, stand in columns of their own. "–" is what cannot be computed, such as an
interval of one seed; an empty cell is what does not apply.
"""

from statistics import fmean
from typing import Callable, Dict, List, Optional, Sequence

from sharp_plugins.runs.budgets import Reached
from sharp_plugins.runs.coordinates import Coordinates, in_order, label
from sharp_plugins.runs.lines import Cost, Line
from sharp_plugins.runs.record import Measure
from sharp_plugins.runs.selection import Search
from sharp_plugins.runs.statistics import Comparison, Summary
from sharp_plugins.runs.table import markdown_table

NONE = "–"
MIB, GIB = 2**20, 2**30


def heading(measure: Measure) -> str:
    """A measure's name, with the direction where it is not the usual one.

    >>> heading(Measure("test", "ter", "TER", higher_is_better=False))
    'TER, lower is better'
    """
    return measure.heading if measure.higher_is_better else f"{measure.heading}, lower is better"


def axis_names(keys: Sequence[Coordinates]) -> List[str]:
    return list(dict.fromkeys(name for key in keys for name, _ in key))


def _axis_cells(names: Sequence[str], key: Coordinates) -> List[Optional[str]]:
    own = dict(key)
    return [label(own[name]) if name in own else None for name in names]


def overview(
    lines: Sequence[Line], methods: Sequence[str], value: Callable[[Summary], float], cell: Callable[[Summary], str]
) -> str:
    """Methods by tasks, in each task's first measure, and the average over the tasks, as in the papers' main tables. What has fewer
    runs than the others of its task says so.

    Args:
        value: what is averaged.
        cell: what is shown.
    """
    first = {line.task: line.measure for line in reversed(lines)}
    tasks = list(dict.fromkeys(line.task for line in lines))
    lines = [line for line in lines if line.measure == first[line.task]]
    names = axis_names([line.axes for line in lines])
    # Of a loss and an accuracy an average would say nothing.
    averaged = len(tasks) > 1 and len({first[task].higher_is_better for task in tasks}) == 1
    rows, most = [], {task: max(line.summary.runs for line in lines if line.task == task) for task in tasks}

    def shown(task: str, summary: Summary) -> str:
        return cell(summary) + (f" ({summary.runs} of {most[task]} runs)" if summary.runs < most[task] else "")

    for axes in in_order(line.axes for line in lines):
        for method in methods:
            own = {line.task: line.summary for line in lines if (line.axes, line.method) == (axes, method)}
            if own:
                rows.append(
                    [method, *_axis_cells(names, axes), *(shown(task, own[task]) if task in own else None for task in tasks)]
                )
                if averaged:
                    # Of some of the tasks it would not compare.
                    rows[-1].append(fmean(map(value, own.values())) if len(own) == len(tasks) else None)
    heads = ["method", *names, *(f"{task}, {heading(first[task])}" for task in tasks)]
    return markdown_table(heads + ["average"] if averaged else heads, rows)


def best_of_runs(lines: Sequence[Line], methods: Sequence[str]) -> str:
    return overview(lines, methods, lambda one: one.best, lambda one: f"{one.best:.2f}")


def mean_of_runs(lines: Sequence[Line], methods: Sequence[str]) -> str:
    return overview(lines, methods, lambda one: one.mean, mean_and_std)


def mean_and_std(summary: Summary) -> str:
    return f"{summary.mean:.2f}" if summary.std is None else f"{summary.mean:.2f} ± {summary.std:.2f}"


def all_runs(lines: Sequence[Line]) -> str:
    names = axis_names([line.axes for line in lines])
    heads = ["task", *names, "metric", "method", "runs", "mean", "std", "best", "minutes"]
    rows = [
        [line.task, *_axis_cells(names, line.axes), heading(line.measure), line.method, *line.summary, line.minutes]
        for line in lines
    ]
    return markdown_table(heads, rows)


def differences(lines: Sequence[Line], baseline: str) -> str:
    """Of every line that has a comparison."""
    lines = [line for line in lines if line.comparison]
    names = axis_names([line.axes for line in lines])
    heads = ["task", *names, "metric", "method", "seeds", f"minus {baseline}", "95 % interval", "better in", "p", "p, corrected"]
    rows = []
    for line in lines:
        cells = _comparison_cells(line.comparison) if line.comparison else []
        rows.append([line.task, *_axis_cells(names, line.axes), heading(line.measure), line.method, *cells])
    return markdown_table(heads, rows)


def _comparison_cells(one: Comparison) -> List:
    interval = NONE if one.interval is None else "{:+.2f} to {:+.2f}".format(*one.interval)
    return [
        one.pairs,
        f"{one.difference:+.2f}",
        interval,
        f"{one.better} of {one.pairs}",
        probability(one.p),
        probability(one.corrected),
    ]


def probability(p: Optional[float]) -> str:
    """
    >>> probability(2 / 2**5), probability(1.0), probability(None)
    ('0.0625', '1', '–')
    """
    return NONE if p is None else f"{p:.3g}"


def costs(every: Sequence[Cost], over: Optional[str]) -> str:
    """Minutes and memory by method, and how much more than those of the method *over*; at the end the averages of that.

    A column in which no row has anything is left out.
    """
    names = axis_names([cost.axes for cost in every])
    unit, name = (GIB, "GiB") if max((cost.memory or 0 for cost in every), default=0) >= 10 * GIB else (MIB, "MiB")
    time, memory = f"more than {over}, %", f"more memory than {over}, %"
    heads = ["task", *names, "method", "minutes", time, f"memory, {name}", memory]
    rows: List[Dict[str, object]] = []
    for cost in every:
        held = None if cost.memory is None else f"{cost.memory / unit:.{0 if unit == MIB else 1}f}"
        cells = [cost.task, *_axis_cells(names, cost.axes), cost.method, cost.minutes, cost.more_minutes, held, cost.more_memory]
        rows.append(dict(zip(heads, cells)))
    places = len({(cost.task, cost.axes) for cost in every})
    for method in dict.fromkeys(cost.method for cost in every):
        own = [cost for cost in every if cost.method == method]
        more = {
            time: _average([cost.more_minutes for cost in own], places),
            memory: _average([cost.more_memory for cost in own], places),
        }
        if any(value is not None for value in more.values()):
            rows.append({"task": "average", "method": method, **more})
    heads = [head for head in heads if any(row.get(head) is not None for row in rows)]
    return markdown_table(heads, [[row.get(head) for head in heads] for row in rows])


def _average(values: Sequence[Optional[float]], places: int) -> Optional[float]:
    """None of a single place; of some of the places it would not compare."""
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == places > 1 else None


def cost_of_one(every: Sequence[Cost], method: str, over: str) -> Optional[str]:
    """How much longer one method takes than another, by task; None where no task has both. *every* is beside *over*."""
    names = axis_names([cost.axes for cost in every])
    shown = [cost for cost in every if cost.method == method and cost.more_minutes is not None]
    rows: List[List] = [
        [cost.task, *_axis_cells(names, cost.axes), cost.other_minutes, cost.minutes, cost.more_minutes] for cost in shown
    ]
    if len(rows) > 1:
        rows.append(["average", *(None for _ in names), None, None, fmean(row[-1] for row in rows)])
    return markdown_table(["task", *names, f"{over}, min", f"{method}, min", "more, %"], rows) if rows else None


def within_budget(reached: Sequence[Reached], unit: str, measure: Callable[[str], Measure]) -> str:
    names = axis_names([one.axes for one in reached])
    rows = []
    for one in reached:
        budget = f"{one.budget:.0f}" if unit == "updates" else one.budget
        cells = [one.summary.mean, one.summary.std] if one.summary else [NONE, NONE]
        about = [one.task, *_axis_cells(names, one.axes), heading(measure(one.task)), one.method, one.seeds]
        rows.append([*about, budget, *cells])
    return markdown_table(["task", *names, "metric", "method", "seeds", unit, "mean", "std"], rows)


def searched(search: Search) -> str:
    """Each value that had a rival, and which one was chosen."""
    every = search.searched()
    names = axis_names([one.axes for one in every])
    rows = []
    for one in every:
        cells = [one.summary.runs, one.summary.mean, one.summary.std] if one.summary else [0, NONE, NONE]
        about = [one.task, *_axis_cells(names, one.axes), heading(search.measures[one.task]), one.method]
        rows.append([*about, *_axis_cells(search.axes, one.value), *cells, "chosen" if one.chosen else None])
    return markdown_table(["task", *names, "metric", "method", *search.axes, "runs", "mean", "std", ""], rows)
