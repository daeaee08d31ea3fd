"""Greedy search that guesses ahead, and looks its guesses up in what the model has read and written already (`search_with_lookup`).

To read one token takes as long as to read the model's weights, and several tokens take little longer. So symbols that may follow
are guessed and read in one pass with the last one. Those are kept that greedy search would have chosen, up to the first that it
would not (Stern et al. 2018, "Blockwise parallel decoding", arXiv 1811.03115, section 3; Leviathan et al. 2023, arXiv 2211.17192).

A guess costs nothing: after symbols that came before, it is what followed them then (A. Saxena 2023, "Prompt lookup decoding";
transformers' ``prompt_lookup_num_tokens``). Texts about given facts copy names from them, and turns of phrase come again from one
output to the next.

The output is greedy search's, since `GreedySearch` itself chooses each symbol, with all its rules. Numbers are added up in another
order than one token at a time, as they are in a batch, and so scores may differ in their last digits.
"""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from sharp_plugins.generation.outputs import Hypothesis
from sharp_plugins.generation.sampling import GreedySearch
from sharp_plugins.generation.settings import SearchSettings
from sharp_plugins.networks.kv_cache import KVCache

LONGEST_RUN = 3  # symbols that are looked up
AFTER_ONE = 2  # guesses after a single symbol that came before: it is often there by chance
ON_A_PROCESSOR = 7  # guesses where the settings leave it open
MOST_EARLIER = 50_000  # symbols of earlier outputs, which take some 30 MB


class Seen:
    """The symbols of a text, and where each run of one to three of them came first.

    Example::

        >>> seen = Seen([5, 6, 7, 8, 9, 5, 6])
        >>> seen.ahead(3)  # what followed 5 6
        [7, 8, 9]
        >>> seen.add(4)
        >>> seen.ahead(3)
        []
        >>> seen.ahead(3, [Seen([3, 6, 4, 2, 1])])  # what followed 6 4 in another text
        [2, 1]
    """

    def __init__(self, symbols: Sequence[int]):
        self.symbols: List[int] = []
        self.after: Dict[Tuple[int, ...], int] = {}  # of a run the place of what followed it
        for symbol in symbols:
            self.add(symbol)

    def add(self, symbol: int) -> None:
        for run in self._last_runs():
            self.after.setdefault(run, len(self.symbols))
        self.symbols.append(symbol)

    def ahead(self, most: int, others: Sequence["Seen"] = ()) -> List[int]:
        """What may follow: *most* symbols, or fewer, or none.

        It is what followed the run at the end where that came before, in this text or else in the *others*. Runs of two and more
        are looked up everywhere before a single symbol is.
        """
        runs = self._last_runs()
        for group, number in ((runs[:-1], most), (runs[-1:], min(most, AFTER_ONE))):
            for text in (self, *others):
                for run in group:
                    if run in text.after:
                        start = text.after[run]
                        return text.symbols[start : start + number]
        return []

    def _last_runs(self) -> List[Tuple[int, ...]]:
        return [tuple(self.symbols[-size:]) for size in range(min(LONGEST_RUN, len(self.symbols)), 0, -1)]


def guesses_of(settings: SearchSettings, decoders: Sequence[Any], sentences: int) -> int:
    """How many symbols are guessed at a time for so many *sentences*; 0: the search has to do without.

    Guesses are made for a sentence that comes alone: several of them keep a processor busy as it is. Where the settings leave it
    open there are none on a GPU, where the host would wait for each token, and none in half precision, in which numbers that are
    added up in another order may well decide.
    """
    if sentences > 1 or len(decoders) > 1 or not settings.is_greedy:
        return 0
    if settings.lookup_tokens is not None:
        return settings.lookup_tokens
    weight = decoders[0].embed_tokens.weight
    return ON_A_PROCESSOR if weight.device.type == "cpu" and weight.dtype == torch.float32 else 0


def search_with_lookup(
    decoder: Any, prompt: Tensor, search: GreedySearch, limit: int, guesses: int, earlier: Optional[Seen] = None
) -> List[Hypothesis]:
    """The hypotheses of one sentence.

    Args:
        decoder: a `sharp_plugins.networks.decoder.Decoder`.
        prompt: (1, T), int64.
        search: of this sentence, before its first step.
        limit: the longest output.
        guesses: at a time, at most.
        earlier: outputs from before, where guesses are looked up too. This one is added to them.

    Example::

        >>> from sharp_plugins.networks.decoder import Decoder
        >>> from sharp_plugins.networks.decoder_settings import DecoderSettings
        >>> model = Decoder(DecoderSettings(vocabulary=9, layers=1, width=8, ffn_width=8, heads=2, max_positions=12)).eval()
        >>> search = GreedySearch(SearchSettings(stops=(2,), beam=1), torch.tensor([6]))
        >>> with torch.no_grad():
        ...     [best] = search_with_lookup(model, torch.tensor([[4, 5, 6]]), search, limit=6, guesses=3)
        >>> 1 <= len(best.tokens) <= 6
        True
    """
    prefix = getattr(decoder, "prefix", None)
    cache = KVCache(() if prefix is None else prefix.keys_and_values())
    seen, guessed = Seen(prompt[0].tolist()), []
    others = () if earlier is None else (earlier,)
    features = decoder.features(prompt, cache)[0, -1:]
    while True:
        scores = decoder.output_layer(features).float()  # (1 + guesses, symbols)
        for place, following in enumerate(scores):
            token = _step(search, following)
            if token is None:
                found = search.hypotheses([0])[0]
                if earlier is not None and len(earlier.symbols) < MOST_EARLIER:
                    for symbol in found[0].tokens.tolist():
                        earlier.add(symbol)
                return found
            seen.add(token)
            if guessed[place : place + 1] != [token]:
                break
        cache.forget(len(guessed) - place)
        guessed = _before_a_stop(seen.ahead(min(guesses, limit - search.length - 1), others), search.settings.stops)
        features = decoder.features(torch.tensor([[token, *guessed]], device=prompt.device), cache)[0]


def _step(search: GreedySearch, scores: Tensor) -> Optional[int]:
    """The symbol that the search chooses by *scores* (symbols,); None where it ends the output. The host waits once."""
    tokens, _ = search.step(scores[None, None])
    token, done = torch.stack([tokens[0, 0], search.done[0].long()]).tolist()
    return None if done else token


def _before_a_stop(symbols: List[int], stops: Sequence[int]) -> List[int]:
    """A stop may be chosen without having been guessed, and what follows it is not wanted."""
    ends = [place for place, symbol in enumerate(symbols) if symbol in stops]
    return symbols[: ends[0]] if ends else symbols
