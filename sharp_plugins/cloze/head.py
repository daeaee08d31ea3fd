"""The masked-language-model head beside what else trains: trained with an output layer of its own, trained tied, or frozen.

    untied   the output layer begins as a copy of the table of words, and the whole head trains (MeZO's code and LM-BFF's)
    tied     the whole head trains, and its output layer is the table of words, which trains too
    frozen   nothing of the head trains

RoBERTa-large's untied head is 52.6 million numbers, and its LoRA of rank 8 on q and v 0.8 million. MeZO's code trains both at one
learning rate, without a word in the paper: it freezes what is named ``roberta...`` alone.
"""

import re
from typing import NamedTuple, Optional

from fairseq.utils import safe_getattr
from torch import nn

from sharp_plugins.models.base_arch import WrappingModel, wrapper_of

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

    >>> from argparse import Namespace
    >>> import sharp_plugins
    >>> sharp_plugins.register()
    >>> cfg = Namespace(_name="lora", base_arch="roberta_large", lora_also_train=None)
    >>> set_head(cfg, "untied")
    >>> cfg.untie_weights_roberta, cfg.lora_also_train
    (True, 'encoder.lm_head')
    """
    wrapper = wrapper_of(cfg)
    # Frozen beside embeddings that train, the output layer must not be these. Beside frozen ones a copy would be for nothing.
    cfg.untie_weights_roberta = choice == "untied" or (choice == "frozen" and wrapper is None)
    if wrapper is not None and choice != "frozen":
        setting = also_train_of(wrapper)
        setattr(cfg, setting, joined(safe_getattr(cfg, setting), HEAD))


def also_train_of(wrapper: type) -> str:
    """The setting of a wrapping architecture that names what trains beside its own.

    Raises:
        ValueError: it has none.
    """
    assert issubclass(wrapper, WrappingModel)
    names = [name for name in wrapper.config.__dataclass_fields__ if name.endswith("_also_train")]
    if not names:
        raise ValueError(f"--arch {wrapper.__name__.lower()}: nothing trains beside it; use --train-lm-head frozen")
    return names[0]


def joined(names: Optional[str], more: str) -> str:
    """Names, or a regular expression for them, with one more.

    >>> joined("a, b", "encoder.lm_head"), joined("x|y", "encoder.lm_head"), joined(None, "encoder.lm_head")
    ('a, b,encoder.lm_head', 'x|y|encoder\\\\.lm_head', 'encoder.lm_head')
    """
    if not names:
        return more
    return f"{names},{more}" if re.fullmatch(r"[\w., ]*", names) else f"{names}|{re.escape(more)}"


def freeze_head(model: nn.Module) -> None:
    """Freeze the head of a model whose embeddings are not its output layer, or are frozen too."""
    model.get_submodule(HEAD).requires_grad_(False)


def count(model: nn.Module) -> Counts:
    """How many numbers train."""
    head = sum(p.numel() for p in model.get_submodule(HEAD).parameters() if p.requires_grad)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Counts(head, trained, sum(p.numel() for p in model.parameters()))
