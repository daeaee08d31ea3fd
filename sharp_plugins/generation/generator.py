"""What ``fairseq-generate`` and ``fairseq-interactive`` call for text after a prompt: `Generator`.

It takes the place of fairseq's `SequenceGenerator`, with the same output. What that one gets wrong after a prompt is in README.md.
"""

import hashlib
import math
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Dict, List, Optional, Sequence

import torch
from torch import Tensor

from sharp_plugins.generation.beam_cache import BeamCache
from sharp_plugins.generation.lookup import Seen, guesses_of, search_with_lookup
from sharp_plugins.generation.outputs import Hypothesis, Outputs
from sharp_plugins.generation.sampling import GreedySearch, Sampling
from sharp_plugins.generation.search import BeamSearch
from sharp_plugins.generation.settings import SearchSettings
from sharp_plugins.generation.thin_products import thin_products

CHECK_EVERY = 8  # steps between two looks at what is done, where looking means waiting for the device


class Generator:
    """Continues prompts.

    Args:
        models: fairseq language models on `sharp_plugins.networks.decoder.Decoder`, with one dictionary; of several the
            probabilities are averaged.
        dictionary: fairseq's.
        settings: of the search.
        seed: of the samples.

    Raises:
        TypeError: a model is no such model.
        SettingError: a setting is out of range.

    Example::

        generator = Generator([model], dictionary, SearchSettings(stops=(dictionary.eos(),), beam=5))
        best, *others = generator.generate([model], {"net_input": {"src_tokens": prompts}})[0]
        text = dictionary.string(best["tokens"])
    """

    def __init__(self, models: Sequence[Any], dictionary: Any, settings: SearchSettings, seed: int = 0):
        settings.check()
        self.settings, self.seed = settings, seed
        self.pad, self.eos = dictionary.pad(), dictionary.eos()
        self.symbols_to_strip_from_output = {self.eos}  # from references too: a stop such as a line break may be inside of one
        for model in models:
            self._decoder(model)
            model.eval()
        self.vocabulary = len(dictionary)
        self.read: Counter = Counter()  # how often a prompt was sampled from so far
        self.earlier = Seen(())  # outputs, where guesses are looked up

    @staticmethod
    def _decoder(model: Any) -> Any:
        decoder = getattr(model, "decoder", model)
        if not all(hasattr(decoder, name) for name in ("features", "output_layer", "settings")):
            raise TypeError(
                f"--path: {type(model).__name__} is no decoder of this project (--arch sharp_gpt2 and others), the only ones "
                "that prompted generation continues prompts with"
            )
        return decoder

    def check_room(self, models: Sequence[Any], longest: int) -> None:
        """Raise ValueError where the models have no room for a prompt of *longest* tokens and its output."""
        room = min(model.max_positions() for model in models)
        output = self.settings.longest(longest)
        if longest > room:
            raise ValueError(
                f"a prompt has {longest} tokens, more than the {room} positions of the model: shorten it (fairseq-generate leaves "
                "such prompts out with --skip-invalid-size-inputs-valid-test)"
            )
        # Without --max-len-a, would it fit?
        flag = "--max-len-a" if longest + self.settings.max_len_b - 1 <= room else "--max-len-b"
        if output < 1:
            raise ValueError(f"--max-len-b: no room for an output after {longest} tokens: the longest output has {output} tokens")
        if longest + output - 1 > room:  # the last token is not read
            raise ValueError(
                f"{flag}: a prompt of {longest} tokens and an output of up to {output} do not fit into the {room} positions "
                f"of the model: set --max-len-b to {max(room + 1 - longest, 0)} at most, and --max-len-a to 0"
            )
        if output < self.settings.min_len:
            raise ValueError(f"--min-len {self.settings.min_len} is more than the longest output, which has {output} tokens")

    def ended_alike(self, hypotheses: List[List[Dict[str, Any]]]) -> List[List[Dict[str, Any]]]:
        """What `generate` returned, with ``</s>`` in the place of any other symbol that ended an output. fairseq's commands do
        not print it."""
        for hypothesis in (each for found in hypotheses for each in found):
            last = hypothesis["tokens"][-1:]
            for stop in self.settings.stops:
                last = last.masked_fill(last == stop, self.eos)
            hypothesis["tokens"] = torch.cat([hypothesis["tokens"][:-1], last])
        return hypotheses

    def generate(
        self,
        models: Sequence[Any],
        sample: Dict[str, Any],
        prefix_tokens: Optional[Tensor] = None,
        constraints: Optional[Tensor] = None,
        **unused: Any,
    ) -> List[List[Dict[str, Any]]]:
        """Continue the prompts of a batch.

        Args:
            sample: ``net_input`` has the prompts ``src_tokens`` (B, T), int64, padded on the right, and may have ``src_lengths``
                (B,).
            prefix_tokens: what the outputs begin with, (B, F), padded on the right (fairseq's ``--prefix-size``).

        Returns:
            for each prompt the best outputs, best first. ``tokens`` has the output and its end symbol, and not the prompt;
            ``score`` is what they are ranked by, and ``positional_scores`` are the log-probabilities of the tokens.

        Raises:
            ValueError: a prompt is empty, not padded on the right, or too long for the model and the longest output.
        """
        if constraints is not None:
            raise ValueError("--constraints is not known to prompted generation")
        prompts = sample["net_input"]["src_tokens"]
        lengths = self._lengths(prompts, sample["net_input"].get("src_lengths"))
        host_lengths = lengths.tolist()
        if min(host_lengths) < 1:
            raise ValueError("a prompt is empty: it needs one token at least, such as a start symbol")
        # The lengths of outputs grow with those of the prompts.
        self.check_room(models, max(host_lengths))
        limits = [self.settings.longest(length) for length in host_lengths]
        if min(limits) < max(self.settings.min_len, 1):
            self.check_room(models, min(host_lengths))
        forced = None if prefix_tokens is None else prefix_tokens.masked_fill(prefix_tokens == self.pad, -1).to(prompts.device)
        prompts = prompts[:, : max(host_lengths)]
        names = self._names(prompts, host_lengths) if self.settings.sampling else []
        with torch.inference_mode(), ExitStack() as stack:
            for model in models:
                stack.enter_context(thin_products(model))
            guesses = guesses_of(self.settings, [self._decoder(model) for model in models], len(limits))
            if guesses:
                search = self.search(self.settings, limits, forced, names, prompts.device)
                found = [search_with_lookup(self._decoder(models[0]), prompts, search, limits[0], guesses, self.earlier)]
            else:
                found = _Run(self, models, prompts, lengths, host_lengths, limits, forced, names).run()
        # Tensors of the inference mode could not be changed, and fairseq's commands change them.
        return [[self._as_dict(hypothesis) for hypothesis in hypotheses] for hypotheses in found]

    def _lengths(self, prompts: Tensor, lengths: Optional[Tensor]) -> Tensor:
        padded = prompts.eq(self.pad)
        if lengths is None:
            lengths = prompts.size(1) - padded.sum(1)
        lengths = lengths.to(prompts.device)
        outside = torch.arange(prompts.size(1), device=prompts.device) >= lengths[:, None]
        if bool((padded != outside).any()):
            raise ValueError("a prompt is padded on the left or has the padding symbol inside: prompts are padded on the right")
        return lengths

    def _names(self, prompts: Tensor, lengths: List[int]) -> List[str]:
        """What tells the sentences from one another for their samples, whatever batches they come in: the prompt, and how often it
        came before."""
        names = []
        for row, length in zip(prompts.tolist(), lengths):
            name = hashlib.sha256(str(row[:length]).encode()).hexdigest()
            names.append(f"{name} {self.read[name]}")
            self.read[name] += 1
        return names

    def search(
        self, settings: SearchSettings, limits: List[int], forced: Optional[Tensor], names: List[str], device: torch.device
    ) -> Outputs:
        what = (settings, torch.tensor(limits, device=device), forced, max(limits))
        if settings.sampling:
            return Sampling(*what, self.seed, names)
        return GreedySearch(*what) if settings.is_greedy else BeamSearch(*what)

    @staticmethod
    def _as_dict(hypothesis: Hypothesis) -> Dict[str, Any]:
        return {
            "tokens": hypothesis.tokens.clone(),
            "score": torch.tensor(hypothesis.score),
            "attention": None,
            "alignment": torch.empty(0),
            "positional_scores": hypothesis.log_probabilities.clone(),
        }


class _Run:
    """One batch on its way. A sentence that is done leaves the batch: `at[place]` is the sentence of each place that is left."""

    def __init__(
        self,
        generator: Generator,
        models: Sequence[Any],
        prompts: Tensor,
        lengths: Tensor,
        host_lengths: List[int],
        limits: List[int],
        forced: Optional[Tensor],
        names: List[str],
    ):
        self.limits, self.device = limits, prompts.device
        self.vocabulary = generator.vocabulary
        self.decoders = [generator._decoder(model) for model in models]
        settings = generator.settings
        self.temperature = 1.0
        if len(models) > 1:  # it belongs into each model's softmax, before the average
            self.temperature, settings = settings.temperature, replace(settings, temperature=1.0)
        self.search = generator.search(settings, limits, forced, names, prompts.device)
        self.caches = [
            BeamCache(
                decoder.settings,
                lengths,
                settings.beam,
                max(limits) - 1,
                decoder.embed_tokens.weight.dtype,
                None if getattr(decoder, "prefix", None) is None else decoder.prefix.keys_and_values(),
                host_lengths,
            )
            for decoder in self.decoders
        ]
        # What is read first, and the places there of the prompts' last tokens. A processor takes longer for longer rows; to have
        # a device leave the padding out, the host would wait.
        self.first, self.last = prompts, torch.arange(0, prompts.numel(), prompts.size(1), device=self.device) + lengths - 1
        if self.device.type == "cpu" and min(host_lengths) < prompts.size(1):
            self.first = prompts[torch.arange(prompts.size(1)) < lengths[:, None]][:, None]
            self.last = lengths.cumsum(0) - 1
        self.at = list(range(len(limits)))
        self.found: List[List[Hypothesis]] = [[] for _ in limits]
        self.waits = self.device.type != "cpu"
        self.next_look = 0

    def run(self) -> List[List[Hypothesis]]:
        tokens, parents = self.search.step(self.scores(self.first))
        while True:
            if self.search.length >= self.next_look:
                rows = self._drop_done()
                if not self.at:
                    return self.found
                if rows is not None:
                    tokens, parents = tokens[rows], None if parents is None else parents[rows]
            for cache in self.caches:
                cache.step(parents)
            tokens, parents = self.search.step(self.scores(tokens.view(-1, 1)))

    def scores(self, tokens: Tensor) -> Tensor:
        """(B, rows, symbols), float32, of what follows."""
        scores = [self._scores(decoder, cache, tokens) for decoder, cache in zip(self.decoders, self.caches)]
        if len(scores) > 1:
            logs = torch.stack([each.div_(self.temperature).log_softmax(1) for each in scores])
            scores = [logs.logsumexp(0) - math.log(len(logs))]
        return scores[0].view(len(self.at), -1, self.vocabulary)

    def _scores(self, decoder: Any, cache: BeamCache, tokens: Tensor) -> Tensor:
        features = decoder.features(tokens, cache).flatten(0, 1)
        return decoder.output_layer(features[self.last] if self.search.length == 0 else features).float()

    def _drop_done(self) -> Optional[Tensor]:
        """Take the hypotheses of what is done. What is left, as rows (n,) of the batch; None if that is all."""
        done = self.search.done.tolist()
        left = [place for place, ready in enumerate(done) if not ready]
        if len(left) < len(done):
            ready = [place for place, is_ready in enumerate(done) if is_ready]
            for place, hypotheses in zip(ready, self.search.hypotheses(ready)):
                self.found[self.at[place]] = hypotheses
        length = self.search.length
        if self.waits and left:
            # A sentence may not outgrow its positions between two looks.
            self.next_look = min([length + CHECK_EVERY, *(self.limits[self.at[place]] for place in left)])
        if len(left) == len(done):
            return None
        # The last ones take the places that became free.
        rows, spare = list(range(len(left))), [place for place in left if place >= len(left)]
        for place in rows:
            if done[place]:
                rows[place] = spare.pop()
        self.at = [self.at[place] for place in rows]
        index = torch.tensor(rows, dtype=torch.int64, device=self.device)
        if rows:
            self.search.keep(index)
            for cache in self.caches:
                cache.keep(rows)
        return index
