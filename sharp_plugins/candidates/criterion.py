"""``--criterion candidates``: cross entropy over an example's candidates.

    s_c = 1/|c| Σ_t log p(c_t | prompt, c_1 … c_{t-1})          the score of a candidate: a mean over its own symbols
    loss = -log( exp s_a / Σ_c exp s_c )                        a: the candidate to learn

The score is MeZO's, and so is the loss of its "training as classification" (Malladi et al. 2023, large_models/utils.py). An example
is a sentence for δ-SAM, whatever the number of its candidates.
"""

import math
from typing import Any, Dict, List, Tuple

import torch
import torch.nn.functional as F
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor


def by_example(scores: Tensor, candidates: Tensor) -> Tensor:
    """(B, M): the scores of each example's candidates, −inf where it has no more.

    Args:
        scores: (S,) of the candidates of all examples.
        candidates: (B, M) int64, the places of an example's candidates in *scores*, S for none.

    >>> by_example(torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([[0, 3], [1, 2]]))
    tensor([[-1., -inf],
            [-2., -3.]])
    """
    return torch.cat([scores, scores.new_full((1,), float("-inf"))])[candidates]


def choice_losses(scores: Tensor, answers: Tensor) -> Tensor:
    """(B,): the cross entropy of each example, from (B, M) scores and (B,) answers.

    >>> choice_losses(torch.tensor([[0.0, 0.0, float("-inf")], [-1.0, -2.0, -3.0]]), torch.tensor([1, 0]))
    tensor([0.6931, 0.4076])
    """
    return F.nll_loss(F.log_softmax(scores, dim=-1), answers, reduction="none")


@register_criterion("candidates", dataclass=FairseqDataclass)
class CandidatesCriterion(FairseqCriterion):
    """The loss, with the accuracy: an example counts as right where the likeliest candidate is one of its answers.

    Example; the task, the model and the sample are yours::

        criterion = CandidatesCriterion.build_criterion(cfg, task)
        loss, examples, log = criterion(model, sample)
        losses = criterion.sentence_losses(model, sample)  # (B,), for δ-SAM
    """

    @classmethod
    def build_criterion(cls, cfg, task):
        """
        Raises:
            ValueError: the task's samples have no candidates.
        """
        if not getattr(task, "has_candidates", False):
            raise ValueError(
                f"--criterion candidates chooses among candidates, which --task {type(task).__name__} does not have: use --task "
                "candidates"
            )
        return super().build_criterion(cfg, task)

    def __init__(self, task):
        super().__init__(task)

    def scores(self, model, sample: Dict) -> Tensor:
        """(B, M) fp32, the mean log-probabilities of the candidates' symbols, −inf where an example has no more candidates."""
        output = model(**sample["net_input"])
        log_probs = model.get_normalized_probs(output, log_probs=True)  # (rows, columns, symbols), fp32
        target = sample["target"]
        is_counted = target.ne(self.padding_idx)
        # Padding may be a symbol that the model has not, with −inf.
        found = log_probs[sample["rows"][:, None], sample["columns"], target].float().masked_fill(~is_counted, 0.0)
        return by_example(found.sum(1) / is_counted.sum(1), sample["candidates"])

    def sentence_losses(self, model, sample: Dict) -> Tensor:
        """(B,) fp32 losses of the examples, which sum to the loss that `forward` returns."""
        return choice_losses(self.scores(model, sample), sample["answers"])

    def probabilities(self, model, sample: Dict) -> Tuple[Tensor, Tensor]:
        """(B, M) of the candidates, and (B,) the right one, which is the likeliest where that is one of the answers; for
        `sharp_plugins.sharpness`."""
        scores = self.scores(model, sample)
        likeliest = scores.argmax(1)
        is_right = sample["right"].gather(1, likeliest[:, None])[:, 0]
        return scores.softmax(1), torch.where(is_right, likeliest, sample["answers"])

    def forward(self, model, sample, reduce=True):
        """The summed loss, the number of examples, and what is logged."""
        scores = self.scores(model, sample)
        losses = choice_losses(scores, sample["answers"])
        loss = losses.sum() if reduce else losses
        with torch.no_grad():
            is_right = sample["right"].gather(1, scores.argmax(1, keepdim=True))
        log = {
            "loss": losses.sum().detach(),
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "sample_size": sample["nsentences"],
            "ncorrect": is_right.sum(),
        }
        return loss, sample["nsentences"], log

    @classmethod
    def reduce_metrics(cls, logging_outputs: List[Dict[str, Any]]) -> None:
        """The loss of an example, to base 2 as all of fairseq's, and the accuracy in percent."""
        examples = sum(log.get("sample_size", 0) for log in logging_outputs)
        loss = sum(log.get("loss", 0) for log in logging_outputs)
        metrics.log_scalar("loss", loss / examples / math.log(2), examples, round=4)
        if any("ncorrect" in log for log in logging_outputs):
            right = sum(log.get("ncorrect", 0) for log in logging_outputs)
            metrics.log_scalar("accuracy", 100.0 * right / examples, examples, round=2)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True
