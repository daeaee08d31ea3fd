"""What may come next and how likely it is: scores (rows, symbols) of a step become log-probabilities of the best symbols."""

from typing import Optional, Tuple

import torch
from torch import Tensor

from sharp_plugins.generation.settings import SearchSettings

BLOCK = 64  # symbols that are looked at together for the largest ones


def largest(scores: Tensor, k: int) -> Tuple[Tensor, Tensor]:
    """`torch.topk` of each row of *scores* (rows, symbols), for a few of many symbols: the k largest are in the k blocks whose
    largest ones are largest, and only these blocks are sorted.

    Example::

        >>> largest(torch.tensor([[3.0, 9.0, 1.0]]), 2)[1]
        tensor([[1, 0]])
    """
    rows, symbols = scores.shape
    if k == 1 and scores.device.type != "cpu":  # one kernel; on a processor it is slower than looking at blocks
        best, at = scores.max(dim=1, keepdim=True)
        return best, at
    blocks = symbols // BLOCK
    if blocks <= 2 * k:
        return scores.topk(min(k, symbols), dim=1)
    whole = blocks * BLOCK
    best = scores[:, :whole].view(rows, blocks, BLOCK).amax(2).topk(k, dim=1, sorted=False).indices
    index = (best[:, :, None] * BLOCK + torch.arange(BLOCK, device=scores.device)).flatten(1)
    if whole < symbols:  # the last symbols, fewer than a block
        rest = torch.arange(whole, symbols, device=scores.device)
        index = torch.cat([index, rest.expand(rows, -1)], dim=1)
    values, at = scores.gather(1, index).topk(k, dim=1)
    return values, index.gather(1, at)


def repeated_ngrams(history: Tensor, size: int) -> Optional[Tuple[Tensor, Tensor]]:
    """Symbols that would end an n-gram which an output has already.

    Args:
        history: (rows, length) outputs so far, int64.
        size: n.

    Returns:
        symbols (rows, m) and which of them are meant (rows, m), bool; None where the outputs are too short.

    Example::

        >>> symbols, meant = repeated_ngrams(torch.tensor([[7, 8, 9, 7]]), 2)
        >>> symbols[meant]
        tensor([8])
    """
    length = history.size(1)
    if length < size:
        return None
    windows = history.unfold(1, size, 1)  # (rows, length − n + 1, n)
    last = history[:, length - size + 1 :]
    return windows[:, :, -1], (windows[:, :, :-1] == last[:, None]).all(2)


class NextSymbol:
    """The rules of *settings* about single symbols.

    Example::

        >>> rules = NextSymbol(SearchSettings(stops=(2,), never=(1,)), torch.device("cpu"))
        >>> scores = torch.zeros(1, 5)
        >>> rules.log_total(scores, torch.empty(1, 0, dtype=torch.int64))  # log 5: the probabilities are the model's
        tensor([1.6094])
        >>> scores  # the end may not come first, and padding never
        tensor([[0., -inf, -inf, 0., 0.]])
    """

    def __init__(self, settings: SearchSettings, device: torch.device):
        self.settings = settings
        self.never = torch.tensor(settings.never, dtype=torch.int64, device=device) if settings.never else None
        self.stops = torch.tensor(settings.stops, dtype=torch.int64, device=device)

    def log_total(self, scores: Tensor, history: Tensor, given: Optional[Tensor] = None) -> Tensor:
        """Apply the rules to *scores* (rows, symbols), float32, in place. The logarithm of the softmax's denominator (rows,) is
        returned: log-probabilities are scores minus it.

        With fairseq's rules, what a rule forbids gets no probability and nothing else changes; with LoRA's the others' become
        larger, since the softmax comes after it. Temperature and repetition penalty come before the softmax with both.

        *given* (rows,), int64, is a symbol that must come next, or −1. Nothing forbids it, its probability is as if it was free
        to come, and the row's other symbols are forbidden after the softmax.
        """
        self.weigh(scores, history)
        forced = None if given is None else _Forced(scores, given)
        total = None if self.settings.rules == "lora" else scores.logsumexp(1)
        self.forbid(scores, history)
        if forced is not None:
            forced.allow(scores)
        if total is None:  # where all is forbidden it is −inf, and −inf − −inf is no number
            total = scores.logsumexp(1).clamp_(min=torch.finfo(scores.dtype).min)
        if forced is not None:
            forced.leave_alone(scores)
        return total

    def weigh(self, scores: Tensor, history: Tensor) -> None:
        """Temperature and repetition penalty."""
        settings = self.settings
        if settings.temperature != 1.0:
            scores.div_(settings.temperature)
        if settings.repetition_penalty != 1.0 and history.size(1):
            seen = scores.gather(1, history)
            seen = torch.where(seen < 0, seen * settings.repetition_penalty, seen / settings.repetition_penalty)
            scores.scatter_(1, history, seen)

    def forbid(self, scores: Tensor, history: Tensor) -> None:
        settings = self.settings
        if self.never is not None:
            scores.index_fill_(1, self.never, float("-inf"))
        if settings.unk is not None and settings.unk_penalty:
            scores[:, settings.unk] -= settings.unk_penalty
        if history.size(1) < settings.min_len:
            scores.index_fill_(1, self.stops, float("-inf"))
        if settings.no_repeat_ngram:
            repeated = repeated_ngrams(history, settings.no_repeat_ngram)
            if repeated is not None:
                symbols, meant = repeated
                scores.scatter_add_(1, symbols, torch.zeros_like(symbols, dtype=scores.dtype).masked_fill_(meant, float("-inf")))


class _Forced:
    """The symbols that must come next, of rows that have one (the others have −1), and their scores before they were forbidden."""

    def __init__(self, scores: Tensor, given: Tensor):
        self.there, self.symbols = (given >= 0)[:, None], given.clamp(min=0)[:, None]
        self.scores = scores.gather(1, self.symbols)

    def allow(self, scores: Tensor) -> None:
        self.scores = torch.where(self.there, self.scores, scores.gather(1, self.symbols))  # symbol 0 of other rows: as it is
        scores.scatter_(1, self.symbols, self.scores)

    def leave_alone(self, scores: Tensor) -> None:
        scores.masked_fill_(self.there, float("-inf")).scatter_(1, self.symbols, self.scores)
