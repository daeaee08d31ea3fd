"""The report of finished runs: ``table.md``, ``table.csv`` and ``table.png``.

The report has, in this order: the best of each method's runs by task, as the papers show it; mean and standard deviation; the
differences to a named baseline; all runs; minutes and memory; what is reached with the same number of updates and in the same time;
and the search, where settings were swept. A part of which there is nothing to show is left out.
"""

import csv
import io
from pathlib import Path
from typing import Callable, Iterable, List, Optional, Sequence, Tuple

from sharp_plugins.files.writing import write_text
from sharp_plugins.runs import tables, words
from sharp_plugins.runs.budgets import equal_budgets
from sharp_plugins.runs.lines import Grouped, Line, Measures, costs_of, group, lines_of
from sharp_plugins.runs.pictures import draw
from sharp_plugins.runs.record import Measure, Result
from sharp_plugins.runs.selection import Search


def write_report(
    out,
    results: Sequence[Result],
    *,
    measures: Measures,
    methods: Sequence[str],
    tasks: Sequence[str],
    baseline: Optional[str],
    title: str,
    about: str,
    notes: Sequence[str] = (),
    chosen: Optional[Search] = None,
    selection: Optional[Callable[[str], Measure]] = None,
    costs: Sequence[Tuple[str, str]] = (),
) -> List[Path]:
    """Write ``table.md``, ``table.csv`` and, where matplotlib is installed, ``table.png`` into the directory *out*.

    Each file is complete or not there, and an older one is replaced.

    Args:
        results: of all finished runs, those of a sweep included.
        measures: of a task, what is shown; the paper's own first.
        methods, tasks: in their order; others that have results follow.
        baseline: the method that the others are compared with; None for no comparison.
        title: the first heading.
        about: a line on what the runs are of.
        notes: further lines, such as which files are not the published ones.
        chosen: what `sharp_plugins.runs.selection.choose` made of a sweep; the tables then show the runs with the chosen values.
        selection: of a task, the measure whose validations are compared at equal updates and in equal time. Default: what chose the
            values of the sweep, and else the first of *measures*.
        costs: pairs of methods such as ("dsam", "sam"): each gets a table of how much longer the first one takes.

    Returns:
        the files written; none where there are no results.

    Raises:
        ValueError: two results are of one run.

    >>> import tempfile
    >>> from sharp_plugins.runs.record import Record
    >>> results = [
    ...     Result(Record("made up", "RTE", method, seed, {}), {"valid": {"accuracy": value}}, 2.0, 100, None, None, [], {})
    ...     for method, values in {"base": (70.0, 71.0), "sam": (72.0, 74.0)}.items()
    ...     for seed, value in enumerate(values)
    ... ]
    >>> accuracy = Measure("valid", "accuracy", "accuracy")
    >>> how = dict(methods=["base", "sam"], tasks=["RTE"], baseline="base", title="Made up", about="Of two seeds.")
    >>> with tempfile.TemporaryDirectory() as out:
    ...     written = write_report(out, results, measures=lambda task: [accuracy], **how)
    ...     text = written[0].read_text(encoding="utf-8")
    >>> print(text.split("## Best of the runs\\n\\n")[1].split("\\n\\n")[0])
    | method   |   RTE, accuracy |
    |:---------|----------------:|
    | base     |           71.00 |
    | sam      |           74.00 |
    """
    if not results:
        return []
    grouped = group(results, methods, tasks, chosen)
    chosen = chosen and chosen.ordered(grouped.tasks, grouped.methods)
    lines = lines_of(grouped, measures, baseline, chosen)
    by = selection or (chosen.measures.__getitem__ if chosen else lambda task: measures(task)[0])
    parts = [f"# {title}", about, *notes]
    parts += _results(lines, grouped, baseline)
    parts += _costs(grouped, baseline, costs)
    parts += _budgets(grouped, by)
    if chosen and chosen.searched():
        parts += ["## The search", words.about_search(chosen, measures), tables.searched(chosen)]
    out = Path(out)
    written = [out / "table.md", out / "table.csv"]
    write_text(written[0], "\n\n".join(part.strip("\n") for part in parts if part) + "\n")
    write_text(written[1], as_csv(lines))
    try:
        if lines:
            draw(lines, grouped.methods, out / "table.png", chosen)
            written.append(out / "table.png")
    except ImportError:
        pass  # of matplotlib
    return written


def _results(lines: Sequence[Line], grouped: Grouped, baseline: Optional[str]) -> Iterable[str]:
    if not lines:
        return
    yield from ("## Best of the runs", tables.best_of_runs(lines, grouped.methods))
    yield from ("## Mean of the runs", "Mean ± sample standard deviation.", tables.mean_of_runs(lines, grouped.methods))
    if baseline and any(line.comparison for line in lines):
        yield f"## Differences to {baseline}"
        yield from (words.about_differences(lines, baseline), tables.differences(lines, baseline))
    yield from ("## All runs", "Minutes are of one run, on average.", tables.all_runs(lines))


def _costs(grouped: Grouped, baseline: Optional[str], pairs: Sequence[Tuple[str, str]]) -> Iterable[str]:
    every = costs_of(grouped, baseline)
    if not every:
        return
    yield "## What a run costs"
    yield words.COSTS
    yield tables.costs(every, baseline)
    for method, over in pairs:
        table = tables.cost_of_one(costs_of(grouped, over), method, over)
        if table:
            yield from (f"## What {method} costs over {over}", table)


def _budgets(grouped: Grouped, by: Callable[[str], Measure]) -> Iterable[str]:
    for unit, heading in (("updates", "## With the same number of updates"), ("minutes", "## In the same time")):
        reached = equal_budgets(grouped, unit, by)
        if reached:
            yield from (heading, f"{words.BUDGETS[unit]} {words.WITHIN}", tables.within_budget(reached, unit, by))


def as_csv(lines: Sequence[Line]) -> str:
    """All numbers of the lines, in full; empty cells are what cannot be computed. Memory is in bytes."""
    names = tables.axis_names([line.axes for line in lines] + [line.chosen for line in lines])
    heads = ["task", *names, "metric", "method", "runs", "mean", "std", "best", "minutes", "memory"]
    heads += ["pairs", "difference", "low", "high", "better", "p", "corrected"]
    cells = io.StringIO()
    table = csv.writer(cells, lineterminator="\n")
    table.writerow(heads)
    for line in lines:
        own = dict(line.axes + line.chosen)
        row = [line.task, *(own.get(name) for name in names), line.measure.heading, line.method, *line.summary]
        row += [line.minutes, line.memory]
        one = line.comparison
        if one:
            row += [one.pairs, one.difference, *(one.interval or (None, None)), one.better, one.p, one.corrected]
        table.writerow(row + [None] * (len(heads) - len(row)))
    return cells.getvalue()
