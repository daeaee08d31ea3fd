"""Published tokenizers (byte-level BPE, WordPiece) in the symbols of a fairseq dictionary.

The work is the `tokenizers` library's, on local files. Here is only how a published vocabulary becomes a dictionary:

* ``[CLS] [PAD] [SEP] [UNK]`` (RoBERTa's ``<s> <pad> </s> <unk>``) are fairseq's four special symbols, which every
  dictionary begins with and no ``dict.txt`` holds; ``[MASK]`` is ``<mask>``, which fairseq's tasks add if need be;
* all other tokens follow in the order of their published ids. They are written as they are, or as ``<token:ID>`` where
  a line of a ``dict.txt`` could not hold them: with white space in them, or spelled as one of fairseq's symbols.

Text that spells a special token is taken for it, as the published tokenizers do: data should not hold ``[SEP]``.
"""

import json
from pathlib import Path
from typing import Dict, Iterable, List

from fairseq.data import Dictionary

# Published role -> fairseq's symbol, in the order of fairseq's dictionaries.
SYMBOLS = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
BERT_TOKENS = dict(zip(SYMBOLS, ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")))
ROBERTA_TOKENS = SYMBOLS

FILES = "tokenizer.json; vocab.txt and tokenizer_config.json (WordPiece); vocab.json and merges.txt (byte-level BPE)"


class Tokenizer:
    """A published tokenizer, and the fairseq dictionary of its vocabulary.

    Attributes:
        symbols: the dictionary's symbols in their order, the special ones among them.
        published_ids: the published id of each symbol; row i of fairseq's table of words is the published row
            published_ids[i].
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
        self._symbol_of = {i: special.get(i) or _as_symbol(token_of[i], i) for i in self.published_ids}
        self.symbols: List[str] = [self._symbol_of[i] for i in self.published_ids]

    @classmethod
    def load(cls, directory) -> "Tokenizer":
        """Read the tokenizer of a published checkpoint, or of one that was converted.

        Raises:
            FileNotFoundError: the directory holds none of the three sets of files.
            ValueError: a file cannot be read, or the vocabulary has no token for a role.
            ImportError: the library is not installed.
        """
        directory = Path(directory)
        config = _read_json(directory / "tokenizer_config.json")
        backend = _read_backend(directory, config)
        names = {**config, **_read_json(directory / "special_tokens_map.json")}
        special = _special_tokens(names, backend.get_vocab(), directory)
        _mark_special(backend, special)
        backend.no_truncation()
        backend.no_padding()
        return cls(backend, special)

    def save(self, directory) -> None:
        """Write ``tokenizer.json`` and ``special_tokens_map.json``, which `load` reads, and fairseq's ``dict.txt``."""
        directory = Path(directory)
        self.backend.save(str(directory / "tokenizer.json"))
        special = json.dumps(self.special_tokens, ensure_ascii=False, indent=2)
        (directory / "special_tokens_map.json").write_text(special + "\n", encoding="utf-8")
        self.dictionary().save(str(directory / "dict.txt"))

    def dictionary(self) -> Dictionary:
        """fairseq's dictionary of the vocabulary."""
        dictionary = Dictionary()
        for symbol in self.symbols[dictionary.nspecial :]:
            dictionary.add_symbol(symbol)
        return dictionary

    def encode(self, text: str) -> List[str]:
        """The symbols of a text, without those that a task puts around it (fairseq-preprocess wants spaces between)."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Iterable[str]) -> List[List[str]]:
        """The symbols of each text; faster than one call for each."""
        encodings = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return [[self._symbol_of[i] for i in encoding.ids] for encoding in encodings]


def _as_symbol(token: str, index: int) -> str:
    return token if token.split() == [token] and token not in SYMBOLS.values() else f"<token:{index}>"


def _read_json(path: Path) -> Dict:
    """The object in a file; empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON object is expected, not {type(content).__name__}")
    return content


def _read_backend(directory: Path, config: Dict):
    """The `tokenizers.Tokenizer` of the first set of files that is there."""
    try:
        from tokenizers import Tokenizer as Backend
        from tokenizers import models, normalizers, pre_tokenizers
    except ImportError as error:
        raise ImportError(f"{directory}: its tokenizer is read with tokenizers: pip install tokenizers") from error
    whole, words, pieces, merges = (directory / f for f in ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"))
    try:
        if whole.is_file():
            return Backend.from_file(str(whole))
        if words.is_file():
            if "do_lower_case" not in config:
                raise ValueError("without tokenizer.json, tokenizer_config.json must say do_lower_case, true or false")
            backend = Backend(models.WordPiece.from_file(str(words), unk_token=_token(config, "unk_token") or "[UNK]"))
            backend.normalizer = normalizers.BertNormalizer(
                lowercase=config["do_lower_case"],
                strip_accents=config.get("strip_accents"),
                handle_chinese_chars=config.get("tokenize_chinese_chars", True),
            )
            backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            return backend
        if pieces.is_file() and merges.is_file():
            backend = Backend(models.BPE.from_file(str(pieces), str(merges)))
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=config.get("add_prefix_space", False))
            return backend
    except Exception as error:  # the library raises bare Exceptions
        raise ValueError(f"{directory}: its tokenizer cannot be read: {error}") from error
    raise FileNotFoundError(f"{directory}: no tokenizer there. Expected is one of {FILES}")


def _token(names: Dict, role: str):
    """The token of a role as the two files write it: a string, or an object with its content."""
    value = names.get(role)
    return value.get("content") if isinstance(value, dict) else value


def _special_tokens(names: Dict, vocabulary: Dict[str, int], directory: Path) -> Dict[str, str]:
    """The token of each role: the one that the files name, or else BERT's or RoBERTa's usual one."""
    usual = BERT_TOKENS if BERT_TOKENS["cls_token"] in vocabulary else ROBERTA_TOKENS
    special = {role: _token(names, role) or usual[role] for role in SYMBOLS}
    for role, token in special.items():
        if token not in vocabulary:
            raise ValueError(f"{directory}: the vocabulary does not fit a BERT or RoBERTa: it has no {role} {token!r}")
    if len(set(special.values())) < len(special):
        raise ValueError(f"{directory}: each special token must have one role, and they are {special}")
    return special


def _mark_special(backend, special: Dict[str, str]) -> None:
    """Keep special tokens in one piece; where the files say how, this changes nothing."""
    from tokenizers import AddedToken

    marked = {token.content for token in backend.get_added_tokens_decoder().values()}
    for role, token in special.items():
        if token not in marked:
            # In RoBERTa's own tokenizer.json the mask takes the space before it along.
            lstrip = role == "mask_token" and token == ROBERTA_TOKENS[role]
            backend.add_special_tokens([AddedToken(token, lstrip=lstrip, normalized=False)])
