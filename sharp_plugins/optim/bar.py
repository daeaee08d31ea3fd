"""``--optimizer bar``: balancedness-aware regularization, SAM's effect on LoRA without SAM's second gradient.

Before each update of the base optimizer, for every scale-invariant pair (X, Y) of the model (LoRA's B and A):

    1. sign   nBAR: by the gradients that the update uses; oBAR: by the weights' norms
    2. X ← (1 − sign η_t α_t) X,  Y ← (1 + sign η_t α_t) Y
    3. the base optimizer's update

Steps 1 and 2 are `sharp_plugins.core.balancing`. They are applied like decoupled weight decay, to the weights that the base
optimizer updates (the fp32 master copies under mixed precision), after the all-reduce: all workers decide alike without
communication.
Where step 3 fails, step 2 is taken back, from a copy of the pairs' weights that is kept for as long as the update takes.

Source: "Implicit Regularization of Sharpness-Aware Minimization for Scale-Invariant Problems" (arXiv 2410.14802), section 4.
"""

import math
from dataclasses import dataclass, field
from typing import Optional, Sequence

import torch
from fairseq.dataclass.constants import ChoiceEnum
from fairseq.optim import register_optimizer
from omegaconf import II
from torch import Tensor

from sharp_plugins.core.balancing import (
    SCHEDULES,
    VARIANTS,
    Balancing,
    PairStack,
    check_strength,
    decide,
    factors,
    scheduled_alpha,
    sign_by_norms,
)
from sharp_plugins.core.noise import mix
from sharp_plugins.core.pairs import MONITORS, scale_invariant_pairs
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
        default=0.5,
        metadata={
            "help": "strength α₀; at 0 every update is the base optimizer's, bit for bit, at BAR's cost "
            "(default: the middle of the paper's 0.2, 0.5, 1.0, which were alike with MiniLM on SST-2: examples/studies; with a "
            "decoder on WebNLG 0.5, 1 and 2 were: examples/webnlg)"
        },
    )
    bar_schedule: ChoiceEnum(list(SCHEDULES)) = field(
        default="constant",
        metadata={
            "help": "how α falls over the run: not at all, linearly to 0, or as half a cosine to 0 "
            "(default: the one of the BAR paper's that needs no length of the run)"
        },
    )
    bar_total_updates: Optional[float] = field(
        default=None,
        metadata={"help": "update at which a falling α reaches 0; a constant one does not ask (default: --max-update)"},
    )
    bar_monitor: ChoiceEnum(list(MONITORS)) = field(
        default="ends",
        metadata={
            "help": "pairs whose balancedness 2|B| is logged: first, middle and last, all, or none "
            "(default: ours, as three curves can be read)"
        },
    )
    max_update: float = II("optimization.max_update")


@register_optimizer("bar", dataclass=BARConfig)
class BAR(WrappingOptimizer):
    """oBAR and nBAR around a base optimizer; ``tests/plain.py`` has a slow plain twin. Needs a model with scale-invariant pairs
    (`sharp_plugins.core.pairs`).

    Example, of an update without fairseq's trainer, which finds the pairs and tells the optimizer of them::

        >>> from omegaconf import OmegaConf
        >>> from sharp_plugins.core.balancing import SideStack
        >>> x, y = torch.nn.Parameter(torch.full((2, 1), 2.0)), torch.nn.Parameter(torch.ones(1, 2))
        >>> bar = BAR(OmegaConf.structured(BARConfig(base_optimizer="sgd", lr=[0.1], bar_variant="obar", max_update=10)), [x, y])
        >>> sides = SideStack([x.data], None, group=0), SideStack([y.data], None, group=0)
        >>> bar.pairs = [PairStack(["x/y"], *sides, gradients=lambda: ([x.grad], [y.grad]))]
        >>> bar.backward((x @ y).sum() * 0)
        >>> bar.step()  # X shrinks by 1 − 0.1 · 0.5, Y grows by 1 + 0.1 · 0.5
        >>> [round(p[0, 0].item(), 4) for p in (x, y)]
        [1.9, 1.05]
    """

    def __init__(self, cfg, params):
        self.check(cfg)
        super().__init__(cfg, params)
        self.pairs: Sequence[PairStack] = ()  # set by the host, which knows what the base optimizer updates
        self.num_updates, self.seed = 0, 0  # set by the host before every update
        self.measure = False  # set by the host: whether to compute as_norms
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
            total = cfg.bar_total_updates
            if total is not None and not (math.isfinite(total) and total > 0):
                raise SettingError("total_updates", f"must be a finite number above 0, and is {total:g}")
            if str(cfg.bar_schedule) != "constant" and not cls.total_updates(cfg) > 0:
                raise SettingError(
                    "schedule", f"{cfg.bar_schedule} needs the length of the run: give --max-update or --bar-total-updates"
                )
            cls.alpha_at(cfg, 0)

    @classmethod
    def check_run(cls, criterion, task, model) -> None:
        # A pair that is wholly frozen stays as it is: with LoRA those that the base model declares are.
        pairs = [pair for pair in scale_invariant_pairs(model) if any(p.requires_grad for p in (*pair.x, *pair.y))]
        if not pairs:
            raise ValueError(
                "--optimizer bar needs scale-invariant pairs of weights that train, and the model has none (a prefix makes none): "
                "train it with --arch lora --base-arch ..., or declare its pairs with sharp_plugins.core.pairs.declare_pair"
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
        """Balance the pairs, then let the base optimizer update. If balancing or the update fails, a weight that
        was only balanced gets its old value back."""
        self.alpha, self.signs = self.alpha_at(self.cfg, self.num_updates), None
        if not self.pairs:
            super().step(closure, scale=scale, groups=groups)
            return
        balancing = Balancing(self.pairs)
        try:
            if self.measure:
                by_norms = torch.cat([sign_by_norms(pairs) for pairs in self.pairs])
            self.signs = torch.cat([self.balance(balancing, pairs, index) for index, pairs in enumerate(self.pairs)])
            if self.measure:
                self.as_norms = (self.signs == by_norms).float().mean()
            super().step(closure, scale=scale, groups=groups)
        except BaseException:
            balancing.take_back()
            raise

    def balance(self, balancing: Balancing, pairs: PairStack, index: int) -> Tensor:
        """Steps 1 and 2 for *pairs*, number *index* of all; returns the signs, (P,)."""
        sign = decide(pairs, str(self.cfg.bar_variant))
        eta_x, eta_y = (self.param_groups[side.group]["lr"] for side in (pairs.x, pairs.y))
        with as_flags("bar"):  # the learning rate may have grown
            by = factors(sign, eta_x, eta_y, self.alpha)
        seed_x, seed_y = (mix(self.seed, self.num_updates, index, number) for number in (0, 1))
        balancing.apply(pairs, by, (seed_x, seed_y))
        return sign
