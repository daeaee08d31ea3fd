"""Balancedness of scale-invariant pairs, and BAR's way of restoring it: pure functions on tensors.

A pair (X, Y) is scale-invariant where the loss depends on a product of the two, as f(X Yᵀ) (NOP) or f(Xᵀ Y) (OP): LoRA's
B and A, the query and key projections of an attention, two linear layers in a row. Its balancedness

    B = ½ (‖X‖² − ‖Y‖²)

is constant under gradient descent with small steps; SAM drives it to 0. BAR does so without SAM's second gradient:

    sign   +1 where X is to shrink and Y is to grow, −1 for the opposite
           oBAR, from OP: by the norms, +1 where ‖X‖ ≥ ‖Y‖
           nBAR, from NOP: by the gradients, +1 where ‖G_X‖ < ‖G_Y‖
    X ← (1 − sign η α) X,   Y ← (1 + sign η α) Y

η is the learning rate and α the strength, so this is decoupled like AdamW's weight decay.

Everything works on all pairs of a model at once: norms are (P,) tensors for P pairs, and no function moves data to the
host.

Source: "Implicit Regularization of Sharpness-Aware Minimization for Scale-Invariant Problems" (arXiv 2410.14802), section 3
(balancedness, Theorems 2 and 3) and section 4 (BAR).
"""

import math
from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor

from sharp_plugins.core.setting_error import SettingError

VARIANTS = ("nbar", "obar")
SCHEDULES = ("constant", "linear", "cosine")


def squared_norms(tensors: Sequence[Tensor], lengths: Optional[Tensor] = None) -> Tensor:
    """Squared Frobenius norms, in fp32 at least.

    Args:
        tensors: one tensor for each side of a pair, or several in a row that count as one.
        lengths: (P,) int64 on the tensors' device: how many of *tensors* make up each side. By default one each.

    Returns:
        (P,) fp32 (fp64 for fp64 tensors).
    """
    # Half precision is widened first: the norm of a gradient that is multiplied by the loss scale may exceed its range.
    wide = [t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors]
    squares = torch.stack(torch._foreach_norm(wide)).square()
    return squares if lengths is None else torch.segment_reduce(squares, "sum", lengths=lengths, unsafe=True)


def balancedness(x_squared: Tensor, y_squared: Tensor) -> Tensor:
    """B = ½ (‖X‖² − ‖Y‖²) from the squared norms, (P,)."""
    return 0.5 * (x_squared - y_squared)


def obar_sign(x_squared: Tensor, y_squared: Tensor) -> Tensor:
    """oBAR's decision from the weights' squared norms: (P,), +1 where X shrinks, −1 where Y does."""
    return torch.where(x_squared >= y_squared, 1.0, -1.0).to(x_squared.dtype)


def nbar_sign(gx_squared: Tensor, gy_squared: Tensor) -> Tensor:
    """nBAR's decision from the gradients' squared norms: (P,), +1 where X shrinks, −1 where Y does, 0 where neither has a
    gradient: such a pair had no part in the loss.

    A common factor of both gradients (loss scale, clipping) does not change it.
    """
    sign = torch.where(gx_squared < gy_squared, 1.0, -1.0)
    return torch.where(gx_squared + gy_squared > 0, sign, torch.zeros_like(sign)).to(gx_squared.dtype)


def factors(sign: Tensor, eta_x: float, eta_y: float, alpha: float) -> Tuple[Tensor, Tensor]:
    """What X and Y are multiplied with: 1 − sign η_X α and 1 + sign η_Y α, each (P,).

    Raises:
        ValueError: α η ≥ 1, which would turn the sign of the weights.
    """
    check_strength(alpha, max(eta_x, eta_y))
    return 1 - sign * (eta_x * alpha), 1 + sign * (eta_y * alpha)


def check_strength(alpha: float, eta: float) -> None:
    """Raise ValueError where α is negative or not finite, or where 1 − η α is not positive."""
    if not (math.isfinite(alpha) and alpha >= 0):
        raise SettingError("alpha", f"must be a finite number that is 0 or larger, and is {alpha}")
    if alpha * eta >= 1:
        raise SettingError(
            "alpha",
            f"{alpha:g} times the learning rate {eta:g} is {alpha * eta:g}: at 1 and above the factor 1 - αη turns the sign "
            "of the weights; lower one of the two",
        )


def scheduled_alpha(alpha: float, schedule: str, update: int, total: float) -> float:
    """α_t at update *update* (from 0) of *total*: constant, or falling to 0 linearly or along half a cosine.

    Raises:
        ValueError: the schedule is unknown, or it falls and *total* is not positive.
    """
    if schedule == "constant":
        return alpha
    if schedule not in SCHEDULES:
        raise SettingError("schedule", f"{schedule}: choose one of {', '.join(SCHEDULES)}")
    if not total > 0:
        raise SettingError("schedule", f"{schedule} needs the length of the run: give the total number of updates")
    done = min(max(update / total, 0.0), 1.0)
    return alpha * (1 - done) if schedule == "linear" else alpha * 0.5 * (1 + math.cos(math.pi * done))
