"""InfoNCE over a batch of pairs, on tensors, in fp32 whatever the precision of the vectors.

The 2N vectors of N pairs are compared by their cosine. Each vector is an anchor: its partner is the right one among the 2N - 1
others.

    ℓ(i) = -log  exp(s(i, partner of i) / τ) / Σ_{k ≠ i} exp(s(i, k) / τ)

The loss of pair j is the mean of the terms of its two anchors, l_j = ½ (ℓ(j) + ℓ(N + j)). The mean of the l_j is the loss of
Mirror-BERT's code (NTXentLoss of pytorch-metric-learning, which has the positive in the denominator, as here).

The negatives couple the pairs: l_j has a gradient for the vectors of every other pair of the batch.

Source: Liu et al. 2021, "Fast, Effective, and Self-Supervised: Transforming Masked Language Models into Universal Lexical and
Sentence Encoders", section 2.2 and Eq. 1; its code, train.py.
"""

from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor


class Vectors(NamedTuple):
    """The vectors of M pairs.

    Attributes:
        first, second: (M, D) each, of the pairs' first and second views, of any length and precision.

    >>> Vectors.of(torch.eye(4)).second
    tensor([[0., 0., 1., 0.],
            [0., 0., 0., 1.]])
    """

    first: Tensor
    second: Tensor

    @classmethod
    def of(cls, both: Tensor) -> "Vectors":
        """Those of (2M, D), first views before second ones."""
        return cls(*both.chunk(2))


def log_probabilities(own: Vectors, every: Vectors, temperature: float, start: int = 0, groups: Optional[Tensor] = None) -> Tensor:
    """What each anchor takes for its partner: (2, N, 2M) log-probabilities in fp32; that of the anchor itself is -∞.

    Args:
        own: the N pairs whose vectors are the anchors.
        every: the M pairs that the anchors are compared with. The own ones are pairs *start* to start + N of them.
        temperature: τ.
        groups: (M,) a number for each pair's text. A text that stands in the batch twice is then no negative of itself: its
            log-probability is -∞.

    >>> e = torch.eye(2)
    >>> pairs = Vectors(e, e)
    >>> log_probabilities(pairs, pairs, temperature=1.0)[0, 0].exp().round(decimals=3)  # e / (e + 1 + 1) for the partner
    tensor([0.0000, 0.2120, 0.5760, 0.2120])
    """
    count, total = len(own.first), len(every.first)
    anchors, others = (F.normalize(torch.cat(vectors).float(), dim=-1) for vectors in (own, every))
    scores = (anchors @ others.T / temperature).view(2, count, 2, total)
    same_pair = torch.zeros(count, total, dtype=torch.bool, device=scores.device)
    same_pair[:, start : start + count].fill_diagonal_(True)
    same_view = torch.eye(2, dtype=torch.bool, device=scores.device).view(2, 1, 2, 1)
    left_out = same_pair.view(1, count, 1, total) & same_view
    if groups is not None:
        same_text = groups[start : start + count, None] == groups[None]
        left_out = left_out | (same_text & ~same_pair).view(1, count, 1, total)
    return F.log_softmax(scores.masked_fill(left_out, -torch.inf).view(2, count, 2 * total), dim=-1)


def of_partners(log_p: Tensor, start: int = 0) -> Tensor:
    """(2, N) log-probabilities of the partners, from `log_probabilities`."""
    _, count, width = log_p.shape
    rows = start + torch.arange(count, device=log_p.device)
    # A first view's partner stands among the second views, and the other way round.
    partners = torch.stack([width // 2 + rows, rows])
    return log_p.gather(-1, partners.unsqueeze(-1)).squeeze(-1)


def is_found(log_p: Tensor, start: int = 0) -> Tensor:
    """(2, N) whether the partner is likelier than all others: where all vectors are one, none is found.

    >>> collapsed = Vectors(torch.ones(2, 3), torch.ones(2, 3))
    >>> is_found(log_probabilities(collapsed, collapsed, temperature=1.0)).any()
    tensor(False)
    """
    log_p = log_p.detach()
    return (log_p >= of_partners(log_p, start).unsqueeze(-1)).sum(-1) == 1


def pair_losses(log_p: Tensor, start: int = 0) -> Tensor:
    """(N,) the l_j, in nats.

    >>> e = torch.eye(2)
    >>> pairs = Vectors(e, e)
    >>> pair_losses(log_probabilities(pairs, pairs, temperature=1.0)).round(decimals=3)  # -log 0.576
    tensor([0.5510, 0.5510])
    """
    return -of_partners(log_p, start).mean(0)
