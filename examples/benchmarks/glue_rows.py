"""Rows of GLUE's files, as tensors for `encoder.Classifier`."""

from pathlib import Path
from typing import List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor

from sharp_plugins.glue import reader
from sharp_plugins.glue.tasks import TASKS


class Row(NamedTuple):
    sentences: Tuple[str, ...]  # one or two
    label: int  # index into the task's classes


class Batch(NamedTuple):
    tokens: Tensor  # (N, T) indices
    types: Tensor  # (N, T) 0 and 1 for the first and second sentence
    real: Tensor  # (N, T) True for tokens, False for padding
    target: Tensor  # (N,) indices into the classes


def read(directory, task: str, split: str = "train") -> List[Row]:
    """The rows of DIRECTORY/TASK/SPLIT.tsv, GLUE's own layout.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: a row cannot be read.
    """
    path = Path(directory) / task / f"{split}.tsv"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: --data wants a directory with GLUE's {task}/train.tsv and {task}/dev.tsv")
    of = TASKS[task]
    rows = reader.read(path, of, {"dev": "valid"}.get(split, split)).rows
    return [Row(tuple(row.sentences), of.classes.index(row.label)) for row in rows]


def encode(tokenizer, rows: Sequence[Row]) -> Batch:
    """One batch of *rows*, padded to its longest."""
    encoded = tokenizer.encode_batch([row.sentences if len(row.sentences) > 1 else row.sentences[0] for row in rows])
    return Batch(
        torch.tensor([one.ids for one in encoded]),
        torch.tensor([one.type_ids for one in encoded]),
        torch.tensor([one.attention_mask for one in encoded], dtype=torch.bool),
        torch.tensor([row.label for row in rows]),
    )
