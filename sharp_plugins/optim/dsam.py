"""``--optimizer dsam``: δ-SAM, sharpness-aware minimization with dynamic reweighting.

    1. l_j(w + ρ ε̂/‖ε̂‖₂)        a forward without gradients at a random point of the sphere
    2. l_j(w)                    a forward with gradients
    3. a_j, g_j, r, g'_j          Eq. 3-6: `sharp_plugins.core.guardedness`
    4. g = ∇ Σ_j g'_j l_j(w)       the backward of 2
    5. as SAM from here: w + ρ g/‖g‖₂, and fairseq's own train_step there on the unweighted batch

The paper computes the l_j(w) of Eq. 3 in a pass of its own; taking them from the pass that the ascent needs anyway gives
the same numbers for one forward less. That needs the whole batch in one graph: with gradient accumulation g' is known
only when every micro-batch has been seen, and all but the last are then computed once more.

With ``--dsam-weights inverse``, which is ours, step 3 weighs the instances by `guardedness.inverse_weights`.

Source: "δ-SAM: Sharpness-Aware Minimization with Dynamic Reweighting", section 2.2 and Algorithm 1.
"""

import math
from dataclasses import dataclass, field
from typing import Dict

import torch
from fairseq.dataclass.constants import ChoiceEnum
from fairseq.optim import register_optimizer
from torch import Tensor

from sharp_plugins.core import guardedness
from sharp_plugins.criterions.instances import check_criterion
from sharp_plugins.optim.sam import SAM, SAMConfig

DROPOUTS = ChoiceEnum(["matched", "independent"])
WEIGHTS = ChoiceEnum(["paper", "inverse"])


@dataclass
class DSAMConfig(SAMConfig):
    dsam_beta: float = field(
        default=3.0,
        metadata={
            "help": "β of Eq. 5: how far the weights of the instances may leave 1/N; 0 is SAM "
            "(default: the paper's most frequent choice among 3, 5, 10, 20, 50, 70; with MiniLM on SST-2 it was chosen among 1, 3 "
            "and 10, which lay within 0.7 points; where 40 % of the labels were wrong 1 was best, 2.1 above 10: examples/studies)"
        },
    )
    dsam_dropout: DROPOUTS = field(
        default="matched",
        metadata={
            "help": "whether both losses of Eq. 3 see the same dropout masks, so that their difference is the weights' "
            "doing alone, or masks of their own (default: ours; the paper does not say)"
        },
    )
    dsam_weights: WEIGHTS = field(
        default="paper",
        metadata={
            "help": "how the instances are weighed for the perturbation: as Eq. 4-6 of the paper, or inverse (ours, without "
            "--dsam-beta): less where the loss changes more; examples/benchmarks measures both beside a perturbation for "
            "each instance (default: the paper's)"
        },
    )


@register_optimizer("dsam", dataclass=DSAMConfig)
class DSAM(SAM):
    """δ-SAM around a base optimizer; ``tests/plain.py`` has a slow plain twin. Needs a criterion with per-sentence losses
    (`sharp_plugins.criterions`).

    Example, of an ascent without fairseq's trainer, as `direction` makes it from a trainer's samples::

        >>> from omegaconf import OmegaConf
        >>> w, x = torch.nn.Parameter(torch.tensor([1.0, -1.0])), torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]])
        >>> dsam = DSAM(OmegaConf.structured(DSAMConfig(base_optimizer="sgd", lr=[0.1])), [w])
        >>> with torch.no_grad(), dsam.perturbation.perturb_randomly(seed=1):
        ...     noisy = (x @ w).square()
        >>> clean = (x @ w).square()
        >>> weights = guardedness.instance_weights((noisy - clean).detach(), dsam.cfg.dsam_beta)
        >>> round(weights.sum().item(), 4)
        1.0
        >>> dsam.backward((weights * clean).sum())
        >>> with dsam.perturbation.climb():
        ...     dsam.backward((x @ w).square().mean())
    """

    COUNTS = (*SAM.COUNTS, "dsam_negative", "dsam_nonfinite")

    @classmethod
    def check(cls, cfg) -> None:
        super().check(cfg)
        if not (math.isfinite(cfg.dsam_beta) and cfg.dsam_beta >= 0):
            raise ValueError(f"--dsam-beta must be a finite number that is 0 or larger, and is {cfg.dsam_beta}")

    @classmethod
    def check_run(cls, criterion, task, model) -> None:
        check_criterion(criterion, task, model)

    def direction(self, passes) -> Dict[str, Tensor]:
        """Leave the gradient of N · Σ_j g'_j l_j(w) in ``.grad`` (N · g' is 1 on average, as in the stock loss), divided by the
        power of two that is returned as ``sam_shrink``."""
        with self.perturbation.perturb_randomly(passes.seed):
            noisy = passes.instance_losses_without_grad(independent_dropout=str(self.cfg.dsam_dropout) == "independent")
        clean = passes.instance_losses()  # the last micro-batch's keep their graph
        nothing = torch.zeros(0, device=passes.device)
        # Eq. 3, micro-batch by micro-batch; a dummy or one lost to memory has no instances.
        changes = [
            nothing if dummy or c is None or n is None else n - c.detach() for n, c, dummy in zip(noisy, clean, passes.is_dummy)
        ]
        a = torch.cat(changes).float()
        largest = passes.max_over_scope(guardedness.largest_finite(a))
        a_finite = guardedness.replace_nonfinite(a, largest)
        total = guardedness.Sums(*passes.sum_over_scope(torch.stack(guardedness.sums(a_finite))))
        n = total.n.clamp(min=1)
        if str(self.cfg.dsam_weights) == "inverse":
            v = guardedness.inverse_weights(a_finite, total)
            sum_v, sum_v_log_v = passes.sum_over_scope(torch.stack([v.sum(), torch.special.xlogy(v, v).sum()]))
            g_prime, r = v / sum_v, torch.zeros_like(n)
            weight_max = passes.max_over_scope(guardedness.largest_finite(g_prime))
            metrics = {"dsam_weight_entropy": guardedness.entropy(sum_v, sum_v_log_v, n)}  # there is no r
        else:
            g_prime, r, entropy = guardedness.weights(a_finite, total, self.cfg.dsam_beta)  # Eq. 4-6
            # g' grows with |a_j| as r >= 0, so the largest weight belongs to the largest |a_j|.
            largest_g = largest / torch.where(total.abs_a == 0, torch.ones_like(n), total.abs_a)
            weight_max = (largest_g - 1 / n) * r + 1 / n
            metrics = {"dsam_r": r, "dsam_weight_entropy": entropy}
        g_prime_n = (g_prime * total.n).float()
        # r has no bound, and weights of several hundred would overflow fp16 gradients that SAM's do not: the weights, which
        # are between 1 - r and N times the largest, are divided by a power of two. Only the direction counts.
        shrink = torch.maximum(weight_max * n, r).clamp(min=1).log2().ceil().exp2().float()
        passes.weighted_backward(clean, (g_prime_n / shrink).split([change.numel() for change in changes]))
        real = [c.detach().float().sum() for c, dummy in zip(clean, passes.is_dummy) if not (dummy or c is None)]
        return {
            "sam_loss": sum(real, nothing.sum()),
            "sam_shrink": shrink,
            "dsam_weight_max": weight_max,
            "dsam_negative": (g_prime_n < 0).sum().float(),
            "dsam_nonfinite": (~a.isfinite()).sum().float(),
            **metrics,
        }
