"""``--arch adapter --base-arch roberta_base --adapter-size 64``: bottleneck adapters in any architecture's layers.

The networks are `sharp_plugins.bottleneck`; the model that is built is the base architecture's own, with adapters that follow
its attentions and feed-forward networks, and all else frozen. Not for TorchScript, which does not see what follows a module.

Sources: Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP" (arXiv 1902.00751); Pfeiffer et al. 2021,
"AdapterFusion" (arXiv 2005.00247).
"""

import logging
from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass.constants import ChoiceEnum
from fairseq.models import register_model, register_model_architecture

from sharp_plugins.bottleneck import ACTIVATIONS, Bottleneck, adapters, follow, width_of
from sharp_plugins.models.base_arch import BaseArchConfig, WrappingModel
from sharp_plugins.module_names import HEADS, accept_plain_checkpoints, check_patterns, choose, train_only, trained_along

logger = logging.getLogger(__name__)

# What an adapter follows by default, in the names of fairseq's Transformer layers.
PLACEMENTS = {"houlsby": "(self_attn|encoder_attn|fc2)", "pfeiffer": "fc2"}
# What is trained along by default: Houlsby et al. train the layer norms.
ALONG = {"houlsby": f"(layer_norm|.*_layer_norm|layernorm_embedding),{HEADS}", "pfeiffer": HEADS}


@dataclass
class AdapterConfig(BaseArchConfig):
    adapter_size: int = field(
        default=64, metadata={"help": "width m of the bottleneck (default: Houlsby et al.'s for all of GLUE)"}
    )
    adapter_placement: ChoiceEnum(list(PLACEMENTS)) = field(
        default="houlsby",
        metadata={"help": "houlsby: after the attentions and the feed-forward networks; pfeiffer: after the latter alone"},
    )
    adapter_activation: ChoiceEnum(list(ACTIVATIONS)) = field(
        default="gelu", metadata={"help": "nonlinearity of the bottleneck (default: Houlsby et al.'s code)"}
    )
    adapter_target: Optional[str] = field(
        default=None,
        metadata={"help": "modules that an adapter follows, named as for --lora-target (default: those of the placement)"},
    )
    adapter_also_train: Optional[str] = field(
        default=None,
        metadata={
            "help": "modules or parameters that are trained as a whole, named as for --lora-target (default: "
            "classification_heads where there are any; with houlsby the layer norms too)"
        },
    )


@register_model("adapter")
class Adapter(WrappingModel):
    """The base architecture's model with adapters, all else frozen."""

    config = AdapterConfig

    @classmethod
    def check(cls, args) -> None:
        super().check(args)
        own = cls.own(args)
        if own["adapter_size"] < 1:
            raise ValueError(f"--adapter-size must be 1 or larger, and is {own['adapter_size']}")
        for flag in ("adapter_target", "adapter_also_train"):
            check_patterns(f"--{flag.replace('_', '-')}", own[flag] or "")

    @classmethod
    def change(cls, model, args) -> None:
        own = cls.own(args)
        candidates = {name: module for name, module in model.named_modules() if name and width_of(module)}
        target = own["adapter_target"] or PLACEMENTS[own["adapter_placement"]]
        chosen = choose("--adapter-target", target, candidates, "layers")
        for name in chosen:
            module = candidates[name]
            follow(module, Bottleneck(width_of(module), own["adapter_size"], own["adapter_activation"]))
        accept_plain_checkpoints(model, r".*\.adapter\.(down|up)\.(weight|bias)")
        trained, total = cls._freeze(model, own, strict=False)
        logger.info(f"{len(chosen)} adapters of size {own['adapter_size']}: {trained:,} of {total:,} weights train")

    @classmethod
    def finish(cls, model, args) -> None:
        cls._freeze(model, cls.own(args), strict=True)

    @staticmethod
    def _freeze(model, own, strict: bool):
        train = [p for adapter in adapters(model) for p in adapter.parameters()]
        along = ALONG[own["adapter_placement"]]
        return train_only(
            model, train + trained_along("--adapter-also-train", model, own["adapter_also_train"], along, strict)
        )


register_model_architecture("adapter", "adapter")(Adapter.apply_defaults)
