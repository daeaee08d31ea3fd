"""LoRA for the layers of a model that a name or a regular expression picks; all else is frozen."""

import logging
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from torch import nn

from sharp_plugins.core.setting_error import SettingError
from sharp_plugins.networks.foresight import warnings_for
from sharp_plugins.networks.low_rank import INITS, LoRALinear, is_plain
from sharp_plugins.networks.module_names import (
    HEADS,
    accept_plain_checkpoints,
    check_patterns,
    choose,
    patterns,
    train_only,
    trained_along,
)

logger = logging.getLogger(__name__)

BIASES = ("none", "all", "lora_only")


@dataclass
class LoRASettings:
    """What `add_lora` and `mark_only_lora_as_trainable` need.

    Args:
        rank, alpha: r, and α of the update's factor α/r.
        dropout: of what A reads.
        target: the layers that get an update: names with commas, each the end of a layer's name, or a regular expression for it.
        init: of A, one of `INITS`; B is 0.
        bias: the biases that train: one of `BIASES`; "lora_only" are those of the layers with an update.
        also_train: further modules or parameters that train as a whole, named as *target*; by default the heads that fairseq adds.

    Raises:
        SettingError: by `check`, if a setting is out of range whatever the model.

    Example::

        >>> model = nn.ModuleDict({"q_proj": nn.Linear(8, 8), "fc": nn.Linear(8, 2)})
        >>> settings = LoRASettings(rank=2, alpha=4, target="q_proj", also_train="fc")
        >>> add_lora(model, settings)
        ['q_proj']
        >>> mark_only_lora_as_trainable(model, settings)  # of all weights
        (50, 122)
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target: str = "q_proj,v_proj"
    init: str = INITS[0]
    bias: str = BIASES[0]
    also_train: Optional[str] = None

    def check(self) -> None:
        if self.rank < 1:
            raise SettingError("rank", f"must be 1 or larger, and is {self.rank}")
        if not 0 < self.alpha < float("inf"):
            raise SettingError("alpha", f"must be a positive finite number, and is {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise SettingError("dropout", f"must be from 0 to below 1, and is {self.dropout}")
        if self.bias not in BIASES:
            raise SettingError("bias", f"{self.bias}: choose one of {', '.join(BIASES)}")
        check_patterns("target", self.target)
        check_patterns("also_train", self.also_train or "")
        if not patterns(self.target):
            raise SettingError("target", "names no layer")


def lora_layers(model: nn.Module) -> Dict[str, LoRALinear]:
    """The layers with an update, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def add_lora(model: nn.Module, settings: LoRASettings) -> List[str]:
    """Give an update to every linear layer of *model* that ``settings.target`` matches; the model computes what it computed.
    Where the trained model could not be merged, or not be saved as PEFT's files, the log has a warning.

    Returns:
        the names of these layers.

    Raises:
        ValueError: a setting is out of range, the target matches no linear layer or the rank is larger than one of them.
    """
    settings.check()
    linear = {name: module for name, module in model.named_modules() if name and is_plain(module)}
    chosen = choose("target", settings.target, linear, "linear layers")
    too_small = [name for name in chosen if settings.rank > min(linear[name].weight.shape)]
    if too_small:
        shape = tuple(linear[too_small[0]].weight.shape)
        raise SettingError("rank", f"{settings.rank} is larger than {too_small[0]}, which is {shape[0]} x {shape[1]}")
    for name in chosen:
        LoRALinear.convert(linear[name], settings.rank, settings.alpha, settings.dropout, settings.init)
    accept_plain_checkpoints(model, r".*\.lora_[AB]")
    for words in warnings_for(model, settings.also_train, chosen):
        logger.warning(words)
    return chosen


def mark_only_lora_as_trainable(model: nn.Module, settings: LoRASettings, strict: bool = True) -> Tuple[int, int]:
    """Let the updates train, with the biases and modules that *settings* names, and nothing else.

    Args:
        strict: whether a name in ``settings.also_train`` that matches no module or parameter is an error. fairseq's tasks
            add heads to a model that is built already, so the name of a head may match later only.

    Returns:
        numbers of weights: those that train, and all.

    Raises:
        ValueError: a name matches nothing.
    """
    train = trained_along("also_train", model, settings.also_train, HEADS, strict)
    for layer in lora_layers(model).values():
        train += [layer.lora_A, layer.lora_B]
        if settings.bias == "lora_only" and layer.bias is not None:
            train.append(layer.bias)
    if settings.bias == "all":
        train += [p for name, p in model.named_parameters() if "bias" in name.rsplit(".", 1)[-1]]  # in_proj_bias, bias_ih_l0
    return train_only(model, train)
