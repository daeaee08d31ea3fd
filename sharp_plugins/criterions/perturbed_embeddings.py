"""Perturbations of token embeddings: what R3F, FreeLB and SMART do to a model's input.

A perturbation δ is added to what the model's token embedding returns, in a forward hook. fairseq's own argument for
that, ``token_embeddings``, is no way in: fairseq 0.12's RobertaModel takes it and ignores it, so that fairseq's R3F
example perturbs nothing there.

The sum is where fp16 and bf16 would lose a perturbation: an embedding of 0.05 has fp16 neighbours 3e-5 away, so that
x + 1e-5, rounded to the nearest, is x. Here it is rounded at random, and is x + δ on average.
"""

from contextlib import contextmanager
from typing import Iterator

import torch
from fairseq.dataclass.constants import ChoiceEnum
from torch import Tensor, nn

from sharp_plugins.core.rounding import round_stochastically_

DROPOUTS = ChoiceEnum(["matched", "independent"])

# A loss is multiplied with it before its gradient with respect to δ is taken. In half precision small gradients would
# vanish without it (fairseq's loss scale comes after the criterion; this is its default start). Only the direction is
# used, which does not depend on it.
_SCALE = 128.0


# ---------------------------------------------------------------------- x + δ


def token_embedding(model: nn.Module) -> nn.Module:
    """The module that embeds the input's tokens: the first named ``embed_tokens``, the encoder's if there is one.

    Raises:
        ValueError: the model has none.
    """
    for name, module in model.named_modules():
        if name.split(".")[-1] == "embed_tokens" and hasattr(module, "embedding_dim"):
            return module
    raise ValueError(
        f"{type(model).__name__} has no token embedding (a module embed_tokens with an embedding_dim) to perturb: use "
        "an encoder such as --arch roberta_base, or another --criterion"
    )


def empty_perturbation(model: nn.Module, tokens: Tensor) -> Tensor:
    """An uninitialised fp32 tensor (B, T, D), one entry for each entry of the embeddings of *tokens* (B, T)."""
    dimension = token_embedding(model).embedding_dim
    return torch.empty(*tokens.shape, dimension, dtype=torch.float32, device=tokens.device)


def real_tokens(tokens: Tensor, pad: int) -> Tensor:
    """(B, T, 1) fp32: 1 for a token of the sentence, 0 for padding."""
    return tokens.ne(pad).unsqueeze(-1).float()


class _Sum(torch.autograd.Function):
    """x + δ, rounded to the precision of x; its gradient is that of the sum."""

    @staticmethod
    def forward(ctx, x: Tensor, delta: Tensor) -> Tensor:
        # No generator: torch's global one, whose state belongs to the pass as that of the dropout masks does.
        return round_stochastically_(x.float() + delta, x.dtype, generator=None).to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad, grad.float()


@contextmanager
def perturbed(model: nn.Module, delta: Tensor) -> Iterator[None]:
    """Add *delta* to the token embeddings in the one pass of *model* inside.

    Only the first use of the embedding in the pass is the input's: a decoder may share the module with the encoder.

    Args:
        delta: (B, T, D) fp32; the gradient of what the model returns reaches it.

    Raises:
        ValueError: the model has no token embedding, does not use it, or embeds something else than src_tokens.
    """
    done = []

    def add(module, inputs, embedded):
        if done:
            return None
        done.append(True)
        if embedded.shape != delta.shape:
            raise ValueError(
                f"the model's first embeddings are {tuple(embedded.shape)}, and those of src_tokens would be "
                f"{tuple(delta.shape)}: this criterion perturbs models that embed src_tokens first"
            )
        return _Sum.apply(embedded, delta)

    handle = token_embedding(model).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
    if not done:
        raise ValueError(f"{type(model).__name__} does not call its embed_tokens: its input cannot be perturbed")


# ---------------------------------------------------------------------- the search for δ


def check_searchable(model: nn.Module) -> None:
    """Raise ValueError where the gradient with respect to δ cannot be taken inside the criterion."""
    for settings in (getattr(model, "args", None), getattr(model, "cfg", None)):
        if getattr(settings, "checkpoint_activations", False):
            raise ValueError(
                "the gradient with respect to the embeddings cannot be taken with --checkpoint-activations (or "
                "--offload-activations): leave it out, or use an R-Drop or R3F criterion, which take none"
            )


def gradient(losses: Tensor, delta: Tensor, keep_graph: bool) -> Tensor:
    """The gradient of the sum of *losses* with respect to *delta*, times a constant. No ``.grad`` changes."""
    return torch.autograd.grad(_SCALE * losses.sum(), delta, retain_graph=keep_graph)[0]


def normalized(g: Tensor, order: float) -> Tensor:
    """Each sentence's part of *g* (B, T, D) over its norm of that *order*; 0 where the norm is 0 or not finite."""
    norm = torch.linalg.vector_norm(g, order, dim=(1, 2), keepdim=True)
    return torch.where(norm.isfinite() & (norm > 0), g / norm, torch.zeros_like(g))


def project(delta: Tensor, radius: float) -> Tensor:
    """Each sentence's part of *delta* (B, T, D), shortened to an L2 norm of *radius* where it is longer."""
    norm = torch.linalg.vector_norm(delta, dim=(1, 2), keepdim=True)
    return torch.where(norm > radius, delta * (radius / norm), delta)
