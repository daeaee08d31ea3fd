"""The vectors of all workers, with their gradients: the negatives of a batch that is spread over several devices."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Gather(torch.autograd.Function):
    """(N, ...) of each worker to (W · N, ...) on all; a worker's gradient is the sum of what all workers have for its rows."""

    @staticmethod
    def forward(ctx, own: Tensor, group) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, own.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    @once_differentiable  # the sum over the workers has no graph
    def backward(ctx, grad: Tensor):
        grad = grad.contiguous()
        dist.all_reduce(grad, group=ctx.group)  # gloo has no reduce_scatter
        return grad.chunk(dist.get_world_size(ctx.group))[dist.get_rank(ctx.group)], None


def gathered(own: Tensor, group) -> Tensor:
    """*own* of all workers, one worker after the other: (W · N, ...). All workers have as many rows, and all must call it.

    Args:
        own: (N, ...), with its graph.
        group: a process group of torch's.
    """
    return _Gather.apply(own, group)


def count_of(group) -> int:
    """How many workers; 1 where there is one alone."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1
