"""How flat a minimum is, and how sure and robust a classifier: pure functions on tensors.

The curvature is found by power iteration on products with the Hessian H. They are differences of gradients,

    H v ≈ (∇L(w + h v) − ∇L(w − h v)) / 2h,

so the loss may be of any operations, those without a second derivative too (torch's fused attention).
"""

from typing import Callable, List, NamedTuple, Sequence

import torch
from torch import Tensor

from sharp_plugins.core.balancedness import squared_norms
from sharp_plugins.core.noise import fill_normal_

Tensors = Sequence[Tensor]
Product = Callable[[Tensors], List[Tensor]]


class Eigenvalue(NamedTuple):
    """The largest eigenvalue λ of a symmetric matrix.

    Attributes:
        residual: ‖Hv − λv‖ for the unit vector v that was found; an eigenvalue lies so near to `value`.
        steps: products that were made.
    """

    value: float
    residual: float
    steps: int


def random_direction(weights: Tensors, seed: int, relative: bool = False) -> List[Tensor]:
    """A Gaussian direction of norm 1 over all tensors; or *relative*, of each tensor's own norm.

    Args:
        weights: any shapes and dtypes; the result is fp32 on their devices.

    Example::

        >>> weights = [torch.ones(2, 2), torch.full((9,), 3.0)]
        >>> direction = random_direction(weights, seed=1, relative=True)
        >>> [round(float(part.norm()), 4) for part in direction]
        [2.0, 9.0]
    """
    parts = [torch.empty_like(weight, dtype=torch.float32, memory_format=torch.contiguous_format) for weight in weights]
    fill_normal_(parts, seed)
    if relative:
        for part, weight in zip(parts, weights):
            part.mul_(weight.detach().float().norm() / part.norm().clamp_min(1e-30))
        return parts
    torch._foreach_mul_(parts, 1 / norm(parts))
    return parts


def norm(tensors: Tensors) -> float:
    """‖·‖₂ over all tensors together.

    Example::

        >>> norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
        5.0
    """
    return float(squared_norms(tensors).sum().sqrt())


def top_eigenvalue(product: Product, like: Tensors, steps: int = 20, tolerance: float = 1e-3, seed: int = 1) -> Eigenvalue:
    """The largest eigenvalue of a symmetric matrix, by power iteration (Yao et al. 2020, "PyHessian").

    Power iteration finds the eigenvalue of the largest magnitude. Where that is negative, it goes on with the matrix moved up by
    it, H + |λ| I, whose largest magnitude is the wanted one.

    Args:
        product: v to H v.
        like: tensors of v's shapes.
        steps: products at most, and once more so many where λ is negative at first.
        tolerance: it stops where λ changes by less than this share.

    Returns:
        an `Eigenvalue`.

    Example::

        >>> H = torch.diag(torch.tensor([3.0, -5.0, 1.0]))
        >>> found = top_eigenvalue(lambda v: [H @ v[0]], [torch.zeros(3)], steps=100, tolerance=1e-6)
        >>> round(found.value, 3)
        3.0
    """
    found = _power_iteration(product, like, steps, tolerance, seed)
    if found.value >= 0:
        return found
    shift = -found.value

    def moved(v: Tensors) -> List[Tensor]:
        parts = product(v)
        torch._foreach_add_(parts, list(v), alpha=shift)
        return parts

    second = _power_iteration(moved, like, steps, tolerance, seed + 1)
    return Eigenvalue(second.value - shift, second.residual, found.steps + second.steps)


def _power_iteration(product: Product, like: Tensors, steps: int, tolerance: float, seed: int) -> Eigenvalue:
    v, value = random_direction(like, seed), 0.0
    for step in range(1, steps + 1):
        u, before = product(v), value
        value = float(torch.stack([(a * b).sum() for a, b in zip(u, v)]).sum())
        residual = norm(torch._foreach_sub(u, list(v), alpha=value))
        size = norm(u)
        if size == 0 or (step > 1 and abs(value - before) <= tolerance * abs(value)):
            break
        torch._foreach_mul_(u, 1 / size)
        v = u
    return Eigenvalue(value, residual, step)


def rounded(weight: Tensor, bits: int) -> Tensor:
    """A matrix as integers of *bits* bits would have it: round to nearest, one scale for each row, symmetric around 0.

    A row's scale is its largest magnitude over 2^(bits−1) − 1. A tensor with one dimension, such as a bias, is left as it is.

    Args:
        weight: (rows, ...), floating point.

    Example::

        >>> rounded(torch.tensor([[0.7, -0.2, 0.06], [7.0, 3.4, 0.0]]), bits=4)
        tensor([[ 0.7000, -0.2000,  0.1000],
                [ 7.0000,  3.0000,  0.0000]])
    """
    if bits < 2:
        raise ValueError(f"a weight of {bits} bits has no sign; give 2 or more")
    if weight.dim() < 2:
        return weight.clone()
    rows = weight.detach().float().flatten(1)
    scale = rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    whole = torch.round(rows / scale.clamp_min(torch.finfo(torch.float32).tiny))
    return (whole * scale).view_as(weight).to(weight.dtype)


def calibration_error(probabilities: Tensor, targets: Tensor, bins: int = 15) -> float:
    """The expected calibration error, from 0 to 1 (Guo et al. 2017, Eq. 3): in bins of equal width of the confidence, how far it is
    from the share of right answers, weighted by the bins' rows.

    Args:
        probabilities: (rows, classes).
        targets: (rows,) int64.

    Example::

        >>> sure = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]])
        >>> round(calibration_error(sure, torch.tensor([0, 1, 1])), 4)  # ⅔ · |0.9 − ½| + ⅓ · |0.8 − 1|
        0.3333
    """
    confidence, chosen = probabilities.double().max(1)
    right = (chosen == targets).double()
    # Bins (a, b], as Guo et al. have them.
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=torch.float64, device=place.device).index_add_(0, place, right - confidence)
    return float(gap.abs().sum() / len(targets))
