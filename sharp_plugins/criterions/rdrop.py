"""R-Drop: two passes with different dropout masks shall predict the same.

    L_i = -log P₁(yᵢ|xᵢ) - log P₂(yᵢ|xᵢ) + α · ½ [KL(P₁‖P₂) + KL(P₂‖P₁)]

Both passes are one forward of a batch that holds every sentence twice; dropout treats the copies differently. The two
log-likelihoods are summed, as in the paper's Eq. 4 and the authors' code, and not averaged: the loss, and with it the
gradient, is about twice the stock criterion's. (Adam's updates do not depend on the scale; ``--clip-norm`` and the
learning rate of SGD do.) Accuracy, and ``nll_loss`` in translation, are those of the first pass. α = 0 makes one pass,
and is the stock criterion.

The authors' two codes differ: their criterion for fairseq (RoBERTa) is this one, with α = 1. Their code for BERT adds the
divergence summed over a batch of B to the mean of the log-likelihoods. That is α = B / 2 here: 4 for batches of 8, 16 for 32.

In regression the divergence is the squared difference, as in the authors' code: with -log P the squared error, P is a
Gaussian of variance ½, and ½ [KL(P₁‖P₂) + KL(P₂‖P₁)] is (f₁ - f₂)².

Source: Liang et al. 2021, "R-Drop: Regularized Dropout for Neural Networks", Eq. 2-4 and Algorithm 1.
"""

from dataclasses import dataclass, field

from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig
from fairseq.criterions.sentence_prediction import SentencePredictionConfig
from fairseq.dataclass import FairseqDataclass

from sharp_plugins.criterions.regularized import LabelSmoothedCrossEntropy, Pieces, SentencePrediction, Twice, check_flag


@dataclass
class RDropConfig(FairseqDataclass):
    rdrop_alpha: float = field(
        default=1.0,
        metadata={
            "help": "α, the weight of the divergence between the two passes; 0 is the stock criterion (default: the "
            "authors' code for fairseq; their code for BERT has half the batch size; the paper searches 0.1, 0.5, 1.0 for language "
            "understanding)"
        },
    )


@dataclass
class RDropSentencePredictionConfig(RDropConfig, SentencePredictionConfig):
    pass


@dataclass
class RDropLabelSmoothedCrossEntropyConfig(LabelSmoothedCrossEntropyCriterionConfig):
    rdrop_alpha: float = field(
        default=5.0,
        metadata={
            "help": "α, the weight of the divergence between the two passes; 0 is label_smoothed_cross_entropy "
            "(default: the paper's for translation)"
        },
    )


class RDrop:
    """The method; the task comes from the other base. ``tests/plain.py`` has a slow plain twin.

    Example::

        class RDropSentencePrediction(RDrop, SentencePrediction):
            pass
    """

    measures = ("rdrop_kl",)

    @classmethod
    def check(cls, cfg) -> None:
        check_flag("--rdrop-alpha", cfg.rdrop_alpha)

    def pieces(self, model, sample) -> Pieces:
        net_input = sample["net_input"]
        if self.cfg.rdrop_alpha == 0:
            return self.only(self.predict(model, net_input))
        pairs = Twice(model)
        first, second = pairs.split(self.predict(model, pairs.inputs(net_input, len(sample["target"]))))
        kl = self.divergence(model, sample, first, second)
        if not self.regression_target:
            kl = kl / 2
        return Pieces([first, second], 1.0, self.cfg.rdrop_alpha * kl, {"rdrop_kl": kl})


@register_criterion("rdrop_sentence_prediction", dataclass=RDropSentencePredictionConfig)
class RDropSentencePrediction(RDrop, SentencePrediction):
    """``sentence_prediction`` with R-Drop.

    Example; the task, the model and the sample are yours::

        >>> criterion = RDropSentencePrediction.build_criterion(RDropSentencePredictionConfig(rdrop_alpha=1.0), task)
        >>> loss, sample_size, log = criterion(model, sample)
        >>> losses = criterion.sentence_losses(model, sample)  # (B,), for δ-SAM
        >>> "rdrop_kl" in log, len(losses)
        (True, 4)
    """


@register_criterion("rdrop_label_smoothed_cross_entropy", dataclass=RDropLabelSmoothedCrossEntropyConfig)
class RDropLabelSmoothedCrossEntropy(RDrop, LabelSmoothedCrossEntropy):
    """``label_smoothed_cross_entropy`` with R-Drop on every target token.

    Example; the task, the model and the sample are yours::

        >>> criterion = RDropLabelSmoothedCrossEntropy.build_criterion(RDropLabelSmoothedCrossEntropyConfig(rdrop_alpha=5.0), task)
        >>> loss, sample_size, log = criterion(model, sample)
        >>> losses = criterion.sentence_losses(model, sample)  # (B,), for δ-SAM
        >>> "rdrop_kl" in log, len(losses)
        (True, 4)
    """
