"""Published tokenizers (byte-level BPE, WordPiece) in the symbols of a fairseq dictionary.

The work is the `tokenizers` library's, on local files. Here is only how a published vocabulary becomes a dictionary:

* ``[CLS] [PAD] [SEP] [UNK]`` (RoBERTa's ``<s> <pad> </s> <unk>``) are fairseq's four special symbols, which every
  dictionary begins with and no ``dict.txt`` holds; ``[MASK]`` is ``<mask>``, which fairseq's tasks add if need be;
* all other tokens follow in the order of their published ids. They are written as they are, or as ``<token:ID>`` where
  a line of a ``dict.txt`` could not hold them: with white space in them, or spelled as one of fairseq's symbols.

Text that spells a special token is taken for it, as the published tokenizers do: data should not hold ``[SEP]``.

How two sentences are put together is the tokenizer's too, and not the model's: there are BERTs with RoBERTa's way
(multilingual MiniLM) and RoBERTas with BERT's.
"""

import json
import re
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional

from fairseq.data import Dictionary

from sharp_plugins.text.published import ROBERTA_TOKENS, is_wordpiece, read_published

# Published role -> fairseq's symbol, in the order of fairseq's dictionaries.
SYMBOLS = ROBERTA_TOKENS
# How a token is written that begins with a space: in byte-level BPE, and with sentencepiece.
SPACES = ("\u0120", "\u2581")
AROUND = ("<s>", "<pad>", "</s>")  # a sentence


class PairFormat(NamedTuple):
    """What stands between two sentences.

    separators: how many: ``[CLS] a [SEP] b [SEP]`` has 1, ``<s> a </s></s> b </s>`` 2.
    has_types: whether token types tell the second from the first.
    """

    separators: int
    has_types: bool


class Tokenizer:
    """A published tokenizer, and the fairseq dictionary of its vocabulary.

    Attributes:
        symbols: the dictionary's symbols in their order, the special ones among them.
        published_ids: the published id of each symbol; row i of fairseq's table of words is the published row
            published_ids[i].

    Example, with a BERT without capitals::

        tokenizer = Tokenizer.load("bert-base-uncased")  # a directory with tokenizer.json
        tokenizer.encode("The cat sat.")  # ["the", "cat", "sat", "."]
        tokenizer.pair_format().separators  # 1: [CLS] a [SEP] b [SEP]
    """

    def __init__(self, backend, special_tokens: Dict[str, str]):
        """
        Args:
            backend: a `tokenizers.Tokenizer` without truncation and padding.
            special_tokens: the token of each role of `SYMBOLS`.
        """
        self.backend, self.special_tokens = backend, special_tokens
        vocabulary = backend.get_vocab(with_added_tokens=True)
        special = {vocabulary[token]: SYMBOLS[role] for role, token in special_tokens.items()}
        first = [vocabulary[special_tokens[role]] for role in list(SYMBOLS)[:4]]
        token_of = {index: token for token, index in vocabulary.items()}
        self.published_ids: List[int] = first + sorted(token_of.keys() - set(first))
        self._symbol_of = {i: special.get(i) or as_symbol(token_of[i], i) for i in self.published_ids}
        self.symbols: List[str] = [self._symbol_of[i] for i in self.published_ids]
        self._id_of = dict(zip(self.symbols, self.published_ids))

    @classmethod
    def load(cls, directory) -> "Tokenizer":
        """Read the tokenizer of a published checkpoint, or of one that was converted.

        Raises:
            FileNotFoundError: the directory holds none of the three sets of files.
            ValueError: a file cannot be read, or the vocabulary has no token for a role.
            ImportError: the library is not installed.
        """
        return cls(*read_published(Path(directory)))

    def save(self, directory) -> None:
        """Write ``tokenizer.json`` and ``special_tokens_map.json``, which `load` reads, and fairseq's ``dict.txt``.

        Raises:
            OSError: one cannot be written.
        """
        directory = Path(directory)
        try:
            self.backend.save(str(directory / "tokenizer.json"))
        except Exception as error:  # the library's for a full disk, which is none of Python's
            raise OSError(f"tokenizer.json: cannot be written: {error}") from error
        special = json.dumps(self.special_tokens, ensure_ascii=False, indent=2)
        (directory / "special_tokens_map.json").write_text(special + "\n", encoding="utf-8")
        self.dictionary().save(str(directory / "dict.txt"))

    def dictionary(self) -> Dictionary:
        """fairseq's dictionary of the vocabulary."""
        dictionary = Dictionary()
        for symbol in self.symbols[dictionary.nspecial :]:
            dictionary.add_symbol(symbol)
        return dictionary

    def pair_format(self) -> PairFormat:
        """How the tokenizer puts a pair together.

        Raises:
            ValueError: in a way that fairseq's ``sentence_prediction`` has not.
        """
        pair = self.backend.encode("x", "x")
        cls, sep = (self.special_tokens[role] for role in ("cls_token", "sep_token"))
        parts = [token if side is None else side for token, side in zip(pair.tokens, pair.sequence_ids)]
        once = [part for i, part in enumerate(parts) if part not in (0, 1) or part != parts[i - 1]]
        for separators in (1, 2):
            if once == [cls, 0, *separators * [sep], 1, sep]:
                return PairFormat(separators, has_types=any(pair.type_ids))
        raise ValueError(
            f"its tokenizer writes a pair as {' '.join(map(str, once))}, with 0 and 1 for the sentences; fairseq's "
            f"sentence_prediction has {cls} 0 {sep} 1 {sep} and {cls} 0 {sep} {sep} 1 {sep}"
        )

    def encode(self, text: str) -> List[str]:
        """The symbols of a text, without those that a task puts around it (fairseq-preprocess wants spaces between)."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Iterable[str]) -> List[List[str]]:
        """The symbols of each text; faster than one call for each."""
        encodings = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [[self._symbol_of[i] for i in encoding.ids] for encoding in encodings]

    def decode(self, symbols: Iterable[str]) -> str:
        """The text of symbols, as the published tokenizer writes it; special ones stay, but for those around a sentence."""
        ids = [self._id_of[symbol] for symbol in symbols if symbol in self._id_of and symbol not in AROUND]
        return self.backend.decode(ids, skip_special_tokens=False)

    def symbol_of(self, token: str) -> Optional[str]:
        """The symbol of a token as the published vocabulary spells it; None where it has none."""
        index = self.backend.token_to_id(token)
        return None if index is None else self._symbol_of[index]

    def begins_a_word(self, symbol: str) -> bool:
        """Whether a word begins with a symbol: with WordPieces one without ``##``, with others one with a space."""
        token = self.backend.id_to_token(self._id_of[symbol]) if symbol in self._id_of else symbol
        if symbol in SYMBOLS.values() or symbol not in self._id_of:
            return True
        return not token.startswith("##") if is_wordpiece(self.backend) else token.startswith(SPACES)


def as_symbol(token: str, index: int) -> str:
    """A token as a line of a ``dict.txt`` can hold it. One that is spelled as another's symbol could be is written so too.

    >>> as_symbol("cat", 5), as_symbol("a b", 6), as_symbol("<token:6>", 7)
    ('cat', '<token:6>', '<token:7>')
    """
    is_plain = token.split() == [token] and token not in SYMBOLS.values() and not re.fullmatch(r"<token:\d+>", token)
    return token if is_plain else f"<token:{index}>"
