"""``--arch lora --base-arch roberta_base --lora-rank 8``: LoRA on any architecture, with that architecture's own flags.

In a hydra config: ``model: {_name: lora, base_arch: roberta_base, lora_rank: 8, dropout: 0.1}``. The layers are
`sharp_plugins.networks.low_rank`, and `sharp_plugins.networks.lora` puts them in.

Source: "LoRA: Low-Rank Adaptation of Large Language Models" (Hu et al. 2022, arXiv 2106.09685).
"""

import logging
from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass.constants import ChoiceEnum
from fairseq.models import register_model, register_model_architecture

from sharp_plugins.core.pairs import MONITORS
from sharp_plugins.core.setting_error import as_flags
from sharp_plugins.models.base_arch import BaseArchConfig, WrappingModel, train_through_checkpointed_layers, wrapper_of
from sharp_plugins.networks import low_rank as layer
from sharp_plugins.networks.lora import BIASES, LoRASettings, add_lora, mark_only_lora_as_trainable
from sharp_plugins.networks.module_names import joined

logger = logging.getLogger(__name__)


@dataclass
class LoRAConfig(BaseArchConfig):
    lora_rank: int = field(default=LoRASettings.rank, metadata={"help": "rank r of the updates B A (default: the BAR paper's)"})
    lora_alpha: float = field(
        default=LoRASettings.alpha, metadata={"help": "the updates are scaled by alpha/rank (default: the BAR paper's)"}
    )
    lora_dropout: float = field(
        default=LoRASettings.dropout,
        metadata={"help": "dropout probability on the input of A (default: none, as in Hu et al.'s GLUE runs)"},
    )
    lora_target: str = field(
        default=LoRASettings.target,
        metadata={
            "help": "linear layers that get an update: names with commas between them (the whole of a layer's name, or its "
            "end), or a regular expression for the same (default: query and value projections, Hu et al. 2022, section 7.1)"
        },
    )
    lora_init: ChoiceEnum(list(layer.INITS)) = field(
        default=LoRASettings.init,
        metadata={
            "help": "how A is initialised: Kaiming uniform (Hu et al.'s code, PEFT) or Gaussian with deviation 1/rank; B is 0"
        },
    )
    lora_bias: ChoiceEnum(list(BIASES)) = field(
        default=LoRASettings.bias,
        metadata={"help": "biases that are trained: none, all of the model, or those of the chosen layers"},
    )
    lora_also_train: Optional[str] = field(
        default=LoRASettings.also_train,
        metadata={
            "help": "modules or parameters that are trained as a whole, named as for --lora-target "
            "(default: classification_heads where the model has them)"
        },
    )
    lora_monitor: ChoiceEnum(list(MONITORS)) = field(
        default="ends",
        metadata={
            "help": "layers whose balancedness 2|B| is logged: first, middle and last, all, or none "
            "(default: the BAR paper's Figure 3)"
        },
    )


@register_model("lora")
class LoRA(WrappingModel):
    """The base architecture's model with `LoRALinear` layers, all else frozen.

    Example; the task is yours, and so are the flags of your ``--arch roberta``::

        >>> args.base_arch, args.lora_rank = "roberta", 4
        >>> model = LoRA.build_model(args, task)
        >>> sorted(name for name, p in model.named_parameters() if p.requires_grad)[0]
        'encoder.sentence_encoder.layers.0.self_attn.q_proj.lora_A'
    """

    config = LoRAConfig

    @classmethod
    @as_flags("lora")
    def check(cls, args) -> None:
        super().check(args)
        cls.settings(args).check()

    @classmethod
    def settings(cls, args) -> LoRASettings:
        """The LoRA settings in a model's config."""
        own = {key[len("lora_") :]: value for key, value in cls.own(args).items() if key.startswith("lora_")}
        own.pop("monitor")
        return LoRASettings(**own)

    @classmethod
    @as_flags("lora")
    def change(cls, model, args) -> None:
        settings = cls.settings(args)
        chosen = add_lora(model, settings)
        trained, total = mark_only_lora_as_trainable(model, settings, strict=False)
        logger.info(
            f"LoRA of rank {settings.rank} on {len(chosen)} layers ({chosen[0]}, ...): {trained:,} of {total:,} weights train"
        )

    @classmethod
    @as_flags("lora")
    def finish(cls, model, args) -> None:
        mark_only_lora_as_trainable(model, cls.settings(args))
        train_through_checkpointed_layers(model)

    @classmethod
    def train_along(cls, args, name: str) -> None:
        args.lora_also_train = joined(cls.own(args)["lora_also_train"], name)

    @classmethod
    def foresee(cls, cfg) -> None:
        if cfg.ema.store_ema:
            logger.warning(
                "--store-ema averages A and B apart, and the product of their averages is not the average of the updates B A. To "
                "average LoRA, keep several checkpoints (--save-interval-updates) and average their merged weights: "
                "`python -m sharp_plugins.lora merge A.pt B.pt ... OUT.pt`"
            )


register_model_architecture("lora", "lora")(LoRA.apply_defaults)


def monitor_of(args) -> str:
    """Which pairs' balancedness is logged, from a model's config: "ends", "all" or "none" (without LoRA)."""
    return LoRA.own(args)["lora_monitor"] if wrapper_of(args) is LoRA else "none"
