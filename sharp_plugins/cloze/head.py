"""The masked-language-model head beside what else trains: trained with an output layer of its own, trained tied, or frozen.

    untied   the output layer begins as a copy of the table of words, and the whole head trains (MeZO's code and LM-BFF's)
    tied     the whole head trains, and its output layer is the table of words, which trains too
    frozen   nothing of the head trains

RoBERTa-large's untied head is 52.6 million numbers, and its LoRA of rank 8 on q and v 0.8 million. MeZO's code trains both at one
learning rate, without a word in the paper: it freezes what is named ``roberta...`` alone.
"""

from typing import NamedTuple

from fairseq.utils import safe_getattr
from torch import nn

from sharp_plugins.models.base_arch import wrapper_of

CHOICES = ("untied", "tied", "frozen")
HEAD = "encoder.lm_head"


class Counts(NamedTuple):
    """Numbers in a model: those of the head that train, all that train, and all. Tied weights count once."""

    head: int
    trained: int
    total: int


def set_head(cfg, choice: str) -> None:
    """Write what *choice* means into a model's config, before the model is built.

    Args:
        cfg: a Namespace, or a DictConfig that may be written to.
        choice: one of `CHOICES`.

    Raises:
        ValueError: the wrapping architecture lets nothing train beside its own, or a flag says the opposite.

    >>> from argparse import Namespace
    >>> import sharp_plugins
    >>> sharp_plugins.register()
    >>> cfg = Namespace(_name="lora", base_arch="roberta_large", lora_also_train=None)
    >>> set_head(cfg, "untied")
    >>> cfg.untie_weights_roberta, cfg.lora_also_train
    (True, 'encoder.lm_head')
    """
    wrapper = wrapper_of(cfg)
    asked = bool(safe_getattr(cfg, "untie_weights_roberta", False))
    if asked and choice == "tied":
        raise ValueError("--untie-weights-roberta is the opposite of --train-lm-head tied: leave one out")
    # Frozen beside embeddings that train, the output layer must not be these. Beside frozen ones a copy would be for nothing.
    cfg.untie_weights_roberta = asked or choice == "untied" or (choice == "frozen" and wrapper is None)
    if wrapper is not None and choice != "frozen":
        wrapper.train_along(cfg, HEAD)


def freeze_head(model: nn.Module) -> None:
    """Freeze the head of a model that trains as a whole but for it."""
    model.get_submodule(HEAD).requires_grad_(False)


def count(model: nn.Module) -> Counts:
    """How many numbers train."""
    head = sum(p.numel() for p in model.get_submodule(HEAD).parameters() if p.requires_grad)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Counts(head, trained, sum(p.numel() for p in model.parameters()))
