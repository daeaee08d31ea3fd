"""SMART: neither a small change of the embeddings nor an update of the weights shall change the prediction much.

    min_θ L(θ) + λ Σ_i max_{‖x̃ᵢ - xᵢ‖_∞ ≤ ε} ℓ_s(f(x̃ᵢ; θ), f(xᵢ; θ)) + μ Σ_i ℓ_s(f(xᵢ; θ), f(xᵢ; θ̃))

The second term is the smoothness-inducing adversarial regularization. Its inner problem is solved by

    x̃ ← x + ν,  ν ~ N(0, σ²)
    T times:  x̃ ← Π_{‖x̃ - x‖_∞ ≤ ε} (x̃ + η g / ‖g‖_∞),    g = ∇_x̃ ℓ_s(f(x̃), f(x))

ℓ_s is the symmetric KL divergence, and the squared difference in regression. Norms are each sentence's own. Gradients
for the update flow through both predictions, and not through x̃. λ = 0 leaves the search out.

The third is the Bregman proximal point method with momentum: θ̃ ← β θ̃ + (1 - β) θ after each update, which is fairseq's
``--store-ema --ema-decay β``, saved in its checkpoints; in half precision with ``--ema-fp32``, without which rounding
keeps θ̃ where it is. No gradient flows to θ̃, and its predictions are without dropout (the paper does not say). The
paper's β is 0.99 in the first tenth of the updates and 0.999 then; fairseq's is constant. μ = 0 leaves it out, as the
δ-SAM paper's words on SMART do (appendix A); λ = μ = 0 is the stock criterion.

The authors' code (mt-dnn) differs from the paper in three things, where this follows the paper: its symmetric KL lets no
gradient through the target of each part, which halves the pull of λ; its ‖g‖_∞ is each token's; it does not project on ε.

Source: Jiang et al. 2020, "SMART: Robust and Efficient Fine-Tuning for Pre-trained Natural Language Models through
Principled Regularized Optimization", sections 3.1 (the regularization) and 3.2 (the proximal point method), and
Algorithm 1 (the search).
"""

from dataclasses import dataclass, field
from typing import Callable, Optional

import torch
from fairseq import utils
from fairseq.criterions import register_criterion
from fairseq.criterions.sentence_prediction import SentencePredictionConfig
from fairseq.dataclass import FairseqDataclass

from sharp_plugins.criterions.perturbed_embeddings import (
    DROPOUTS,
    check_searchable,
    empty_perturbation,
    gradient,
    normalized,
    perturbed,
    real_tokens,
)
from sharp_plugins.criterions.regularized import Pieces, SentencePrediction, check_flag


@dataclass
class SMARTConfig(FairseqDataclass):
    smart_lambda: float = field(
        default=1.0,
        metadata={
            "help": "λ, the weight of the divergence at moved embeddings; 0 leaves it out (default: the smallest that "
            "the paper searches, 1, 3, 5)"
        },
    )
    smart_mu: float = field(
        default=0.0,
        metadata={
            "help": "μ, the weight of the divergence from the averaged weights, which --store-ema keeps (in half precision "
            "with --ema-fp32; the paper: 1, with --ema-decay 0.999; default: without it, as it costs a copy of the weights "
            "and a pass)"
        },
    )
    smart_eps: float = field(
        default=1e-5,
        metadata={
            "help": "ε, how far any entry of an embedding may be moved; in half precision on average, as rounding moves "
            "it by whole spacings (default: the paper)"
        },
    )
    smart_noise: float = field(
        default=1e-5, metadata={"help": "σ, the standard deviation of the start of the search (default: the paper)"}
    )
    smart_step_size: float = field(default=1e-3, metadata={"help": "η, the length of a step of the search (default: the paper)"})
    smart_steps: int = field(default=1, metadata={"help": "T, the number of steps of the search (default: the paper)"})
    smart_dropout: DROPOUTS = field(
        default="independent",
        metadata={
            "help": "whether all passes see the same dropout masks, or masks of their own (default: the authors' code; "
            "the paper does not say)"
        },
    )


@dataclass
class SMARTSentencePredictionConfig(SMARTConfig, SentencePredictionConfig):
    pass


class SMART:
    """The adversarial regularization, and with μ > 0 the proximal point method; the task comes from the other base.
    ``tests/plain.py`` has a slow plain twin.

    Example::

        class SMARTSentencePrediction(SMART, SentencePrediction):
            pass
    """

    measures = ("smart_divergence", "smart_bregman")
    # f(·; θ̃) as a function without arguments, from the trainer: a module would become a part of this one.
    ema_model: Optional[Callable] = None

    @property
    def ema_flag(self) -> Optional[str]:
        """The setting for which the trainer has to keep averaged weights; None where it need not."""
        return "--smart-mu above 0" if self.cfg.smart_mu > 0 else None

    @classmethod
    def check(cls, cfg) -> None:
        check_flag("--smart-lambda", cfg.smart_lambda)
        check_flag("--smart-mu", cfg.smart_mu)
        check_flag("--smart-eps", cfg.smart_eps, above=0)
        check_flag("--smart-noise", cfg.smart_noise, above=0)
        check_flag("--smart-step-size", cfg.smart_step_size, above=0)
        if cfg.smart_steps < 1:
            raise ValueError(f"--smart-steps must be 1 or larger, and is {cfg.smart_steps}")

    def pieces(self, model, sample) -> Pieces:
        cfg, net_input = self.cfg, sample["net_input"]
        if cfg.smart_lambda > 0:
            clean, divergence = self.adversarial(model, sample)
        else:
            clean = self.predict(model, net_input)
            divergence = clean[0].new_zeros((), dtype=torch.float32)
        added, measured = cfg.smart_lambda * divergence, {"smart_divergence": divergence}
        if cfg.smart_mu > 0:
            bregman = self.divergence(model, sample, clean, self.predict_averaged(net_input))
            added, measured["smart_bregman"] = added + cfg.smart_mu * bregman, bregman
        return Pieces([clean], 1.0, added, measured)

    def predict_averaged(self, net_input):
        """The output f(x; θ̃), without a gradient."""
        with torch.no_grad():
            return self.predict(self.ema_model().eval(), net_input)

    def adversarial(self, model, sample):
        """The output f(x), and (B,) the divergence of f(x̃) from it."""
        cfg, net_input = self.cfg, sample["net_input"]
        check_searchable(model)
        tokens = self.source_tokens(sample)
        real = real_tokens(tokens, self.task.source_dictionary.pad())
        delta = empty_perturbation(model, tokens).normal_(0.0, cfg.smart_noise) * real
        is_matched, state = str(cfg.smart_dropout) == "matched", utils.get_rng_state()

        def predict_at(delta):
            if is_matched:
                utils.set_rng_state(state)
            with perturbed(model, delta):
                return self.predict(model, net_input)

        # In half precision the sum x + δ draws random numbers before dropout does: at x itself it has to draw them too.
        clean = predict_at(torch.zeros_like(delta)) if is_matched else self.predict(model, net_input)
        fixed = (clean[0].detach(), None)
        for _ in range(cfg.smart_steps):
            with torch.enable_grad():
                divergence = self.divergence(model, sample, predict_at(delta.requires_grad_()), fixed)
                direction = normalized(gradient(divergence, delta, keep_graph=False) * real, order=float("inf"))
            delta = (delta.detach() + cfg.smart_step_size * direction).clamp(-cfg.smart_eps, cfg.smart_eps)
        return clean, self.divergence(model, sample, predict_at(delta), clean)


@register_criterion("smart_sentence_prediction", dataclass=SMARTSentencePredictionConfig)
class SMARTSentencePrediction(SMART, SentencePrediction):
    """``sentence_prediction`` with SMART.

    Example; the task, the model and the sample are yours::

        >>> criterion = SMARTSentencePrediction.build_criterion(SMARTSentencePredictionConfig(smart_lambda=1.0), task)
        >>> loss, sample_size, log = criterion(model, sample)
        >>> losses = criterion.sentence_losses(model, sample)  # (B,), for δ-SAM
        >>> "smart_divergence" in log, len(losses)
        (True, 4)
    """
