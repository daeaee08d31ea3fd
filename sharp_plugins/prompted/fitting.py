"""Whether a model can read a prompt with its text: their symbols, and their length.

A sequence of L symbols takes L - 1 of the model's positions: its last symbol is predicted, and not read.
"""

from typing import List, NamedTuple, Optional, Sequence

from sharp_plugins.prompted.encoding import Encoding
from sharp_plugins.text.decoder_directory import DecoderDirectory

TOO_LONG = ("refuse", "skip", "cut")


class Limits(NamedTuple):
    """How long a sequence may be, in symbols.

    Attributes:
        positions: of the model that are used.
        room: of these, what a prompt leaves for a text that is generated.
        too_long: what is done with others: one of `TOO_LONG`. To cut takes symbols from the prompt's beginning, after the start.
    """

    positions: int
    room: int = 1
    too_long: str = "refuse"


class Check:
    """Raises ValueError, naming file and line, where the model cannot read or learn a sequence.

    Example::

        check = Check(encoding, backbone)
        check("train.jsonl:1", prompt=[0, 52, 61], text=[70, 2])
    """

    def __init__(self, encoding: Encoding, backbone: DecoderDirectory):
        dictionary = encoding.dictionary
        self.encoding, self.unk, self.pad = encoding, dictionary.unk(), dictionary.pad()
        self.end = dictionary.index(encoding.end)
        self.unused = {dictionary.index(symbol) for symbol in backbone.unused}

    def __call__(self, where: str, prompt: Sequence[int], text: Sequence[int]) -> None:
        bare = len(prompt) - len(self.encoding.start) - len(self.encoding.separator)
        for name, side, own in (("prompt", prompt, bare), ("text", text, len(text) - 1)):
            if own < 1:
                raise ValueError(f"{where}: the {name} is empty: the tokenizer makes no symbol of it")
            if self.unk in side:
                raise ValueError(f"{where}: the {name} has a character that the tokenizer does not know")
            if self.pad in side or not self.unused.isdisjoint(side):
                symbol = next(s for s in side if s == self.pad or s in self.unused)
                raise ValueError(
                    f"{where}: the {name} has the symbol {self.encoding.dictionary[symbol]}, which the model does not know"
                )
        if self.end in text[:-1]:
            raise ValueError(f"{where}: the text has the symbol {self.encoding.end} in it, which ends a text")


def fit(prompt: List[int], text: Sequence[int], limits: Limits, starts: int, behind: int, where: str) -> Optional[List[int]]:
    """The prompt that fits with *text* into the model: itself, one without its first symbols, or None where it is skipped.

    Args:
        starts: how many symbols of the prompt are its start, which is kept.
        behind: how many of its last symbols are of its template and the separator. At least one before them is kept.

    Raises:
        ValueError: it does not fit.

    >>> fit([0, 5, 6, 7, 2], [8, 9, 2], Limits(positions=6, too_long="cut"), starts=1, behind=1, where="train.jsonl:1")
    [0, 6, 7, 2]
    """
    most = min(limits.positions + 1 - len(text), limits.positions - limits.room)
    if len(prompt) <= most:
        return prompt
    if limits.too_long == "skip":
        return None
    if limits.too_long == "cut" and most > starts + behind:
        return prompt[:starts] + prompt[len(prompt) - most + starts :]
    cause = f"{len(prompt)} symbols of prompt and {len(text)} of text do not fit into {limits.positions} positions"
    if len(prompt) + len(text) - 1 <= limits.positions:
        cause = f"a prompt of {len(prompt)} symbols leaves less than {limits.room} of {limits.positions} positions (--room)"
    if limits.too_long == "cut":
        raise ValueError(f"{where}: {cause}, and --too-long cut would leave nothing of the prompt; --too-long skip leaves it out")
    raise ValueError(f"{where}: {cause}; --too-long skip or cut, or a larger --max-positions where the model has more")
