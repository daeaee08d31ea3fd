"""Settings of fine-tuning for a family of backbones, by the paper that they are from, and the grids that the papers search.

settings/FAMILY/NAME.yaml
    run      a whole ``dsam`` run for fairseq but for task and criterion, which are a task's own
    lora     what methods with LoRA change in it; adapter and prefix are of adapters and prefixes, where they are there
    grid     what ``--grid NAME`` trains: network -> setting -> values, "full" for methods without a network; or
             setting -> values, of all methods alike
"""

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from sharp_plugins.files.yaml import read_yaml
from sharp_plugins.runs.configs import NEEDED, Settings, check_parts, check_settings, merged
from sharp_plugins.runs.sweep import parted

DIRECTORY = Path(__file__).with_name("settings")
# A family, as the converter names it -> whose settings it takes.
FAMILIES = {"roberta": "roberta", "bert": "roberta", "minilm": "roberta", "opt": "opt", "gpt2": "smollm2", "llama": "smollm2"}
# The settings without a flag.
DEFAULTS = {"roberta": "bar", "opt": "bar", "smollm2": "own"}
NETWORKS = ("lora", "adapter", "prefix")
FULL = "full"  # of methods without one


class Family(NamedTuple):
    """What a file says.

    Attributes:
        source: the file.
        run: settings of all methods.
        networks: what methods with a network change in them, by network; a network that is not there has no settings.
        grids: by network, or "full" without one: the values of each setting that is searched.

    >>> read_family("roberta", "bar").grids["lora"]["optimizer.sam_rho"]
    [0.05, 0.1, 0.2]
    """

    source: Path
    run: Dict[str, Any]
    networks: Dict[str, Dict]
    grids: Dict[str, Dict[str, List]]

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

    def sweeps(self, networks: Sequence[Optional[str]] = ("lora",)) -> List[str]:
        """The grid of methods with these networks, as ``--sweep`` has it.

        Args:
            networks: as methods name them; None for methods without one.

        Raises:
            ValueError: one of them has no grid here, or they have several.

        >>> read_family("roberta", "mezo").sweeps(["lora"])[0]
        'dataset.batch_size=4,8,16'
        >>> read_family("roberta", "mezo").sweeps([None])[0]
        'dataset.batch_size=8,16,32'
        """
        names = dict.fromkeys(_owner(network) for network in networks)
        without = [name for name in names if name not in self.grids]
        if without:
            there = f"they have one for {', '.join(self.grids)} methods" if self.grids else "they have none"
            raise ValueError(f"these settings have no grid for {' and '.join(without)} methods; {there}")
        found = [self.grids[name] for name in names]
        if any(one != found[0] for one in found):
            raise ValueError(f"{' and '.join(names)} methods have a grid each; give a call to each, with the same --out")
        return [f"{name}={','.join(map(str, values))}" for name, values in found[0].items()] if found else []


def _owner(network: Optional[str]) -> str:
    return FULL if network is None else network if network in NETWORKS else "adapter"


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
    if path == Path(name) and not path.is_file():
        raise ValueError(f"{flag} {name}: there is no such file")
    if not path.is_file():
        raise ValueError(f"{flag} {name}: there are no such settings; choose from {', '.join(named(family))}, or name a YAML file")
    content = read_yaml(path)
    known = {"run", *NETWORKS, "grid"}
    wrong = [one for one, value in content.items() if one not in known or not isinstance(value, dict)]
    if wrong or "run" not in content:
        raise ValueError(f"{path}: {', '.join(sorted(known))} are expected, settings by name each; {', '.join(wrong) or 'no run'}")
    for name in NETWORKS:
        check_parts(content.get(name, {}), f"{path}: {name}")
    grid = content.get("grid", {})
    grids = grid if grid and grid.keys() <= {FULL, *NETWORKS} else dict.fromkeys((FULL, *NETWORKS) if grid else (), grid)
    for one, values in (item for each in grids.values() for item in _settings(each, path)):
        if "." not in one or not isinstance(values, list) or len(values) < 2:
            raise ValueError(f"{path}: grid: {one} is part.name with two values or more, and not {values!r}")
        for value in values:  # they become a --sweep
            if not isinstance(value, (int, float, str, list, dict)) or len(parted(str(value))) > 1:
                words = "it takes numbers, true and false, lists, settings by name, and texts without a comma outside brackets"
                raise ValueError(f"{path}: grid: {one} cannot be searched with the value {value!r}; {words}")
    return Family(path, content["run"], {one: content[one] for one in NETWORKS if one in content}, grids)


def _settings(grid: Any, path: Path):
    if not isinstance(grid, dict) or not grid:
        raise ValueError(f"{path}: grid: settings with their values are expected, and not {grid!r}")
    return grid.items()
