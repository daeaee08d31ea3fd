"""Prompts with candidates as batches for a language model: a row for each candidate, and which rows are an example's.

    example 0, two candidates       p₁ p₂ p₃ a₁            source  p₁ p₂ p₃          target  ·  ·  a₁
                                    p₁ p₂ p₃ b₁ b₂                 p₁ p₂ p₃ b₁               ·  ·  b₁ b₂
    example 1, one more row ...

Rows are padded on the right. Examples may have different numbers of candidates.
"""

from typing import Dict, List, Optional

import numpy as np
import torch
from fairseq.data import FairseqDataset

from sharp_plugins.prompted.dataset import sample_of


class CandidatesDataset(FairseqDataset):
    """Examples in batches of like length.

    Args:
        sequences: a data set of int64 tensors, one for each candidate, with "sizes", such as fairseq's indexed ones.
        counted, answers: data sets with one tensor for each example, see prepared.py.
        only_scored: whether the model computes scores at the positions alone that are counted.
        shuffle: whether examples of one length come in another order in each training.

    Example::

        >>> class Rows(list):
        ...     sizes = property(lambda self: np.array([len(row) for row in self]))
        >>> rows = [torch.tensor(row) for row in ([5, 6], [5, 7, 8], [9, 6], [9, 7])]
        >>> counted, answers = [torch.tensor([1, 2]), torch.tensor([1, 1])], [torch.tensor([0]), torch.tensor([1])]
        >>> data = CandidatesDataset(Rows(rows), Rows(counted), Rows(answers), pad=1)
        >>> sample = data.collater([data[0], data[1]])
        >>> sample["candidates"], sample["answers"], sample["target"].shape
        (tensor([[0, 1],
                [2, 3]]), tensor([0, 1]), torch.Size([4, 2]))
        >>> data.size(0), data.num_tokens(0)  # of the longest candidate, of all
        (2, 3)
    """

    def __init__(self, sequences, counted, answers, pad: int, only_scored=False, shuffle=False):
        self.sequences, self.counted, self.answers, self.pad = sequences, counted, answers, pad
        self.only_scored, self.shuffle = only_scored, shuffle
        read = np.asarray(sequences.sizes) - 1  # the last symbol is not read
        self.starts = np.concatenate([[0], np.cumsum(counted.sizes)])
        self.sizes = np.maximum.reduceat(read, self.starts[:-1])  # positions
        self.symbols = np.add.reduceat(read, self.starts[:-1])

    def __len__(self) -> int:
        return len(self.counted)

    def __getitem__(self, index: int) -> Dict:
        rows = range(int(self.starts[index]), int(self.starts[index + 1]))
        sequences = [self.sequences[row].long() for row in rows]
        return {
            "id": index,
            "sequences": sequences,
            "counted": self.counted[index].tolist(),
            "answers": self.answers[index].tolist(),
        }

    def collater(self, examples: List[Dict]) -> Optional[Dict]:
        """A batch; empty without examples.

        Returns:
            net_input, target: of all candidates, S rows, as `sample_of` has them.
            candidates: (B, M) int64, the rows of each example's candidates, S where it has no more.
            answers: (B,) int64, the candidate to learn.
            right: (B, M), whether a candidate is right.
            nsentences, ntokens: B.
        """
        if not examples:
            return {}
        pairs = [(sequence, count) for example in examples for sequence, count in zip(example["sequences"], example["counted"])]
        prompts, texts = [row[:-count] for row, count in pairs], [row[-count:] for row, count in pairs]
        sample = sample_of(prompts, texts, self.pad, count_prompt=False, only_scored=self.only_scored)
        most = max(len(example["counted"]) for example in examples)
        candidates = torch.full((len(examples), most), len(pairs))
        right = torch.zeros(len(examples), most, dtype=torch.bool)
        row = 0
        for number, example in enumerate(examples):
            count = len(example["counted"])
            candidates[number, :count] = torch.arange(row, row + count)
            right[number, example["answers"]] = True
            row += count
        return {
            "id": torch.tensor([example["id"] for example in examples]),
            "nsentences": len(examples),
            "net_input": sample["net_input"],
            "target": sample["target"],
            "ntokens": len(examples),
            "candidates": candidates,
            "answers": torch.tensor([example["answers"][0] for example in examples]),
            "right": right,
        }

    def num_tokens(self, index: int) -> int:
        """Of all candidates, which is what ``--max-tokens`` counts."""
        return int(self.symbols[index])

    def num_tokens_vec(self, indices) -> np.ndarray:
        return self.symbols[indices]

    def size(self, index: int) -> int:
        """Of the longest candidate, in positions."""
        return int(self.sizes[index])

    def ordered_indices(self) -> np.ndarray:
        """By length; of one length in random order, with *shuffle*, by NumPy's global generator, as fairseq seeds it."""
        indices = np.random.permutation(len(self)) if self.shuffle else np.arange(len(self))
        return indices[np.argsort(self.sizes[indices], kind="mergesort")]

    def batch_by_size(self, indices, max_tokens=None, max_sentences=None, required_batch_size_multiple=1):
        """
        Raises:
            ValueError: an example has more symbols than *max_tokens*.
        """
        largest = int(self.symbols[indices].max(initial=0))
        if max_tokens is not None and largest > max_tokens:
            raise ValueError(
                f"--max-tokens {max_tokens}: an example has {largest} symbols with all its candidates; give at least that many, or "
                "use --batch-size, which counts examples"
            )
        return super().batch_by_size(indices, max_tokens, max_sentences, required_batch_size_multiple)
