"""Outputs on their way, on tensors alone (`Outputs`): what a model says about the next symbol goes in, hypotheses come out.

A search keeps `beam` outputs of each sentence: their tokens (B, beam, longest) and the log-probability of each. A step takes the
model's scores (B, rows, symbols), with one row of a sentence in the first step and a row for each beam later. It returns the tokens
(B, beam) that come next and the beams that they continue. `done` says which sentences have their hypotheses.
"""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from sharp_plugins.generation.next_symbol import NextSymbol
from sharp_plugins.generation.settings import SearchSettings


class Hypothesis(NamedTuple):
    """An output: tokens (length,), int64, its score, and the log-probability of each token (length,), float32."""

    tokens: Tensor
    score: float
    log_probabilities: Tensor


class Outputs:
    """The outputs so far, of which `BeamSearch`, `GreedySearch` and `Sampling` say how they go on.

    Args:
        settings: of the search.
        limits: the longest output of each sentence, (B,), int64.
        forced: symbols that the outputs begin with, (B, F), int64; −1 where there is none.
        longest: the largest of *limits*, where the host knows it; else it waits for the device.

    Example, of how a search goes on; *scores_of* is the model::

        scores = scores_of(prompts)  # (B, 1, symbols)
        while True:
            tokens, parents = search.step(scores)
            if search.done.all():
                break
            scores = scores_of(tokens, parents)  # (B, beam, symbols)
    """

    of_sentences: Tuple[str, ...] = ("limits", "forced", "tokens", "log_probabilities", "total", "done")  # tensors (B, …)

    def __init__(self, settings: SearchSettings, limits: Tensor, forced: Optional[Tensor] = None, longest: Optional[int] = None):
        self.settings, self.limits, self.forced = settings, limits, forced
        self.next_symbol = NextSymbol(settings, limits.device)
        self.length = 0
        shape = (limits.numel(), settings.beam, int(limits.max()) if longest is None else longest)
        self.tokens = limits.new_zeros(shape)
        self.log_probabilities = torch.zeros(shape, device=limits.device)
        self.total = torch.zeros(shape[0], 1, device=limits.device)  # (B, rows): Σ log p
        self.done = torch.zeros(shape[0], dtype=torch.bool, device=limits.device)

    def step(self, scores: Tensor) -> Tuple[Tensor, Optional[Tensor]]:
        """Scores (B, rows, symbols) of the next symbols, float32; they are overwritten.

        Returns:
            tokens and parents (B, beam), int64; parents are None where each beam continues itself.
        """
        sentences, rows, symbols = scores.shape
        scores = scores.view(sentences * rows, symbols)
        history = self.tokens[:, :rows, : self.length].flatten(0, 1)
        given = None
        if self.forced is not None and self.length < self.forced.size(1):
            given = self.forced[:, self.length].repeat_interleave(rows)
        log_total = self.next_symbol.log_total(scores, history, given)
        return self.choose(scores, log_total)

    def choose(self, scores: Tensor, log_total: Tensor) -> Tuple[Tensor, Optional[Tensor]]:
        raise NotImplementedError

    def ends(self, tokens: Tensor) -> Tensor:
        """Which of the tokens end an output."""
        found = tokens == self.settings.stops[0]
        for stop in self.settings.stops[1:]:
            found |= tokens == stop
        return found

    def keep(self, rows: Tensor) -> None:
        """Leave only these sentences, (n,), int64, in this order."""
        for name in self.of_sentences:
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value[rows])

    def hypotheses(self, sentences: Sequence[int]) -> List[List[Hypothesis]]:
        """The best ones of each of these sentences, best first; one at least. The host waits for all of them together."""
        raise NotImplementedError


def of_rows(sentences: Sequence[int], *tensors: Tensor) -> List[Tensor]:
    """On the host: these rows of each of the *tensors*."""
    index = torch.tensor(sentences, dtype=torch.int64, device=tensors[0].device)
    return [each[index].cpu() for each in tensors]
