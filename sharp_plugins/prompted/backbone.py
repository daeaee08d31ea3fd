"""A decoder that ``python -m sharp_plugins.convert`` wrote, or that was trained: what the data of prompts must know of it."""

from pathlib import Path
from typing import Dict, FrozenSet, NamedTuple, Optional

from fairseq.data import Dictionary

from sharp_plugins.files.checkpoint_config import config_of
from sharp_plugins.files.tensors import read_torch
from sharp_plugins.files.writing import sha256
from sharp_plugins.text.converted import load_tokenizer
from sharp_plugins.text.dictionary import read_dictionary
from sharp_plugins.text.tokenizer import Tokenizer

MODEL, DICTIONARY, TOKENIZER = FILES = ("model.pt", "dict.txt", "tokenizer.json")


class Backbone(NamedTuple):
    """What a directory of `FILES` holds.

    Attributes:
        arch: fairseq's architecture.
        max_positions: the most symbols that it reads.
        start: the symbol that the model has seen before a text, None for none.
        unused: symbols of the dictionary that the published model has not; they have no probability.
        checksums: of dictionary and tokenizer.
    """

    directory: Path
    arch: str
    max_positions: int
    start: Optional[str]
    unused: FrozenSet[str]
    dictionary: Dictionary
    tokenizer: Tokenizer
    checksums: Dict[str, str]


def load_backbone(directory) -> Backbone:
    """Read a converted decoder; of its weights nothing is read.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: the checkpoint is no decoder's, or its tokenizer is not of its dictionary.
        ImportError: tokenizers is not installed.

    Example::

        backbone = load_backbone("backbones/smollm2")
        backbone.max_positions, backbone.start  # 8192, "<|endoftext|>"
    """
    directory = Path(directory)
    for name in FILES:
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"{directory / name}: not there; --backbone wants what `python -m sharp_plugins.convert` wrote of a decoder"
            )
    args = config_of(read_torch(directory / MODEL, mmap=True), "model")
    positions = args.get("max_target_positions")
    if not isinstance(positions, int) or "encoder_layers" in args:
        raise ValueError(
            f"{directory / MODEL}: not a converted decoder: its config has no max_target_positions of a language model"
        )
    dictionary, tokenizer = read_dictionary(directory / DICTIONARY), load_tokenizer(directory)
    symbols = dictionary.symbols[: len(tokenizer.symbols)]  # a task may have added some of its own behind
    if symbols != tokenizer.symbols:
        other = next((pair for pair in zip(symbols, tokenizer.symbols) if pair[0] != pair[1]), ("its last symbols", "nothing"))
        raise ValueError(
            f"{directory}: the tokenizer does not fit: {DICTIONARY} has {other[0]!r} where the tokenizer has {other[1]!r}"
        )
    return Backbone(
        directory=directory,
        arch=str(args.get("arch") or args.get("_name")),
        max_positions=positions,
        start=getattr(tokenizer, "start", dictionary.eos_word),
        unused=frozenset(str(args.get("unused_symbols") or "").split()),
        dictionary=dictionary,
        tokenizer=tokenizer,
        checksums={name: sha256(directory / name) for name in (DICTIONARY, TOKENIZER)},
    )
