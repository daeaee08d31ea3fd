"""Guardedness of instances and the weights that δ-SAM gives them: Eq. 3-6 of δ-SAM as pure functions on tensors.

An instance whose loss changes much under a small random change of the weights is *unguarded*; δ-SAM weighs it up when it
looks for the perturbation, so that one perturbation for the batch comes closer to one for each instance (Eq. 2).

    a_j  = l_j(w + ρ ε̂/‖ε̂‖₂) − l_j(w),   ε̂ ~ N(0, I)          (3)
    g_j  = |a_j| / Σ_i |a_i|                                       (4)
    r    = β |ā| / |a_s|,   ā = (1/N) Σ a_i,   a_s = Σ g_i a_i     (5)
    g'_j = (g_j − 1/N) r + 1/N                                     (6)

The batch may be spread over micro-batches and workers: everything a weight needs besides its own a_j is one maximum and
five sums (`largest_finite`, `Sums`), which add up over the parts.

Source: "δ-SAM: Sharpness-Aware Minimization with Dynamic Reweighting", section 2.2.
"""

from typing import NamedTuple, Optional

import torch
from torch import Tensor


class Sums(NamedTuple):
    """What a batch contributes to Eq. 4-6; 0-dimensional fp64 tensors that add up over micro-batches and workers.

    Example::

        >>> one, other = sums(torch.tensor([1.0, -2.0])), sums(torch.tensor([4.0]))
        >>> [round(total.item(), 3) for total in map(sum, zip(one, other))]
        [3.0, 7.0, 3.0, 13.0, 6.931]
    """

    n: Tensor  # N, the number of instances
    abs_a: Tensor  # Σ |a_i|
    a: Tensor  # Σ a_i
    abs_a_times_a: Tensor  # Σ |a_i| a_i
    abs_a_log_abs_a: Tensor  # Σ |a_i| ln |a_i|, for the entropy of g


class Weights(NamedTuple):
    """The result of Eq. 4-6.

    Example::

        >>> a = torch.tensor([1.0, -2.0, 4.0])
        >>> [round(g.item(), 3) for g in weights(a, sums(a), beta=1.0).g_prime]
        [0.231, 0.308, 0.462]
    """

    g_prime: Tensor  # (N,) g'_j; sums to 1 over the whole batch; single entries may be negative when r > 1
    r: Tensor  # () Eq. 5; 0 where the batch is degenerate and the weights are uniform
    entropy: Tensor  # () entropy of g (Eq. 4) over ln N: 1 for uniform g, 0 when one instance takes all


def largest_finite(a: Tensor) -> Tensor:
    """The largest finite |a_j|, a 0-dimensional fp64 tensor; 0 where there is none.

    Args:
        a: (N,) changes of loss; N may be 0.
    """
    magnitudes = torch.where(a.isfinite(), a.abs(), torch.zeros_like(a)).double()
    return torch.cat([magnitudes, magnitudes.new_zeros(1)]).max()


def replace_nonfinite(a: Tensor, largest: Tensor) -> Tensor:
    """(N,) fp64 copy of *a* in which a NaN or infinite change counts as the *largest* finite one of the whole batch."""
    a = a.double()
    return torch.where(a.isfinite(), a, largest)


def sums(a: Tensor) -> Sums:
    """The contribution of the instances with finite changes of loss *a*, shape (N,), to the sums of their batch."""
    a = a.double()
    magnitude = a.abs()
    return Sums(
        n=torch.full((), float(a.numel()), dtype=a.dtype, device=a.device),  # new_tensor would wait for the device
        abs_a=magnitude.sum(),
        a=a.sum(),
        abs_a_times_a=(magnitude * a).sum(),
        abs_a_log_abs_a=torch.special.xlogy(magnitude, magnitude).sum(),
    )


def weights(a: Tensor, total: Sums, beta: float) -> Weights:
    """Eq. 4-6 for the instances with finite changes of loss *a*, part of the batch whose sums are *total*.

    Degenerate batches get uniform weights 1/N: all a_j = 0, a_s = 0, and N = 1 (for which the formula gives it anyway).

    Args:
        a: (N_part,) changes of loss, finite.
        total: the sums over the whole batch.
        beta: β ≥ 0 of Eq. 5; 0 gives uniform weights, that is SAM.
    """
    one = torch.ones_like(total.n)
    n = torch.maximum(total.n, one)
    degenerate = (total.abs_a == 0) | (total.abs_a_times_a == 0)
    abs_a_sum = torch.where(total.abs_a == 0, one, total.abs_a)
    g = a.double().abs() / abs_a_sum  # Eq. 4
    a_bar = total.a / n
    a_s = total.abs_a_times_a / abs_a_sum
    r = beta * a_bar.abs() / torch.where(degenerate, one, a_s).abs()  # Eq. 5
    r = torch.where(degenerate, torch.zeros_like(r), r)
    g_prime = (g - 1 / n) * r + 1 / n  # Eq. 6
    return Weights(g_prime, r, entropy(total.abs_a, total.abs_a_log_abs_a, n))


def entropy(sum_x: Tensor, sum_x_log_x: Tensor, n: Tensor) -> Tensor:
    """() entropy of x / Σ x over ln N, of N ≥ 0 numbers x ≥ 0: 1 where they are alike, all 0, or one; 0 where all but one are 0.

    >>> x = torch.tensor([3.0, 1.0])
    >>> round(entropy(x.sum(), torch.special.xlogy(x, x).sum(), torch.tensor(2.0)).item(), 4)  # 3/4 and 1/4
    0.8113
    """
    one = torch.ones_like(sum_x)
    s = torch.where(sum_x == 0, one, sum_x)
    return torch.where((sum_x == 0) | (n <= 1), one, (s.log() - sum_x_log_x / s) / n.log().clamp(min=1e-12))


def inverse_weights(a: Tensor, total: Sums) -> Tensor:
    """Weights that fall as a loss changes more: ours, not the paper's.

        v_j = ā' / (|a_j| + ā'),   ā' = (1/N) Σ |a_i|

    An instance with a large gradient has its own perturbation in Eq. 2 as short as the others'. So where the Hessians of the
    instances are alike, the one direction that replaces them all lies, to first order, along the sum of the *normalised* gradients,
    and |a_j| is a noisy measure of the norm. `examples/benchmarks` measures how close the update comes to Eq. 2's.

    Args:
        a: (N_part,) changes of loss (Eq. 3), finite.
        total: the sums over the whole batch.

    Returns:
        (N_part,) fp64, between 0 and 1, not normalised: 1 for a loss that does not change, 1/2 for one that changes as the mean.

    Example::

        >>> a = torch.tensor([0.0, 2.0, -4.0])
        >>> [round(v.item(), 3) for v in inverse_weights(a, sums(a))]
        [1.0, 0.5, 0.333]
    """
    mean = total.abs_a / torch.maximum(total.n, torch.ones_like(total.n))
    v = mean / (a.double().abs() + mean)
    return torch.where(mean == 0, torch.ones_like(v), v)


def instance_weights(a: Tensor, beta: float, largest: Optional[Tensor] = None) -> Tensor:
    """g' of a batch that lies in one tensor: the plain way to use this module.

    Args:
        a: (N,) changes of loss under the random perturbation (Eq. 3); non-finite ones count as the largest finite one.
        beta: β ≥ 0 of Eq. 5.
        largest: the value that replaces non-finite changes; by default the largest finite |a_j| of *a*.

    Returns:
        (N,) weights g'_j of the dtype of *a*, which sum to 1.

    Example::

        >>> a = torch.tensor([0.1, 0.1, 0.4])  # the loss of the third instance changes most
        >>> [round(g.item(), 3) for g in instance_weights(a, beta=1.0)]
        [0.222, 0.222, 0.556]

    Raises:
        ValueError: *a* has not one dimension, or β is negative or not a number.
    """
    if a.dim() != 1:
        raise ValueError(f"a must have one entry per instance, shape (N,), and has shape {tuple(a.shape)}")
    if not beta >= 0:
        raise ValueError(f"beta must be 0 or larger and is {beta}")
    a_finite = replace_nonfinite(a, largest_finite(a) if largest is None else largest)
    return weights(a_finite, sums(a_finite), beta).g_prime.to(a.dtype)
