"""Label smoothing over the symbols that a model can predict.

fairseq's loss of a token is (1 - ε) · -log p(target) + ε · the mean of -log p over the V - 1 other symbols. Where a model has
unused symbols (`sharp_plugins.networks.decoder`), their -log p is inf, and so is that mean. Here they are not counted in either.
"""

from typing import Any, List, Sequence, Tuple

import torch
from torch import Tensor


def label_smoothed(log_probs: Tensor, target: Tensor, epsilon: float, unused: Sequence[int], padding: int) -> Tuple[Tensor, Tensor]:
    """The losses of tokens, (N, 1), and their -log p(target), (N, 1); both are 0 where *target* is *padding*.

    Without a copy of *log_probs*, and one of that size in the backward.

    Args:
        log_probs: (N, V), fp32, −inf for the unused symbols.
        target: (N,) int64, none of them unused (but for padding, which may be).
        epsilon: ε, of which each other symbol gets ε / (V - 1 - len(unused)).
        unused: indices of symbols without a probability.

    Example::

        >>> log_probs = torch.tensor([[0.5, 0.0, 0.25, 0.25]]).log()
        >>> loss, nll = label_smoothed(log_probs, torch.tensor([0]), epsilon=0.2, unused=[1], padding=9)
        >>> loss.item() == (0.8 * -log_probs[0, 0] + 0.2 * -log_probs[0, 2]).item()
        True
    """
    return _LabelSmoothed.apply(log_probs, target, epsilon, tuple(sorted(set(unused))), padding)


def _between(unused: Sequence[int], size: int) -> List[Tuple[int, int]]:
    """Ranges of columns (start, end) that are used; *unused* ascends."""
    edges = [-1, *unused, size]
    return [(start + 1, end) for start, end in zip(edges, edges[1:]) if start + 1 < end]


class _LabelSmoothed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, target: Tensor, epsilon: float, unused: Tuple[int, ...], padding: int) -> Any:
        size = log_probs.size(1)
        target = target.unsqueeze(1)
        is_padding = target.eq(padding)
        others = max(size - len(unused) - 1, 1)
        ctx.on_each, ctx.on_target = epsilon / others, 1 - epsilon - epsilon / others
        ctx.unused, ctx.size, ctx.dtype = unused, size, log_probs.dtype
        ctx.save_for_backward(target, is_padding)
        nll = -log_probs.gather(1, target)
        total = -sum(log_probs[:, start:end].sum(1, keepdim=True) for start, end in _between(unused, size))
        loss = ctx.on_target * nll + ctx.on_each * total
        return loss.masked_fill_(is_padding, 0.0), nll.masked_fill_(is_padding, 0.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        target, is_padding = ctx.saved_tensors
        of_loss, of_nll = (gradient.masked_fill(is_padding, 0.0) for gradient in gradients)
        found = (-ctx.on_each * of_loss).expand(-1, ctx.size).contiguous()
        for index in ctx.unused:
            found[:, index] = 0.0
        return found.scatter_add_(1, target, -ctx.on_target * of_loss - of_nll), None, None, None, None
