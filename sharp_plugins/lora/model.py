"""LoRA for the layers of a model that a name or a regular expression picks; all else is frozen."""

import re
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from torch import nn

from sharp_plugins.lora.layer import LoRALinear

BIASES = ("none", "all", "lora_only")
DEFAULT_TARGET = "q_proj,v_proj"
# fairseq's models keep the heads of classification tasks here.
HEADS = "classification_heads"


@dataclass
class LoRASettings:
    """What `add_lora` and `freeze` need; the flags of the same names (``--lora-rank`` and so on) say more.

    Raises:
        ValueError: by `check`, if a setting is out of range whatever the model.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target: str = DEFAULT_TARGET
    init: str = "kaiming"
    bias: str = "none"
    also_train: Optional[str] = None

    def check(self) -> None:
        if self.rank < 1:
            raise ValueError(f"--lora-rank must be 1 or larger, and is {self.rank}")
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"--lora-alpha must be a positive finite number, and is {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--lora-dropout must be from 0 to below 1, and is {self.dropout}")
        if self.bias not in BIASES:
            raise ValueError(f"--lora-bias {self.bias}: choose one of {', '.join(BIASES)}")
        for flag, names in (("--lora-target", self.target), ("--lora-also-train", self.also_train or "")):
            for pattern in _patterns(names):
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(f"{flag} {names}: {error}") from error
        if not _patterns(self.target):
            raise ValueError("--lora-target names no layer")


def _patterns(names: str) -> List[str]:
    """Names with commas between them, or one regular expression."""
    if re.fullmatch(r"[\w., ]*", names):
        return [re.escape(name.strip()) for name in names.split(",") if name.strip()]
    return [names]


def matches(pattern: str, name: str) -> bool:
    """Whether *pattern* is the whole of a module's *name*, or its end from a dot on."""
    return re.fullmatch(rf"(.*\.)?(?:{pattern})", name) is not None


def _choose(flag: str, names: str, candidates: Dict[str, object], kind: str) -> List[str]:
    """The names among *candidates* that *names* matches; ValueError if a part of it matches none."""
    chosen = []
    for pattern in _patterns(names):
        found = [name for name in candidates if matches(pattern, name)]
        if not found:
            ends: Dict[str, str] = {}
            for name in candidates:
                ends.setdefault(name.rsplit(".", 1)[-1], name)
            known = ", ".join(f"{end} (as {name})" if end != name else end for end, name in list(ends.items())[:30])
            raise ValueError(f"{flag} {names}: nothing matches {pattern!r}; the model's {kind} are {known or '(none)'}")
        chosen += found
    return list(dict.fromkeys(chosen))


def lora_layers(model: nn.Module) -> Dict[str, LoRALinear]:
    """The layers with an update, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def add_lora(model: nn.Module, settings: LoRASettings) -> List[str]:
    """Give an update to every linear layer of *model* that ``settings.target`` matches; the model computes what it computed.

    Returns:
        the names of these layers.

    Raises:
        ValueError: a setting is out of range, the target matches no linear layer or the rank is larger than one of them.
    """
    settings.check()
    linear = {
        name: module
        for name, module in model.named_modules()
        if name and isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
    }
    chosen = _choose("--lora-target", settings.target, linear, "linear layers")
    too_small = [name for name in chosen if settings.rank > min(linear[name].weight.shape)]
    if too_small:
        shape = tuple(linear[too_small[0]].weight.shape)
        raise ValueError(f"--lora-rank {settings.rank} is larger than {too_small[0]}, which is {shape[0]} x {shape[1]}")
    for name in chosen:
        LoRALinear.convert(linear[name], settings.rank, settings.alpha, settings.dropout, settings.init)
    model._register_load_state_dict_pre_hook(_take_plain_checkpoints, with_module=True)
    return chosen


def _take_plain_checkpoints(model: nn.Module, state_dict, prefix: str, *_) -> None:
    """A checkpoint without any update is one of the plain model: the updates stay as they are. One that has updates must have
    them all; torch reports what is missing."""
    own = {
        f"{prefix}{name}.{part}": getattr(layer, part).detach()
        for name, layer in lora_layers(model).items()
        for part in ("lora_A", "lora_B")
    }
    if not any(key.endswith((".lora_A", ".lora_B")) for key in state_dict):
        state_dict.update(own)


def freeze(model: nn.Module, settings: LoRASettings, strict: bool = True) -> Tuple[int, int]:
    """Let the updates train, with the biases and modules that *settings* names, and nothing else.

    Args:
        strict: whether a name in ``settings.also_train`` that matches no module or parameter is an error. fairseq's tasks
            add heads to a model that is built already, so the name of a head may match later only.

    Returns:
        numbers of weights: those that train, and all.

    Raises:
        ValueError: a name matches nothing.
    """
    params = dict(model.named_parameters())
    layers = lora_layers(model)
    for name, p in params.items():
        is_bias = name.rsplit(".", 1)[-1] == "bias"
        p.requires_grad_(settings.bias == "all" and is_bias)
    for layer in layers.values():
        layer.lora_A.requires_grad_(True)
        layer.lora_B.requires_grad_(True)
        if settings.bias == "lora_only" and layer.bias is not None:
            layer.bias.requires_grad_(True)
    for name in trained_along(model, settings.also_train, strict):
        for _, p in [(name, params[name])] if name in params else model.get_submodule(name).named_parameters():
            p.requires_grad_(True)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trained, sum(p.numel() for p in model.parameters())


def trained_along(model: nn.Module, also_train: Optional[str], strict: bool = True) -> List[str]:
    """Names of the modules and parameters that train along: by default the classification heads, where there are any."""
    candidates = {name: module for name, module in model.named_modules() if name}
    candidates.update(model.named_parameters())
    try:
        return _choose("--lora-also-train", HEADS if also_train is None else also_train, candidates, "modules")
    except ValueError:
        if strict and also_train is not None:
            raise
        return []
