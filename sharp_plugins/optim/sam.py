"""``--optimizer sam``: sharpness-aware minimization around any registered optimizer.

    1. g  = ∇ Σ_j l_j(w)                 one forward and backward over the update's samples
    2. w' = w + ε*,  ε* = ρ g / ‖g‖₂      (Foret et al. 2021, Eq. 2; adaptive: Kwon et al. 2021, Eq. 9)
    3. gradient at w'                    fairseq's own train_step: accumulation, all-reduce, clipping, loss scaling
    4. back to w, then the base optimizer's update

The arithmetic of steps 2 and 4 is `sharp_plugins.core.perturbation`; the passes are made by `sharp_plugins.host`, which calls
`ascend`, and `return_to_w` where an update fails.
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Callable, Dict, Optional, Sequence, Tuple

from fairseq.dataclass.constants import ChoiceEnum
from fairseq.optim import register_optimizer
from omegaconf import II
from torch import Tensor
from torch.nn import Parameter

from sharp_plugins.core.perturbation import Perturbation
from sharp_plugins.optim.base import BaseOptimizerConfig, WrappingOptimizer

SCOPES = ChoiceEnum(["worker", "global"])
ROUNDINGS = ChoiceEnum(["nearest", "stochastic"])


@dataclass
class SAMConfig(BaseOptimizerConfig):
    sam_rho: float = field(
        default=0.05,
        metadata={
            "help": "radius ρ of the neighbourhood whose worst loss is minimised; at 0 every update is the base optimizer's, bit "
            "for bit, at the cost of SAM's passes "
            "(default: Foret et al. 2021; the δ-SAM paper searches 0.01, 0.02, 0.05; with MiniLM 0.005 to 0.02 were chosen on "
            "SST-2 (with twice Adam's learning rate 0.05 by δ-SAM where 20 % of the labels were wrong, and 0.02 where 40 %), and "
            "0.05 for the sentence vectors of all its layers: examples/studies, examples/sts)"
        },
    )
    sam_adaptive: bool = field(
        default=False,
        metadata={
            "help": "adaptive SAM: the neighbourhood scales with the weights (Kwon et al. 2021); wants a larger ρ "
            "(default: off, as in the papers of SAM and δ-SAM)"
        },
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
    sam_start: float = field(
        default=0,
        metadata={
            "help": "make so many plain updates first, and climb in those after them: a number of updates, or below 1 a share "
            "of --max-update, as 0.75 for the last quarter, which moves where a resumed run has another --max-update "
            "(default: climb from the beginning, as the papers do; with 0.75 no difference to the base optimizer is shown, see "
            "examples/studies)"
        },
    )
    max_update: float = II("optimization.max_update")


def first_climb(cfg: SAMConfig) -> int:
    """The number of updates before the first one that climbs.

    >>> first_climb(SAMConfig(sam_start=0.75, max_update=100)), first_climb(SAMConfig(sam_start=3, sam_interval=2))
    (75, 4)
    """
    start, interval = cfg.sam_start, cfg.sam_interval
    if 0 < start < 1:
        start = math.ceil(round(start * cfg.max_update, 6))  # 0.7 of 10 is 7, and not 8 for 7.000000000000001
    return math.ceil(start / interval) * interval


@register_optimizer("sam", dataclass=SAMConfig)
class SAM(WrappingOptimizer):
    """Sharpness-aware minimization (Foret et al. 2021) around a base optimizer; ``tests/plain.py`` has a slow plain twin.

    It alone moves the weights between w and w + ε: `ascend` goes there, `step` and `return_to_w` come back.

    Example, of an update without fairseq's trainer; `ascend` makes the first two lines of it from a trainer's samples::

        >>> import torch
        >>> from omegaconf import OmegaConf
        >>> w = Parameter(torch.tensor([3.0, 4.0]))
        >>> sam = SAM(OmegaConf.structured(SAMConfig(base_optimizer="sgd", lr=[0.1], sam_rho=0.5)), [w])
        >>> sam.backward(w.square().sum())
        >>> _ = sam.perturbation.climb()  # to w + 0.5 w/‖w‖
        >>> sam.backward(w.square().sum())
        >>> sam.step()  # w − 0.1 · 2 (w + ε)
        >>> [round(x, 4) for x in w.tolist()]
        [2.34, 3.12]
    """

    # Metrics that are counted over the workers and the updates of a log's line; of all others the line has the mean.
    COUNTS: Tuple[str, ...] = ("sam_skipped",)

    def __init__(self, cfg, params):
        self.check(cfg)
        super().__init__(cfg, params)
        # Returns the parameters that the model's forward reads, and their fp32 master copies or None. The host, which knows the
        # precision, puts its own function here.
        self.forward_tensors: Callable[[], Tuple[Sequence[Parameter], Optional[Sequence[Tensor]]]] = lambda: (
            list(self.params),
            None,
        )

    @classmethod
    def check(cls, cfg) -> None:
        super().check(cfg)
        for name, value in (("--sam-rho", cfg.sam_rho), ("--sam-eta", cfg.sam_eta)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number that is 0 or larger, and is {value}")
        if cfg.sam_interval < 1:
            raise ValueError(f"--sam-interval must be 1 (every update) or larger, and is {cfg.sam_interval}")
        start = cfg.sam_start
        if not (math.isfinite(start) and start >= 0 and (start < 1 or start == int(start))):
            raise ValueError(f"--sam-start must be a share of the run below 1 or a whole number of updates, and is {start}")
        if 0 < start < 1 and not (math.isfinite(cfg.max_update or 0) and (cfg.max_update or 0) > 0):
            raise ValueError(
                f"--sam-start {start} is a share of the run, whose length is not known: give --max-update, or --sam-start as a "
                "number of updates"
            )

    @classmethod
    def check_length(cls, cfg) -> None:
        """Raises ValueError where ``--max-update`` ends a run before its first climb. fairseq's own runs, which may go on with a
        larger one later, are but warned."""
        first, last = first_climb(cfg), cfg.max_update or math.inf
        if first >= last:
            raise ValueError(f"--sam-start {cfg.sam_start:g}: the first climb would be after {first} updates of {int(last)}")

    @property
    def first_climb(self) -> int:
        return first_climb(self.cfg)

    def is_due(self, num_updates: int) -> bool:
        """Whether the update after *num_updates* ones climbs. It depends on the config alone beside, so resuming keeps the
        rhythm; a share of the run moves where a resumed run has another --max-update."""
        return num_updates >= self.first_climb and num_updates % self.cfg.sam_interval == 0

    @property
    def is_global(self) -> bool:
        return str(self.cfg.sam_scope) == "global"

    @functools.cached_property
    def perturbation(self) -> Perturbation:
        """The way to w + ε and back; made when it is first used, as a checkpoint may be loaded before."""
        cfg, (params, masters) = self.cfg, self.forward_tensors()
        return Perturbation(params, cfg.sam_rho, masters, str(cfg.sam_rounding), adaptive=cfg.sam_adaptive, eta=cfg.sam_eta)

    def direction(self, passes) -> Dict[str, Tensor]:
        """Step 1: leave the ascent's gradient in ``.grad``.

        Args:
            passes: a `sharp_plugins.host.passes.Passes` over the update's samples.

        Returns:
            metrics of this worker; ``sam_loss`` is the sum of the losses at w, and ``sam_shrink``, where there is one, what
            the gradient was divided by.
        """
        return {"sam_loss": passes.forward_backward()}

    def ascend(self, passes, measure: bool = False) -> Dict[str, Tensor]:
        """Steps 1 and 2: go to w + ε*.

        Args:
            measure: also measure the realised radius and projection.

        Returns:
            metrics of this worker, 0-dimensional tensors.
        """
        metrics = dict(self.direction(passes))
        ascent = self.perturbation.climb(passes.seed, measure).ascent
        metrics["sam_grad_norm"] = passes.unscaled(ascent.grad_norm * metrics.pop("sam_shrink", 1.0))
        metrics["sam_skipped"] = ascent.skipped
        if measure:
            metrics["sam_radius"], metrics["sam_projection"] = ascent.radius, ascent.projection
        return metrics

    def return_to_w(self) -> None:
        if "perturbation" in vars(self):
            self.perturbation.descend()

    def step(self, closure=None, scale=1.0, groups=None):
        """Step 4: return to w, then let the base optimizer update it with the gradient found at w + ε."""
        self.return_to_w()
        super().step(closure, scale=scale, groups=groups)
