"""The loss of each sentence, of any criterion that has one.

``--optimizer dsam`` needs, besides the loss of a batch, the loss of each sentence in it. It finds them

* for the stock criterions in `sharp_plugins.criterions.stock`, with no change to the command line;
* for any other criterion in its own method ``sentence_losses(model, sample)``, which returns a (B,) tensor whose sum is the
  loss that ``forward`` returns: one entry for each sentence of the sample, in fp32, with its graph.
"""

from typing import Callable, List

from fairseq.criterions import CRITERION_REGISTRY
from fairseq.tasks import FairseqTask
from torch import Tensor

from sharp_plugins.criterions.stock import SENTENCE_LOSSES


def supported_criterions() -> List[str]:
    """Names that ``--criterion`` takes with ``--optimizer dsam``."""
    return sorted(name for name, cls in CRITERION_REGISTRY.items() if cls in SENTENCE_LOSSES or hasattr(cls, "sentence_losses"))


def sentence_losses_of(criterion) -> Callable[..., Tensor]:
    """The function (model, sample) -> (B,) losses of the sentences for a criterion.

    Raises:
        ValueError: the criterion has none. A subclass of a stock criterion computes another loss and needs its own method.

    Example; the task, the model and the sample are yours::

        >>> from fairseq.criterions.sentence_prediction import SentencePredictionConfig, SentencePredictionCriterion
        >>> criterion = SentencePredictionCriterion(SentencePredictionConfig(), task)
        >>> losses = sentence_losses_of(criterion)(model, sample)
        >>> losses.shape, losses.dtype
        (torch.Size([4]), torch.float32)
    """
    if hasattr(criterion, "sentence_losses"):
        return criterion.sentence_losses
    function = SENTENCE_LOSSES.get(type(criterion))
    if function is None:
        raise ValueError(
            f"--optimizer dsam needs the loss of each sentence, which --criterion {type(criterion).__name__} does not "
            f"give. Supported are {', '.join(supported_criterions())}, and any criterion with a method "
            "sentence_losses(model, sample) that returns a (B,) tensor summing to its loss"
        )
    return lambda model, sample: function(criterion, model, sample)


def check_criterion(criterion, task, model) -> None:
    """Raise ValueError where δ-SAM cannot weigh the sentences of this criterion, task or model."""
    sentence_losses_of(criterion)
    own_step = type(task).train_step is not FairseqTask.train_step
    if own_step and not hasattr(criterion, "sentence_losses"):
        raise ValueError(
            f"--optimizer dsam does not know the sentences of --task {type(task).__name__}, which has a train_step of its "
            "own: use --optimizer sam, or a criterion with a sentence_losses method that does what this train_step does"
        )
    for flag in ("mha_reg_scale_factor", "ffn_reg_scale_factor"):
        if getattr(getattr(model, "args", None), flag, 0.0):
            raise ValueError(
                f"--optimizer dsam weighs the losses of sentences, and --{flag.replace('_', '-')} adds one that belongs "
                "to none: set it to 0 or use --optimizer sam"
            )
