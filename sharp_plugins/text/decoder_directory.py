"""A published decoder as ``python -m sharp_plugins.convert`` leaves it: what its files say, and whether they fit together."""

from pathlib import Path
from typing import Any, Dict, FrozenSet, NamedTuple, Optional

from fairseq.data import Dictionary

from sharp_plugins.files.checkpoint_config import config_of
from sharp_plugins.files.tensors import read_torch
from sharp_plugins.text.decoder_tokenizer import FILE, DecoderTokenizer
from sharp_plugins.text.dictionary import read_dictionary

MODEL, DICTIONARY, TOKENIZER = "model.pt", "dict.txt", "tokenizer.json"
FILES = (MODEL, DICTIONARY, TOKENIZER, FILE)
# All that a tokenizer is read from, as published and as converted; some of it may not be there.
TOKENIZER_FILES = (TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", FILE)
WORDS = "decoder.embed_tokens.weight"


class DecoderDirectory(NamedTuple):
    """What a directory of `FILES` holds.

    Attributes:
        model: the settings of the model, as the checkpoint has them.
        max_positions: longest sequence in tokens.
        dictionary, tokenizer: of the same symbols, one for each row of the model's table of words.

    Example::

        found = read_decoder_directory("smollm2")
        found.arch, found.max_positions, found.start  # "sharp_decoder", 8192, "<|endoftext|>"
    """

    directory: Path
    model: Dict[str, Any]
    max_positions: int
    dictionary: Dictionary
    tokenizer: DecoderTokenizer

    @property
    def arch(self) -> str:
        """fairseq's architecture."""
        return str(self.model.get("arch") or self.model.get("_name"))

    @property
    def start(self) -> Optional[str]:
        """The symbol before a text on its own, None for none."""
        return self.tokenizer.start

    @property
    def unused(self) -> FrozenSet[str]:
        """Symbols of the dictionary that the published model has not; they have no probability."""
        return frozenset(str(self.model.get("unused_symbols") or "").split())


def read_decoder_directory(directory) -> DecoderDirectory:
    """Read a converted decoder; its weights are not read.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: the directory holds an encoder, or its files do not fit together.
        ImportError: tokenizers is not installed.

    Example::

        read_decoder_directory("smollm2").start  # "<|endoftext|>"
    """
    directory = Path(directory)
    for name in FILES:
        if not (directory / name).is_file():
            what = "not there; wanted is what `python -m sharp_plugins.convert` wrote of a decoder (GPT-2, OPT, Llama)"
            if name == FILE:
                what = f"{what}, and this seems to be an encoder"
            raise FileNotFoundError(f"{directory / name}: {what}")
    tokenizer, dictionary = DecoderTokenizer.load(directory), read_dictionary(directory / DICTIONARY)
    state = read_torch(directory / MODEL, mmap=True)
    model = config_of(state, "model")
    try:
        positions, rows = int(model["max_target_positions"]), len(state["model"][WORDS])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{directory / MODEL}: not a converted decoder: {type(error).__name__}: {error}") from error
    if rows != len(dictionary):
        raise ValueError(
            f"{directory}: its files do not fit together: {MODEL} has {rows} rows, and {DICTIONARY} {len(dictionary)} symbols"
        )
    check_symbols(directory, dictionary, tokenizer)
    return DecoderDirectory(directory, model, positions, dictionary, tokenizer)


def check_symbols(directory: Path, dictionary: Dictionary, tokenizer: DecoderTokenizer) -> None:
    """Raise ValueError where the symbols of a directory's dictionary are not those of its tokenizer."""
    ours, theirs = dictionary.symbols, tokenizer.symbols
    if ours != theirs:
        other = next((pair for pair in zip(ours, theirs) if pair[0] != pair[1]), None)
        sizes = f"{DICTIONARY} has {len(ours)} symbols, and the tokenizer {len(theirs)}"
        first = f"; {DICTIONARY} has {other[0]!r} where the tokenizer has {other[1]!r}" if other else ""
        raise ValueError(f"{directory}: its files do not fit together: {sizes}{first}")
