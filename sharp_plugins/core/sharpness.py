"""How flat a minimum is, and how sure and robust a classifier: pure functions on tensors.

The curvature is found from products with the Hessian H alone, which `sharp_plugins.sharpness.landscape` makes.
"""

import math
from typing import Callable, List, NamedTuple, Sequence

import torch
from torch import Tensor

from sharp_plugins.core import flat
from sharp_plugins.core.balancedness import squared_norms
from sharp_plugins.core.noise import fill_normal_

Tensors = Sequence[Tensor]
Product = Callable[[Tensors], List[Tensor]]


class Eigenvalue(NamedTuple):
    """The largest eigenvalue λ of a symmetric matrix.

    Attributes:
        residual: ‖Hv − λv‖ for the unit vector v that was found. Where products are exact an eigenvalue lies so near to `value`;
            where they are differences of gradients it may be farther away.
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
            wanted, drawn = flat.norms([weight.detach().float(), part])
            part.mul_(wanted / drawn.clamp_min(1e-30))
        return parts
    torch._foreach_mul_(parts, 1 / norm(parts))
    return parts


def norm(tensors: Tensors) -> float:
    """‖·‖₂ over all tensors together.

    Example::

        >>> norm([torch.tensor([3.0]), torch.tensor([[4.0]])])
        5.0
    """
    return float(squared_norms(tensors).sum().sqrt().detach())


def top_eigenvalue(product: Product, like: Tensors, steps: int = 20, tolerance: float = 1e-3, seed: int = 1) -> Eigenvalue:
    """The largest eigenvalue of a symmetric matrix H, by Lanczos' method (Golub and Van Loan 2013, section 10.1).

    Power iteration finds the eigenvalue of the largest magnitude, which may be a negative one. Here each product is made orthogonal
    to the two vectors before it. The coefficients are a small matrix whose eigenvalues come close to the extreme ones of H, from
    both ends. Three vectors are kept, so old directions creep in again by rounding; that repeats eigenvalues which were
    found, and changes none.

    Args:
        product: v to H v.
        like: tensors of v's shapes.
        steps: products at most.
        tolerance: it stops where the residual is below this share of λ.

    Returns:
        an `Eigenvalue`.

    Example::

        >>> H = torch.diag(torch.tensor([3.0, -5.0, 1.0]))
        >>> found = top_eigenvalue(lambda v: [H @ v[0]], [torch.zeros(3)])
        >>> round(found.value, 3)
        3.0
    """
    v, older, beta = random_direction(like, seed), None, 0.0
    diagonal: List[float] = []
    beside: List[float] = []
    for _ in range(steps):
        u = product(v)
        diagonal.append(float(torch.stack([(a * b).sum() for a, b in zip(u, v)]).sum()))
        torch._foreach_add_(u, list(v), alpha=-diagonal[-1])
        if older is not None:
            torch._foreach_add_(u, older, alpha=-beta)
        beta = norm(u)
        if not math.isfinite(beta):
            return Eigenvalue(math.nan, math.nan, len(diagonal))  # as the loss is no number
        small = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(torch.tensor(beside, dtype=torch.float64), -1)
        values, vectors = torch.linalg.eigh(small)  # reads what is on and below the diagonal
        value, residual = values[-1].item(), beta * vectors[-1, -1].abs().item()
        if residual <= tolerance * abs(value):
            break
        torch._foreach_mul_(u, 1 / beta)
        beside.append(beta)
        v, older = u, v
    return Eigenvalue(value, residual, len(diagonal))


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
