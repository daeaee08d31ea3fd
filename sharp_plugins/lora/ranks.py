"""Ranks and scales that differ from layer to layer (PEFT's rank_pattern, alpha_pattern, use_rslora), as one rank and one scale.

An update s B A is the same with rows of zeros under A and columns of zeros beside B, and with another s' where B becomes B s/s'. So
all layers get the largest rank, and the scale that most of them have. What is added stays 0 when training goes on: where A's row
and B's column are both 0, the gradient of either is the other's.

Source: Hugging Face PEFT 0.21, `LoraModel._create_and_replace` and `get_pattern_key`; rank-stabilised scales α/√r are those of
Kalajdzievski 2023 (arXiv 2312.03732).
"""

import json
import math
import re
from collections import Counter
from typing import Any, Dict, NamedTuple, Tuple

import torch.nn.functional as F

from sharp_plugins.lora.merge import State
from sharp_plugins.lora.peft_config import CONFIG
from sharp_plugins.lora.peft_names import layers_of
from sharp_plugins.networks.expressions import check_expression

PATTERNS = ("rank_pattern", "alpha_pattern")


class Update(NamedTuple):
    """What a config says of one layer's update."""

    rank: int
    scale: float
    pattern: str  # rank_pattern, where that is what gives the rank; else r


def check_patterns(config: Dict[str, Any]) -> None:
    """Raise ValueError, naming the setting, where a pattern is not one."""
    for name in PATTERNS:
        pattern = config.get(name) or {}
        words = f"{CONFIG}: {name} is {json.dumps(pattern)[:200]}, and it must be positive numbers by names of layers"
        if not isinstance(pattern, dict):
            raise ValueError(words)
        for key, value in pattern.items():
            whole = name == "rank_pattern"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not 0 < value < math.inf:
                raise ValueError(words)
            try:
                check_expression(key)
            except ValueError as error:
                raise ValueError(f"{CONFIG}: {name} {error}") from None


def update_of(config: Dict[str, Any], layer: str) -> Update:
    """What *config*, as `check_patterns` and `from_config` let it through, says of *layer*, by its name in PEFT's model.

    Example::

        >>> update_of({"r": 4, "lora_alpha": 8, "rank_pattern": {"fc1": 16}, "use_rslora": True}, "layers.0.fc1")
        Update(rank=16, scale=2.0, pattern='rank_pattern')
    """
    found = {}
    for name in PATTERNS:
        pattern = config.get(name) or {}
        key = next((key for key in pattern if re.match(rf"(.*\.)?({key})$", layer)), layer)
        if key in pattern:
            found[name] = pattern[key]
    rank, alpha = int(found.get("rank_pattern", config["r"])), float(found.get("alpha_pattern", config["lora_alpha"]))
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Update(rank, scale, "rank_pattern" if "rank_pattern" in found else "r")


def check_ranks(given: State, front: str, config: Dict[str, Any]) -> None:
    """Raise ValueError where a rank in the file is not the config's.

    Args:
        given, front: the file's tensors by the model's names, and what stood before these (`peft_names.plain_names`).
    """
    for layer in layers_of(given):
        a, expected = given.get(f"{layer}.lora_A"), update_of(config, front + layer)
        if a is not None and len(a) != expected.rank:
            if expected.pattern == "rank_pattern":
                raise ValueError(
                    f"{CONFIG}: rank_pattern is {json.dumps(config['rank_pattern'])[:200]}, and {layer}: lora_A has rank {len(a)}"
                )
            raise ValueError(f"{layer}: lora_A has rank {len(a)}, and {CONFIG} says r {expected.rank}")


def as_one(state: State, scales: Dict[str, float]) -> Tuple[State, int, float]:
    """*state* with updates of one rank and one scale, which are returned with it.

    Args:
        scales: each layer's s, by the layer's name in *state*.

    Raises:
        ValueError: the largest rank does not fit one of the layers.

    Example::

        >>> import torch
        >>> state = {"q.lora_A": torch.ones(1, 3), "q.lora_B": torch.ones(3, 1)}
        >>> state.update({"v.lora_A": torch.ones(2, 3), "v.lora_B": torch.ones(3, 2)})
        >>> state, rank, scale = as_one(state, {"q": 1.0, "v": 4.0})
        >>> rank, scale, state["v.lora_B"][0].tolist(), state["q.lora_B"][0].tolist()
        (2, 1.0, [4.0, 4.0], [1.0, 0.0])
    """
    ranks = {layer: len(state[f"{layer}.lora_A"]) for layer in scales}
    rank, scale = max(ranks.values()), Counter(scales.values()).most_common(1)[0][0]
    result = dict(state)
    for layer, own in scales.items():
        a, b = state[f"{layer}.lora_A"], state[f"{layer}.lora_B"]
        if own != scale:
            b = (b.double() * (own / scale)).to(b.dtype)
        missing = rank - ranks[layer]
        if missing and rank > min(a.size(1), len(b)):
            raise ValueError(
                f"{layer} has an update of rank {ranks[layer]}, and would need one of {rank}, as other layers have; it has "
                f"{a.size(1)} inputs and {len(b)} outputs: adapters with such a rank_pattern are not read"
            )
        result[f"{layer}.lora_A"], result[f"{layer}.lora_B"] = F.pad(a, (0, 0, 0, missing)), F.pad(b, (0, missing))
    return result, rank, scale
