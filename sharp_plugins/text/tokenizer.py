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
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple

from fairseq.data import Dictionary

from sharp_plugins.files.text import read_json
from sharp_plugins.files.unreadable import what_it_is

# Published role -> fairseq's symbol, in the order of fairseq's dictionaries.
SYMBOLS = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
BERT_TOKENS = dict(zip(SYMBOLS, ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")))
ROBERTA_TOKENS = SYMBOLS
AROUND = ("<s>", "<pad>", "</s>")  # a sentence

FILES = "tokenizer.json; vocab.txt and tokenizer_config.json (WordPiece); vocab.json and merges.txt (byte-level BPE)"


# Tokenizers that `FILES` without a tokenizer.json are enough for; their names may end in Fast.
CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "RobertaTokenizer")
# What tokenizer_config.json calls the settings of a BertNormalizer.
NORMALIZER = {"lowercase": "do_lower_case", "strip_accents": "strip_accents", "handle_chinese_chars": "tokenize_chinese_chars"}


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
        self._symbol_of = {i: special.get(i) or _as_symbol(token_of[i], i) for i in self.published_ids}
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
        directory = Path(directory)
        config = _read_json(directory / "tokenizer_config.json")
        backend = _read_backend(directory, config)
        _add_tokens(backend, directory, config)
        names = {**config, **_read_json(directory / "special_tokens_map.json")}
        special = _special_tokens(names, backend.get_vocab(), directory)
        _mark_special(backend, special)
        if backend.post_processor is None:
            backend.post_processor = _usual_pairs(backend, special)
        if backend.decoder is None:
            backend.decoder = _usual_decoder(backend)
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

    def begins_a_word(self, symbol: str) -> bool:
        """Whether a word begins with a symbol: with WordPieces one without ``##``, with byte-level BPE one with a space."""
        token = self.backend.id_to_token(self._id_of[symbol]) if symbol in self._id_of else symbol
        if symbol in SYMBOLS.values() or symbol not in self._id_of:
            return True
        return not token.startswith("##") if _is_wordpiece(self.backend) else token.startswith("\u0120")


def _is_wordpiece(backend) -> bool:
    return type(backend.model).__name__ == "WordPiece"


def _as_symbol(token: str, index: int) -> str:
    return token if token.split() == [token] and token not in SYMBOLS.values() else f"<token:{index}>"


def _read_json(path: Path) -> Dict:
    """The object in a file; empty where there is no file."""
    return read_json(path) if path.is_file() else {}


def _read_backend(directory: Path, config: Dict):
    """The `tokenizers.Tokenizer` of the first set of files that is there."""
    try:
        from tokenizers import Tokenizer as Backend
        from tokenizers import models, normalizers, pre_tokenizers
    except ImportError as error:
        raise ImportError(f"{directory}: its tokenizer is read with tokenizers: pip install tokenizers") from error
    whole, words, pieces, merges = (directory / f for f in ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"))
    for path in [whole] if whole.is_file() else filter(Path.is_file, (words, pieces, merges)):
        other = what_it_is(path, is_text=True)  # the library would take its lines for a vocabulary
        if other:
            raise ValueError(f"{path}: cannot be read: {other}")
    try:
        if whole.is_file():
            backend = Backend.from_file(str(whole))
            _apply(backend, config)
            return backend
        if words.is_file() or pieces.is_file():
            _check_class(config)
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


def _apply(backend, config: Dict) -> None:
    """Settings of ``tokenizer_config.json`` go before those in ``tokenizer.json``, as in transformers; where it does not
    say any, the latter stay (transformers would take its own default)."""
    from tokenizers import normalizers, pre_tokenizers

    if isinstance(backend.normalizer, normalizers.BertNormalizer):
        state = json.loads(backend.normalizer.__getstate__())
        state.pop("type")
        given = {own: config[theirs] for own, theirs in NORMALIZER.items() if theirs in config}
        backend.normalizer = normalizers.BertNormalizer(**{**state, **given})
    if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel) and "add_prefix_space" in config:
        state = json.loads(backend.pre_tokenizer.__getstate__())
        given = {"add_prefix_space": config["add_prefix_space"], "use_regex": state.get("use_regex", True)}
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(**given)


def _check_class(config: Dict) -> None:
    """Raise ValueError where the vocabulary alone is not the whole tokenizer."""
    name = config.get("tokenizer_class") or CLASSES[0]
    other = [key for key in ("word_tokenizer_type", "subword_tokenizer_type") if config.get(key)]
    if name.removesuffix("Fast") not in CLASSES or other:
        raise ValueError(
            f"without tokenizer.json, {' and '.join([name, *other])} in tokenizer_config.json cannot be followed; save it "
            "with transformers as a fast tokenizer"
        )


def _add_tokens(backend, directory: Path, config: Dict) -> None:
    """Add the tokens that ``tokenizer_config.json`` and ``added_tokens.json`` have beside the vocabulary.

    Raises:
        ValueError: one is not of this form, or would get another id than the files say.
    """
    from tokenizers import AddedToken

    tokens: Dict[int, AddedToken] = {}
    try:
        for token, index in _read_json(directory / "added_tokens.json").items():
            tokens[int(index)] = AddedToken(token, normalized=True)
        for index, token in (config.get("added_tokens_decoder") or {}).items():
            flags = {name: token[name] for name in ("single_word", "lstrip", "rstrip", "normalized", "special") if name in token}
            tokens[int(index)] = AddedToken(token["content"], **flags)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{directory}: its added tokens cannot be read: {error}") from error
    for index, token in sorted(tokens.items()):
        if index not in backend.get_added_tokens_decoder():
            (backend.add_special_tokens if token.special else backend.add_tokens)([token])
        if backend.token_to_id(token.content) != index:
            raise ValueError(
                f"{directory}: the vocabulary does not fit: the added token {token.content!r} should be number {index}, and "
                f"is {backend.token_to_id(token.content)}"
            )


def _usual_decoder(backend):
    from tokenizers import decoders

    return decoders.WordPiece() if _is_wordpiece(backend) else decoders.ByteLevel()


def _usual_pairs(backend, special: Dict[str, str]):
    """BERT's way to put a pair together for WordPieces, and RoBERTa's for others."""
    from tokenizers import processors

    sep, cls = ((special[role], backend.token_to_id(special[role])) for role in ("sep_token", "cls_token"))
    if _is_wordpiece(backend):
        return processors.BertProcessing(sep, cls)
    return processors.RobertaProcessing(sep, cls, trim_offsets=False, add_prefix_space=False)


def _token(names: Dict, role: str):
    """The token of a role as the two files write it: a string, or an object with its content."""
    value = names.get(role)
    return value.get("content") if isinstance(value, dict) else value


def _special_tokens(names: Dict, vocabulary: Dict[str, int], directory: Path) -> Dict[str, str]:
    """The token of each role: the one that the files name, or else BERT's or RoBERTa's usual one."""
    usual = BERT_TOKENS if BERT_TOKENS["cls_token"] in vocabulary else ROBERTA_TOKENS
    special = {role: _token(names, role) or usual[role] for role in SYMBOLS}
    for role, token in special.items():
        if not isinstance(token, str) or token not in vocabulary:
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
