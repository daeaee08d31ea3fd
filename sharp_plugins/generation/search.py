"""Beam search and sampling, on tensors alone: what a model says about the next symbol goes in, hypotheses come out.

Both keep `beam` outputs of each sentence: their tokens (B, beam, longest) and the log-probability of each. A step takes the model's
scores (B, rows, symbols), with one row of a sentence in the first step and a row for each beam later, and returns the tokens
(B, beam) that come next and the beams that they continue. `done` says which sentences have their hypotheses.

The rules of the beam search:

``fairseq``
    The best (1 + end symbols) · beam continuations are looked at. One of the best *beam* of these that ends is a hypothesis; the
    best *beam* that do not end go on. A sentence is done when it has *beam* hypotheses (early stopping "full"). These are the rules
    of transformers with ``early_stopping=True`` too, and "heuristic" and "never" are its False and "never".
``lora``
    As in the code of LoRA's paper (Hu et al. 2022; examples/NLG/src/gpt2_beam.py): the best *beam* continuations are looked at.
    One of them that ends is a hypothesis, and so the others are fewer than *beam* for a step. A sentence is done when all of the
    best have ended, or when no beam can become better than what was found (their code goes on, to the same end).

With both, what has not ended at the longest output is a hypothesis as it is.
"""

import hashlib
from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from sharp_plugins.generation.next_symbol import NextSymbol, largest
from sharp_plugins.generation.settings import SearchSettings


class Hypothesis(NamedTuple):
    """An output: tokens (length,), int64, its score, and the log-probability of each token (length,), float32."""

    tokens: Tensor
    score: float
    log_probabilities: Tensor


class Outputs:
    """The outputs so far, of which `BeamSearch` and `Sampling` say how they go on.

    Args:
        settings: of the search.
        limits: the longest output of each sentence, (B,), int64.
        forced: symbols that the outputs begin with, (B, F), int64; −1 where there is none.

    Example, of how a search goes on; *scores_of* is the model::

        scores = scores_of(prompts)  # (B, 1, symbols)
        while True:
            tokens, parents = search.step(scores)
            if search.done.all():
                break
            scores = scores_of(tokens, parents)  # (B, beam, symbols)
    """

    def __init__(self, settings: SearchSettings, limits: Tensor, forced: Optional[Tensor] = None):
        self.settings, self.limits, self.forced = settings, limits, forced
        self.next_symbol = NextSymbol(settings, limits.device)
        self.length = 0
        sentences, longest = limits.numel(), int(limits.max())
        self.tokens = limits.new_zeros(sentences, settings.beam, longest)
        self.log_probabilities = torch.zeros(sentences, settings.beam, longest, device=limits.device)
        self.total = torch.zeros(sentences, 1, device=limits.device)  # (B, rows): Σ log p
        self.done = torch.zeros(sentences, dtype=torch.bool, device=limits.device)

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
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[rows])

    def hypotheses(self, sentence: int) -> List[Hypothesis]:
        """The best ones of a sentence, best first."""
        raise NotImplementedError


class BeamSearch(Outputs):
    """Beam search; greedy search for a beam of 1.

    Example, with one symbol and an end that is three times as likely, whatever comes before::

        >>> search = BeamSearch(SearchSettings(stops=(2,), beam=1), torch.tensor([3]))
        >>> while not search.done.all():
        ...     tokens, parents = search.step(torch.tensor([[[0.0, 1.0, 3.0]]]).log())
        >>> [best] = search.hypotheses(0)
        >>> best.tokens, round(best.score, 3)  # the first may not be the end
        (tensor([1, 2]), -0.837)
    """

    def __init__(self, settings: SearchSettings, limits: Tensor, forced: Optional[Tensor] = None):
        super().__init__(settings, limits, forced)
        shape = self.tokens.shape
        self.found = torch.full(shape[:2], float("-inf"), device=limits.device)  # scores of the best hypotheses
        self.found_length = limits.new_zeros(shape[:2])
        self.found_tokens, self.found_log_probabilities = self.tokens.clone(), self.log_probabilities.clone()
        ends = len(settings.stops)
        self.looked_at = settings.beam * (1 + ends if settings.rules == "fairseq" else 1)

    def choose(self, scores: Tensor, log_total: Tensor) -> Tuple[Tensor, Optional[Tensor]]:
        beam = self.settings.beam
        sentences, rows = self.total.shape
        values, tokens = largest(scores, min(self.looked_at, scores.size(1)))
        values = values - log_total[:, None]
        total = (values.view(sentences, rows, -1) + self.total[:, :, None]).flatten(1)
        total, at = total.topk(min(self.looked_at, total.size(1)), dim=1)
        tokens = tokens.view(sentences, -1).gather(1, at)
        log_probabilities = values.view(sentences, -1).gather(1, at)
        parents = torch.div(at, values.size(1), rounding_mode="floor")

        self.length += 1
        ending = self.ends(tokens)
        last = self.limits == self.length
        finished = (ending | last[:, None])[:, :beam] & (total[:, :beam] > float("-inf")) & ~self.done[:, None]
        if finished.device.type != "cpu" or finished.any():  # to ask costs more than to do it where the host would wait
            self._found(finished, total, tokens, log_probabilities, parents)

        open_total = total.masked_fill(ending, float("-inf"))
        if self.settings.rules == "fairseq":
            open_total, chosen = open_total.topk(min(beam, total.size(1)), dim=1)
            tokens, log_probabilities, parents = (x.gather(1, chosen) for x in (tokens, log_probabilities, parents))
        self.total, parents = self._filled(open_total, float("-inf")), self._filled(parents, 0)
        tokens, log_probabilities = self._filled(tokens, 0), self._filled(log_probabilities, 0)
        before = self.length - 1
        if beam > 1 and before:
            for outputs in (self.tokens, self.log_probabilities):
                outputs[:, :, :before] = outputs[:, :, :before].gather(1, parents[:, :, None].expand(-1, -1, before))
        self.tokens[:, :, before] = tokens
        self.log_probabilities[:, :, before] = log_probabilities
        self.done = self.done | last | self._nothing_better()
        return tokens, parents if beam > 1 and rows > 1 else None

    def _filled(self, x: Tensor, value) -> Tensor:
        """*x* (B, n) with as many columns as there are beams: of few symbols there are few continuations."""
        missing = self.settings.beam - x.size(1)
        return x if missing == 0 else torch.nn.functional.pad(x, (0, missing), value=value)

    def _found(self, finished: Tensor, total: Tensor, tokens: Tensor, log_probabilities: Tensor, parents: Tensor) -> None:
        """Keep the best *beam* of the hypotheses so far and the *finished* ones (B, beam)."""
        beam, length = self.settings.beam, self.length
        new = finished.size(1)
        score = self.settings.score(total[:, :new], length).masked_fill(~finished, float("-inf"))
        self.found, best = torch.cat([self.found, score], dim=1).topk(beam, dim=1)
        self.found_length = torch.cat([self.found_length, torch.full_like(tokens[:, :new], length)], dim=1).gather(1, best)
        pick = best[:, :, None].expand(-1, -1, length)
        origin = parents[:, :new, None].expand(-1, -1, length - 1)
        for found, outputs, latest in (
            (self.found_tokens, self.tokens, tokens),
            (self.found_log_probabilities, self.log_probabilities, log_probabilities),
        ):
            ended = torch.cat([outputs[:, :, : length - 1].gather(1, origin), latest[:, :new, None]], dim=2)
            found[:, :, :length] = torch.cat([found[:, :, :length], ended], dim=1).gather(1, pick)

    def _nothing_better(self) -> Tensor:
        """Sentences (B,) whose hypotheses are the final ones."""
        settings = self.settings
        stuck = (self.total == float("-inf")).all(1)
        if settings.rules == "fairseq" and settings.early_stopping == "full":
            return stuck | (self.found > float("-inf")).all(1)
        # The best score that a beam can still get: what it adds has probability 1, and the length is the one that suits it.
        best = self.total.amax(1)
        if settings.normalize:
            suits = self.limits if settings.length_penalty > 0 and settings.early_stopping != "heuristic" else self.length
            best = best / suits**settings.length_penalty
        if settings.unk_penalty < 0:  # what it adds may raise the score
            return stuck
        wanted = settings.beam if settings.rules == "fairseq" else settings.nbest
        return stuck | (best <= self.found[:, wanted - 1])

    def hypotheses(self, sentence: int) -> List[Hypothesis]:
        found = []
        for beam, score in enumerate(self.found[sentence].tolist()[: self.settings.nbest]):
            if score > float("-inf"):
                length = int(self.found_length[sentence, beam])
                tokens, probabilities = self.found_tokens[sentence, beam], self.found_log_probabilities[sentence, beam]
                found.append(Hypothesis(tokens[:length].cpu(), score, probabilities[:length].cpu()))
        return found


class Sampling(Outputs):
    """Independent samples of each sentence, as many as the beam.

    The draws of a sentence are its own: they depend on the seed and on its number, and not on what else is in the batch.

    Args:
        settings, limits, forced: as for `Outputs`.
        seed: of all sentences.
        numbers: of the sentences, such as their places in the data.

    Example::

        >>> search = Sampling(SearchSettings(stops=(2,), beam=2, sampling=True), torch.tensor([4]), seed=1, numbers=[0])
        >>> while not search.done.all():
        ...     tokens, _ = search.step(torch.zeros(1, 1 if search.length == 0 else 2, 9))
        >>> len(search.hypotheses(0)[0].tokens) <= 4
        True
    """

    def __init__(
        self, settings: SearchSettings, limits: Tensor, forced: Optional[Tensor] = None, seed: int = 0, numbers: Sequence[int] = ()
    ):
        super().__init__(settings, limits, forced)
        sentences, beam, longest = self.tokens.shape
        draws = torch.empty(sentences, longest, beam, dtype=torch.float64)
        for row, number in enumerate(numbers):
            digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
            draws[row].uniform_(generator=generator)
        self.draws = draws.to(limits.device)
        self.ended = torch.zeros(sentences, beam, dtype=torch.bool, device=limits.device)
        self.lengths = limits.new_zeros(sentences, beam)

    def choose(self, scores: Tensor, log_total: Tensor) -> Tuple[Tensor, Optional[Tensor]]:
        beam = self.settings.beam
        sentences, rows = self.total.shape
        probabilities, symbols = self.support(scores)
        upto = probabilities.double().cumsum(1)
        # The draw u chooses the first symbol for which P(this one or one before it) > u. One row serves all samples at first.
        draws = self.draws[:, self.length].reshape(sentences * rows, beam // rows)
        all_of_it = upto[:, -1:]
        draws = torch.minimum(draws * all_of_it, torch.nextafter(all_of_it, torch.zeros_like(all_of_it)))
        tokens = symbols.gather(1, torch.searchsorted(upto, draws, right=True))
        log_probabilities = (scores.gather(1, tokens) - log_total[:, None]).view(sentences, beam)
        tokens = tokens.view(sentences, beam)

        self.tokens[:, :, self.length] = tokens
        self.log_probabilities[:, :, self.length] = log_probabilities
        self.length += 1
        self.total = self.total + log_probabilities.masked_fill(self.ended, 0.0)
        self.lengths += ~self.ended
        self.ended = self.ended | self.ends(tokens) | (self.limits == self.length)[:, None]
        self.done = self.ended.all(1)
        return tokens, None

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

    def hypotheses(self, sentence: int) -> List[Hypothesis]:
        found = []
        for tokens, probabilities, total, length in zip(
            self.tokens[sentence].cpu(),
            self.log_probabilities[sentence].cpu(),
            self.total[sentence].tolist(),
            self.lengths[sentence].tolist(),
        ):
            found.append(Hypothesis(tokens[:length], self.settings.score(total, length), probabilities[:length]))
        return sorted(found, key=lambda hypothesis: -hypothesis.score)[: self.settings.nbest]
