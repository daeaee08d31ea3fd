"""BAR: it restores the balancedness of scale-invariant pairs (X, Y), as SAM does, without SAM's second gradient.

    sign   +1 where X is to shrink and Y is to grow, −1 for the opposite
           oBAR, from OP: by the norms, +1 where ‖X‖ ≥ ‖Y‖
           nBAR, from NOP: by the gradients, +1 where ‖G_X‖ < ‖G_Y‖
    X ← (1 − sign η α) X,   Y ← (1 + sign η α) Y

η is the learning rate and α the strength, so this is decoupled like AdamW's weight decay. The measure is
`sharp_plugins.core.balancedness`.

Everything works on all pairs of a model at once, and no function waits for a GPU.

Source: "Implicit Regularization of Sharpness-Aware Minimization for Scale-Invariant Problems" (arXiv 2410.14802), section 4.
"""

import math
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from sharp_plugins.core.balancedness import squared_norms
from sharp_plugins.core.noise import seeded_generator
from sharp_plugins.core.rounding import round_stochastically_
from sharp_plugins.core.setting_error import SettingError

VARIANTS = ("nbar", "obar")
SCHEDULES = ("constant", "linear", "cosine")

Gradients = List[Optional[Tensor]]  # None for a weight without


# ---------------------------------------------------------------------- many pairs at once


class SideStack(NamedTuple):
    """One side, X or Y, of P pairs.

    weights: what the base optimizer updates, one or several tensors for each pair.
    lengths: (P,) int64, how many belong to each of the P pairs, or None where it is one each.
    group: index of the base optimizer's parameter group that they are in, which has a learning rate of its own.

    Example::

        >>> side = SideStack([torch.ones(2), torch.ones(3)], lengths=None, group=0)
        >>> multiply_(side, torch.tensor([0.5, 2.0]), seed=0)
        >>> side.weights
        [tensor([0.5000, 0.5000]), tensor([2., 2., 2.])]
    """

    weights: List[Tensor]
    lengths: Optional[Tensor]
    group: int


class PairStack(NamedTuple):
    """P pairs whose weights are updated alike. A `sharp_plugins.core.pairs.Pair` is one pair of a model's parameters; what the base
    optimizer updates may be other tensors, such as fp32 master copies.

    names: of the P pairs.
    gradients: returns those of x.weights and y.weights, which the update will use.

    Example::

        >>> x, y = torch.ones(3, 2), torch.ones(2, 2)
        >>> pairs = PairStack(["layer"], SideStack([x], None, 0), SideStack([y], None, 0), lambda: ([x], [y]))
        >>> sign_by_norms(pairs), sign_by_gradients(pairs, *pairs.gradients())
        (tensor([1.]), tensor([-1.]))
    """

    names: List[str]
    x: SideStack
    y: SideStack
    gradients: Callable[[], Tuple[Gradients, Gradients]]


# ---------------------------------------------------------------------- the decision


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


@torch.no_grad()
def sign_by_norms(pairs: PairStack) -> Tensor:
    """oBAR's signs, (P,)."""
    return obar_sign(*(squared_norms(side.weights, side.lengths) for side in (pairs.x, pairs.y)))


@torch.no_grad()
def sign_by_gradients(pairs: PairStack, gx: Gradients, gy: Gradients) -> Tensor:
    """nBAR's signs, (P,)."""
    nothing = torch.zeros((), device=pairs.x.weights[0].device)
    x, y = ([nothing if g is None else g for g in side] for side in (gx, gy))
    return nbar_sign(squared_norms(x, pairs.x.lengths), squared_norms(y, pairs.y.lengths))


def has_gradient(gradients: Gradients, lengths: Optional[Tensor], like: Tensor) -> Tensor:
    """(P,) of the dtype and device of *like*: 1 for a pair whose side has a gradient, else 0."""
    none, one = like.new_zeros(()), like.new_ones(())  # made on the device: a copy to it would wait
    each = torch.stack([none if g is None else one for g in gradients])
    return each if lengths is None else torch.segment_reduce(each, "max", lengths=lengths, unsafe=True)


@torch.no_grad()
def decide(pairs: PairStack, variant: str) -> Tensor:
    """The signs by *variant*, one of `VARIANTS`, (P,): 0 for a pair with a side that the update leaves out, having no gradient."""
    gx, gy = pairs.gradients()
    sign = sign_by_norms(pairs) if variant == "obar" else sign_by_gradients(pairs, gx, gy)
    if any(g is None for g in (*gx, *gy)):
        sign = sign * has_gradient(gx, pairs.x.lengths, sign) * has_gradient(gy, pairs.y.lengths, sign)
    return sign


# ---------------------------------------------------------------------- the strength


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


# ---------------------------------------------------------------------- the weights


def multiply_(side: SideStack, by: Tensor, seed: int) -> None:
    """Multiply the weights of each pair by its entry of *by* (P,), in place; by 1 it changes no bit.

    Args:
        seed: of the rounding. Half-precision weights that are updated themselves are rounded at random, so that a factor which is
            1 in their format, as 1 − ηα mostly is, is kept on average.
    """
    if side.lengths is not None:
        by = by.repeat_interleave(side.lengths, output_size=len(side.weights))
    dtype = side.weights[0].dtype
    if dtype not in (torch.float16, torch.bfloat16):
        torch._foreach_mul_(side.weights, by.to(dtype).unbind())
        return
    wide = [w.float() for w in side.weights]
    torch._foreach_mul_(wide, by.unbind())
    generator = seeded_generator(wide[0].device, seed)
    for w in wide:
        round_stochastically_(w, dtype, generator)
    torch._foreach_copy_(side.weights, wide)


class Balancing:
    """What BAR does to pairs in one update, and the way to take it back if the update fails.

    Takes one copy of the weights, until it is dropped.

    Example::

        >>> x, y = torch.ones(3, 2), torch.ones(2, 2)
        >>> pairs = PairStack(["layer"], SideStack([x], None, 0), SideStack([y], None, 0), lambda: ([x], [y]))
        >>> balancing = Balancing([pairs])
        >>> balancing.apply(pairs, factors(torch.tensor([1.0]), 0.1, 0.1, alpha=1.0), seeds=(0, 1))
        >>> x[0, 0].item(), y[0, 0].item()
        (0.8999999761581421, 1.100000023841858)
        >>> balancing.take_back()
        >>> x[0, 0].item(), y[0, 0].item()
        (1.0, 1.0)
    """

    @torch.no_grad()
    def __init__(self, stacks: Sequence[PairStack]):
        weights = [w for pairs in stacks for side in (pairs.x, pairs.y) for w in side.weights]
        self._weights = list({id(w): w for w in weights}.values())  # a weight may be in several pairs
        self._before = torch.cat([w.detach().reshape(-1) for w in self._weights])
        self._done: List[Tuple[SideStack, Tensor, int]] = []  # the arguments of multiply_

    @torch.no_grad()
    def apply(self, pairs: PairStack, by: Tuple[Tensor, Tensor], seeds: Tuple[int, int]) -> None:
        """Multiply X and Y by the factors *by*, each (P,); see `multiply_` for the seeds."""
        for step in zip((pairs.x, pairs.y), by, seeds):
            self._done.append(step)  # before it is done, which may fail half-way
            multiply_(*step)

    @torch.no_grad()
    def take_back(self) -> None:
        """Give the weights the values from before, bit for bit. Weights that the base optimizer has updated already keep the
        update, as they would without BAR.

        How that is known: such a weight is no longer what balancing makes of its old value, which is computed once more.
        """
        parts = self._before.split([w.numel() for w in self._weights])
        values = [part.view(w.shape) for part, w in zip(parts, self._weights)]
        left = [w.clone() for w in self._weights]
        torch._foreach_copy_(self._weights, values)
        for step in self._done:
            multiply_(*step)
        for w, value, found in zip(self._weights, values, left):
            w.copy_(value if torch.equal(w, found) else found)
