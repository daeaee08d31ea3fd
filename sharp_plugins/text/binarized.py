"""Sentences as fairseq's binarized data, by a published tokenizer."""

from pathlib import Path
from typing import List, Sequence

import torch
from fairseq.data import Dictionary, indexed_dataset

from sharp_plugins.text.tokenizer import Tokenizer


def indices_of(texts: Sequence[str], tokenizer: Tokenizer, dictionary: Dictionary) -> List[List[int]]:
    """The dictionary's indices of each text's symbols, without special ones."""
    return [[dictionary.index(symbol) for symbol in line] for line in tokenizer.encode_many(texts)]


def shorten(inputs: Sequence[List[int]], room: int) -> bool:
    """Take from the ends until the inputs of one row have no more than *room* symbols together; whether that was needed.

    The longest input loses a symbol at a time, and of equally long ones the last of them, as in BERT's code.

    >>> first, second = [1, 2, 3, 4], [5, 6]
    >>> shorten([first, second], room=3), first, second
    (True, [1, 2], [5])
    """
    too_long = sum(map(len, inputs)) > room
    while sum(map(len, inputs)) > room:
        max(reversed(inputs), key=len).pop()
    return too_long


def save(path: Path, lines: Sequence[Sequence[int]], dictionary: Dictionary) -> None:
    """Write PATH.bin and PATH.idx, each line with the end of a sentence."""
    builder = indexed_dataset.make_builder(f"{path}.bin", impl="mmap", vocab_size=len(dictionary))
    for line in lines:
        builder.add_item(torch.tensor([*line, dictionary.eos()], dtype=torch.long))
    builder.finalize(f"{path}.idx")
