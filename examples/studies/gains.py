"""Gains over a baseline, as the studies' reports tell them: in words, in a table and in a figure."""

import math
import textwrap
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from sharp_plugins.files.writing import replacing
from sharp_plugins.runs.statistics import Comparison, least_p

OWN_COLOURS = {"sam": "C0", "SAM": "C0", "lora-sam": "C0", "mirror-sam": "C0"}
OWN_COLOURS.update({"dsam": "C1", "δ-SAM": "C1", "lora-dsam": "C1", "mirror-dsam": "C1"})


def gain(comparison: Optional[Comparison]) -> str:
    """The paired difference with its interval; nothing for the baseline."""
    if comparison is None:
        return ""
    low_high = "" if comparison.interval is None else " ({:+.2f} to {:+.2f})".format(*comparison.interval)
    return f"{comparison.difference:+.2f}{low_high}"


def ps(comparison: Optional[Comparison]) -> List[str]:
    """p, and p corrected."""
    both = (None, None) if comparison is None else (comparison.p, comparison.corrected)
    return ["" if p is None else f"{p:.3g}" for p in both]


def about_p(pairs: int) -> str:
    """What p is, of at most so many pairs."""
    return "p is of the paired sign-flip test" + (f", at least {least_p(pairs):.3g} of {pairs} seeds" if pairs else "")


def rows_of(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is the head."""
    head, *others = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *others))


def colours(methods: Sequence[str]) -> Dict[str, str]:
    """Of each method; SAM and δ-SAM have theirs in all figures.

    >>> colours(["base-longer", "dsam"])
    {'base-longer': 'C2', 'dsam': 'C1'}
    """
    others = (f"C{number}" for number in range(2, len(methods) + 2))
    return {method: OWN_COLOURS.get(method) or next(others) for method in methods}


class Gain(NamedTuple):
    """What a figure shows: a method where it was measured, compared with the baseline (None for the baseline itself)."""

    where: str
    method: str
    comparison: Optional[Comparison]


def marks(comparison: Comparison) -> Tuple[float, ...]:
    """Where a gain is on the axis: itself, and the ends of its interval if it has one."""
    return (comparison.difference, *(comparison.interval or ()))


def reach(comparisons: Sequence[Comparison]) -> Optional[float]:
    """How far the axis goes on both sides, where a few gains would make it so wide that the others cannot be told apart; None where
    all fit."""
    ends = sorted(max(map(abs, marks(one))) for one in comparisons)
    most = 1.1 * ends[math.ceil(0.9 * len(ends)) - 1] if ends else 0.0
    return most if ends and ends[-1] > 2 * most else None


def draw(gains: Sequence[Gain], baseline: str, title: str, path: Path) -> None:
    """The gains over the baseline with their intervals, by place and method, and how many seeds they are of.

    What goes beyond the axis (`reach`) ends in an arrow, with its numbers.
    """
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    from matplotlib import pyplot

    gains = [one for one in gains if one.comparison is not None]
    places, methods = (list(dict.fromkeys(names)) for names in ([one.where for one in gains], [one.method for one in gains]))
    heights: Dict[Tuple[str, str], float] = {}
    ticks, labels, below = [], [], 0.0
    for where in places:
        own = sorted((one for one in gains if one.where == where), key=lambda one: methods.index(one.method))
        pairs = sorted({one.comparison.pairs for one in own})
        labels.append(f"{textwrap.fill(where, 46, break_on_hyphens=False)}\nseeds: {' or '.join(map(str, pairs))}")
        room = max(len(own), 0.8 * len(labels[-1].splitlines())) + 0.6  # in lines: of methods, or of the label's smaller ones
        ticks.append(below + room / 2)
        heights.update({(where, one.method): ticks[-1] + number - (len(own) - 1) / 2 for number, one in enumerate(own)})
        below += room
    figure, axis = pyplot.subplots(figsize=(9, 1.0 + 0.22 * below))
    most, colour = reach([one.comparison for one in gains]), colours(methods)
    for method in methods:
        found = [one for one in gains if one.method == method]
        errors = [0 if one.comparison.interval is None else one.comparison.interval[1] - one.comparison.difference for one in found]
        across, down = [one.comparison.difference for one in found], [heights[one.where, method] for one in found]
        bars = axis.errorbar(across, down, xerr=errors, fmt="o", capsize=3, label=method, color=colour[method])
        for one, height in zip(found, down):
            if most:
                _point_beyond(axis, most, one.comparison, height, bars.lines[0].get_color())
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(ticks, labels)
    axis.set_ylim(below, 0)
    if most:
        axis.set_xlim(-most, most)
    axis.set(xlabel=f"gain over {baseline}, points, with its 95 % interval", title=title)
    axis.grid(axis="x", alpha=0.3)
    if methods:
        axis.legend(loc="upper left", bbox_to_anchor=(1, 1))  # beside the axes, where it hides no interval
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    pyplot.close(figure)


def _point_beyond(axis, most: float, comparison: Comparison, height: float, color) -> None:
    """An arrow, with the gain's numbers, at each end of an axis from -*most* to *most* that a gain goes beyond."""
    for side, arrow, alignment in ((-1, "<", "left"), (1, ">", "right")):
        if max(side * mark for mark in marks(comparison)) > most:
            axis.plot(side * most, height, marker=arrow, color=color, clip_on=False)
            place = dict(xytext=(-8 * side, 5), textcoords="offset points", ha=alignment, fontsize=7)
            axis.annotate(gain(comparison), (side * most, height), **place)
