"""``--arch lora --base-arch roberta_base --lora-rank 8``: LoRA on any architecture, with that architecture's own flags.

The model that is built is the base architecture's own, with `LoRALinear` layers in it: everything that fairseq or a task
asks of the architecture (heads, beam search, scripting, checkpoints' names) it goes on to find. In a hydra config:

    model: {_name: lora, base_arch: roberta_base, lora_rank: 8, dropout: 0.1}

Source: "LoRA: Low-Rank Adaptation of Large Language Models" (Hu et al. 2022, arXiv 2106.09685).
"""

import argparse
import copy
import difflib
import logging
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Dict, Optional

from fairseq import models
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.constants import ChoiceEnum
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import (
    ARCH_CONFIG_REGISTRY,
    ARCH_MODEL_REGISTRY,
    BaseFairseqModel,
    register_model,
    register_model_architecture,
)
from omegaconf import OmegaConf, open_dict

from sharp_plugins.lora import layer
from sharp_plugins.lora.model import BIASES, DEFAULT_TARGET, LoRASettings, add_lora, freeze

logger = logging.getLogger(__name__)

MONITORS = ("ends", "all", "none")


@dataclass
class LoRAConfig(FairseqDataclass):
    base_arch: Optional[str] = field(
        default=None, metadata={"help": "architecture that gets the updates: any registered one, with its own flags"}
    )
    lora_rank: int = field(default=8, metadata={"help": "rank r of the updates B A (default: the BAR paper's)"})
    lora_alpha: float = field(
        default=16.0, metadata={"help": "the updates are scaled by alpha/rank (default: the BAR paper's)"}
    )
    lora_dropout: float = field(
        default=0.0, metadata={"help": "dropout probability on the input of A (default: none, as in Hu et al.'s GLUE runs)"}
    )
    lora_target: str = field(
        default=DEFAULT_TARGET,
        metadata={
            "help": "linear layers that get an update: names with commas between them (the whole of a layer's name, or its "
            "end), or a regular expression for the same (default: query and value projections, Hu et al. 2022, section 7.1)"
        },
    )
    lora_init: ChoiceEnum(list(layer.INITS)) = field(
        default="kaiming",
        metadata={"help": "how A is initialised: Kaiming uniform (Hu et al.'s code, PEFT) or Gaussian with deviation 1/rank; B is 0"},
    )
    lora_bias: ChoiceEnum(list(BIASES)) = field(
        default="none", metadata={"help": "biases that are trained: none, all of the model, or those of the chosen layers"}
    )
    lora_also_train: Optional[str] = field(
        default=None,
        metadata={
            "help": "modules or parameters that are trained as a whole, named as for --lora-target "
            "(default: classification_heads where the model has them)"
        },
    )
    lora_monitor: ChoiceEnum(list(MONITORS)) = field(
        default="ends",
        metadata={"help": "layers whose balancedness 2|B| is logged: first, middle and last, all, or none (default: the BAR paper's Figure 3)"},
    )


_FIELDS = [name for name in LoRAConfig.__dataclass_fields__ if not name.startswith("_")]


def _get(args, name: str) -> Any:
    value = args.get(name, None) if OmegaConf.is_config(args) else getattr(args, name, None)
    return LoRAConfig.__dataclass_fields__[name].default if value is None else value


def settings_of(args) -> LoRASettings:
    """The LoRA settings in a model's config (a Namespace or a DictConfig)."""
    values = {name[len("lora_") :]: _get(args, name) for name in _FIELDS if name not in ("base_arch", "lora_monitor")}
    return LoRASettings(**{key: v if v is None or isinstance(v, (int, float)) else str(v) for key, v in values.items()})


def is_lora(args) -> bool:
    """Whether a model's config (a Namespace or a DictConfig) is one of ``--arch lora``."""
    return (getattr(args, "_name", None) or getattr(args, "arch", None)) == "lora"


def monitor_of(args) -> str:
    """Which layers' balancedness is logged, from a model's config: "ends", "all" or "none"."""
    return str(_get(args, "lora_monitor"))


def check_base_arch(name: Optional[str]) -> None:
    """Raises ValueError unless *name* is an architecture that LoRA can be put on."""
    if not name:
        raise ValueError("--arch lora needs the architecture that gets the updates: --base-arch roberta_base, for example")
    if name not in ARCH_MODEL_REGISTRY or name == "lora":
        close = difflib.get_close_matches(name, ARCH_MODEL_REGISTRY, n=5)
        raise ValueError(
            f"--base-arch {name}: there is no such architecture"
            + (f"; similar ones are {', '.join(close)}" if close else "")
        )


def base_config(args):
    """The config of the base architecture: *args* without what belongs to LoRA. Takes and returns a Namespace or DictConfig."""
    base_arch = _get(args, "base_arch")
    if isinstance(args, argparse.Namespace):
        base = argparse.Namespace(**{key: value for key, value in vars(args).items() if key not in _FIELDS})
        base.arch = base._name = base_arch
        return base
    base = copy.deepcopy(args)
    base.__dict__["_parent"] = args.__dict__["_parent"]  # its interpolations (${task.…}) are relative to the whole config
    OmegaConf.set_struct(base, False)  # legacy architectures write to their config
    for key in _FIELDS:
        base.pop(key, None)
    base._name = base_arch
    if "arch" in base:
        base.arch = base_arch
    return base


@register_model("lora")
class LoRA(BaseFairseqModel):
    """Builds the base architecture's model, with updates."""

    @classmethod
    def add_args(cls, parser):
        """Add LoRA's flags; `sharp_plugins.host.flags` adds those of the base architecture."""
        gen_parser_from_dataclass(parser, LoRAConfig())

    @classmethod
    def check(cls, args) -> None:
        """Raise ValueError, naming the flag, where a setting is out of range whatever the model."""
        check_base_arch(_get(args, "base_arch"))
        settings_of(args).check()

    @classmethod
    def build_model(cls, args, task):
        """The model of ``args.base_arch``, its chosen layers with updates and all else frozen.

        Raises:
            ValueError: a setting is out of range or does not fit the model.
        """
        cls.check(args)
        settings = settings_of(args)
        model = models.build_model(base_config(args), task)
        chosen = add_lora(model, settings)
        trained, total = freeze(model, settings, strict=False)
        logger.info(f"LoRA of rank {settings.rank} on {len(chosen)} layers ({chosen[0]}, ...): {trained:,} of {total:,} weights train")
        return model


@register_model_architecture("lora", "lora")
def _architecture(args) -> None:
    """Apply the base architecture's defaults, as fairseq does for ``--arch``."""
    base_arch = _get(args, "base_arch")
    check_base_arch(base_arch)
    if base_arch in ARCH_CONFIG_REGISTRY:
        with open_dict(args) if OmegaConf.is_config(args) else nullcontext():
            ARCH_CONFIG_REGISTRY[base_arch](args)
