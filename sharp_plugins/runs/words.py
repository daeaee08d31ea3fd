"""What a report says beside its tables, in sentences."""

from typing import Dict, List, Sequence

from sharp_plugins.runs.coordinates import describe
from sharp_plugins.runs.lines import Line, Measures
from sharp_plugins.runs.record import Measure
from sharp_plugins.runs.selection import Search
from sharp_plugins.runs.statistics import LEVEL, MOST_FLIPS, counts, least_p

COSTS = (
    "Minutes are of training and validation, on average over the runs. Memory is the most that one of the runs held: on the GPU "
    "where there is one, and else of the process."
)
BUDGETS = {
    "updates": "For each seed, the budget is the number of updates of the method that made the fewest.",
    "minutes": "For each seed, the budget is the time of the method that was done first.",
}
WITHIN = (
    "Every method is credited with its best validation within the budget. Only seeds that all methods of a task have are taken. "
    "The budget is shown on average over the seeds; “–” is a method with a seed that had no validation by then. A slow method is "
    "seen on its way: its learning rate has not fallen as far as in a run that is planned for the budget."
)


def about_differences(lines: Sequence[Line], baseline: str) -> str:
    """What the columns mean, what so few seeds can show at all, and what is shown."""
    compared = [line for line in lines if line.comparison]
    counted = [line.comparison for line in compared if line.comparison and counts(line.comparison)]
    tested = [one for one in counted if one.p is not None]
    parts = [
        f"Each method minus {baseline}, on average over the seeds that both have. The interval is Student's t. p is of the exact "
        "sign-flip test. The corrected p is Holm's for all comparisons of this table that have one "
        f"or a run that diverged ({len(counted)}). “–” is what cannot be computed: of one seed, where all differences are equal, "
        "or of a run that diverged (nan)."
    ]
    if tested:
        most = max(one.pairs for one in tested)
        least = least_p(most)
        floor = min(1.0, len(counted) * least)
        parts.append(
            f"With {most} seeds, the most that a comparison has here, p cannot be below {least:.3g}, nor corrected below "
            f"{floor:.3g}" + (f": too few seeds to show anything at {100 * LEVEL:g} %." if floor > LEVEL else ".")
        )
        if 2**most > MOST_FLIPS:
            parts.append(f"p of more than 16 seeds is estimated from {MOST_FLIPS:,} flips drawn at random.")
    parts.append(_shown(compared, baseline))
    return " ".join(parts)


def _shown(compared: Sequence[Line], baseline: str) -> str:
    shown = []
    for line in compared:
        one = line.comparison
        if one and one.corrected is not None and one.corrected <= LEVEL:
            word = "better" if (one.difference > 0) == line.measure.higher_is_better else "worse"
            shown.append(f"{line.method} is {word} than {baseline} on {place(line)}")
    level = f"at {100 * LEVEL:g} %"
    return f"Shown {level}, corrected: {'; '.join(shown)}." if shown else f"**No difference is shown {level}, corrected.**"


def place(line: Line) -> str:
    """Where a difference was found.

    >>> from sharp_plugins.runs.statistics import summarize
    >>> accuracy = Measure("valid", "accuracy", "accuracy")
    >>> place(Line("RTE", (("examples", 16),), accuracy, "sam", (), summarize([70.0]), None, 1.0, None))
    'RTE (accuracy, examples 16)'
    """
    return f"{line.task} ({', '.join([line.measure.heading, *([describe(line.axes)] if line.axes else [])])})"


def about_search(search: Search, measures: Measures) -> str:
    """On which data the values were chosen, and whether those are the data that are reported."""
    every = search.searched()
    parts = [
        "Each method keeps, on each task, the value with the best mean over its seeds; of equal ones the value given first. "
        "All other tables show the runs with the chosen values."
    ]
    if search.unfinished:
        of = ", ".join(" ".join(one) for one in search.unfinished)
        parts.append(
            "Not all values have the same seeds, or none has the measure: runs are not finished, or failed. A value that lacks "
            f"seeds is not kept where another has all, and the choice may change: {of}."
        )
    if search.left_out:
        of = ", ".join(f"{task} {method} ({runs})" for task, method, runs in search.left_out)
        parts.append(f"Runs that were not in the search of their method are in no table: {of}.")
    tasks: Dict[str, List[str]] = {}
    for task in dict.fromkeys(one.task for one in every):
        tasks.setdefault(_where(task, search.measures[task], measures), []).append(task)
    for where, of in tasks.items():
        parts.append(where if len(tasks) == 1 else f"{', '.join(of)}: {where}")
    owners: Dict[tuple, List] = {}
    for one in every:
        owners.setdefault(one[:3], []).append(one)
    if len({len(values) for values in owners.values()}) > 1:
        parts.append("Not all methods had equally many values to choose from, so the comparison favours those that had more.")
    if any(len({one.summary.runs if one.summary else 0 for one in values}) > 1 for values in owners.values()):
        parts.append("Some values have fewer runs than others of their method: the choice may still change.")
    return " ".join(parts)


def _where(task: str, by: Measure, measures: Measures) -> str:
    if by.chosen_on:
        return f"By {by.heading}, chosen on {by.chosen_on}, which are not reported."
    development = by.split.startswith("valid")
    name = "development set" if development else f"set `{by.split}`"
    if by.split in {measure.split for measure in measures(task)}:
        papers = ", as the papers do" if development else ""
        reported = f"**By {by.heading}, chosen on the {name} that is reported{papers}.**"
        return f"{reported} The results are therefore a little too good, and p too small."
    return f"By {by.heading}, chosen on the {name}, which is not reported."
