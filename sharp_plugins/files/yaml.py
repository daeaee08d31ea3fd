"""YAML files of settings. OmegaConf's loader builds plain values alone; here is also looked at how many there would be."""

import io
from pathlib import Path
from typing import Dict

import yaml
from omegaconf import OmegaConf

from sharp_plugins.files.text import TextError
from sharp_plugins.files.unreadable import what_it_is

# Values in a file of settings. Aliases of aliases make any number of a few lines, and OmegaConf copies each.
MOST = 10_000


def read_yaml(path) -> Dict:
    """The settings in a YAML file, by name; interpolations stay as they are written.

    Raises:
        OSError: the file cannot be opened.
        TextError: it is no YAML of settings by name, wants an object built, or its aliases stand for too many values.
    """
    path = Path(path)
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
        count = _count(yaml.compose(text, Loader=yaml.SafeLoader))
        if count > MOST:
            raise ValueError(f"its aliases stand for {count:.0e} values, and {MOST} are the most")
        content = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
    except Exception as error:  # yaml's and OmegaConf's errors have no common parent
        words = what_it_is(path, is_text=True) or " ".join(str(error).split()) or type(error).__name__
        raise TextError(f"{path}: cannot be read: {words}") from error
    if not isinstance(content, dict):
        raise TextError(f"{path}: settings by name are expected")
    return content


def _count(node, known=None, above=()) -> int:
    """How many values a YAML node stands for, with those behind aliases as often as they are named."""
    known = {} if known is None else known
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in above:
        raise ValueError("an alias stands for what it is in")
    if id(node) not in known:
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_count(part, known, (*above, id(node))) for part in parts)
    return known[id(node)]
