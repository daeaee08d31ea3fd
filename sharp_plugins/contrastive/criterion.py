"""``--criterion contrastive``: InfoNCE over the batch (Mirror-BERT), and with R3F ``--criterion r3f_contrastive``.

R3F is a method for classifiers. Here each anchor is one: its classes are the other vectors of the batch. The symmetric divergence
is that between an anchor's distribution and the one where all words have noise on their embeddings:

    L = InfoNCE(v) + λ Σ_j ½ Σ_{j's two anchors} [KL(p_i ‖ p̃_i) + KL(p̃_i ‖ p_i)],    ṽ the vectors of the embeddings + z

The δ-SAM paper says "we re-implemented R3F for unsupervised STS" and not how; this choice is ours.

The loss of a pair is the mean of its two anchors' terms (`sharp_plugins.contrastive.info_nce`), so δ-SAM's instances are pairs.
Negatives couple the pairs: δ-SAM's weights weigh anchors' rows, and the gradient still reaches the other pairs' vectors.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import metrics
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sharp_plugins.contrastive.info_nce import Vectors, is_found, log_probabilities, pair_losses
from sharp_plugins.contrastive.pooling import sentence_vectors
from sharp_plugins.contrastive.workers import count_of, gathered
from sharp_plugins.criterions.perturbed_embeddings import empty_perturbation, perturbed, real_tokens
from sharp_plugins.criterions.r3f import R3F, R3FConfig, draw_noise_
from sharp_plugins.criterions.regularized import check_flag, symmetric_kl


@dataclass
class ContrastiveConfig(FairseqDataclass):
    contrastive_temperature: float = field(
        default=0.04, metadata={"help": "τ, what cosines are divided by (default: Mirror-BERT's code)"}
    )
    length_groups: int = field(
        default=0,
        metadata={
            "help": "encode texts of like length together, in so many groups, each padded to its own longest; the padding changes "
            "nothing, and costs time. 1: all together; always 1 with --pooling mean-padded, which counts padding in (default: 8 on "
            "a CPU, measured; else 1)"
        },
    )
    encode_rows: int = field(
        default=0,
        metadata={
            "help": "encode so many texts at a time, and again in the backward pass: exact gradients of a large batch in the "
            "memory of a small one, for a forward pass more (default: 0, all at once)"
        },
    )
    own_negatives: bool = field(
        default=False, metadata={"help": "several workers: a worker's texts are compared with its own alone (default: with all)"}
    )
    skip_duplicates: bool = field(
        default=False,
        metadata={
            "help": "a text that is in the batch twice, by its symbols, is no negative of itself (default: it is one, as in "
            "Mirror-BERT's code)"
        },
    )


@dataclass
class R3FContrastiveConfig(R3FConfig, ContrastiveConfig):
    r3f_noise: str = field(default="uniform", metadata={"help": "uniform or normal noise (default: the δ-SAM paper's)"})


class Terms(NamedTuple):
    """Of each of a worker's N pairs."""

    losses: Tensor  # (N,) fp32 with its graph
    correct: Tensor  # (2, N) whether the anchor's partner is likelier than all others
    measured: Dict[str, Tensor]  # (N,) each


@register_criterion("contrastive", dataclass=ContrastiveConfig)
class Contrastive(FairseqCriterion):
    """InfoNCE over the pairs of a batch, for ``--task contrastive_sentences``.

    Raises:
        ValueError: a flag is out of range, or the task has no pairs.

    Example; the task, the model and the sample are yours::

        criterion = Contrastive(ContrastiveConfig(contrastive_temperature=0.05), task)
        loss, pairs, log = criterion(model, sample)
        criterion.sentence_losses(model, sample)  # (pairs,), which sum to the loss
    """

    def __init__(self, cfg, task):
        super().__init__(task)
        self.check(cfg)
        if not hasattr(task, "pooling"):
            raise ValueError(
                "--criterion contrastive and r3f_contrastive compare the vectors of pairs, which a "
                f"{type(task).__name__} does not have: use --task contrastive_sentences"
            )
        self.cfg, self.pad, self.pooling = cfg, task.source_dictionary.pad(), task.pooling
        self.compares_rows = True  # `sharp_plugins.sharpness.landscape` and the task look at it
        self.couples_workers = None if cfg.own_negatives else "--own-negatives"  # `sharp_plugins.host.refusals` looks at it

    @classmethod
    def build_criterion(cls, cfg, task):
        return cls(cfg, task)

    @classmethod
    def check(cls, cfg) -> None:
        """Raise ValueError, naming the flag, where a setting is out of range."""
        check_flag("--contrastive-temperature", cfg.contrastive_temperature, above=0)
        if cfg.encode_rows < 0:
            raise ValueError(f"--encode-rows must be 0 or larger, and is {cfg.encode_rows}")
        if cfg.length_groups < 0:
            raise ValueError(f"--length-groups must be 0 (chosen by the device) or larger, and is {cfg.length_groups}")

    # ---- the loss

    def forward(self, model, sample, reduce=True):
        """The summed loss of the pairs, their number, and what is logged."""
        terms = self.terms(model, sample)
        count = len(terms.losses)
        log = {
            "loss": terms.losses.sum().detach(),
            "correct": terms.correct.sum(),
            "anchors": terms.correct.numel(),
            "ntokens": sample["ntokens"],
            "nsentences": count,
            "sample_size": count,
            **{name: value.sum().detach() for name, value in terms.measured.items()},
        }
        return (terms.losses.sum() if reduce else terms.losses), count, log

    def sentence_losses(self, model, sample) -> Tensor:
        """(N,) losses of the pairs, for δ-SAM."""
        return self.terms(model, sample).losses

    def terms(self, model, sample) -> Terms:
        log_p, start = self.distributions(model, sample)
        return Terms(pair_losses(log_p, start), is_found(log_p, start), {})

    def distributions(self, model, sample, noise: Optional[Tensor] = None):
        """`log_probabilities` of this worker's anchors, and the number of its first pair among those of all workers.

        Args:
            noise: (2N, T, D) fp32, added to the words' embeddings.
        """
        own = self.vectors(model, sample, noise)
        pairs, groups = Vectors.of(own), sample["groups"] if self.cfg.skip_duplicates else None
        every, start, workers = pairs, 0, distributed_utils.get_data_parallel_group()
        if not self.cfg.own_negatives and model.training and count_of(workers) > 1:
            count, start = len(pairs.first), distributed_utils.get_rank(workers) * len(pairs.first)
            # (workers, views, N, D) -> (views, workers, N, D)
            views = gathered(own, workers).view(-1, 2, count, own.size(-1)).transpose(0, 1)
            every = Vectors(*views.flatten(1, 2))
            groups = None if groups is None else gathered(groups, workers)
        with torch.autocast(own.device.type, enabled=False):
            return log_probabilities(pairs, every, self.cfg.contrastive_temperature, start, groups), start

    def vectors(self, model, sample, noise: Optional[Tensor] = None) -> Tensor:
        """(2N, D) vectors in fp32 of the texts of *sample* (2N, T)."""

        def encode(tokens: Tensor, noise: Optional[Tensor]) -> Tensor:
            with perturbed(model, noise) if noise is not None else nullcontext():
                return sentence_vectors(model, tokens, self.pad, self.pooling)

        tokens, order = sample["net_input"]["src_tokens"], sample["by_length"]
        groups = self.cfg.length_groups or (8 if tokens.device.type == "cpu" else 1)
        parts = self.parts(sample["lengths"], tokens.size(1), groups)
        if len(parts) == 1:
            return encode(tokens, noise)
        # With --encode-rows masks are drawn again from the same state in the backward pass, and the noise is given: it sees what
        # this pass sees.
        again = 0 < self.cfg.encode_rows < len(tokens) and torch.is_grad_enabled()
        run = partial(checkpoint, encode, use_reentrant=False) if again else encode
        vectors, first = [], 0
        for rows, width in parts:
            place = order[first : first + rows]
            vectors.append(run(tokens[place, :width], None if noise is None else noise[place, :width]))
            first += rows
        return torch.cat(vectors)[order.argsort()]

    def parts(self, lengths: Sequence[int], width: int, groups: int) -> List[Tuple[int, int]]:
        """What is encoded at a time: how many texts, and to how many symbols they are padded.

        Args:
            lengths: of all texts, the shortest first.
            width: of the longest.
            groups: of like length.
        """
        rows = math.ceil(len(lengths) / (1 if self.pooling == "mean-padded" else groups))
        rows = min(rows, self.cfg.encode_rows or rows)
        parts = [lengths[first : first + rows] for first in range(0, len(lengths), rows)]
        return [(len(part), width if self.pooling == "mean-padded" else part[-1]) for part in parts]

    # ---- logs

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """The loss of a pair in bits, as fairseq logs losses, and how many anchors find their partner, in percent."""

        def total(name):
            return sum(log.get(name, 0) for log in logging_outputs)

        pairs = total("sample_size")
        metrics.log_scalar("loss", total("loss") / pairs / math.log(2), pairs, round=3)
        metrics.log_scalar("accuracy", 100.0 * total("correct") / total("anchors"), pairs, round=1)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        return True


@register_criterion("r3f_contrastive", dataclass=R3FContrastiveConfig)
class R3FContrastive(Contrastive):
    """InfoNCE with R3F in training; in evaluation it is `Contrastive`.

    Example; the task, the model and the sample are yours::

        criterion = R3FContrastive(R3FContrastiveConfig(r3f_eps=0.05), task)
        loss, pairs, log = criterion(model, sample)
        log["symm_kl"]
    """

    @classmethod
    def check(cls, cfg) -> None:
        super().check(cfg)
        R3F.check(cfg)
        if cfg.r3f_noise not in ("uniform", "normal"):
            raise ValueError(f"--r3f-noise {cfg.r3f_noise}: choose uniform or normal")

    def terms(self, model, sample) -> Terms:
        if not model.training or self.cfg.r3f_lambda == 0:
            terms = super().terms(model, sample)
            return terms._replace(measured={"symm_kl": torch.zeros_like(terms.losses)})
        log_p, start = self.distributions(model, sample)
        tokens = sample["net_input"]["src_tokens"]
        z = draw_noise_(empty_perturbation(model, tokens), self.cfg.r3f_noise, self.cfg.r3f_eps) * real_tokens(tokens, self.pad)
        noised, _ = self.distributions(model, sample, z)
        kl = symmetric_kl(log_p, noised).mean(0)  # of a pair's two anchors
        return Terms(pair_losses(log_p, start) + self.cfg.r3f_lambda * kl, is_found(log_p, start), {"symm_kl": kl})

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        super().reduce_metrics(logging_outputs)
        pairs = sum(log.get("sample_size", 0) for log in logging_outputs)
        metrics.log_scalar("symm_kl", sum(log.get("symm_kl", 0) for log in logging_outputs) / pairs, pairs, round=6)
