"""The loss of each sentence, for the stock criterions.

An instance is one sentence (one row of the batch), and its loss is the sum of its token losses over the tokens that the
stock criterion counts: the entries sum to the stock loss, so that uniform weights give the stock gradient's direction.

Every function takes (criterion, model, sample) and returns a (B,) fp32 tensor with its graph.
"""

import torch
import torch.nn.functional as F
from fairseq.criterions.adaptive_loss import AdaptiveLoss
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.criterions.masked_lm import MaskedLmLoss
from fairseq.criterions.sentence_prediction import SentencePredictionCriterion
from fairseq.criterions.sentence_ranking import SentenceRankingCriterion
from torch import Tensor


def cross_entropy(criterion, model, sample) -> Tensor:
    """``cross_entropy`` and ``label_smoothed_cross_entropy``: their own token losses, summed by row."""
    net_output = model(**sample["net_input"])
    token_losses, _ = criterion.compute_loss(model, net_output, sample, reduce=False)
    return token_losses.view(sample["target"].size(0), -1).float().sum(1)


def masked_lm(criterion, model, sample) -> Tensor:
    """``masked_lm``: the masked tokens of each row; a row without one has loss 0."""
    target = sample["target"]
    masked = target.ne(criterion.padding_idx)
    # fairseq projects all tokens where none is masked; without a device-to-host transfer that is every mask set.
    masked = torch.where(masked.any(), masked, torch.ones_like(masked))
    logits = model(**sample["net_input"], masked_tokens=masked)[0]
    token_losses = F.cross_entropy(
        logits.view(-1, logits.size(-1)).float(), target[masked].view(-1), ignore_index=criterion.padding_idx, reduction="none"
    )
    rows = torch.arange(target.size(0), device=target.device).unsqueeze(1).expand_as(target)[masked]
    return token_losses.new_zeros(target.size(0)).index_add(0, rows, token_losses)


def sentence_prediction(criterion, model, sample) -> Tensor:
    """``sentence_prediction``: negative log-likelihood, or squared error with ``--regression-target``."""
    logits, _ = model(**sample["net_input"], features_only=True, classification_head_name=criterion.classification_head_name)
    targets = model.get_targets(sample, [logits]).view(-1)
    if criterion.regression_target:
        return F.mse_loss(logits.view(-1).float(), targets.float(), reduction="none")
    return F.nll_loss(F.log_softmax(logits, dim=-1, dtype=torch.float32), targets, reduction="none")


def sentence_ranking(criterion, model, sample) -> Tensor:
    """``sentence_ranking``: negative log-likelihood of the right candidate."""
    scores = [
        model(**sample[f"net_input{i + 1}"], classification_head_name=criterion.ranking_head_name)[0]
        for i in range(criterion.num_classes)
    ]
    logits = torch.cat(scores, dim=1)
    targets = model.get_targets(sample, [logits]).view(-1)
    return F.nll_loss(F.log_softmax(logits, dim=-1, dtype=torch.float32), targets, reduction="none")


def adaptive_loss(criterion, model, sample) -> Tensor:
    """``adaptive_loss``: the head's loss of every token, and its cluster's for the tokens in one, summed by row."""
    net_output = model(**sample["net_input"])
    target = model.get_targets(sample, net_output)
    rows, length = target.shape
    softmax = model.decoder.adaptive_softmax
    logits, targets = softmax(net_output[0], target.reshape(-1))
    _, cluster_positions = softmax.adapt_target(target.reshape(-1))
    token_losses = net_output[0].new_zeros(rows * length, dtype=torch.float32)
    positions = [torch.arange(rows * length, device=target.device), *cluster_positions]
    for logit, cluster_target, position in zip(logits, targets, positions):
        if cluster_target is not None:
            losses = F.cross_entropy(logit.float(), cluster_target, ignore_index=criterion.padding_idx, reduction="none")
            token_losses = token_losses.index_add(0, position, losses)
    return token_losses.view(rows, length).sum(1)


# By exact class: a subclass (with alignment, CTC, R-Drop, ...) has another loss.
SENTENCE_LOSSES = {
    CrossEntropyCriterion: cross_entropy,
    LabelSmoothedCrossEntropyCriterion: cross_entropy,
    MaskedLmLoss: masked_lm,
    SentencePredictionCriterion: sentence_prediction,
    SentenceRankingCriterion: sentence_ranking,
    AdaptiveLoss: adaptive_loss,
}
