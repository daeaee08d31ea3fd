"""``--optimizer bar``: balancedness-aware regularization, SAM's effect on LoRA without SAM's second gradient.

Before each update of the base optimizer, for every scale-invariant pair (X, Y) of the model (LoRA's B and A):

    1. sign   nBAR: by the gradients that the update uses; oBAR: by the weights' norms
    2. X ← (1 − sign η_t α_t) X,  Y ← (1 + sign η_t α_t) Y
    3. the base optimizer's update

The rule is `sharp_plugins.core.balancedness`. It is applied like decoupled weight decay, to the weights that the base optimizer
updates (the fp32 master copies under mixed precision), after the all-reduce: all workers decide alike without communication.
Where step 3 fails, step 2 is taken back, from a copy of the pairs' weights that is kept for as long as the update takes.

Source: "Implicit Regularization of Sharpness-Aware Minimization for Scale-Invariant Problems" (arXiv 2410.14802), section 4.
"""

from dataclasses import dataclass, field
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import torch
from fairseq.dataclass.constants import ChoiceEnum
from fairseq.optim import register_optimizer
from omegaconf import II
from torch import Tensor

from sharp_plugins.core.balancedness import (
    SCHEDULES,
    VARIANTS,
    check_strength,
    factors,
    nbar_sign,
    obar_sign,
    scheduled_alpha,
    squared_norms,
)
from sharp_plugins.core.noise import mix, seeded_generator
from sharp_plugins.core.pairs import MONITORS, scale_invariant_pairs
from sharp_plugins.core.rounding import round_stochastically_
from sharp_plugins.core.setting_error import SettingError, as_flags
from sharp_plugins.optim.base import BaseOptimizerConfig, WrappingOptimizer


@dataclass
class BARConfig(BaseOptimizerConfig):
    bar_variant: ChoiceEnum(list(VARIANTS)) = field(
        default="nbar",
        metadata={
            "help": "what decides which side of a pair shrinks: nbar, the gradients' norms, or obar, the weights' norms "
            "(default: the better one in most of the BAR paper's tables)"
        },
    )
    bar_alpha: float = field(
        default=0.5, metadata={"help": "strength α₀; 0 is the base optimizer (default: the middle of the paper's 0.2, 0.5, 1.0)"}
    )
    bar_schedule: ChoiceEnum(list(SCHEDULES)) = field(
        default="constant", metadata={"help": "how α falls over the run: not at all, linearly to 0, or as half a cosine to 0"}
    )
    bar_total_updates: Optional[float] = field(
        default=None, metadata={"help": "update at which a falling α reaches 0 (default: --max-update)"}
    )
    bar_monitor: ChoiceEnum(list(MONITORS)) = field(
        default="ends", metadata={"help": "pairs whose balancedness 2|B| is logged: first, middle and last, all, or none"}
    )
    max_update: float = II("optimization.max_update")


class Side(NamedTuple):
    """One side of some pairs.

    weights: what the base optimizer updates, one or several tensors for each pair.
    lengths: (P,) int64, how many belong to each of the P pairs, or None where it is one each.
    group: index of the base optimizer's parameter group that they are in.
    """

    weights: List[Tensor]
    lengths: Optional[Tensor]
    group: int


class Pairs(NamedTuple):
    """Pairs as the base optimizer sees them; made by `sharp_plugins.host.balancing`.

    names: of the P pairs.
    gradients: returns those of x.weights and y.weights, which the update will use; None for a weight without.
    """

    names: List[str]
    x: Side
    y: Side
    gradients: Callable[[], Tuple[List[Optional[Tensor]], List[Optional[Tensor]]]]


def multiply_(side: Side, by: Tensor, seed: int) -> None:
    """Multiply the weights of each pair by its entry of *by* (P,), in place."""
    if side.lengths is not None:
        by = by.repeat_interleave(side.lengths, output_size=len(side.weights))
    half = side.weights[0].dtype in (torch.float16, torch.bfloat16)
    if not half:
        torch._foreach_mul_(side.weights, by.to(side.weights[0].dtype).unbind())
        return
    # Memory-efficient half precision has no master copy, and 1 − ηα is 1 there: rounding at random keeps it on average.
    wide = [w.float() for w in side.weights]
    torch._foreach_mul_(wide, by.unbind())
    generator = seeded_generator(wide[0].device, seed)
    for w in wide:
        round_stochastically_(w, side.weights[0].dtype, generator)
    torch._foreach_copy_(side.weights, wide)


@register_optimizer("bar", dataclass=BARConfig)
class BAR(WrappingOptimizer):
    """oBAR and nBAR around a base optimizer. Needs a model with scale-invariant pairs (`sharp_plugins.core.pairs`)."""

    def __init__(self, cfg, params):
        self.check(cfg)
        super().__init__(cfg, params)
        self.pairs: Sequence[Pairs] = ()  # set by the host, which knows what the base optimizer updates
        self.num_updates, self.seed = 0, 0  # set by the host before every update
        self.measure = False  # set by the host: whether to compute as_norms
        self._multiplied: List[Tuple[Side, Tensor, int]] = []  # the arguments of multiply_, in this update
        # Of the last update: α_t; the signs, (all pairs,); the share of the pairs with the sign that their norms ask for.
        self.alpha, self.signs, self.as_norms = 0.0, None, None

    @classmethod
    def check(cls, cfg) -> None:
        super().check(cfg)
        rates = getattr(cfg, "lr", None) or [0.0]
        with as_flags("bar"):
            rate = max(float(rate) for rate in rates)
            if cfg.bar_alpha * rate >= 1:
                raise SettingError("alpha", f"{cfg.bar_alpha:g} times --lr {rate:g} must be below 1: lower --bar-alpha or --lr")
            check_strength(cfg.bar_alpha, rate)
            if str(cfg.bar_schedule) != "constant" and not cls.total_updates(cfg) > 0:
                raise SettingError(
                    "schedule", f"{cfg.bar_schedule} needs the length of the run: give --max-update or --bar-total-updates"
                )
            cls.alpha_at(cfg, 0)

    @classmethod
    def check_run(cls, criterion, task, model) -> None:
        pairs = scale_invariant_pairs(model)
        if not pairs:
            raise ValueError(
                "--optimizer bar needs scale-invariant pairs of weights, and the model has none: train it with "
                "--arch lora --base-arch ..., or declare its pairs with sharp_plugins.core.pairs.declare_pair"
            )
        frozen = [pair.name for pair in pairs if not all(p.requires_grad for p in (*pair.x, *pair.y))]
        if frozen:
            raise ValueError(
                f"--optimizer bar cannot balance a pair of which a side is frozen: {', '.join(frozen[:5])}"
                + (f" and {len(frozen) - 5} more" if len(frozen) > 5 else "")
            )

    @staticmethod
    def total_updates(cfg) -> float:
        """The update at which a falling α is 0; 0 where the run has no known length."""
        return float(cfg.bar_total_updates or cfg.max_update or 0)

    @classmethod
    def alpha_at(cls, cfg, num_updates: int) -> float:
        """α_t of the update after *num_updates* ones."""
        return scheduled_alpha(cfg.bar_alpha, str(cfg.bar_schedule), num_updates, cls.total_updates(cfg))

    def step(self, closure=None, scale=1.0, groups=None):
        """Balance the pairs, then let the base optimizer update. Where either fails, what is balanced only is as it was."""
        self.alpha = self.alpha_at(self.cfg, self.num_updates)
        self.signs = None
        if not (self.alpha > 0 and self.pairs):
            super().step(closure, scale=scale, groups=groups)
            return
        weights = list({id(w): w for pairs in self.pairs for side in (pairs.x, pairs.y) for w in side.weights}.values())
        before = torch.cat([w.detach().reshape(-1) for w in weights])
        self._multiplied = []
        try:
            if self.measure:
                by_norms = torch.cat([sign_by_norms(pairs) for pairs in self.pairs])
            self.signs = torch.cat([self.balance(pairs, index) for index, pairs in enumerate(self.pairs)])
            if self.measure:
                self.as_norms = (self.signs == by_norms).float().mean()
            super().step(closure, scale=scale, groups=groups)
        except BaseException:
            self.take_back(weights, before)
            raise

    @torch.no_grad()
    def balance(self, pairs: Pairs, index: int) -> Tensor:
        """Apply steps 1 and 2 to *pairs*; returns the signs, (P,): 0 for a pair that the update leaves out."""
        gx, gy = pairs.gradients()
        if str(self.cfg.bar_variant) == "obar":
            sign = sign_by_norms(pairs)
        else:
            nothing = torch.zeros((), device=pairs.x.weights[0].device)
            x, y = ([nothing if g is None else g for g in side] for side in (gx, gy))
            sign = nbar_sign(squared_norms(x, pairs.x.lengths), squared_norms(y, pairs.y.lengths))
        if any(g is None for g in (*gx, *gy)):  # as the base optimizer, which leaves out weights without a gradient
            sign = sign * has_gradient(gx, pairs.x.lengths, sign) * has_gradient(gy, pairs.y.lengths, sign)
        eta_x, eta_y = (self.param_groups[side.group]["lr"] for side in (pairs.x, pairs.y))
        with as_flags("bar"):  # the learning rate may have grown
            by = factors(sign, eta_x, eta_y, self.alpha)
        for number, side in enumerate((pairs.x, pairs.y)):
            self._multiplied.append((side, by[number], mix(self.seed, self.num_updates, index, number)))  # first: see take_back
            multiply_(*self._multiplied[-1])
        return sign

    @torch.no_grad()
    def take_back(self, weights: List[Tensor], before: Tensor) -> None:
        """Give *weights* their values *before* the balancing, bit for bit; but leave those that the base optimizer has updated
        since as it left them: a base optimizer that fails half-way leaves what it leaves without BAR too.

        It has updated a weight where that is no longer what balancing makes of its value before, which is computed once more.
        """
        values = [part.view(w.shape) for part, w in zip(before.split([w.numel() for w in weights]), weights)]
        left = [w.clone() for w in weights]
        torch._foreach_copy_(weights, values)
        for arguments in self._multiplied:
            multiply_(*arguments)
        for w, value, found in zip(weights, values, left):
            w.copy_(value if torch.equal(w, found) else found)


@torch.no_grad()
def sign_by_norms(pairs: Pairs) -> Tensor:
    """oBAR's signs, (P,)."""
    return obar_sign(*(squared_norms(side.weights, side.lengths) for side in (pairs.x, pairs.y)))


def has_gradient(gradients: Sequence[Optional[Tensor]], lengths: Optional[Tensor], like: Tensor) -> Tensor:
    """(P,) of the dtype and device of *like*: 1 for a pair whose side has a gradient, else 0."""
    each = torch.tensor([float(g is not None) for g in gradients], dtype=like.dtype, device=like.device)
    return each if lengths is None else torch.segment_reduce(each, "max", lengths=lengths, unsafe=True)
