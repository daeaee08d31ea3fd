"""A layout for one tokenizer: sentences as whole sequences of symbols, and the label words as symbols."""

from typing import Iterable, List, NamedTuple, Sequence

from fairseq.data import Dictionary

from sharp_plugins.cloze.layout import MASK, Layout, Sentence
from sharp_plugins.text.tokenizer import Tokenizer

# A label word that begins so is itself a token of the vocabulary; all others are tokenised with a space before them (LM-BFF).
LOOKED_UP = ("<", "[", ".", ",")


class Sequenced(NamedTuple):
    """One line of the data as the model reads it.

    Attributes:
        symbols: the dictionary's indices, the first of them ``<s>``.
        is_shortened: whether a limit took something.
        has_mask: whether the mask was left.
        special: special symbols that the sentences spell: the tokenizer takes them for what they are.
    """

    symbols: List[int]
    is_shortened: bool
    has_mask: bool
    special: List[str]


class Encoding:
    """A `Layout` with the tokenizer and the dictionary of a model.

    Attributes:
        words: the dictionary's index of each class's word, in the layout's order of the classes.

    Raises:
        ValueError: a literal of one character, or a label word, is no token of the vocabulary, or two classes have one word.

    Example, with a converted RoBERTa::

        encoding = Encoding(find_layout("sst-2"), backbone.tokenizer, backbone.dictionary)
        [backbone.dictionary[index] for index in encoding.sequences([["Fine."]])[0].symbols]
        # ["<s>", "Fine", ".", "ĠIt", "Ġwas", "<mask>", ".", "</s>"]
    """

    def __init__(self, layout: Layout, tokenizer: Tokenizer, dictionary: Dictionary):
        self.layout, self.tokenizer, self.dictionary = layout, tokenizer, dictionary
        self.mask = dictionary.index(MASK)
        self._special = {dictionary.bos(), dictionary.pad(), dictionary.eos(), self.mask}
        self._literals = [None if isinstance(part, Sentence) else self._literal(part) for part in layout.template]
        self.words = [self._word(name, word) for name, word in layout.words.items()]
        for number, index in enumerate(self.words):
            other = layout.classes[self.words.index(index)]
            if self.words.index(index) < number:
                raise ValueError(f"words: the classes {other} and {layout.classes[number]} have one token, {dictionary[index]!r}")

    def _token(self, token: str) -> List[int]:
        """The symbol of a token as it stands in the vocabulary, without a space before it; nothing where there is none."""
        symbol = self.tokenizer.symbol_of(token)
        return [] if symbol is None else self._indices([symbol])

    def _indices(self, symbols: Iterable[str]) -> List[int]:
        return [self.dictionary.index(symbol) for symbol in symbols]

    def _literal(self, text: str) -> List[int]:
        if text == MASK:
            return [self.mask]
        found = self._token(text) if len(text) == 1 else self._indices(self.tokenizer.encode(text))
        if not found or self.dictionary.unk() in found:
            raise ValueError(f"template: the vocabulary has no token for {text!r}")
        return found

    def _word(self, name: str, word: str) -> int:
        if word.startswith(LOOKED_UP):
            found = self._token(word)
            symbols = [self.dictionary[index] for index in found]
        else:
            symbols = self.tokenizer.encode(f" {word}")
            found = self._indices(symbols)
        if found and found[0] in self._special:
            raise ValueError(f"words: {word!r} of class {name} is a special symbol, and no word")
        if len(found) != 1 or found[0] == self.dictionary.unk():
            tokens = ", ".join(map(repr, symbols)) or "none"
            raise ValueError(f"words: {word!r} of class {name} must be one token of the vocabulary, and is {len(found)}: {tokens}")
        return found[0]

    # ------------------------------------------------------------------ to symbols

    def sequences(self, lines: Sequence[Sequence[str]]) -> List[Sequenced]:
        """The sequence of each line's sentences: parts side by side, each cut to its limit, then the whole to the layout's."""
        parts = []
        for part, literal in zip(self.layout.template, self._literals):
            if literal is not None:
                parts.append([literal] * len(lines))
            else:
                texts = [part.text_of(line[part.number - 1]) for line in lines]
                parts.append([self._indices(symbols) for symbols in self.tokenizer.encode_many(texts)])
        return [self._sequence(list(row)) for row in zip(*parts)]

    def _sequence(self, parts: List[List[int]]) -> Sequenced:
        template, dictionary = self.layout.template, self.dictionary
        kept = [part[: place.limit] if isinstance(place, Sentence) else part for place, part in zip(template, parts)]
        whole = [dictionary.bos(), *(index for part in kept for index in part), dictionary.eos()]
        symbols = whole[: self.layout.max_length]  # the tail goes, </s> first: as published
        own = [index for place, part in zip(template, parts) if isinstance(place, Sentence) for index in part]
        special = [dictionary[index] for index in own if index in self._special]
        return Sequenced(symbols, kept != parts or symbols != whole, self.mask in symbols, special)
