"""A report's picture. matplotlib is imported when it is needed; without it there is none."""

import math
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from sharp_plugins.files.writing import replacing
from sharp_plugins.runs.coordinates import Coordinates, describe, is_text
from sharp_plugins.runs.lines import Line
from sharp_plugins.runs.selection import Search
from sharp_plugins.runs.statistics import Summary
from sharp_plugins.runs.tables import heading

# An axis whose values differ by such a factor is drawn in powers, as 0.005, 0.01, 0.02, 0.05 are chosen.
POWERS = 8


class Point(NamedTuple):
    """Of a curve. x: None for a method that does not have the axis, which is drawn as a level."""

    x: Optional[float]
    summary: Summary
    chosen: bool = False


class Panel(NamedTuple):
    """Curves over one numeric axis.

    Attributes:
        curves: by the label and the method, which gives the colour.
    """

    title: str
    axis: str
    curves: Dict[Tuple[str, str], List[Point]]


def draw(lines: Sequence[Line], methods: Sequence[str], path, search: Optional[Search] = None) -> None:
    """A panel for each task, in its first measure: mean, standard deviation and best of each method; then curves over the axes.

    There are curves for each numeric axis of which a task has several values, and for each numeric setting that was searched.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    from matplotlib import pyplot

    tasks = list(dict.fromkeys(line.task for line in lines))
    first = {line.task: line.measure for line in reversed(lines)}
    lines = [line for line in lines if line.measure == first[line.task]]
    curves = [*over_axes(lines), *(over_search(search) if search else [])]
    panels = len(tasks) + len(curves)
    columns = min(4, panels)
    rows = -(-panels // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(1.5 + 3.2 * columns, 0.8 + 3.0 * rows), squeeze=False)
    for axis, task in zip(axes.flat, tasks):
        _points(axis, f"{task}, {heading(first[task])}", [line for line in lines if line.task == task])
    axes.flat[0].legend(fontsize=8)
    for axis, panel in zip(axes.flat[len(tasks) :], curves):
        _curves(axis, panel, methods)
    for axis in axes.flat[panels:]:
        axis.set_visible(False)
    figure.tight_layout()
    with replacing(Path(path)) as new:
        figure.savefig(new, dpi=120, format="png")
    pyplot.close(figure)


def over_axes(lines: Sequence[Line]) -> List[Panel]:
    """For each task and each axis with several numbers: a curve for each method, and for each value of its other axes."""
    panels = []
    for task in dict.fromkeys(line.task for line in lines):
        own = [line for line in lines if line.task == task]
        for axis in _numeric([line.axes for line in own]):
            curves: Dict[Tuple[str, str], List[Point]] = {}
            for line in own:
                x, label = _split(line.axes, axis, line.method)
                curves.setdefault((label, line.method), []).append(Point(x, line.summary))
            panels.append(Panel(f"{task}, {heading(own[0].measure)}", axis, curves))
    return panels


def over_search(search: Search) -> List[Panel]:
    """For each task and each searched setting with several numbers: a curve for each method that had a choice."""
    panels = []
    every = search.searched()
    for task in dict.fromkeys(one.task for one in every):
        own = [one for one in every if one.task == task and one.summary]
        for axis in _numeric([one.value for one in own]):
            curves: Dict[Tuple[str, str], List[Point]] = {}
            for one in own:
                x, label = _split(one.value + one.axes, axis, one.method)
                if one.summary:
                    curves.setdefault((label, one.method), []).append(Point(x, one.summary, one.chosen))
            panels.append(Panel(f"search on {task}, {heading(search.measures[task])}", axis, curves))
    return panels


def _numeric(keys: Sequence[Coordinates]) -> List[str]:
    """Axes of which there are two values or more, all of them numbers."""
    values: Dict[str, set] = {}
    for name, value in (pair for key in keys for pair in key):
        values.setdefault(name, set()).add(value)
    return [name for name, several in values.items() if len(several) > 1 and not any(map(is_text, several))]


def _split(key: Coordinates, axis: str, method: str) -> Tuple[Optional[float], str]:
    rest = describe(tuple(pair for pair in key if pair[0] != axis))
    x = dict(key).get(axis)
    return None if x is None else float(x), f"{method}, {rest}" if rest else method


def _points(axis, title: str, lines: Sequence[Line]) -> None:
    names = [", ".join(filter(None, [line.method, describe(line.axes)])) for line in lines]
    summaries = [line.summary for line in lines]
    places = range(len(names))
    axis.errorbar(places, [one.mean for one in summaries], _bars(summaries), fmt="o", capsize=4, label="mean and std")
    axis.plot(places, [one.best for one in summaries], "x", color="C1", label="best")
    axis.set_xticks(list(places), names, rotation=45, ha="right", fontsize=8)
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.set_title(title, fontsize=10)
    axis.grid(axis="y", alpha=0.3)


def _bars(summaries: Sequence[Summary]) -> List[float]:
    """No bar for a single run."""
    return [math.nan if one.std is None else one.std for one in summaries]


def _curves(axis, panel: Panel, methods: Sequence[str]) -> None:
    styles: Dict[str, int] = {}
    for (label, method), points in panel.curves.items():
        # The colour is the method's in every panel; further coordinates change the line.
        number = styles[method] = styles.get(method, -1) + 1
        how = {"color": f"C{list(methods).index(method)}", "label": label, "linestyle": ("-", "--", ":", "-.")[number % 4]}
        placed = sorted((point for point in points if point.x is not None), key=lambda point: point.x or 0.0)
        if placed:
            summaries = [point.summary for point in placed]
            axis.errorbar(
                [point.x for point in placed], [one.mean for one in summaries], _bars(summaries), marker=".", capsize=3, **how
            )
        for point in points:
            if point.x is None:
                axis.axhline(point.summary.mean, **{**how, "linestyle": (0, (1, 2))})
            elif point.chosen:
                axis.plot([point.x], [point.summary.mean], "o", markersize=10, fillstyle="none", color=how["color"])
    ticks = sorted({point.x for points in panel.curves.values() for point in points if point.x is not None})
    if ticks[0] > 0 and ticks[-1] / ticks[0] >= POWERS:
        axis.set_xscale("log")
        axis.minorticks_off()
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
    axis.set_title(panel.title, fontsize=10)
    axis.set_xlabel(panel.axis, fontsize=8)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8 if len(panel.curves) <= 4 else 6)
