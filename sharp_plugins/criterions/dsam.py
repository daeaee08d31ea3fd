"""The registered ``dsam_*`` criterions: each stock criterion with the losses of its sentences.

They train, validate and log exactly as the stock criterions do, with any optimizer; ``--optimizer dsam`` asks them for the
losses of the sentences. Naming them is optional, since it finds those of the stock criterions by itself; they are there
for configs that should say what they rely on, and as an example of a criterion of one's own.
"""

from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, register_criterion
from fairseq.criterions.adaptive_loss import AdaptiveLoss
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.criterions.masked_lm import MaskedLmLoss
from fairseq.criterions.sentence_prediction import SentencePredictionCriterion
from fairseq.criterions.sentence_ranking import SentenceRankingCriterion

from sharp_plugins.criterions import sentence_losses


def _register(stock_name: str):
    """Register a criterion with the flags of a stock one."""
    return register_criterion(f"dsam_{stock_name}", dataclass=CRITERION_DATACLASS_REGISTRY.get(stock_name))


@_register("cross_entropy")
class DSAMCrossEntropy(CrossEntropyCriterion):
    """``cross_entropy`` with the losses of its sentences."""

    sentence_losses = sentence_losses.cross_entropy


@_register("label_smoothed_cross_entropy")
class DSAMLabelSmoothedCrossEntropy(LabelSmoothedCrossEntropyCriterion):
    """``label_smoothed_cross_entropy`` with the losses of its sentences."""

    sentence_losses = sentence_losses.cross_entropy


@_register("masked_lm")
class DSAMMaskedLm(MaskedLmLoss):
    """``masked_lm`` with the losses of its sentences."""

    sentence_losses = sentence_losses.masked_lm


@_register("sentence_prediction")
class DSAMSentencePrediction(SentencePredictionCriterion):
    """``sentence_prediction`` with the losses of its sentences."""

    sentence_losses = sentence_losses.sentence_prediction


@_register("sentence_ranking")
class DSAMSentenceRanking(SentenceRankingCriterion):
    """``sentence_ranking`` with the losses of its sentences."""

    sentence_losses = sentence_losses.sentence_ranking


@_register("adaptive_loss")
class DSAMAdaptiveLoss(AdaptiveLoss):
    """``adaptive_loss`` with the losses of its sentences."""

    sentence_losses = sentence_losses.adaptive_loss
