"""SMART's adversarial regularization: no small change of the embeddings shall change the prediction.

    min_θ L(θ) + λ Σ_i max_{‖x̃ᵢ - xᵢ‖_∞ ≤ ε} ℓ_s(f(x̃ᵢ), f(xᵢ))

    x̃ ← x + ν,  ν ~ N(0, σ²)
    T times:  x̃ ← Π_{‖x̃ - x‖_∞ ≤ ε} (x̃ + η g / ‖g‖_∞),    g = ∇_x̃ ℓ_s(f(x̃), f(x))

ℓ_s is the symmetric KL divergence, and the squared difference in regression. Norms are each sentence's own. Gradients
for the update flow through both predictions, and not through x̃. λ = 0 makes one pass, and is the stock criterion.

SMART's other part, Bregman proximal point optimization, is left out: it needs the predictions of earlier weights'
average, which would have to be saved with the checkpoints and to change at updates, but not in SAM's extra passes; a
criterion of fairseq has no place for that. The δ-SAM paper describes its SMART baseline as a framework of several
techniques, and by the one that is here (appendix A).

Source: Jiang et al. 2020, "SMART: Robust and Efficient Fine-Tuning for Pre-trained Natural Language Models through
Principled Regularized Optimization", section 3.1 (the regularization) and Algorithm 1 (the search).
"""

from dataclasses import dataclass, field

import torch
from fairseq import utils
from fairseq.criterions import register_criterion
from fairseq.criterions.sentence_prediction import SentencePredictionConfig

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
class SMARTConfig(SentencePredictionConfig):
    smart_lambda: float = field(
        default=1.0,
        metadata={
            "help": "λ, the weight of the divergence; 0 is sentence_prediction (default: the smallest that the paper "
            "searches, 1, 3, 5)"
        },
    )
    smart_eps: float = field(
        default=1e-5, metadata={"help": "ε, how far any entry of an embedding may be moved (default: the paper)"}
    )
    smart_noise: float = field(
        default=1e-5, metadata={"help": "σ, the standard deviation of the start of the search (default: the paper)"}
    )
    smart_step_size: float = field(
        default=1e-3, metadata={"help": "η, the length of a step of the search (default: the paper)"}
    )
    smart_steps: int = field(default=1, metadata={"help": "T, the number of steps of the search (default: the paper)"})
    smart_dropout: DROPOUTS = field(
        default="independent",
        metadata={
            "help": "whether all passes see the same dropout masks, or masks of their own (default: the authors' code; "
            "the paper does not say)"
        },
    )


@register_criterion("smart_sentence_prediction", dataclass=SMARTConfig)
class SMARTSentencePrediction(SentencePrediction):
    """``sentence_prediction`` with SMART's adversarial regularization."""

    metric = "smart_divergence"

    @classmethod
    def check(cls, cfg) -> None:
        check_flag("--smart-lambda", cfg.smart_lambda)
        check_flag("--smart-eps", cfg.smart_eps, above=0)
        check_flag("--smart-noise", cfg.smart_noise, above=0)
        check_flag("--smart-step-size", cfg.smart_step_size, above=0)
        if cfg.smart_steps < 1:
            raise ValueError(f"--smart-steps must be 1 or larger, and is {cfg.smart_steps}")

    def pieces(self, model, sample) -> Pieces:
        cfg, net_input = self.cfg, sample["net_input"]
        if cfg.smart_lambda == 0:
            return self.only(self.predict(model, net_input))
        check_searchable(model)
        tokens = self.source_tokens(sample)
        real = real_tokens(tokens, self.task.source_dictionary.pad())
        delta = empty_perturbation(model, tokens).normal_(0.0, cfg.smart_noise) * real
        state = utils.get_rng_state()

        def predict_at(delta):
            if str(cfg.smart_dropout) == "matched":
                utils.set_rng_state(state)
            with perturbed(model, delta):
                return self.predict(model, net_input)

        clean = self.predict(model, net_input)
        fixed = (clean[0].detach(), None)
        for _ in range(cfg.smart_steps):
            with torch.enable_grad():
                divergence = self.divergence(model, sample, predict_at(delta.requires_grad_()), fixed)
                direction = normalized(gradient(divergence, delta, keep_graph=False) * real, order=float("inf"))
            delta = (delta.detach() + cfg.smart_step_size * direction).clamp(-cfg.smart_eps, cfg.smart_eps)
        divergence = self.divergence(model, sample, predict_at(delta), clean)
        return Pieces([clean], 1.0, cfg.smart_lambda * divergence, divergence)
