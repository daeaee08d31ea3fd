"""Beam search, on tensors alone (`BeamSearch`).

The rules:

``fairseq``
    The best (1 + end symbols) · beam continuations are looked at. One of the best *beam* of these that ends is a hypothesis; the
    best *beam* that do not end go on. A sentence is done when it has *beam* hypotheses (early stopping "full"). These are the rules
    of transformers with ``early_stopping=True`` too, and "heuristic" and "never" are its False and "never".
``lora``
    As in the code of LoRA's paper (Hu et al. 2022; examples/NLG/src/gpt2_beam.py): the best *beam* continuations are looked at.
    One of them that ends is a hypothesis, and so the others are fewer than *beam* for a step. A sentence is done when all of the
    best have ended, or when no beam can become better than what was found (their code goes on, to the same end).

With both, what has not ended at the longest output is a hypothesis as it is. So is, where nothing has ended, an output that no
symbol may follow.
"""

from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from sharp_plugins.generation.next_symbol import largest
from sharp_plugins.generation.outputs import Hypothesis, Outputs, of_rows
from sharp_plugins.generation.settings import SearchSettings


class BeamSearch(Outputs):
    """Beam search; greedy search for a beam of 1.

    Args:
        settings, limits, forced, longest: as for `Outputs`.

    Example, with one symbol and an end that is three times as likely, whatever comes before::

        >>> search = BeamSearch(SearchSettings(stops=(2,), beam=1), torch.tensor([3]))
        >>> while not search.done.all():
        ...     tokens, parents = search.step(torch.tensor([[[0.0, 1.0, 3.0]]]).log())
        >>> [[best]] = search.hypotheses([0])
        >>> best.tokens, round(best.score, 3)  # the first may not be the end
        (tensor([1, 2]), -0.837)
    """

    of_sentences = (*Outputs.of_sentences, "found", "found_length", "found_tokens", "found_log_probabilities")

    def __init__(self, settings: SearchSettings, limits: Tensor, forced: Optional[Tensor] = None, longest: Optional[int] = None):
        super().__init__(settings, limits, forced, longest)
        shape = self.tokens.shape
        self.found = torch.full(shape[:2], float("-inf"), device=limits.device)  # scores of the best hypotheses
        self.found_length = limits.new_zeros(shape[:2])
        self.found_tokens, self.found_log_probabilities = self.tokens.clone(), self.log_probabilities.clone()
        ends = len(settings.stops)
        self.looked_at = settings.beam * (1 + ends if settings.rules == "fairseq" else 1)
        self.beams = torch.arange(settings.beam, device=limits.device)

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
        tokens, log_probabilities = self._filled(tokens, 0), self._filled(log_probabilities, float("-inf"))
        dead = self.total == float("-inf")
        stuck = dead.all(1)
        before = self.length - 1
        if beam > 1 and before:
            origin = torch.where(stuck[:, None], self.beams, parents)  # what nothing follows stays where it is
            for outputs in (self.tokens, self.log_probabilities):
                outputs[:, :, :before] = outputs[:, :, :before].gather(1, origin[:, :, None].expand(-1, -1, before))
        self.tokens[:, :, before] = tokens
        self.log_probabilities[:, :, before] = log_probabilities.masked_fill(dead, float("-inf"))
        self.done = self.done | last | stuck | self._nothing_better()
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
        if settings.rules == "fairseq" and settings.early_stopping == "full":
            return (self.found > float("-inf")).all(1)
        # The best score that a beam can still get: what it adds has probability 1, and the length is the one that suits it.
        best = self.total.amax(1)
        if settings.normalize:
            suits = self.limits if settings.length_penalty > 0 and settings.early_stopping != "heuristic" else self.length
            best = best / suits**settings.length_penalty
        if settings.unk_penalty < 0:  # what it adds may raise the score
            return torch.zeros_like(self.done)
        wanted = settings.beam if settings.rules == "fairseq" else settings.nbest
        return best <= self.found[:, wanted - 1]

    def hypotheses(self, sentences: Sequence[int]) -> List[List[Hypothesis]]:
        best, length = slice(self.settings.nbest), slice(self.length)
        texts = (self.found_tokens[:, best, length], self.found_log_probabilities[:, best, length])
        found = []
        for scores, lengths, *of_one in zip(*of_rows(sentences, self.found[:, best], self.found_length[:, best], *texts)):
            each = zip(scores.tolist(), lengths.tolist(), *of_one)
            found.append([Hypothesis(t[:n], score, p[:n]) for score, n, t, p in each if score > float("-inf")])
        missing = [place for place, hypotheses in enumerate(found) if not hypotheses]
        if missing:
            for place, hypothesis in zip(missing, self._unfinished([sentences[place] for place in missing])):
                found[place].append(hypothesis)
        return found

    def _unfinished(self, sentences: Sequence[int]) -> List[Hypothesis]:
        """Of each of these sentences the longest output so far, and of several the best."""
        found = []
        for tokens, probabilities in zip(*of_rows(sentences, self.tokens, self.log_probabilities)):
            there = (probabilities[:, : self.length] > float("-inf")).int().cumprod(1)  # up to the symbol that could not follow
            each = zip(there.sum(1).tolist(), tokens, probabilities)
            outputs = [Hypothesis(t[:n], self.settings.score(float(p[:n].sum()), max(n, 1)), p[:n]) for n, t, p in each]
            found.append(max(outputs, key=lambda output: (len(output.tokens), output.score)))
        return found
