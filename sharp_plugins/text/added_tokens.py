"""The tokens that a published tokenizer has beside its vocabulary, and those that stay in one piece, as in transformers.

`tokenizer_config.json` has them as ``added_tokens_decoder``, with flags. Where it has not, it is older than that, and
``special_tokens_map.json`` and ``added_tokens.json`` count too.
"""

from pathlib import Path
from typing import Any, Dict, Iterable, List

from sharp_plugins.files.text import read_json

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# In RoBERTa's own tokenizer.json it takes the space before it along.
ROBERTA_MASK = "<mask>"


def read_object(path: Path) -> Dict:
    """The object in a JSON file; empty where there is no file."""
    return read_json(path) if path.is_file() else {}


def read_names(directory: Path, config: Dict) -> Dict:
    """What the files name: tokens of roles, and further ones.

    Args:
        config: the content of tokenizer_config.json.
    """
    is_told = "added_tokens_decoder" in config
    return config if is_told else {**config, **read_object(directory / "special_tokens_map.json")}


def token_of(names: Dict, role: str):
    """The token of a role as the files write it: a string, or an object with its content."""
    return _content(names.get(role))


def _content(value: Any):
    return value.get("content") if isinstance(value, dict) else value


def add_tokens(backend, directory: Path, config: Dict, names: Dict) -> None:
    """Add the tokens beside the vocabulary, and keep those in one piece that the files name.

    Args:
        backend: a `tokenizers.Tokenizer`, which is changed.
        config: the content of tokenizer_config.json.
        names: as `read_names` gives it.

    Raises:
        ValueError: a token is not of this form, or would get another id than the files say.
    """
    from tokenizers import AddedToken

    is_told = "added_tokens_decoder" in config
    try:
        named = named_tokens(names)
        if is_told:
            tokens = {int(index): _added(token) for index, token in (config["added_tokens_decoder"] or {}).items()}
        else:
            special = {token.content for token in named}
            tokens = {
                int(index): AddedToken(token, normalized=token not in special, special=token in special)
                for token, index in read_object(directory / "added_tokens.json").items()
            }
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{directory}: its added tokens cannot be read: {error}") from error
    for index, token in sorted(tokens.items()):
        # One that is there already gets other flags. added_tokens.json says none: there those of tokenizer.json stay.
        if is_told or index not in backend.get_added_tokens_decoder():
            (backend.add_special_tokens if token.special else backend.add_tokens)([token])
        if backend.token_to_id(token.content) != index:
            raise ValueError(
                f"{directory}: the vocabulary does not fit: the added token {token.content!r} should be number {index}, and "
                f"is {backend.token_to_id(token.content)}"
            )
    mark_special(backend, named)


def named_tokens(names: Dict) -> List[Any]:
    """The tokens that the files name, of a role or further ones, as `tokenizers.AddedToken` objects.

    Raises:
        ValueError: the further ones are not a list of tokens.
    """
    further = names.get("extra_special_tokens") or names.get("additional_special_tokens") or []  # the older name
    further = list(further.values()) if isinstance(further, dict) else further
    if not isinstance(further, list) or not all(isinstance(_content(token), str) for token in further):
        raise ValueError(f"extra_special_tokens or additional_special_tokens must be a list of tokens, and is {further!r:.200}")
    roles = [value for name, value in names.items() if name.endswith("_token") and isinstance(_content(value), str)]
    return [_added(token) for token in (*roles, *further)]


def mark_special(backend, special: Iterable[Any]) -> None:
    """Keep special tokens of the vocabulary in one piece; where they were added before, this changes nothing.

    Args:
        special: strings, or `tokenizers.AddedToken` objects with flags.
    """
    marked = {token.content for token in backend.get_added_tokens_decoder().values()}
    for token in special:
        token = _added(token) if isinstance(token, str) else token
        if token.content not in marked and backend.token_to_id(token.content) is not None:
            backend.add_special_tokens([token])


def _added(token: Any):
    """A token as a file writes it, a string or an object, with its flags."""
    from tokenizers import AddedToken

    if isinstance(token, str):
        return AddedToken(token, lstrip=token == ROBERTA_MASK, normalized=False)
    return AddedToken(token["content"], **{name: token[name] for name in FLAGS if name in token})
