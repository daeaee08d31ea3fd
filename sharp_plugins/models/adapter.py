"""``--arch adapter --base-arch roberta_base --adapter-size 64``: bottleneck adapters in any architecture's layers.

The networks are `sharp_plugins.networks.bottleneck`; the model that is built is the base architecture's own, with adapters in its
layers, and all else frozen. Not for TorchScript, which does not see what is hooked to a module.

Sources: Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP" (arXiv 1902.00751); Pfeiffer et al. 2021,
"AdapterFusion" (arXiv 2005.00247).
"""

import logging
from dataclasses import dataclass, field
from typing import List, Optional

from fairseq.dataclass.constants import ChoiceEnum
from fairseq.models import register_model, register_model_architecture
from fairseq.modules import MultiheadAttention
from torch import nn

from sharp_plugins.core.setting_error import SettingError, as_flags
from sharp_plugins.models.base_arch import BaseArchConfig, WrappingModel, train_through_checkpointed_layers
from sharp_plugins.networks.bottleneck import ACTIVATIONS, Bottleneck, adapters, close, follow, is_layer, width_of
from sharp_plugins.networks.module_names import (
    HEADS,
    accept_plain_checkpoints,
    check_patterns,
    choose,
    joined,
    patterns,
    train_only,
    trained_along,
)

logger = logging.getLogger(__name__)

PLACEMENTS = ("houlsby", "pfeiffer")
# What Houlsby et al.'s adapters follow, in the names of fairseq's Transformer layers.
SUBLAYERS = "(self_attn|encoder_attn|fc2)"
# m, or d/m.
SIZE, REDUCTION = 64, 16
ACTIVATION = {"houlsby": "gelu", "pfeiffer": "relu"}
# What is trained along by default: Houlsby et al. train the layer norms. That of a language-model head is not among them: a
# classification does not use it, and DDP waits for the gradient of everything that trains.
ALONG = {"houlsby": rf"((?<!lm_head\.)layer_norm|.*_layer_norm|layernorm_embedding),{HEADS}", "pfeiffer": HEADS}


@dataclass
class AdapterConfig(BaseArchConfig):
    adapter_size: Optional[int] = field(
        default=None,
        metadata={
            "help": "width m of the bottleneck (default: 64, Houlsby et al.'s for all of GLUE; with pfeiffer a 16th of the "
            "layer's width, as in AdapterHub)"
        },
    )
    adapter_placement: ChoiceEnum(list(PLACEMENTS)) = field(
        default="houlsby",
        metadata={"help": "houlsby: after the attentions and the feed-forward networks; pfeiffer: one at a layer's end"},
    )
    adapter_activation: Optional[ChoiceEnum(list(ACTIVATIONS))] = field(
        default=None,
        metadata={
            "help": "nonlinearity of the bottleneck: relu, gelu or tanh (default: gelu, as Houlsby et al.'s code; with "
            "pfeiffer relu, as AdapterHub)"
        },
    )
    adapter_target: Optional[str] = field(
        default=None,
        metadata={
            "help": "modules whose output goes through an adapter: names with commas between them, or a regular expression, for "
            "the whole or the end of a module's name; of fairseq's attention it is self_attn, not q_proj (default: none but "
            "those of the placement)"
        },
    )
    adapter_also_train: Optional[str] = field(
        default=None,
        metadata={
            "help": "modules or parameters that are trained as a whole, named as for --adapter-target (default: "
            "classification_heads where there are any; with houlsby the layer norms too)"
        },
    )


@register_model("adapter")
class Adapter(WrappingModel):
    """The base architecture's model with adapters, all else frozen.

    Example; the task is yours, and so are the flags of your ``--arch roberta``::

        >>> args.base_arch, args.adapter_placement = "roberta", "pfeiffer"
        >>> model = Adapter.build_model(args, task)
        >>> len(adapters(model))  # one for each layer
        1
    """

    config = AdapterConfig

    @classmethod
    def check(cls, args) -> None:
        super().check(args)
        own = cls.own(args)
        if own["adapter_size"] is not None and own["adapter_size"] < 1:
            raise ValueError(f"--adapter-size must be 1 or larger, and is {own['adapter_size']}")
        with as_flags("adapter"):
            for setting in ("target", "also_train"):
                check_patterns(setting, own[f"adapter_{setting}"] or "")
        if own["adapter_target"] is not None and not patterns(own["adapter_target"]):
            raise ValueError("--adapter-target names no module")

    @classmethod
    @as_flags("adapter")
    def change(cls, model, args) -> None:
        own = cls.own(args)
        placement, target = own["adapter_placement"], own["adapter_target"]

        def new(module):
            width = width_of(module)
            size = own["adapter_size"] or (SIZE if placement == "houlsby" else max(1, width // REDUCTION))
            return Bottleneck(width, size, own["adapter_activation"] or ACTIVATION[placement])

        if placement == "pfeiffer" and not target:
            layers = [module for module in model.modules() if is_layer(module)]
            others = [name for name, module in model.named_modules() if hasattr(module, "fc2") and not is_layer(module)]
            if others or not layers:
                raise ValueError(
                    "--adapter-placement pfeiffer knows layers with fc2 and final_layer_norm, which "
                    f"{others[0] if others else 'this model'} has not; name modules with --adapter-target"
                )
            for layer in layers:
                close(layer, new(layer.fc2))
        else:
            candidates = {name: module for name, module in model.named_modules() if name and width_of(module)}
            chosen = choose("target", target or SUBLAYERS, candidates, "layers")
            _check_calls(model, chosen)
            for name in chosen:
                follow(candidates[name], new(candidates[name]))
        accept_plain_checkpoints(model, r".*\.adapter\.(down|up)\.(weight|bias)")
        trained, total = cls._freeze(model, own, strict=False)
        sizes = ", ".join(map(str, sorted({adapter.down.out_features for adapter in adapters(model)})))
        logger.info(f"{len(adapters(model))} adapters of size {sizes}: {trained:,} of {total:,} weights train")

    @classmethod
    def finish(cls, model, args) -> None:
        cls._freeze(model, cls.own(args), strict=True)
        train_through_checkpointed_layers(model)

    @classmethod
    def train_along(cls, args, name: str) -> None:
        own = cls.own(args)
        norms = ALONG[own["adapter_placement"]].removesuffix(HEADS).rstrip(",")  # the heads that a task adds may never come
        args.adapter_also_train = joined(own["adapter_also_train"] or norms, name)

    @staticmethod
    @as_flags("adapter")
    def _freeze(model, own, strict: bool):
        train = [p for adapter in adapters(model) for p in adapter.parameters()]
        along = ALONG[own["adapter_placement"]]
        return train_only(model, train + trained_along("also_train", model, own["adapter_also_train"], along, strict))


def _check_calls(model: nn.Module, chosen: List[str]) -> None:
    """Raise SettingError where one of the modules *chosen* is never called in training: its adapter would never train."""
    for name in chosen:
        above, _, own = name.rpartition(".")
        if isinstance(model.get_submodule(above), (MultiheadAttention, nn.MultiheadAttention)):
            attention = above.rpartition(".")[2]
            raise SettingError(
                "target",
                f"{name}: this attention reads the weights of its {own}, and never calls it, so that an adapter there would never "
                f"train; name the attention itself, {attention}",
            )


register_model_architecture("adapter", "adapter")(Adapter.apply_defaults)
