"""RTE's sentence pairs from GLUE's files, as tensors for `encoder.Classifier`."""

from pathlib import Path
from typing import List, NamedTuple, Sequence

import torch
from torch import Tensor

from sharp_plugins.glue import reader
from sharp_plugins.glue.tasks import TASKS

CLASSES = ("entailment", "not_entailment")


class Pair(NamedTuple):
    premise: str
    hypothesis: str
    label: int  # index into CLASSES


class Batch(NamedTuple):
    tokens: Tensor  # (N, T) indices
    types: Tensor  # (N, T) 0 and 1 for the first and second sentence
    real: Tensor  # (N, T) True for tokens, False for padding
    target: Tensor  # (N,) indices into CLASSES


def read(directory, split: str = "train") -> List[Pair]:
    """The pairs of DIRECTORY/RTE/SPLIT.tsv, GLUE's own layout.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: a row cannot be read.
    """
    path = Path(directory) / "RTE" / f"{split}.tsv"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: --data wants a directory with GLUE's RTE/train.tsv and RTE/dev.tsv")
    rows = reader.read(path, TASKS["RTE"], {"dev": "valid"}.get(split, split)).rows
    return [Pair(*row.sentences, CLASSES.index(row.label)) for row in rows]


def encode(tokenizer, pairs: Sequence[Pair]) -> Batch:
    """One batch of *pairs*, padded to its longest."""
    encoded = tokenizer.encode_batch([(pair.premise, pair.hypothesis) for pair in pairs])
    return Batch(
        torch.tensor([one.ids for one in encoded]),
        torch.tensor([one.type_ids for one in encoded]),
        torch.tensor([one.attention_mask for one in encoded], dtype=torch.bool),
        torch.tensor([pair.label for pair in pairs]),
    )
