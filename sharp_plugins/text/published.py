"""The files of a published tokenizer (byte-level BPE, WordPiece), read as the `tokenizers` library's own object.

Three sets of files are read: `FILES`. What they leave open is as in transformers; special tokens are kept in one piece.
`read_published` wants an encoder's special tokens, `sharp_plugins.text.decoder_files` a decoder's.
"""

import json
from pathlib import Path
from typing import Dict, Sequence, Tuple

from sharp_plugins.files.unreadable import what_it_is
from sharp_plugins.text.added_tokens import add_tokens, mark_special, read_names, read_object, token_of

# The token of each role; fairseq's own symbols are spelled as RoBERTa's, in this order.
ROBERTA_TOKENS = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
BERT_TOKENS = dict(zip(ROBERTA_TOKENS, ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")))

FILES = "tokenizer.json; vocab.txt and tokenizer_config.json (WordPiece); vocab.json and merges.txt (byte-level BPE)"
# Tokenizers that `FILES` without a tokenizer.json are enough for; their names may end in Fast.
CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "RobertaTokenizer")
# What tokenizer_config.json calls the settings of a BertNormalizer.
NORMALIZER = {"lowercase": "do_lower_case", "strip_accents": "strip_accents", "handle_chinese_chars": "tokenize_chinese_chars"}


def read_published(directory: Path) -> Tuple:
    """The `tokenizers.Tokenizer` of a directory, without truncation and padding, and its special token of each role.

    Raises:
        FileNotFoundError: the directory holds none of the three sets of files.
        ValueError: a file cannot be read, or the vocabulary has no token for a role.
        ImportError: the library is not installed.

    Example::

        backend, special = read_published(Path("bert-base-uncased"))
        special["cls_token"]  # "[CLS]"
    """
    backend, names = read_backend(directory, CLASSES)
    special = _special_tokens(names, backend.get_vocab(), directory)
    mark_special(backend, special.values())
    if backend.post_processor is None:
        backend.post_processor = _usual_pairs(backend, special)
    return backend, special


def read_backend(directory: Path, classes: Sequence[str], is_converted: bool = False) -> Tuple:
    """The `tokenizers.Tokenizer` of a directory, without truncation and padding, and what its two files of names say.

    Args:
        classes: of transformers' tokenizers, those that a vocabulary without tokenizer.json is enough for.
        is_converted: whether all stands in tokenizer.json and special_tokens_map.json. Other files of a converted model's
            directory are not its own.

    Raises: as `read_published`.
    """
    config = {} if is_converted else read_object(directory / "tokenizer_config.json")
    names = read_names(directory, config)
    backend = _read_backend(directory, config, classes, names)
    if not is_converted:
        add_tokens(backend, directory, config, names)
    if backend.decoder is None:
        backend.decoder = _usual_decoder(backend)
    backend.no_truncation()
    backend.no_padding()
    return backend, names


def is_wordpiece(backend) -> bool:
    """Whether a `tokenizers.Tokenizer` is a WordPiece one."""
    return type(backend.model).__name__ == "WordPiece"


def _read_backend(directory: Path, config: Dict, classes: Sequence[str], names: Dict):
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
            _check_class(config, classes)
        if words.is_file():
            if "do_lower_case" not in config:
                raise ValueError("without tokenizer.json, tokenizer_config.json must say do_lower_case, true or false")
            backend = Backend(models.WordPiece.from_file(str(words), unk_token=token_of(names, "unk_token") or "[UNK]"))
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


def _check_class(config: Dict, classes: Sequence[str]) -> None:
    """Raise ValueError where the vocabulary alone is not the whole tokenizer."""
    name = config.get("tokenizer_class") or classes[0]
    other = [key for key in ("word_tokenizer_type", "subword_tokenizer_type") if config.get(key)]
    if name.removesuffix("Fast") not in classes or other:
        raise ValueError(
            f"without tokenizer.json, {' and '.join([name, *other])} in tokenizer_config.json cannot be followed; save it "
            "with transformers as a fast tokenizer"
        )


def _usual_decoder(backend):
    from tokenizers import decoders

    return decoders.WordPiece() if is_wordpiece(backend) else decoders.ByteLevel()


def _usual_pairs(backend, special: Dict[str, str]):
    """BERT's way to put a pair together for WordPieces, and RoBERTa's for others."""
    from tokenizers import processors

    sep, cls = ((special[role], backend.token_to_id(special[role])) for role in ("sep_token", "cls_token"))
    if is_wordpiece(backend):
        return processors.BertProcessing(sep, cls)
    return processors.RobertaProcessing(sep, cls, trim_offsets=False, add_prefix_space=False)


def _special_tokens(names: Dict, vocabulary: Dict[str, int], directory: Path) -> Dict[str, str]:
    """The token of each role: the one that the files name, or else BERT's or RoBERTa's usual one."""
    usual = BERT_TOKENS if BERT_TOKENS["cls_token"] in vocabulary else ROBERTA_TOKENS
    special = {role: token_of(names, role) or usual[role] for role in ROBERTA_TOKENS}
    for role, token in special.items():
        if not isinstance(token, str) or token not in vocabulary:
            raise ValueError(f"{directory}: the vocabulary does not fit a BERT or RoBERTa: it has no {role} {token!r}")
    if len(set(special.values())) < len(special):
        raise ValueError(f"{directory}: each special token must have one role, and they are {special}")
    return special
