"""Outputs that go on without one another: greedy search (`GreedySearch`) and independent samples (`Sampling`)."""

import hashlib
from typing import Hashable, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from sharp_plugins.generation.next_symbol import largest
from sharp_plugins.generation.outputs import Hypothesis, Outputs, of_rows
from sharp_plugins.generation.settings import SearchSettings


class Separate(Outputs):
    """Each output is continued by one symbol, the one that `pick` names. One that nothing may follow ends where it is.

    Example, which takes the last symbol that is possible::

        class Last(Separate):
            def pick(self, scores):
                numbers = torch.arange(scores.size(1), device=scores.device)
                return numbers.masked_fill(scores == float("-inf"), -1).amax(1, keepdim=True)
    """

    of_sentences = (*Outputs.of_sentences, "ended", "lengths")

    def __init__(self, settings: SearchSettings, limits: Tensor, forced: Optional[Tensor] = None, longest: Optional[int] = None):
        super().__init__(settings, limits, forced, longest)
        self.lengths = limits.new_zeros(self.tokens.shape[:2])
        self.ended = torch.zeros_like(self.lengths, dtype=torch.bool)

    def pick(self, scores: Tensor) -> Tensor:
        """Of *scores* (B · rows, symbols) the next symbols (B · rows, beam / rows)."""
        raise NotImplementedError

    def choose(self, scores: Tensor, log_total: Tensor) -> Tuple[Tensor, Optional[Tensor]]:
        tokens = self.pick(scores)
        log_probabilities = (scores.gather(1, tokens) - log_total[:, None]).view(self.lengths.shape)
        tokens = tokens.view(self.lengths.shape)
        self.tokens[:, :, self.length] = tokens
        self.log_probabilities[:, :, self.length] = log_probabilities
        self.length += 1
        self.ended = self.ended | (log_probabilities == float("-inf"))  # all symbols are forbidden
        self.total = self.total + log_probabilities.masked_fill(self.ended, 0.0)
        self.lengths += ~self.ended
        self.ended = self.ended | self.ends(tokens) | (self.limits == self.length)[:, None]
        self.done = self.ended.all(1)
        return tokens, None

    def hypotheses(self, sentences: Sequence[int]) -> List[List[Hypothesis]]:
        state = (self.tokens[:, :, : self.length], self.log_probabilities[:, :, : self.length], self.total, self.lengths)
        found = []
        for all_tokens, all_probabilities, totals, lengths in zip(*of_rows(sentences, *state)):
            of_one = [
                Hypothesis(tokens[:length], self.settings.score(total, max(length, 1)), probabilities[:length])
                for tokens, probabilities, total, length in zip(all_tokens, all_probabilities, totals.tolist(), lengths.tolist())
            ]
            found.append(sorted(of_one, key=lambda hypothesis: -hypothesis.score)[: self.settings.nbest])
        return found


class GreedySearch(Separate):
    """What `BeamSearch` finds with a beam of 1, fairseq's rules and early stopping "full", in fewer operations.

    Example::

        >>> search = GreedySearch(SearchSettings(stops=(2,), beam=1), torch.tensor([3]))
        >>> while not search.done.all():
        ...     tokens, _ = search.step(torch.tensor([[[0.0, 1.0, 3.0]]]).log())
        >>> [[best]] = search.hypotheses([0])
        >>> best.tokens, round(best.score, 3)  # the first may not be the end
        (tensor([1, 2]), -0.837)
    """

    def pick(self, scores: Tensor) -> Tensor:
        return largest(scores, 1)[1]


class Sampling(Separate):
    """Independent samples of each sentence, as many as the beam.

    The draws of a sample are its own: they depend on the seed, on the sentence's name and on the sample's number among those of the
    sentence. They do not depend on what else is in the batch, nor on the beam.

    Args:
        settings, limits, forced, longest: as for `Outputs`.
        seed: of all sentences.
        names: of the sentences, one for each: what tells them from all others.

    Example::

        >>> search = Sampling(SearchSettings(stops=(2,), beam=2, sampling=True), torch.tensor([4]), seed=1, names=[0])
        >>> while not search.done.all():
        ...     tokens, _ = search.step(torch.zeros(1, 1 if search.length == 0 else 2, 9))
        >>> len(search.hypotheses([0])[0][0].tokens) <= 4
        True
    """

    of_sentences = (*Separate.of_sentences, "draws")

    def __init__(
        self,
        settings: SearchSettings,
        limits: Tensor,
        forced: Optional[Tensor] = None,
        longest: Optional[int] = None,
        seed: int = 0,
        names: Sequence[Hashable] = (),
    ):
        super().__init__(settings, limits, forced, longest)
        draws = torch.empty(self.tokens.shape, dtype=torch.float64)
        for of_one, name in zip(draws, names):
            for number, row in enumerate(of_one):
                digest = hashlib.sha256(f"{seed} {name} {number}".encode()).digest()
                generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
                row.uniform_(generator=generator)
        self.draws = draws.to(limits.device)

    def pick(self, scores: Tensor) -> Tensor:
        rows = scores.size(0)
        probabilities, symbols = self.support(scores)
        upto = probabilities.double().cumsum(1)
        # The draw u chooses the first symbol for which P(this one or one before it) > u. One row serves all samples at first.
        draws = self.draws[:, :, self.length].reshape(rows, -1)
        all_of_it = upto[:, -1:]
        draws = torch.minimum(draws * all_of_it, torch.nextafter(all_of_it, torch.zeros_like(all_of_it)))
        at = torch.searchsorted(upto, draws, right=True)
        return symbols.gather(1, at.clamp_(max=symbols.size(1) - 1))  # it is beyond where all symbols are forbidden

    def support(self, scores: Tensor) -> Tuple[Tensor, Tensor]:
        """Probabilities (rows, n), most likely first where there is a choice among the symbols (rows, n) that they are of."""
        settings = self.settings
        if settings.top_k:
            scores, symbols = largest(scores, min(settings.top_k, scores.size(1)))
        elif settings.top_p:
            scores, symbols = scores.sort(dim=1, descending=True)
        else:
            symbols = torch.arange(scores.size(1), device=scores.device).expand_as(scores)
        probabilities = scores.softmax(1)
        if settings.top_p:
            before = probabilities.double().cumsum(1) - probabilities
            probabilities = probabilities.masked_fill(before >= settings.top_p, 0.0)
        return probabilities, symbols
