"""The choices of a search as one set of settings (`SearchSettings`)."""

import math
from dataclasses import dataclass
from typing import Optional, Tuple

from sharp_plugins.core.setting_error import SettingError

RULES = ("fairseq", "lora")
EARLY_STOPPING = ("full", "heuristic", "never")
LEAST_DIVISOR = 1e-6  # of scores: with less they could leave float32


@dataclass(frozen=True)
class SearchSettings:
    """How the continuations of a prompt are looked for. All lengths count the output's tokens, its end symbol among them, and none
    of the prompt's.

    Raises:
        SettingError: by `check`, if a setting is out of range or two contradict each other.

    Example, as in the paper on LoRA (Hu et al. 2022, table 11)::

        >>> SearchSettings(
        ...     stops=(2,), beam=10, rules="lora", length_penalty=0.8, no_repeat_ngram=4, max_len_b=64, min_len=0
        ... ).check()
    """

    stops: Tuple[int, ...]  # symbols that end an output; it includes them
    never: Tuple[int, ...] = ()  # symbols that are never generated, such as padding
    beam: int = 5  # of the beam search (1: greedy), or samples of each prompt
    nbest: int = 1
    max_len_a: float = 0.0  # longest output: a · length of the prompt + b
    max_len_b: int = 200
    min_len: int = 1  # tokens before an end symbol
    length_penalty: float = 1.0  # score = Σ log p / length ^ penalty
    normalize: bool = True  # else score = Σ log p
    rules: str = "fairseq"  # of the beam search, see `sharp_plugins.generation.search`
    early_stopping: str = "full"
    no_repeat_ngram: int = 0  # no n-gram of this size twice in an output (0: no rule)
    repetition_penalty: float = 1.0  # divides positive and multiplies negative scores of what the output has (Keskar et al. 2019)
    unk: Optional[int] = None
    unk_penalty: float = 0.0  # taken from the unknown symbol's log-probability
    temperature: float = 1.0  # divides the scores before the softmax
    lookup_tokens: Optional[int] = None  # of a greedy search: symbols that are guessed at a time (`lookup.guesses_of`); 0: none
    sampling: bool = False
    top_k: int = 0  # sample from so many most likely symbols (0: from all)
    top_p: float = 0.0  # sample from the fewest most likely symbols with this probability together (0: from all)

    def check(self) -> None:
        for name in ("beam", "nbest", "max_len_b"):
            least = 0 if name == "max_len_b" else 1
            if getattr(self, name) < least:
                raise SettingError(name, f"must be {least} or larger, and is {getattr(self, name)}")
        for name in ("min_len", "no_repeat_ngram", "top_k"):
            if getattr(self, name) < 0:
                raise SettingError(name, f"must not be negative, and is {getattr(self, name)}")
        if not 0 <= self.max_len_a < math.inf:
            raise SettingError("max_len_a", f"must be a number that is not negative, and is {self.max_len_a}")
        for name in ("temperature", "repetition_penalty"):
            if not LEAST_DIVISOR <= getattr(self, name) < math.inf:
                raise SettingError(name, f"must be a number of {LEAST_DIVISOR} or more, and is {getattr(self, name)}")
        if not math.isfinite(self.length_penalty):
            raise SettingError("length_penalty", f"must be a number, and is {self.length_penalty}")
        if math.isnan(self.unk_penalty):
            raise SettingError("unk_penalty", "must be a number, and is nan")
        if not 0 <= self.top_p <= 1:
            raise SettingError("top_p", f"must be from 0 to 1, and is {self.top_p}")
        if self.nbest > self.beam:
            raise SettingError(
                "nbest", f"{self.nbest} hypotheses cannot come from a beam of {self.beam}: the beam must be as large"
            )
        for name, known in (("rules", RULES), ("early_stopping", EARLY_STOPPING)):
            if getattr(self, name) not in known:
                raise SettingError(name, f"{getattr(self, name)}: choose one of {', '.join(known)}")
        if self.rules == "lora" and self.early_stopping != "full":
            raise SettingError("early_stopping", "is for the rules of fairseq: those of LoRA go on as long as there is a beam")
        if self.sampling and self.rules != "fairseq":
            raise SettingError("rules", f"{self.rules} are rules of the beam search, and sampling was asked for")
        if not self.sampling:
            for name in ("top_k", "top_p"):
                if getattr(self, name):
                    raise SettingError(name, "is for sampling, which was not asked for")
        if self.lookup_tokens is not None and self.lookup_tokens < 0:
            raise SettingError("lookup_tokens", f"must not be negative, and is {self.lookup_tokens}")
        if self.lookup_tokens and not self.is_greedy:
            raise SettingError("lookup_tokens", "is for greedy search: a beam of 1, fairseq's rules and no sampling")
        if set(self.stops) & set(self.never):
            raise SettingError("stops", f"has symbols that are never generated: {sorted(set(self.stops) & set(self.never))}")

    @property
    def is_greedy(self) -> bool:
        """Whether it is the search of `sharp_plugins.generation.sampling.GreedySearch`."""
        return (self.sampling, self.beam, self.rules, self.early_stopping) == (False, 1, "fairseq", "full")

    def longest(self, prompt: int) -> int:
        """Most tokens of the output after a *prompt* of so many tokens."""
        return int(self.max_len_a * prompt + self.max_len_b)

    def score(self, total, length):
        """Of a hypothesis with the log-probability *total*."""
        return total / length**self.length_penalty if self.normalize else total
