"""Tokenizers of published decoders (GPT-2, OPT, Llama) in the symbols of a fairseq dictionary.

fairseq's four special symbols begin every dictionary. Decoders have fewer special tokens than encoders, and so:

* the token that ends a text is ``</s>``; one that begins it, where it is another, ``<s>``; one for padding, where it is another
  than both, ``<pad>``. ``<unk>`` is the token for what the tokenizer cannot write, which byte-level BPE has not;
* a token that may end a text or stands before it is not ``<pad>``, which generation neither writes nor takes in a prompt;
* a token without one of these roles, spelled as one of the four symbols, is that symbol where it has no other token (OPT's
  ``<s>``);
* a symbol without a token is *unused*: the model gives it no probability;
* all other published ids follow in their order. A table of words may have more rows than there are tokens: they are symbols too.

In SmolLM2 ``<|im_end|>`` is ``</s>``, ``<|im_start|>`` is ``<s>``, and ``<|endoftext|>`` a symbol like all others.
"""

import json
from pathlib import Path
from typing import Collection, Dict, Iterable, List, Optional

from sharp_plugins.files.text import read_json
from sharp_plugins.text.decoder_files import read_decoder_backend
from sharp_plugins.text.tokenizer import SPACES, Tokenizer, as_symbol

# fairseq's symbols in the order of its dictionaries, and in that in which they take their tokens.
FIRST = ("<s>", "<pad>", "</s>", "<unk>")
ROLES = {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>", "pad_token": "<pad>"}
PADDING = ROLES["pad_token"]
# What says that a directory holds a converted decoder, and what its other files do not say.
FILE = "decoder.json"
# Tables of words are often padded, for speed: to a multiple of 64 or 128 rows, and of 256 or 512 where they are split over GPUs.
# Large ones may have room for tokens to come: DeepSeek's first has 102,400 rows for some 100,000 tokens.
PADDING_ROWS, PADDING_SHARE = 511, 1 / 32
# Between documents, in the training data of GPT-2 and of many after it.
SEPARATOR = "<|endoftext|>"


class DecoderTokenizer(Tokenizer):
    """A published decoder's tokenizer, and the fairseq dictionary of its model's table of words.

    Attributes:
        symbols: the dictionary's symbols in their order, fairseq's four first.
        published_ids: the published id of each symbol, -1 for unused ones.
        unused: symbols that the published model has not.
        family: the published ``model_type``.
        start: the symbol before a text on its own, None for none: what the published tokenizer puts there, or else
            ``<|endoftext|>``, where there is such a token.

    Example, with what ``python -m sharp_plugins.convert`` made of SmolLM2::

        tokenizer = DecoderTokenizer.load("OUT")
        tokenizer.encode("The cat")  # ["The", "Ġcat"]
        tokenizer.unused, tokenizer.start  # ["<pad>", "<unk>"], "<|endoftext|>"
    """

    def __init__(
        self,
        backend,
        special_tokens: Dict[str, str],
        rows: int,
        family: str,
        begins: Optional[str] = None,
        ends: Iterable[int] = (),
        unused: Optional[Iterable[str]] = None,
    ):
        """
        Args:
            backend: a `tokenizers.Tokenizer` without truncation and padding.
            special_tokens: the token of each role of `ROLES` that has one, ``eos_token`` among them.
            rows: of the published table of words.
            begins: the token that the published tokenizer puts before each text.
            ends: published ids that may end a text, beside that of ``eos_token``.
            unused: symbols that get no token, as a converted directory says (default: ``<pad>``, where its token begins or ends
                a text).

        Raises:
            ValueError: the tokenizer is not that of a table of so many rows.
        """
        needed = {begins, *(token for role, token in special_tokens.items() if role != "pad_token")}
        backend = _within(backend, rows, {special_tokens.get("pad_token"), PADDING, "[PAD]"} - needed)
        self.backend, self.special_tokens, self.rows, self.family = backend, special_tokens, rows, family
        vocabulary = backend.get_vocab(with_added_tokens=True)
        highest = max(vocabulary.values())
        # Before a list of so many rows is made.
        if highest >= rows or rows - len(vocabulary) > max(PADDING_ROWS, PADDING_SHARE * rows):
            raise ValueError(
                f"its tokenizer is another model's: it has {len(vocabulary)} tokens with ids up to {highest} "
                f"({max(vocabulary, key=vocabulary.get)!r}), and the model's table of words has {rows} rows"
            )
        ids: Dict[str, int] = {}
        for role, symbol in ROLES.items():
            token = special_tokens.get(role)
            if token in vocabulary and vocabulary[token] not in ids.values():
                ids[symbol] = vocabulary[token]
        for symbol in FIRST:
            if symbol not in ids and vocabulary.get(symbol, -1) not in (-1, *ids.values()):
                ids[symbol] = vocabulary[symbol]
        begins = begins or (SEPARATOR if SEPARATOR in vocabulary else None)
        if unused is None:
            unused = [PADDING] if ids.get(PADDING) in (*ends, vocabulary.get(begins)) else []
        ids = {symbol: index for symbol, index in ids.items() if symbol not in unused}
        self.unused: List[str] = [symbol for symbol in FIRST if symbol not in ids]
        special, token_of = {index: symbol for symbol, index in ids.items()}, {i: token for token, i in vocabulary.items()}
        others = [i for i in range(rows) if i not in special]
        self._symbol_of = {**special, **{i: as_symbol(token_of.get(i, ""), i) for i in others}}
        self.published_ids: List[int] = [ids.get(symbol, -1) for symbol in FIRST] + others
        self.symbols: List[str] = [*FIRST, *(self._symbol_of[i] for i in others)]
        self._id_of = {symbol: i for i, symbol in self._symbol_of.items()}
        if len(set(self.symbols)) < len(self.symbols):
            double = next(symbol for symbol in self.symbols if self.symbols.count(symbol) > 1)
            raise ValueError(f"its tokenizer has two tokens that would both be the symbol {double!r}")
        self.start = None if begins is None else self._symbol_of[vocabulary[begins]]

    @classmethod
    def load(cls, directory) -> "DecoderTokenizer":
        """Read the tokenizer of a converted decoder.

        Raises:
            FileNotFoundError: a file is not there.
            ValueError: a file cannot be read, or they do not fit together.
            ImportError: tokenizers is not installed.
        """
        directory = Path(directory)
        if not (directory / FILE).is_file():
            raise FileNotFoundError(f"{directory / FILE}: not there; `python -m sharp_plugins.convert` writes it for a decoder")
        known = read_json(directory / FILE)
        backend, special, _ = read_decoder_backend(directory, {}, is_converted=True)
        try:
            unused = [str(symbol) for symbol in known.get("unused", ())]  # older directories say nothing of it
            tokenizer = cls(backend, special, int(known["rows"]), str(known["family"]), unused=unused)
            tokenizer.start = known["start"]
            if tokenizer.start is not None:
                tokenizer._id_of[tokenizer.start]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{directory}: the decoder's files do not fit together: {type(error).__name__}: {error}") from error
        return tokenizer

    def save(self, directory) -> None:
        """Write what `load` reads, and fairseq's ``dict.txt``."""
        super().save(directory)
        known = {"family": self.family, "rows": self.rows, "start": self.start, "unused": self.unused}
        (Path(directory) / FILE).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")

    def decode(self, symbols: Iterable[str]) -> str:
        """The text of symbols, special ones too, with every space that was there."""
        ids = [self._id_of[symbol] for symbol in symbols if symbol in self._id_of]
        return self.backend.decode(ids, skip_special_tokens=False)

    def begins_a_word(self, symbol: str) -> bool:
        """Whether a word begins with a symbol: one with a space."""
        token = self.backend.id_to_token(self._id_of[symbol]) if symbol in self._id_of else None
        return symbol in FIRST or token is None or token.startswith(SPACES)


def _within(backend, rows: int, padding: Collection[Optional[str]]):
    """A `tokenizers.Tokenizer` without the *padding* that was added behind a table of so many *rows*: copies of Llama 2 have a
    ``<pad>`` at 32000, which their model of 32,000 words cannot read. Any other token there is another model's."""
    beyond = [index for index, token in backend.get_added_tokens_decoder().items() if index >= rows and token.content in padding]
    if not beyond:
        return backend
    content = json.loads(backend.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] not in beyond]
    return type(backend).from_str(json.dumps(content))
