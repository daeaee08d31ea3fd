"""Prompts with one mask each as batches for an encoder, padded on the right."""

from pathlib import Path
from typing import Dict, List, Optional

import numpy as np
import torch
from fairseq.data import Dictionary, FairseqDataset, data_utils

from sharp_plugins.cloze.layout import MASK
from sharp_plugins.cloze.prepared import PARTS, Prepared


class ClozeDataset(FairseqDataset):
    """Sequences and their classes; in batches of rows of like length where it is no training.

    Args:
        inputs, labels: data sets of int64 tensors with "sizes", such as fairseq's indexed ones; a label is a tensor of one number.
        pad, mask: the dictionary's indices.
        shuffle: whether rows come in random order, as in training, and not by length.

    A batch's ``net_input`` holds "src_tokens" (B, T), "src_lengths" (B,) and "masked_tokens" (B, T), true at each row's mask, where
    alone the model's scores are wanted; its "target" is (B,), the numbers of the classes.

    Example::

        >>> class Rows(list):
        ...     sizes = np.array([4])
        >>> data = ClozeDataset(Rows([torch.tensor([0, 5, 9, 2])]), Rows([torch.tensor([1])]), pad=1, mask=9)
        >>> sample = data.collater([data[0]])
        >>> sample["net_input"]["masked_tokens"], sample["target"]
        (tensor([[False, False,  True, False]]), tensor([1]))
    """

    def __init__(self, inputs, labels, pad: int, mask: int, shuffle: bool = False):
        self.inputs, self.labels, self.pad, self.mask, self.shuffle = inputs, labels, pad, mask, shuffle
        self.sizes = np.asarray(inputs.sizes)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Dict:
        return {"id": index, "input": self.inputs[index], "label": self.labels[index]}

    def collater(self, rows: List[Dict]) -> Optional[Dict]:
        """A batch; empty without rows."""
        if not rows:
            return {}
        tokens = data_utils.collate_tokens([row["input"].long() for row in rows], self.pad)
        lengths = torch.tensor([len(row["input"]) for row in rows])
        return {
            "id": torch.tensor([row["id"] for row in rows]),
            "nsentences": len(rows),
            "ntokens": int(lengths.sum()),
            "net_input": {"src_tokens": tokens, "src_lengths": lengths, "masked_tokens": tokens.eq(self.mask)},
            "target": torch.cat([row["label"].long() for row in rows]),
        }

    def num_tokens(self, index: int) -> int:
        return int(self.sizes[index])

    def num_tokens_vec(self, indices) -> np.ndarray:
        return self.sizes[indices]

    def size(self, index: int) -> int:
        return int(self.sizes[index])

    def ordered_indices(self) -> np.ndarray:
        """By length; with *shuffle* in random order, as in MeZO's code, by NumPy's global generator, as fairseq seeds it."""
        return np.random.permutation(len(self)) if self.shuffle else np.argsort(self.sizes, kind="mergesort")


def load_split(prepared: Prepared, dictionary: Dictionary, split: str, shuffle: bool = False) -> ClozeDataset:
    """A split of prepared data.

    Raises:
        FileNotFoundError: it is not there.

    Example::

        load_split(prepared, prepared.dictionary(), "valid").collater
    """
    place = Path(prepared.directory)
    parts = [data_utils.load_indexed_dataset(str(place / f"{split}.{part}"), dictionary, "mmap") for part in PARTS]
    if None in parts:
        raise FileNotFoundError(f"{place}: no data of {split}; there are {', '.join(prepared.facts)}")
    return ClozeDataset(*parts, dictionary.pad(), dictionary.index(MASK), shuffle)
