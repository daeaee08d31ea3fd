"""The stock criterions with a regularizer of each sentence: what R-Drop, R3F, FreeLB and SMART have in common.

A method runs the model as it wants, and says of which outputs the stock loss is taken and what is added to it. The loss
itself, its metrics and all of validation are fairseq's own code, which is given outputs instead of a model
(`GivenOutput`).

In training mode the method is applied, with gradients or without (δ-SAM's Eq. 3 needs losses without). In evaluation
mode the criterion is the stock one, so that the validation losses of all methods compare.
"""

import math
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.criterions.sentence_prediction import SentencePredictionCriterion
from fairseq.logging import metrics
from torch import Tensor, nn

from sharp_plugins.criterions import stock


class Pieces(NamedTuple):
    """A method's loss: weight · Σ_outputs stock loss + Σ_j added_j."""

    outputs: List[Any]  # what the model returned; accuracy and nll_loss are the first one's
    weight: float
    added: Tensor  # (B,) fp32 with its graph, to the loss of each sentence
    measured: Dict[str, Tensor]  # (B,) fp32 each, what is logged: the regularizers without their coefficients


class GivenOutput:
    """A model whose output is known already; everything else is the model's own.

    Example::

        >>> model = GivenOutput(torch.nn.Linear(2, 3), "the output")
        >>> model(src_tokens=None), model.out_features
        ('the output', 3)
    """

    def __init__(self, model, output):
        self.model, self.output = model, output

    def __call__(self, **net_input):
        return self.output

    def __getattr__(self, name):
        return getattr(self.model, name)


def check_flag(flag: str, value: float, above: Optional[float] = None) -> None:
    """Raise ValueError unless *value* is finite and 0 or larger (with *above*: larger than that)."""
    if not math.isfinite(value) or (value < 0 if above is None else value <= above):
        wanted = "0 or larger" if above is None else f"larger than {above:g}"
        raise ValueError(f"{flag} must be a finite number that is {wanted}, and is {value}")


def symmetric_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p‖q) + KL(q‖p) = Σ (p - q)(log p - log q) over the last dimension, in fp32.

    What both give the probability 0, as a model does with symbols that it has not, adds 0, and its gradient is 0.

    Example::

        >>> p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.8, 0.2]])
        >>> round(symmetric_kl(p.log(), q.log()).item(), 4)  # 0.3 log 4
        0.4159
    """
    # Where both are -∞ their difference is no number, and that of the smallest numbers is 0; below them no gradient passes.
    log_p, log_q = (log.float().clamp(min=torch.finfo(torch.float32).min) for log in (log_p, log_q))
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)


class Twice:
    """A batch that holds each sentence twice, the copies after the originals, as fairseq's R-Drop has it.

    fairseq sorts a batch by falling length, and recurrent encoders such as ``lstm`` refuse another order. For a model with a
    recurrent layer each copy stands beside its original.

    Example::

        >>> pairs = Twice(torch.nn.Linear(1, 1))
        >>> pairs.join(torch.tensor([1, 2]), torch.tensor([3, 4])).tolist()
        [1, 2, 3, 4]
        >>> [part[0].tolist() for part in pairs.split((torch.tensor([1, 2, 3, 4]),))]
        [[1, 2], [3, 4]]
    """

    def __init__(self, model: nn.Module):
        self.beside = any(isinstance(module, nn.RNNBase) for module in model.modules())

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        """(B, ...) of the originals and (B, ...) of the copies -> (2B, ...)."""
        return torch.stack([first, second], 1).flatten(0, 1) if self.beside else torch.cat([first, second])

    def inputs(self, net_input, rows: int):
        """The input with each of its *rows* sentences twice. *net_input* stays as it is: SAM uses the same sample again."""

        def double(value):
            return self.join(value, value) if torch.is_tensor(value) and value.dim() and len(value) == rows else value

        return {name: double(value) for name, value in net_input.items()}

    def split(self, output):
        """The outputs of the originals and of the copies: (2B, ...) -> (B, ...), (B, ...)."""
        logits = output[0]
        first, second = (logits[0::2], logits[1::2]) if self.beside else logits.chunk(2)
        return (first, *output[1:]), (second, *output[1:])


class Regularized:
    """A base before the stock criterion; a method goes before both and has `measures`, `check` and `pieces`.

    Example, a method that keeps the logits small::

        class Calm:
            measures = ("calm_square",)

            @classmethod
            def check(cls, cfg):
                check_flag("--calm-weight", cfg.calm_weight)

            def pieces(self, model, sample):
                output = self.predict(model, sample["net_input"])
                square = output[0].float().square().sum(-1)  # (B,)
                return Pieces([output], 1.0, self.cfg.calm_weight * square, {"calm_square": square})

        @register_criterion("calm_sentence_prediction", dataclass=CalmConfig)
        class CalmSentencePrediction(Calm, SentencePrediction):
            pass
    """

    measures: Tuple[str, ...]  # names of what `pieces` may measure
    regression_target = False

    @classmethod
    def build_criterion(cls, cfg, task):
        cls.check(cfg)
        cls.check_task(cfg, task)
        criterion = super().build_criterion(cfg, task)
        criterion.cfg = cfg
        return criterion

    @classmethod
    def check(cls, cfg) -> None:
        """Raise ValueError, naming the flag, where a setting is out of range."""
        raise NotImplementedError

    def pieces(self, model, sample) -> Pieces:
        raise NotImplementedError

    def forward(self, model, sample, reduce=True):
        """As the stock criterion's; in training the loss is always summed over the sample."""
        stock = super().forward
        if not model.training:
            return stock(model, sample, reduce)
        pieces = self.pieces(model, sample)
        results = [stock(GivenOutput(model, output), sample) for output in pieces.outputs]
        _, sample_size, logging_output = results[0]
        loss = pieces.weight * sum(loss for loss, _, _ in results) + pieces.added.sum()
        logging_output["loss"] = loss.data
        logging_output.update({name: values.sum().data for name, values in pieces.measured.items()})
        return loss, sample_size, logging_output

    def sentence_losses(self, model, sample) -> Tensor:
        """(B,) fp32 losses of the sentences, which sum to the loss that `forward` returns: the method joins δ-SAM."""
        if not model.training:
            return self.stock_losses(model, sample)
        pieces = self.pieces(model, sample)
        losses = [self.stock_losses(GivenOutput(model, output), sample) for output in pieces.outputs]
        return pieces.weight * sum(losses) + pieces.added

    @classmethod
    def only(cls, output) -> Pieces:
        """The stock loss of one output and nothing else."""
        nothing = output[0].new_zeros((), dtype=torch.float32)
        return Pieces([output], 1.0, nothing, dict.fromkeys(cls.measures, nothing))

    def source_tokens(self, sample) -> Tensor:
        """(B, T) tokens whose embeddings are to be perturbed."""
        tokens = sample["net_input"].get("src_tokens")
        if tokens is None or tokens.is_floating_point():
            raise ValueError(
                f"{type(self).__name__} perturbs the embeddings of the src_tokens, and the samples of --task "
                f"{type(self.task).__name__} have none: use an R-Drop criterion or a stock one"
            )
        return tokens

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """The stock metrics, and the regularizers by sample size, in nats."""
        super().reduce_metrics(logging_outputs)
        for name in cls.measures:
            if any(name in log for log in logging_outputs):
                sample_size = sum(log.get("sample_size", 0) for log in logging_outputs)
                value = sum(log.get(name, 0) for log in logging_outputs)
                metrics.log_scalar(name, value / sample_size, sample_size, round=6)


class SentencePrediction(Regularized, SentencePredictionCriterion):
    """For ``--task sentence_prediction``: classification, and regression with ``--regression-target``.

    Example, the criterion of a method (see `Regularized`)::

        class CalmSentencePrediction(Calm, SentencePrediction):
            pass
    """

    stock_losses = stock.sentence_prediction

    @classmethod
    def check_task(cls, cfg, task) -> None:
        if getattr(task, "label_dictionary", None) is None:
            raise ValueError(
                f"{cls.__name__} predicts a label or number for a sentence, which --task {type(task).__name__} does "
                "not have: use --task sentence_prediction"
            )

    def predict(self, model, net_input):
        """The model's output with its logits first, (B, classes)."""
        if self.classification_head_name not in (getattr(model, "classification_heads", None) or {}):
            raise ValueError(
                f"the model has no classification head {self.classification_head_name!r}: use --task "
                "sentence_prediction with an encoder such as --arch roberta_base, and the head's "
                "--classification-head-name"
            )
        return model(**net_input, features_only=True, classification_head_name=self.classification_head_name)

    def divergence(self, model, sample, first, second) -> Tensor:
        """(B,) symmetric KL divergence of two outputs' classes; in regression, the squared difference."""
        if self.regression_target:
            return (first[0].float() - second[0].float()).square().view(-1)
        return symmetric_kl(*(F.log_softmax(output[0], dim=-1, dtype=torch.float32) for output in (first, second)))


class LabelSmoothedCrossEntropy(Regularized, LabelSmoothedCrossEntropyCriterion):
    """For translation and other sequence-to-sequence tasks, BART's too; a sentence's loss is summed over its tokens.

    Example, the criterion of a method (see `Regularized`)::

        class CalmLabelSmoothedCrossEntropy(Calm, LabelSmoothedCrossEntropy):
            pass
    """

    stock_losses = stock.cross_entropy

    @classmethod
    def check_task(cls, cfg, task) -> None:
        if getattr(task, "target_dictionary", None) is None:
            raise ValueError(
                f"{cls.__name__} predicts the tokens of a target, which --task {type(task).__name__} does not have: "
                "use --task translation or another one with a target dictionary"
            )

    def predict(self, model, net_input):
        """The model's output with its logits first, (B, T, vocabulary)."""
        return model(**net_input)

    def divergence(self, model, sample, first, second) -> Tensor:
        """(B,) symmetric KL divergence of two outputs' tokens, summed over the tokens that the stock loss counts."""
        log_p, target = self.get_lprobs_and_target(model, first, sample)
        log_q, _ = self.get_lprobs_and_target(model, second, sample)
        kl = symmetric_kl(log_p, log_q).masked_fill(target.eq(self.padding_idx), 0.0)
        return kl.view(len(sample["target"]), -1).sum(1)
