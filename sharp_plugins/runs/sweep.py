"""``--sweep optimizer.sam_rho=0.01,0.02,0.05``: each value is trained; `sharp_plugins.runs.selection` chooses one.

A value is an axis of a run's record, named as the setting: with a dot, which no other axis has. A method that has no use for the
setting, as its config is the same with each of the values, is trained once.
"""

import re
from typing import Callable, Dict, Iterable, List, Mapping, Sequence

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sharp_plugins.runs.benchmark import Benchmark
from sharp_plugins.runs.configs import differences
from sharp_plugins.runs.record import Record, Value


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
        values = [_value(text, part) for part in parted(listed)]
        if not equals or "." not in name or len(values) < 2 or len(set(map(str, values))) != len(values):
            raise ValueError(f"--sweep {text}: should be part.name=value,value and so on, different ones; --set is for one value")
        if name in sweeps or name in [change.partition("=")[0] for change in changes]:
            raise ValueError(f"--sweep {text}: {name} is set twice; take one of the --sweep and --set out")
        sweeps[name] = values
    return sweeps


def parted(listed: str) -> List[str]:
    """The values of a list, which has commas between them: those in brackets are a value's own.

    >>> parted("(0.9,0.98),(0.9,0.999)")
    ['(0.9,0.98)', '(0.9,0.999)']
    """
    return re.split(r",(?![^\[({]*[\])}])", listed)


def _value(text: str, part: str) -> Value:
    """A number where it is one, else the text: of ``[0.1]``, too."""
    if not part.strip():
        raise ValueError(f"--sweep {text}: one of the values is empty")
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={part}"]))["value"]
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ValueError(f"--sweep {text}: {error}") from None
    return value if type(value) in (int, float) else part.strip()


def swept(records: Iterable[Record], sweeps: Mapping[str, Sequence[Value]]) -> Dict[str, Sequence[Value]]:
    """The settings that were swept, with their values in the order given: by this call, and after them by earlier ones.

    >>> swept([Record("glue", "RTE", "sam", 1, {"optimizer.sam_eta": 0.1, "examples": 16})], {"optimizer.sam_rho": [0.1, 0.2]})
    {'optimizer.sam_rho': [0.1, 0.2], 'optimizer.sam_eta': []}
    """
    earlier = {name: [] for record in records for name in record.axes if "." in name and name not in sweeps}
    return {**sweeps, **earlier}


def check_selection(benchmark, tasks: Sequence[str]) -> None:
    """Raise ValueError where a sweep would choose on test data, only because the benchmark does not say on which to choose."""
    for task in tasks:
        split = benchmark.selection(task).split
        if type(benchmark).selection is Benchmark.selection and not split.startswith("valid"):
            raise ValueError(
                f"--sweep: {benchmark.name} has no selection of its own, and its first measure of {task} is on {split}, which is "
                "reported: take --sweep out, or give the benchmark a selection on other data"
            )


def changes_of(axes: Mapping[str, Value]) -> List[str]:
    """The axes that are settings, as ``--set`` has them; other axes have no dot in their names.

    >>> changes_of({"examples": 16, "optimizer.sam_rho": 0.05})
    ['optimizer.sam_rho=0.05']
    """
    return [f"{name}={value}" for name, value in axes.items() if "." in name]


def grid(sweeps: Mapping[str, Sequence[Value]], config_of: Callable[[Dict[str, Value]], Dict]) -> List[Dict[str, Value]]:
    """The axes of a method's runs: each combination of values of the settings that it has use for.

    Args:
        config_of: the method's config with such values.
    """
    result: List[Dict[str, Value]] = [{}]
    for name, values in sweeps.items():
        one, *others = (config_of({name: value}) for value in values)
        if any(differences(one, other) for other in others):
            result = [{**axes, name: value} for axes in result for value in values]
    return result
