"""A format for one tokenizer: prompts and texts as symbols of a dictionary, and symbols as prompts and texts again."""

from dataclasses import replace
from typing import Iterable, List, Optional, Sequence

from fairseq.data import Dictionary

from sharp_plugins.prompted.continued import continued
from sharp_plugins.prompted.formats import MODELS_OWN, PROMPT, TEXT, Format, flag_of
from sharp_plugins.text.tokenizer import Tokenizer


class Encoding:
    """A `Format` with the tokenizer and the dictionary of a model.

    Where the tokenizer itself puts a space before a text (Llama 2's does), that space is the prompt's first, in the place of its
    template's. A text goes on after the prompt: it has the spaces of its template.

    Attributes:
        start, separator: what stands before and after a prompt: a list of one symbol, or of none.
        end: what ends a text: a symbol.
        behind: how many symbols stand after the prompt itself: those of its template's end, and the separator.
        stop: all symbols that end a generated text, *end* the first of them.
        cannot_stop: the format's stops that the tokenizer has no symbol for.

    Args:
        start: the symbol that the model has seen before a text, for formats that ask for it; None for none.

    Raises:
        ValueError: the tokenizer has none of a symbol that the format names.

    Example::

        encoding = Encoding(FORMATS["lora-gpt2"], backbone.tokenizer, backbone.dictionary, backbone.start)
        encoding.prompts(["A : b : C"])[0][-1] == backbone.dictionary.eos()
        encoding.decode_text(encoding.symbols(encoding.texts(["It is."])[0]))  # "It is."
    """

    def __init__(self, format: Format, tokenizer: Tokenizer, dictionary: Dictionary, start: Optional[str]):
        self.tokenizer, self.continued, self.dictionary = tokenizer, continued(tokenizer), dictionary
        has_a_space = self.continued is not tokenizer and format.prompt.startswith(" ")
        self.format = replace(format, prompt=format.prompt[1:]) if has_a_space else format
        first = start if format.start == MODELS_OWN else format.start
        self.start = [self._symbol("start", first)] if first else []
        self.separator = [self._symbol("separator", format.separator)] if format.separator else []
        self.end = self._symbol("end", format.end)
        self.behind = len(self.continued.encode(format.prompt.split(PROMPT)[1])) + len(self.separator)
        found = {stop: self._find(stop) for stop in format.stop}
        self.cannot_stop = [stop for stop, symbol in found.items() if not symbol]
        self.stop = list(dict.fromkeys([self.end, *filter(None, found.values())]))

    def _find(self, name: str) -> str:
        """The one symbol for what a format names, or nothing."""
        if name in self.dictionary:
            return name
        symbols = self.continued.encode(name)
        return symbols[0] if len(symbols) == 1 and symbols[0] in self.dictionary and symbols[0] != "<unk>" else ""

    def _symbol(self, part: str, name: str) -> str:
        symbol = self._find(name)
        if not symbol:
            raise ValueError(f"{flag_of(part)} {name!r}: it is no symbol of the dictionary, and none of the tokenizer's")
        return symbol

    # ------------------------------------------------------------------ to symbols

    def prompts(self, prompts: Iterable[str]) -> List[List[int]]:
        """The dictionary's indices of all that stands before the texts."""
        lines = self.tokenizer.encode_many(map(self.format.around_prompt, prompts))
        return [self._indices([*self.start, *line, *self.separator]) for line in lines]

    def texts(self, texts: Iterable[str]) -> List[List[int]]:
        """The dictionary's indices of the texts, each with its end."""
        lines = self.continued.encode_many(map(self.format.around_text, texts))
        return [self._indices([*line, self.end]) for line in lines]

    def _indices(self, symbols: Iterable[str]) -> List[int]:
        return [self.dictionary.index(symbol) for symbol in symbols]

    def symbols(self, indices: Iterable[int]) -> List[str]:
        return [self.dictionary[index] for index in indices]

    # ------------------------------------------------------------------ back to text

    def decode_prompt(self, symbols: Sequence[str]) -> str:
        """The prompt in what `prompts` made of it, without start, separator and template."""
        return self._inside(self.format.prompt, PROMPT, self.tokenizer.decode(self._bare(symbols)))

    def decode_text(self, symbols: Sequence[str]) -> str:
        """The text in what `texts` made of it, or a model wrote, without the end and the template."""
        return self._inside(self.format.text, TEXT, self.continued.decode(self._bare(symbols)))

    def _bare(self, symbols: Sequence[str]) -> Sequence[str]:
        own = {*self.start, *self.separator, self.end}
        first, last = 0, len(symbols)
        while first < last and symbols[first] in own:
            first += 1
        while last > first and symbols[last - 1] in own:
            last -= 1
        return symbols[first:last]

    @staticmethod
    def _inside(template: str, place: str, text: str) -> str:
        before, after = template.split(place)
        return text.removeprefix(before).removesuffix(after)
