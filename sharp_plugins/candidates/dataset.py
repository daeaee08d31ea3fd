"""Prompts with candidates as batches for a language model: a row for each candidate, and which rows are an example's.

    example 0, candidates of 1 symbol   p₁ p₂ a₁            source  p₁ p₂           targets  a₁, b₁: two candidates, one row
                                        p₁ p₂ b₁
    example 1, candidates of 2 and 1    p₁ p₂ p₃ a₁ a₂      source  p₁ p₂ p₃ a₁     targets  a₁ a₂
                                        p₁ p₂ p₃ b₁                 p₁ p₂ p₃                 b₁

Rows are padded on the right, and candidates of an example that are read alike are one row: so a classification by words of one
symbol reads each prompt once. Examples may have different numbers of candidates.
"""

from typing import Dict, List, Optional

import numpy as np
import torch
from fairseq.data import FairseqDataset
from torch import Tensor

from sharp_plugins.prompted.dataset import pad_right, sample_of


class CandidatesDataset(FairseqDataset):
    """Examples in batches; of like length where it is no training.

    Args:
        sequences: a data set of int64 tensors, one for each candidate, with "sizes", such as fairseq's indexed ones.
        counted, answers: data sets with one tensor for each example, see prepared.py.
        only_scored: whether the model computes scores at the positions alone that are counted.
        shuffle: whether examples come in random order, as in training, and not by length.

    Example::

        >>> class Rows(list):
        ...     sizes = property(lambda self: np.array([len(row) for row in self]))
        >>> rows = [torch.tensor(row) for row in ([5, 6], [5, 7, 8], [9, 6], [9, 7])]
        >>> counted, answers = [torch.tensor([1, 2]), torch.tensor([1, 1])], [torch.tensor([0]), torch.tensor([1])]
        >>> data = CandidatesDataset(Rows(rows), Rows(counted), Rows(answers), pad=1)
        >>> sample = data.collater([data[0], data[1]])
        >>> sample["candidates"], sample["rows"], sample["answers"]
        (tensor([[0, 1],
                [2, 3]]), tensor([0, 1, 2, 2]), tensor([0, 1]))
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
            net_input: of the rows that are read, as `sample_of` has it.
            target: (S, C) int64, the own symbols of the S candidates of all examples, *pad* where one has no more.
            rows, columns: (S,) and (S, C) int64, where the model's output predicts them.
            candidates: (B, M) int64, the places of each example's candidates among all S, S where it has no more.
            answers: (B,) int64, the candidate to learn.
            right: (B, M), whether a candidate is right.
            nsentences, ntokens: B.
        """
        if not examples:
            return {}
        places = torch.full((len(examples), max(len(example["counted"]) for example in examples)), -1)
        right = torch.zeros(places.shape, dtype=torch.bool)
        prompts, texts, rows = [], [], []  # of the rows that are read, and the row of each candidate
        targets: List[Tensor] = []
        for number, example in enumerate(examples):
            alike: Dict = {}  # what is read, and from where on it is counted -> row
            for candidate, (sequence, count) in enumerate(zip(example["sequences"], example["counted"])):
                read = (count, *sequence[:-1].tolist())
                if read not in alike:
                    alike[read] = len(prompts)
                    prompts.append(sequence[:-count])
                    texts.append(sequence[-count:])
                places[number, candidate] = len(targets)
                rows.append(alike[read])
                targets.append(sequence[-count:])
            right[number, example["answers"]] = True
        sample = sample_of(prompts, texts, self.pad, count_prompt=False, only_scored=self.only_scored)
        target, rows = pad_right(targets, self.pad), torch.tensor(rows)
        columns = torch.arange(target.size(1)).repeat(len(target), 1)  # a view of one row could not be pinned for a GPU
        if not self.only_scored:  # beyond a candidate: any place, as nothing counts
            lengths = sample["net_input"]["src_lengths"][rows, None]
            columns = (sample["prompt_lengths"][rows, None] - 1 + columns).minimum(lengths - 1)
        return {
            "id": torch.tensor([example["id"] for example in examples]),
            "nsentences": len(examples),
            "net_input": sample["net_input"],
            "target": target,
            "rows": rows,
            "columns": columns,
            "ntokens": len(examples),
            "candidates": places.masked_fill(places < 0, len(targets)),
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
        """By length; with *shuffle* in random order, as in MeZO's code, by NumPy's global generator, as fairseq seeds it."""
        return np.random.permutation(len(self)) if self.shuffle else np.argsort(self.sizes, kind="mergesort")

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
