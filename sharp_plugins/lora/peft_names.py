"""The tensors of a PEFT file by the names that a model without PEFT has for them.

    base_model.model.M.lora_A.weight, M.lora_A.default.weight     M.lora_A
    M.base_layer.bias                                             M.bias
    M.modules_to_save.default.weight                              M.weight

What stands before the model's own names (``base_model.model.``, DistributedDataParallel's ``module.``, a module that the model was
part of) goes from all names at once, before any is looked up.
"""

import os
import re
from typing import Callable, List, Tuple

from sharp_plugins.convert.names import WRAPPERS
from sharp_plugins.lora.merge import State

PREFIX = "base_model.model."
FRONT = re.compile(rf"^((module|_orig_mod)\.)*{re.escape(PREFIX)}((module|_orig_mod)\.)*")


def plain_names(tensors: State, fits: Callable[[List[str]], bool]) -> Tuple[State, str]:
    """*tensors* under the model's names, and what stood before them in the names of PEFT's model.

    Args:
        fits: whether the model has layers of these names; asked of the names of the layers with an update.

    Raises:
        ValueError: the file holds several adapters, or two tensors for one name.
    """
    inside = {"base_layer", *WRAPPERS} - {"module"}  # "module" may be a model's own name, but at the front
    adapter, named = _adapter_name(tensors), []
    for key, value in tensors.items():
        name = ".".join(part for part in key.split(".") if part not in inside)
        if ".original_module." not in name:  # a weight as it was before training
            name = re.sub(rf"\.modules_to_save\.(?:{re.escape(adapter)}\.)?", ".", name)
            named.append((re.sub(rf"\.lora_([AB])\.(?:{re.escape(adapter)}\.)?weight$", r".lora_\1", name), value))

    names, front = _without_front([name for name, _ in named], fits)
    result: State = {}
    for name, (_, value) in zip(names, named):
        if name in result and not (result[name].shape == value.shape and result[name].equal(value)):
            raise ValueError(f"the file holds two different tensors for {name}")
        result[name] = value
    return result, front


def layers_of(state: State) -> List[str]:
    """Names of the layers with an A or a B."""
    return list(dict.fromkeys(key[: -len(".lora_A")] for key in state if key.endswith((".lora_A", ".lora_B"))))


def without_front(state: State) -> State:
    """A model's state dict without the ``module.`` and the like that stand before all of its names."""
    while state and len(front := {key.partition(".")[0] for key in state}) == 1 and front <= {*WRAPPERS, "base_model"}:
        state = {key.partition(".")[2]: value for key, value in state.items()}
    return state


def _adapter_name(tensors: State) -> str:
    """The adapter's name, where a training loop left it in the file: ``M.lora_A.default.weight``."""
    names = {match.group(1) for key in tensors if (match := re.search(r"\.lora_[AB]\.([^.]+)\.weight$", key))}
    if len(names) > 1:
        raise ValueError(f"the file holds several adapters, {' and '.join(sorted(names))}: save one alone")
    return names.pop() if names else "default"


def _without_front(names: List[str], fits: Callable[[List[str]], bool]) -> Tuple[List[str], str]:
    """*names* without what stands before the model's own, and what that is but for PEFT's prefix: the prefix, and as little more as
    makes them fit."""
    known = [FRONT.sub("", name) for name in names]
    for candidates in (known, names):
        common = os.path.commonprefix([name.split(".")[:-1] for name in candidates])
        for count in range(len(common) + 1):
            shorter = [name.split(".", count)[count] for name in candidates]
            layers = layers_of(dict.fromkeys(shorter))
            if layers and fits(layers):
                return shorter, FRONT.sub("", "".join(f"{part}." for part in common[:count]))
    return known, ""
