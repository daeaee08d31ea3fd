"""``--sweep optimizer.sam_rho=0.01,0.02,0.05``: each value is trained, and the best one by the selection split is reported.

A value is an axis of a run's record, named as the setting. A method that has no use for the setting, as its config is the same with
each of the values, is trained once. All seeds of a method share its value.
"""

import re
from statistics import mean
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sharp_plugins.runs.configs import differences
from sharp_plugins.runs.record import Measure, Result, Value
from sharp_plugins.runs.table import markdown_table

Axes = Tuple[Tuple[str, Value], ...]


def read_sweeps(texts: Sequence[str], changes: Sequence[str] = ()) -> Dict[str, List[Value]]:
    """The values of each setting, from ``--sweep``'s texts.

    >>> read_sweeps(["optimizer.sam_rho=0.01,0.05"])
    {'optimizer.sam_rho': [0.01, 0.05]}

    Raises:
        ValueError: a text is not of that form, or --set has the same setting.
    """
    sweeps: Dict[str, List[Value]] = {}
    for text in texts:
        name, equals, listed = text.partition("=")
        values = [_value(text, part) for part in re.split(r",(?![^\[({]*[\])}])", listed)]
        if not equals or "." not in name or len(values) < 2 or len(set(map(str, values))) != len(values):
            raise ValueError(f"--sweep {text}: should be part.name=value,value and so on, different ones; --set is for one value")
        if name in sweeps or name in [change.partition("=")[0] for change in changes]:
            raise ValueError(f"--sweep {text}: {name} is set twice; take one of the --sweep and --set out")
        sweeps[name] = values
    return sweeps


def _value(text: str, part: str) -> Value:
    """A number where it is one, else the text: of ``[0.1]``, too."""
    if not part.strip():
        raise ValueError(f"--sweep {text}: one of the values is empty")
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={part}"]))["value"]
    except (OmegaConfBaseException, ValueError) as error:
        raise ValueError(f"--sweep {text}: {error}") from None
    return value if type(value) in (int, float) else part.strip()


def changes_of(axes: Mapping[str, Value]) -> List[str]:
    """The axes that are settings, as ``--set`` has them; other axes have no dot in their names.

    >>> changes_of({"examples": 16, "optimizer.sam_rho": 0.05})
    ['optimizer.sam_rho=0.05']
    """
    return [f"{name}={value}" for name, value in axes.items() if "." in name]


def grid(sweeps: Mapping[str, Sequence[Value]], config_of: Callable[[Sequence[str]], Dict]) -> List[Dict[str, Value]]:
    """The axes of a method's runs: each combination of values of the settings that it has use for.

    Args:
        config_of: the method's config with such changes.
    """
    result: List[Dict[str, Value]] = [{}]
    for name, values in sweeps.items():
        one, *others = (config_of(changes_of({name: value})) for value in values)
        if any(differences(one, other) for other in others):
            result = [{**axes, name: value} for axes in result for value in values]
    return result


class Choice(NamedTuple):
    """The value that was chosen for a method on a task.

    Attributes:
        task, method: whose it is.
        rest: the axes that were not swept.
        chosen: the swept axes with their values.
        tried: for each combination: its axes, the mean over seeds of the selection's measure, and how many seeds.
        is_complete: whether all combinations have the same seeds.
    """

    task: str
    method: str
    rest: Axes
    chosen: Axes
    tried: List[Tuple[Axes, float, int]]
    is_complete: bool


def choose(results: Sequence[Result], selection: Callable[[str], Measure]) -> Tuple[List[Result], List[Choice]]:
    """The results with the values that the selection prefers, and how they were chosen.

    Of a method with swept runs on a task only they are looked at. Means are over the seeds that all values have, where there are
    any, and of equal means the first value's is taken.

    Args:
        selection: of a task, the measure that decides.

    Returns:
        results without their swept axes, in their order; the choices.
    """
    groups: Dict[Tuple[str, str, Axes], Dict[Axes, List[Result]]] = {}
    for result in results:
        swept = tuple((name, value) for name, value in sorted(result.record.axes.items()) if "." in name)
        rest = tuple((name, value) for name, value in sorted(result.record.axes.items()) if "." not in name)
        groups.setdefault((result.record.task, result.record.method, rest), {}).setdefault(swept, []).append(result)
    kept, choices = [], []
    for (task, method, rest), by_value in groups.items():
        swept_values = {axes: runs for axes, runs in by_value.items() if axes}
        if swept_values:
            choice = _choose(task, method, rest, swept_values, selection(task))
            if choice is None:
                continue
            choices.append(choice)
            by_value = {choice.chosen: swept_values[choice.chosen]}
        kept += [run for runs in by_value.values() for run in runs]
    order = {id(result): number for number, result in enumerate(results)}
    kept.sort(key=lambda result: order[id(result)])
    return [result._replace(record=result.record._replace(axes=_rest(result.record.axes))) for result in kept], choices


def _rest(axes: Mapping[str, Value]) -> Dict[str, Value]:
    return {name: value for name, value in axes.items() if "." not in name}


def _choose(task: str, method: str, rest: Axes, values: Dict[Axes, List[Result]], measure: Measure) -> Optional[Choice]:
    numbers: Dict[Axes, Dict[int, float]] = {}
    for axes, runs in values.items():
        found = {run.record.seed: run.metrics.get(measure.split, {}).get(measure.name) for run in runs}
        found = {seed: number for seed, number in found.items() if number is not None and number == number}
        if found:
            numbers[axes] = found
    if not numbers:
        return None
    seeds = [set(found) for found in numbers.values()]
    common = set.intersection(*seeds)
    tried = []
    for axes, found in numbers.items():
        of = [found[seed] for seed in (common or found)]
        tried.append((axes, mean(of), len(of)))
    sign = 1 if measure.higher_is_better else -1
    chosen = max(tried, key=lambda one: sign * one[1])[0]  # of equal ones the first
    is_complete = len(numbers) == len(values) and all(one == seeds[0] for one in seeds)
    return Choice(task, method, rest, chosen, tried, is_complete)


def describe(choices: Sequence[Choice], selection: Callable[[str], Measure]) -> str:
    """How the values were chosen, in Markdown: a sentence and a table."""
    if not choices:
        return ""
    measures = {choice.task: selection(choice.task) for choice in choices}
    by = ", ".join(f"{task}: {m.heading} on {m.split}" for task, m in measures.items())
    text = f"Settings that were swept are chosen by the mean over seeds of a selection measure ({by}). "
    text += "Each method's runs with the chosen values are in the tables, and no others of it.\n"
    open_ones = [f"{choice.task} {choice.method}" for choice in choices if not choice.is_complete]
    if open_ones:
        text += f"\nNot all runs are finished, so the choice may change: {', '.join(open_ones)}.\n"
    rows = [
        [choice.task, choice.method, _words((*choice.rest, *axes)), value, seeds, "chosen" if axes == choice.chosen else ""]
        for choice in choices
        for axes, value, seeds in choice.tried
    ]
    return text + "\n" + markdown_table(["task", "method", "values", "selection", "seeds", ""], rows)


def _words(axes: Axes) -> str:
    return ", ".join(f"{name}={value}" for name, value in axes)
