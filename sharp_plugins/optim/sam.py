"""``--optimizer sam``: sharpness-aware minimization around any registered optimizer.

    1. g  = ∇ Σ_j l_j(w)                 one forward and backward over the update's samples
    2. w' = w + ε*,  ε* = ρ g / ‖g‖₂      (Foret et al. 2021, Eq. 2; adaptive: Kwon et al. 2021, Eq. 9)
    3. gradient at w'                    fairseq's own train_step: accumulation, all-reduce, clipping, loss scaling
    4. back to w, then the base optimizer's update

Steps 2 and 4 are `sharp_plugins.core.perturbation`; the passes are made by `sharp_plugins.host`, which calls `ascend`.
"""

import math
from dataclasses import dataclass, field
from typing import Dict

from fairseq.dataclass.constants import ChoiceEnum
from fairseq.optim import register_optimizer
from torch import Tensor

from sharp_plugins.optim.base import BaseOptimizerConfig, WrappingOptimizer

SCOPES = ChoiceEnum(["worker", "global"])
ROUNDINGS = ChoiceEnum(["nearest", "stochastic"])


@dataclass
class SAMConfig(BaseOptimizerConfig):
    sam_rho: float = field(
        default=0.05,
        metadata={
            "help": "radius ρ of the neighbourhood whose worst loss is minimised; 0 is the base optimizer "
            "(default: Foret et al. 2021; the δ-SAM paper searches 0.01, 0.02, 0.05)"
        },
    )
    sam_adaptive: bool = field(
        default=False,
        metadata={"help": "adaptive SAM: the neighbourhood scales with the weights (Kwon et al. 2021); wants a larger ρ"},
    )
    sam_eta: float = field(
        default=0.01, metadata={"help": "η of adaptive SAM's |w| + η, which keeps zero weights movable (default: Kwon et al. 2021)"}
    )
    sam_scope: SCOPES = field(
        default="worker",
        metadata={
            "help": "whose data one ε is for: each worker's own (m-sharpness: Foret et al. 2021 saw it generalise better, "
            "and it needs no communication), or the whole batch's over all workers"
        },
    )
    sam_rounding: ROUNDINGS = field(
        default="stochastic",
        metadata={
            "help": "how w + ε is rounded to fp16 or bf16 weights; nearest loses part of the ascent (measured: 3 to 22 %) "
            "(default: measured, see examples/benchmarks)"
        },
    )
    sam_interval: int = field(
        default=1, metadata={"help": "climb at every k-th update only and make plain updates in between (default: every update)"}
    )


@register_optimizer("sam", dataclass=SAMConfig)
class SAM(WrappingOptimizer):
    """Sharpness-aware minimization (Foret et al. 2021) around a base optimizer."""

    def __init__(self, cfg, params):
        self.check(cfg)
        super().__init__(cfg, params)
        self.perturbation = None  # set by the host, which knows the tensors that the forward reads

    @classmethod
    def check(cls, cfg) -> None:
        super().check(cfg)
        for name, value in (("--sam-rho", cfg.sam_rho), ("--sam-eta", cfg.sam_eta)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number that is 0 or larger, and is {value}")
        if cfg.sam_interval < 1:
            raise ValueError(f"--sam-interval must be 1 (every update) or larger, and is {cfg.sam_interval}")

    def is_due(self, num_updates: int) -> bool:
        """Whether the update after *num_updates* ones climbs. It depends on nothing else, so resuming keeps the rhythm."""
        return self.cfg.sam_rho > 0 and num_updates % self.cfg.sam_interval == 0

    @property
    def is_global(self) -> bool:
        return str(self.cfg.sam_scope) == "global"

    def ascend(self, passes) -> Dict[str, Tensor]:
        """Leave the ascent's gradient in ``.grad``.

        Args:
            passes: a `sharp_plugins.host.passes.Passes` over the update's samples.

        Returns:
            metrics of this worker; ``sam_loss`` is the sum of the losses at w, and ``sam_shrink``, where there is one, what
            the gradient was divided by.
        """
        return {"sam_loss": passes.forward_backward()}

    def step(self, closure=None, scale=1.0, groups=None):
        """Return to w, then let the base optimizer update it with the gradient found at w + ε."""
        if self.perturbation is not None:
            self.perturbation.descend()
        super().step(closure, scale=scale, groups=groups)
