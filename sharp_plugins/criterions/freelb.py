"""FreeLB: train on all points that an ascent on the token embeddings visits.

    δ₀ = U(-1, 1) · init / √(entries of the sentence)
    for t = 1 ... K:
        g ← g + 1/K ∇_θ L(f(X + δ_{t-1}), y)
        δ_t = Π_{‖δ‖_F ≤ max-norm} (δ_{t-1} + α g_δ / ‖g_δ‖_F),    g_δ = ∇_δ L(f(X + δ_{t-1}), y)

Norms and projection are each sentence's own. All K passes see the same dropout masks (section 3.3 of the paper).

The loss that is returned is the mean of the K losses, with the graphs of all passes, and the gradient with respect to δ
is taken beside them; the authors call backward K times instead, from within the task. A criterion that called backward
itself would not know the loss scale of fp16, would add gradients for the dummy batches of workers without data, would
start one reduction of DDP per pass, and would have no loss of a sentence for δ-SAM to weigh. As a mean, FreeLB is a
loss like any other: fairseq scales, accumulates and reduces it, and SAM's extra passes run it as they are. The gradient
is the same. The price is memory for the activations of K passes at a time (where that is too much, make --batch-size K
times smaller and --update-freq K times larger), and K - 1 backward passes down to the embeddings.

Source: Zhu et al. 2019, "FreeLB: Enhanced Adversarial Training for Natural Language Understanding", Algorithm 1.
"""

from dataclasses import dataclass, field

import torch
from fairseq import utils
from fairseq.criterions import register_criterion
from fairseq.criterions.sentence_prediction import SentencePredictionConfig
from fairseq.dataclass import FairseqDataclass
from torch import Tensor

from sharp_plugins.criterions.perturbed_embeddings import (
    DROPOUTS,
    check_searchable,
    empty_perturbation,
    gradient,
    normalized,
    perturbed,
    project,
    real_tokens,
)
from sharp_plugins.criterions.regularized import GivenOutput, Pieces, SentencePrediction, check_flag


@dataclass
class FreeLBConfig(FairseqDataclass):
    freelb_steps: int = field(
        default=3, metadata={"help": "K, the number of passes; 1 trains at δ₀ alone (default: the authors' for RoBERTa on MNLI)"}
    )
    freelb_step_size: float = field(
        default=0.1, metadata={"help": "α, the length of an ascent step (default: the authors' for RoBERTa on MNLI)"}
    )
    freelb_init: float = field(
        default=0.1,
        metadata={"help": "magnitude of δ₀; 0 starts at the sentence itself (default: the authors' for RoBERTa on MNLI)"},
    )
    freelb_max_norm: float = field(
        default=0.3, metadata={"help": "largest norm of a sentence's δ; 0 for no bound (default: the authors' for RoBERTa on MNLI)"}
    )
    freelb_dropout: DROPOUTS = field(
        default="matched",
        metadata={"help": "whether all passes see the same dropout masks, or masks of their own (default: the paper, section 3.3)"},
    )


@dataclass
class FreeLBSentencePredictionConfig(FreeLBConfig, SentencePredictionConfig):
    pass


def initial_perturbation_(delta: Tensor, real: Tensor, magnitude: float) -> Tensor:
    """Fill *delta* (B, T, D) with δ₀, 0 at padding, and return it; *real* (B, T, 1) marks the tokens.

    Example::

        >>> real = torch.tensor([[[1.0], [1.0], [0.0]]])  # two tokens and padding
        >>> delta = initial_perturbation_(torch.empty(1, 3, 4), real, magnitude=0.1)
        >>> bool(delta.norm() <= 0.1), bool(delta[0, :2].any()), bool(delta[0, 2].any())
        (True, True, False)
    """
    if magnitude == 0:  # and no random number is drawn: in fp32 dropout is that of the stock criterion
        return delta.zero_()
    entries = real.sum(dim=(1, 2), keepdim=True).clamp(min=1) * delta.size(-1)
    return delta.uniform_(-1, 1).mul_(real).mul_(magnitude / entries.sqrt())


class FreeLB:
    """The method; the task comes from the other base. ``freelb_gap`` is the rise of the loss from the first to the last point.
    ``tests/plain.py`` has a slow plain twin.

    Example::

        class FreeLBSentencePrediction(FreeLB, SentencePrediction):
            pass
    """

    measures = ("freelb_gap",)

    @classmethod
    def check(cls, cfg) -> None:
        if cfg.freelb_steps < 1:
            raise ValueError(f"--freelb-steps must be 1 or larger, and is {cfg.freelb_steps}")
        check_flag("--freelb-step-size", cfg.freelb_step_size, above=0)
        check_flag("--freelb-init", cfg.freelb_init)
        check_flag("--freelb-max-norm", cfg.freelb_max_norm)

    def pieces(self, model, sample) -> Pieces:
        cfg, keep_graphs = self.cfg, torch.is_grad_enabled()
        check_searchable(model)
        tokens = self.source_tokens(sample)
        real = real_tokens(tokens, self.task.source_dictionary.pad())
        delta = initial_perturbation_(empty_perturbation(model, tokens), real, cfg.freelb_init)
        state = utils.get_rng_state()
        outputs, losses = [], []
        for step in range(cfg.freelb_steps):
            last = step == cfg.freelb_steps - 1
            if step > 0 and str(cfg.freelb_dropout) == "matched":
                utils.set_rng_state(state)
            with torch.set_grad_enabled(keep_graphs or not last), perturbed(model, delta.requires_grad_(not last)):
                logits = self.predict(model, sample["net_input"])[0]
                loss = self.stock_losses(GivenOutput(model, (logits, None)), sample)
                if not last:
                    direction = normalized(gradient(loss, delta, keep_graphs) * real, order=2)
                    delta = delta.detach() + cfg.freelb_step_size * direction
                    delta = project(delta, cfg.freelb_max_norm) if cfg.freelb_max_norm > 0 else delta
            outputs.append((logits if keep_graphs else logits.detach(), None))
            losses.append(loss.detach())
        nothing = losses[0].new_zeros(())
        return Pieces(outputs, 1 / cfg.freelb_steps, nothing, {"freelb_gap": losses[-1] - losses[0]})


@register_criterion("freelb_sentence_prediction", dataclass=FreeLBSentencePredictionConfig)
class FreeLBSentencePrediction(FreeLB, SentencePrediction):
    """``sentence_prediction`` with FreeLB.

    Example; the task, the model and the sample are yours::

        >>> criterion = FreeLBSentencePrediction.build_criterion(FreeLBSentencePredictionConfig(freelb_steps=2), task)
        >>> loss, sample_size, log = criterion(model, sample)
        >>> losses = criterion.sentence_losses(model, sample)  # (B,), for δ-SAM
        >>> "freelb_gap" in log, len(losses)
        (True, 4)
    """
