"""The files of a published decoder's tokenizer, and its special tokens.

Read are ``tokenizer.json``, and ``vocab.json`` with ``merges.txt`` (GPT-2, OPT). Where these do not say which token ends a text,
config.json does by its id, and where it does not either, the token is the family's usual one.
"""

import re
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from sharp_plugins.files.text import read_json
from sharp_plugins.text.added_tokens import mark_special, token_of
from sharp_plugins.text.published import read_backend

# Tokenizers for which vocab.json and merges.txt are enough; their names may end in Fast.
CLASSES = ("GPT2Tokenizer",)
USUAL_END = ("<|endoftext|>", "</s>")
SENTENCEPIECE = "tokenizer.model"
GENERATION = "generation_config.json"
SPELLED_AS_SPECIAL = re.compile(r"<.+>|\[.+\]")


def read_decoder_backend(directory: Path, config: Dict, is_converted: bool = False) -> Tuple:
    """The `tokenizers.Tokenizer` of a directory, its special token of each role that has one, and the token that it puts before
    each text (None for none).

    Args:
        config: the content of config.json.
        is_converted: read what `DecoderTokenizer.save` writes alone, whatever else lies in the directory.

    Raises:
        FileNotFoundError: the directory holds no tokenizer that can be read.
        ValueError: a file cannot be read, or no token ends a text.
        ImportError: tokenizers is not installed.
    """
    names = ("tokenizer.json", "vocab.json", "merges.txt")
    if not (directory / names[0]).is_file() and not all((directory / name).is_file() for name in names[1:]):
        also = ""
        if (directory / SENTENCEPIECE).is_file():
            also = (
                f"; {SENTENCEPIECE} alone is not read. Let transformers write the other form, with sentencepiece installed: "
                "AutoTokenizer.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY)"
            )
        raise FileNotFoundError(f"{directory}: no tokenizer there. Expected is tokenizer.json, or vocab.json and merges.txt{also}")
    backend, names = read_backend(directory, CLASSES, is_converted)
    try:
        special = special_tokens(backend, names, config)
        mark_special(backend, special.values())
        return backend, special, token_before(backend, names, special)
    except ValueError as error:
        raise ValueError(f"{directory}: {error}") from None


def special_tokens(backend, names: Dict, config: Dict) -> Dict[str, str]:
    """The token of each role that has one in the vocabulary.

    Args:
        names: what the tokenizer's files say of roles.
        config: the content of config.json, which has ids.

    Raises:
        ValueError: no token ends a text, config.json says another one, or a value is of a type that says nothing.
    """
    vocabulary, found = backend.get_vocab(with_added_tokens=True), {}
    spelled = {index: token for token, index in vocabulary.items()}  # the library raises for ids that its integers do not hold
    ends = _ids(config, "eos_token_id")
    for role in ("eos_token", "bos_token", "pad_token"):
        index = next(iter(_ids(config, f"{role}_id")), None)
        token = _named(names, role)
        if token is None and index in spelled:
            token = spelled[index] if _may_be_special(backend, index, spelled[index]) else None
            if token is None and role == "eos_token":
                raise ValueError(
                    f"its tokenizer is another model's: config.json says eos_token_id {index}, which is {spelled[index]!r} there, "
                    "a plain part of texts; if it is right, name the token in tokenizer_config.json, as eos_token"
                )
        if token in vocabulary:
            found[role] = token
    if "eos_token" not in found:
        found["eos_token"] = next((token for token in USUAL_END if token in vocabulary), None)
    if found["eos_token"] is None:
        raise ValueError("no token ends a text: name it in tokenizer_config.json, as eos_token")
    unknown = getattr(backend.model, "unk_token", None)
    if unknown in vocabulary:
        found["unk_token"] = unknown
    rows = config.get("vocab_size")  # ids beyond are of the usual config, and of no token of this model
    known = [index for index in ends if not (type(rows) is int and index >= rows)]
    if known and vocabulary[found["eos_token"]] not in known:
        raise ValueError(
            f"its tokenizer is another model's: the token that ends a text is {found['eos_token']!r}, number "
            f"{vocabulary[found['eos_token']]}, and config.json says eos_token_id {config['eos_token_id']}"
        )
    return found


def _may_be_special(backend, index: int, token: str) -> bool:
    """Whether a token that no file gives a role may have one: it was added to the vocabulary, or is spelled as such tokens are."""
    return index in backend.get_added_tokens_decoder() or SPELLED_AS_SPECIAL.fullmatch(token) is not None


def all_ends(config: Dict, directory: Optional[Path] = None) -> List[int]:
    """The ids that may end a text, by config.json and by the directory's generation_config.json, which transformers generates by.

    Raises:
        ValueError: the file cannot be read, or an id is no whole number.
    """
    path = None if directory is None else directory / GENERATION
    generation = read_json(path) if path is not None and path.is_file() else {}
    return list(dict.fromkeys([*_ids(config, "eos_token_id"), *_ids(generation, "eos_token_id", GENERATION)]))


def _ids(config: Dict, name: str, file: str = "config.json") -> List[int]:
    """The ids that a *file* with the content *config* has under a name: none, one, or several where a text can end in several ways.

    Raises:
        ValueError: it is another kind of value, such as a text.
    """
    value = config.get(name)
    ids = [] if value is None else value if isinstance(value, list) and name == "eos_token_id" else [value]
    if any(type(index) is not int for index in ids):
        raise ValueError(f"{file}: {name} must be a token's number, a whole one, and is {value!r}")
    return ids


def _named(names: Dict, role: str) -> Optional[str]:
    """The token that the tokenizer's files name for a role.

    Raises:
        ValueError: it is no text.
    """
    token = token_of(names, role)
    if not isinstance(token, (str, type(None))) or (token is None and names.get(role) is not None):
        raise ValueError(f"tokenizer_config.json or special_tokens_map.json: {role} must be a text, and is {names[role]!r}")
    return token


def token_before(backend, names: Dict, special: Dict[str, str]) -> Optional[str]:
    """The token that the published tokenizer puts before each text: by ``add_bos_token``, or else as tokenizer.json says.

    Raises:
        ValueError: ``add_bos_token`` is neither true nor false.
    """
    if not isinstance(names.get("add_bos_token"), (bool, type(None))):
        raise ValueError(f"tokenizer_config.json: add_bos_token must be true or false, and is {names['add_bos_token']!r}")
    if names.get("add_bos_token") is not None:
        return (special.get("bos_token") or special["eos_token"]) if names["add_bos_token"] else None
    if backend.post_processor is None:
        return None
    alone, around = (backend.encode("x", add_special_tokens=flag).tokens for flag in (False, True))
    return around[0] if around[: len(alone)] != alone else None
