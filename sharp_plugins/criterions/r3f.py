"""R3F: a little noise on the token embeddings shall not change what the model predicts.

    L = L(f(x)) + λ [KL(f(x)‖f(x + z)) + KL(f(x + z)‖f(x))],    z ~ U(-ε, ε) or N(0, ε²)

Both predictions come out of one forward of a batch that holds every sentence twice, the second time with noise; dropout
treats the copies differently, as it does the two passes of the authors' code. Gradients flow through both. λ = 0 makes
one pass, and is the stock criterion.

Four differences from fairseq's own examples/rxf:

* There the noise never reaches RobertaModel in fairseq 0.12 (see `perturbed_embeddings`).
* There, in sequence-to-sequence tasks, the divergence counts padding, and is a mean over sentences where the loss is a
  mean over tokens. Here it is summed over the tokens whose loss counts, as the loss is, and so does not depend on how a
  batch is made up. To get the weight of there, multiply λ by the mean length of a target
  (not with --sentence-avg). The noise is on the source's embeddings in both.
* There, in classification, the noised pass is meant to give the table of words no gradient. Here both do, as the paper has it.
* There is no regularizer in regression, where the divergence of a single logit's softmax is 0. Here it is the squared
  difference of the predictions, as R-Drop and SMART have it.

Source: Aghajanyan et al. 2020, "Better Fine-Tuning by Reducing Representational Collapse", section 2 (R3F).
"""

from dataclasses import dataclass, field

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig
from fairseq.criterions.sentence_prediction import SentencePredictionConfig
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.constants import ChoiceEnum
from torch import Tensor

from sharp_plugins.criterions.perturbed_embeddings import empty_perturbation, perturbed, real_tokens
from sharp_plugins.criterions.regularized import LabelSmoothedCrossEntropy, Pieces, SentencePrediction, Twice, check_flag

NOISES = ChoiceEnum(["uniform", "normal"])


@dataclass
class R3FConfig(FairseqDataclass):
    r3f_lambda: float = field(
        default=1.0, metadata={"help": "λ, the weight of the divergence; 0 is the stock criterion (default: the authors' code)"}
    )
    r3f_eps: float = field(
        default=1e-5, metadata={"help": "ε, the noise's bound or standard deviation (default: the paper and the authors' code)"}
    )


@dataclass
class R3FSentencePredictionConfig(R3FConfig, SentencePredictionConfig):
    r3f_noise: NOISES = field(
        default="uniform", metadata={"help": "distribution of the noise (default: the authors' code for this criterion)"}
    )


@dataclass
class R3FLabelSmoothedCrossEntropyConfig(R3FConfig, LabelSmoothedCrossEntropyCriterionConfig):
    r3f_noise: NOISES = field(
        default="normal", metadata={"help": "distribution of the noise (default: the authors' code for this criterion)"}
    )


def draw_noise_(z: Tensor, kind: str, eps: float) -> Tensor:
    """Fill *z* with noise from torch's global generator, and return it."""
    return z.normal_(0.0, eps) if kind == "normal" else z.uniform_(-eps, eps)


class R3F:
    """The method; the task comes from the other base. ``tests/plain.py`` has a slow plain twin.

    Example::

        class R3FSentencePrediction(R3F, SentencePrediction):
            pass
    """

    measures = ("symm_kl",)

    @classmethod
    def check(cls, cfg) -> None:
        check_flag("--r3f-lambda", cfg.r3f_lambda)
        check_flag("--r3f-eps", cfg.r3f_eps, above=0)

    def pieces(self, model, sample) -> Pieces:
        net_input = sample["net_input"]
        if self.cfg.r3f_lambda == 0:
            return self.only(self.predict(model, net_input))
        tokens = self.source_tokens(sample)
        z = draw_noise_(empty_perturbation(model, tokens), str(self.cfg.r3f_noise), self.cfg.r3f_eps)
        z = z * real_tokens(tokens, self.task.source_dictionary.pad())
        pairs = Twice(model)
        with perturbed(model, pairs.join(torch.zeros_like(z), z)):
            clean, noised = pairs.split(self.predict(model, pairs.inputs(net_input, len(tokens))))
        kl = self.divergence(model, sample, clean, noised)
        return Pieces([clean], 1.0, self.cfg.r3f_lambda * kl, {"symm_kl": kl})


@register_criterion("r3f_sentence_prediction", dataclass=R3FSentencePredictionConfig)
class R3FSentencePrediction(R3F, SentencePrediction):
    """``sentence_prediction`` with R3F.

    Example; the task, the model and the sample are yours::

        >>> criterion = R3FSentencePrediction.build_criterion(R3FSentencePredictionConfig(r3f_lambda=1.0), task)
        >>> loss, sample_size, log = criterion(model, sample)
        >>> losses = criterion.sentence_losses(model, sample)  # (B,), for δ-SAM
        >>> "symm_kl" in log, len(losses)
        (True, 4)
    """


@register_criterion("r3f_label_smoothed_cross_entropy", dataclass=R3FLabelSmoothedCrossEntropyConfig)
class R3FLabelSmoothedCrossEntropy(R3F, LabelSmoothedCrossEntropy):
    """``label_smoothed_cross_entropy`` with R3F on every target token.

    Example; the task, the model and the sample are yours::

        >>> criterion = R3FLabelSmoothedCrossEntropy.build_criterion(R3FLabelSmoothedCrossEntropyConfig(r3f_lambda=1.0), task)
        >>> loss, sample_size, log = criterion(model, sample)
        >>> losses = criterion.sentence_losses(model, sample)  # (B,), for δ-SAM
        >>> "symm_kl" in log, len(losses)
        (True, 4)
    """
