"""Settings of fine-tuning for a family of backbones, by the paper that they are from, and the grids that the papers search.

settings/FAMILY/NAME.yaml
    run      a whole ``dsam`` run for fairseq but for task and criterion, which are a task's own
    lora     what methods with LoRA change in it; adapter and prefix are of adapters and prefixes, where they are there
    grid     setting -> values: what ``--grid NAME`` trains
"""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple

from sharp_plugins.files.yaml import read_yaml
from sharp_plugins.runs.configs import NEEDED, Settings, check_settings, merged

DIRECTORY = Path(__file__).with_name("settings")
# A family, as the converter names it -> whose settings it takes.
FAMILIES = {"roberta": "roberta", "bert": "roberta", "minilm": "roberta", "opt": "opt", "gpt2": "smollm2", "llama": "smollm2"}
# The settings without a flag.
DEFAULTS = {"roberta": "bar", "opt": "bar", "smollm2": "own"}
NETWORKS = ("lora", "adapter", "prefix")


class Family(NamedTuple):
    """What a file says.

    Attributes:
        source: the file.
        run: settings of all methods.
        networks: what methods with a network change in them, by network; a network that is not there has no settings.
        grid: the values of each setting that is searched.

    >>> read_family("roberta", "bar").grid["optimizer.sam_rho"]
    [0.05, 0.1, 0.2]
    """

    source: Path
    run: Dict[str, Any]
    networks: Dict[str, Dict]
    grid: Dict[str, List]

    def settings(self, parts: Dict[str, Any]) -> Settings:
        """The engine's settings.

        Args:
            parts: of a config, the task's own.

        Raises:
            ValueError: something is missing.
        """
        run = merged(merged({"model": {}}, self.run), parts)
        check_settings(run, str(self.source), [name for name in NEEDED if name != "model._name"])
        return Settings(run, **{name: self.networks.get(name) for name in NETWORKS})

    def sweeps(self) -> List[str]:
        """The grid as ``--sweep`` has it.

        >>> read_family("roberta", "mezo").sweeps()[0]
        'dataset.batch_size=4,8,16'
        """
        return [f"{name}={','.join(map(str, values))}" for name, values in self.grid.items()]


def named(family: str) -> List[str]:
    """The settings that a family has.

    >>> named("opt")
    ['bar', 'mezo']
    """
    return sorted(path.stem for path in (DIRECTORY / FAMILIES[family]).glob("*.yaml"))


def read_family(family: str, name: str = "", flag: str = "--settings") -> Family:
    """The named settings of a family, or those in a YAML file.

    Args:
        family: as the converter names it.
        name: nothing for the default ones.
        flag: which error messages name.

    Raises:
        OSError: the file cannot be opened.
        ValueError: there are none of that name, or the file is of another form.
    """
    name = name or DEFAULTS[FAMILIES[family]]
    path = Path(name) if name.endswith((".yaml", ".yml")) else DIRECTORY / FAMILIES[family] / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"{flag} {name}: there are no such settings; choose from {', '.join(named(family))}, or name a YAML file")
    content = read_yaml(path)
    known = {"run", *NETWORKS, "grid"}
    wrong = [one for one, value in content.items() if one not in known or not isinstance(value, dict)]
    if wrong or "run" not in content:
        raise ValueError(f"{path}: {', '.join(sorted(known))} are expected, settings by name each; {', '.join(wrong) or 'no run'}")
    grid = content.get("grid", {})
    for one, values in grid.items():
        if "." not in one or not isinstance(values, list) or len(values) < 2:
            raise ValueError(f"{path}: grid: {one} is part.name with two values or more, and not {values!r}")
    return Family(path, content["run"], {one: content[one] for one in NETWORKS if one in content}, grid)
