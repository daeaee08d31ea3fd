"""Root mean square normalisation (Zhang and Sennrich 2019, arXiv 1910.07467, Eq. 4): y = x / √(mean(x²) + ε) · w."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

HAS_FUSED = hasattr(F, "rms_norm")  # torch 2.4 and later


class RMSNorm(nn.Module):
    """y over the last dimension, the quotient in fp32 for half-precision inputs too.

    Example::

        >>> RMSNorm(2, eps=0.0)(torch.tensor([3.0, 4.0])).detach()
        tensor([0.8485, 1.1314])
    """

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # One kernel on a GPU; on a CPU one for each operation, but one call, which counts where tokens are generated one by one.
        # Not in a training's passes without a gradient: they are compared with those that have one.
        generates = not (self.training or torch.is_grad_enabled())
        if HAS_FUSED and (x.is_cuda or generates) and x.dtype == self.weight.dtype:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return _RMSNorm.apply(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps:g}"


class _RMSNorm(torch.autograd.Function):
    """With n = x r and r = 1 / √(mean(x²) + ε), a gradient g of y = n w becomes r (g w - n mean(g w n)). It keeps x, which the
    residual connection has in memory anyhow, and r alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = _wide(x)
        r = torch.rsqrt(torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.size(-1)).add_(eps))
        ctx.save_for_backward(x, weight, r)
        return (wide * r).to(x.dtype) * weight

    @staticmethod
    @once_differentiable  # r, as it was kept, does not know of x: a second derivative would lack a part of it
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight, r = ctx.saved_tensors
        g, n, w = _wide(gradients[0]), _wide(x) * r, _wide(weight)
        gn = g * n
        of_weight = gn.flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None
        mean = (gn @ w).div_(x.size(-1)).unsqueeze(-1)
        return (g * w).addcmul_(n, mean, value=-1).mul_(r).to(x.dtype), of_weight, None


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
