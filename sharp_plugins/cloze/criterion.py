"""``--criterion cloze``: which of the label words fills the mask.

    p(y | x) = exp(z_{M(y)}) / Σ_{y'} exp(z_{M(y')})

z are the masked-language-model head's scores at the mask (dense, activation, layer norm, output layer), M(y) is the label word of
class y, and the loss of a sentence is -log p(y | x). Nothing of a new layer is learned: an untrained model predicts too.

The head is computed at the masks alone. R-Drop, R3F, FreeLB and SMART on it are ``rdrop_cloze`` and so on: their divergence is over
the classes.

Source: "Making Pre-trained Language Models Better Few-shot Learners" (Gao et al. 2021), with its code; MeZO's
``medium_models`` train and score so.
"""

import math
from dataclasses import dataclass, field
from typing import Tuple

import torch
import torch.nn.functional as F
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

from sharp_plugins.criterions.freelb import FreeLB, FreeLBConfig
from sharp_plugins.criterions.r3f import NOISES, R3F, R3FConfig
from sharp_plugins.criterions.rdrop import RDrop, RDropConfig
from sharp_plugins.criterions.regularized import Regularized, symmetric_kl
from sharp_plugins.criterions.smart import SMART, SMARTConfig


@dataclass
class ClozeCriterionConfig(FairseqDataclass):
    pass


@register_criterion("cloze", dataclass=ClozeCriterionConfig)
class ClozeCriterion(FairseqCriterion):
    """Cross entropy over the label words at the mask; logs the accuracy in percent.

    Example; the model and the sample are yours, and the task is ``--task cloze``'s::

        criterion = ClozeCriterion.build_criterion(ClozeCriterionConfig(), task)
        loss, sample_size, log = criterion(model, sample)
        losses = criterion.sentence_losses(model, sample)  # (B,), for δ-SAM
    """

    def __init__(self, task):
        super().__init__(task)
        self.register_buffer("words", torch.tensor(task.label_words), persistent=False)

    @classmethod
    def build_criterion(cls, cfg, task):
        cls.check_task(cfg, task)
        return super().build_criterion(cfg, task)

    @classmethod
    def check_task(cls, cfg, task) -> None:
        if getattr(task, "label_words", None) is None:
            raise ValueError(
                f"{cls.__name__} predicts a word at a mask, which --task {type(task).__name__} does not have: use --task cloze"
            )

    def log_probabilities(self, net_output) -> Tensor:
        """(B, classes) log p(y | x), in fp32, of the model's scores (B, symbols) at the masks."""
        return F.log_softmax(net_output[0][:, self.words], dim=-1, dtype=torch.float32)

    def losses(self, model, sample) -> Tensor:
        """(B,) fp32, with its graph."""
        log_p = self.log_probabilities(model(**sample["net_input"]))
        return F.nll_loss(log_p, sample["target"], reduction="none")

    sentence_losses = losses

    def probabilities(self, model, sample) -> Tuple[Tensor, Tensor]:
        """(B, classes) of the words, and (B,) the right one; for `sharp_plugins.sharpness`."""
        return self.log_probabilities(model(**sample["net_input"])).exp(), sample["target"]

    def forward(self, model, sample, reduce=True):
        """The loss summed over the sample, or of each sentence without *reduce*; how many sentences; what is logged."""
        log_p, target = self.log_probabilities(model(**sample["net_input"])), sample["target"]
        loss = F.nll_loss(log_p, target, reduction="sum" if reduce else "none")
        log = {
            "loss": loss.data,
            "ntokens": sample["ntokens"],
            "nsentences": len(target),
            "sample_size": len(target),
            "ncorrect": (log_p.argmax(dim=1) == target).sum(),
        }
        return loss, len(target), log

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """The loss of a sentence in bits, as fairseq logs losses, and the accuracy."""
        loss, sentences, correct = (
            sum(log.get(name, 0) for log in logging_outputs) for name in ("loss", "sample_size", "ncorrect")
        )
        metrics.log_scalar("loss", loss / sentences / math.log(2), sentences, round=3)
        metrics.log_scalar("accuracy", 100.0 * correct / sentences, sentences, round=2)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


class RegularizedCloze(Regularized, ClozeCriterion):
    """For ``--task cloze``.

    Example, the criterion of a method (see `sharp_plugins.criterions.regularized.Regularized`)::

        class RDropCloze(RDrop, RegularizedCloze):
            pass
    """

    stock_losses = ClozeCriterion.losses

    def predict(self, model, net_input):
        """The model's output with its scores at the masks first, (B, symbols)."""
        return model(**net_input)

    def divergence(self, model, sample, first, second) -> Tensor:
        """(B,) symmetric KL divergence of two outputs' classes."""
        return symmetric_kl(self.log_probabilities(first), self.log_probabilities(second))


@dataclass
class R3FClozeConfig(R3FConfig):
    r3f_noise: NOISES = field(
        default="uniform", metadata={"help": "distribution of the noise (default: as in sentence_prediction)"}
    )


@register_criterion("rdrop_cloze", dataclass=RDropConfig)
class RDropCloze(RDrop, RegularizedCloze):
    """``cloze`` with R-Drop.

    Example::

        criterion = RDropCloze.build_criterion(RDropConfig(rdrop_alpha=1.0), task)
    """


@register_criterion("r3f_cloze", dataclass=R3FClozeConfig)
class R3FCloze(R3F, RegularizedCloze):
    """``cloze`` with R3F.

    Example::

        criterion = R3FCloze.build_criterion(R3FClozeConfig(r3f_lambda=1.0), task)
    """


@register_criterion("freelb_cloze", dataclass=FreeLBConfig)
class FreeLBCloze(FreeLB, RegularizedCloze):
    """``cloze`` with FreeLB.

    Example::

        criterion = FreeLBCloze.build_criterion(FreeLBConfig(freelb_steps=2), task)
    """


@register_criterion("smart_cloze", dataclass=SMARTConfig)
class SMARTCloze(SMART, RegularizedCloze):
    """``cloze`` with SMART.

    Example::

        criterion = SMARTCloze.build_criterion(SMARTConfig(smart_lambda=1.0), task)
    """
