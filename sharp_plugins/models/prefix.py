"""``--arch prefix --base-arch sharp_gpt2_medium --prefix-length 5``: prefix tuning of a published decoder, with its own flags.

The network is `sharp_plugins.networks.prefix`. The model that is built is the base architecture's own, with a prefix in its
decoder; all else is frozen.

Source: "Prefix-Tuning: Optimizing Continuous Prompts for Generation" (Li and Liang 2021, arXiv 2101.00190).
"""

import logging
from dataclasses import dataclass, field
from typing import Tuple

import torch
from fairseq.models import register_model, register_model_architecture

from sharp_plugins.core.setting_error import as_flags
from sharp_plugins.models.base_arch import BaseArchConfig, WrappingModel
from sharp_plugins.models.run_settings import setting
from sharp_plugins.networks.decoder import Decoder
from sharp_plugins.networks.module_names import accept_plain_checkpoints, train_only
from sharp_plugins.networks.prefix import NAMES, BehindPrefix, Prefix, check_settings

logger = logging.getLogger(__name__)

# Ways to break text into samples (--sample-break-mode of --task language_modeling) that fill up --tokens-per-sample.
FILLED = ("none", "complete")


@dataclass
class PrefixConfig(BaseArchConfig):
    prefix_length: int = field(default=5, metadata={"help": "length of the prefix in tokens (default: Li and Liang's for WebNLG)"})
    prefix_hidden: int = field(
        default=512,
        metadata={
            "help": "width inside the network that computes the prefix while it trains, or 0 to train the prefix itself "
            "(default: Li and Liang's for text from tables)"
        },
    )
    prefix_dropout: float = field(
        default=0.0, metadata={"help": "dropout probability of the prefix's numbers (default: none, as Li and Liang)"}
    )


@register_model("prefix")
class PrefixTuning(WrappingModel):
    """The base architecture's model with a prefix, all else frozen.

    Example; the task is yours, and so are the flags of your ``--arch sharp_gpt2``::

        >>> args.base_arch, args.prefix_length = "sharp_gpt2", 5
        >>> model = PrefixTuning.build_model(args, task)
        >>> sorted(name for name, p in model.named_parameters() if p.requires_grad)[0]
        'decoder.prefix.embedding'
    """

    config = PrefixConfig

    @classmethod
    @as_flags("prefix")
    def check(cls, args) -> None:
        super().check(args)
        check_settings(*cls.settings(args))

    @classmethod
    def settings(cls, args) -> Tuple[int, int, float]:
        """Length, hidden and dropout of a `Prefix`, in a model's config."""
        own = cls.own(args)
        return own["prefix_length"], own["prefix_hidden"], own["prefix_dropout"]

    @classmethod
    @as_flags("prefix")
    def change(cls, model, args) -> None:
        decoder = getattr(model, "decoder", None)
        if not isinstance(decoder, Decoder):
            raise ValueError(
                f"--arch prefix: the attention of --base-arch {cls.own(args)['base_arch']} has no place for a prefix; that of "
                "published decoders has one: --base-arch sharp_gpt2_medium, for example"
            )
        decoder.prefix = prefix = Prefix.of(decoder, *cls.settings(args))
        accept_plain_checkpoints(model, NAMES)
        trained, total = train_only(model, prefix.parameters())
        logger.info(
            f"a prefix of {prefix.length} tokens, {prefix.length * prefix.width:,} numbers: {trained:,} of {total:,} weights train"
        )

    @classmethod
    def finish(cls, model, args) -> None:
        train_only(model, model.decoder.prefix.parameters())
        if hasattr(model.decoder.layers[0], "precheckpoint_forward"):  # --checkpoint-activations
            model.decoder.layers[0].register_forward_pre_hook(_let_the_prefix_enter)

    @classmethod
    def foresee(cls, cfg) -> None:
        """Raise ValueError where the task fills blocks that have no room behind the prefix: fairseq would leave them out."""
        if str(setting(cfg.task, "sample_break_mode", "eos")) not in FILLED:
            return
        block, length = setting(cfg.task, "tokens_per_sample", 0), cls.own(cfg.model)["prefix_length"]
        positions = setting(cfg.model, "max_target_positions", None)
        room = (positions or block) - length
        if block > room:
            raise ValueError(
                f"--tokens-per-sample {block}: the model has {room + length} positions, and the prefix takes {length} of them; "
                f"set it to {room} at most" + f", and --max-target-positions to {block}" * (positions is None)
            )


def _let_the_prefix_enter(layer, args):
    x, rotation, cache = args
    return (cache.enter(x), rotation, cache) if isinstance(cache, BehindPrefix) and torch.is_grad_enabled() else None


register_model_architecture("prefix", "prefix")(PrefixTuning.apply_defaults)
