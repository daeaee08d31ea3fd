"""Pairs of views of texts, tokenised when they are wanted."""

import hashlib
from typing import Dict, List, Sequence

import numpy
import torch
from fairseq.data import Dictionary, FairseqDataset
from torch import Tensor

from sharp_plugins.contrastive.views import generator_of, mask_span
from sharp_plugins.text.tokenizer import Tokenizer

# Which stream of random numbers orders the texts; `generator_of` has the spans' own.
ORDER = 1
ALONE = "a pair is compared with others of its batch; 2 or more are needed"


class PairsOfViews(FairseqDataset):
    """A text as it is, and with a span masked, for each of *texts*.

    Args:
        texts: as they were read.
        tokenizer: a converted encoder's.
        dictionary: the tokenizer's symbols as fairseq's indices.
        length: the most symbols of a view, the two around it included; more are cut off.
        span, mask: characters that are masked in the second view, and what stands for them; a span of 0 masks none.
        is_padded: whether all rows are padded to *length*, or else to the longest of the batch.
        seed: of orders and spans.
        is_train: texts are in another order and have other spans in each epoch, and a batch that is not full is left out.
        multiple: of training batches, so many, or a multiple of it, are made: as many as there are workers.

    Example, two texts of which one is too short for a span::

        pairs = PairsOfViews(["A man is playing a large flute outside.", "A cat."], tokenizer, dictionary, length=50)
        sample = pairs.collater([pairs[0], pairs[1]])
        sample["net_input"]["src_tokens"]  # (4, T): both texts as they are, then both second views
    """

    def __init__(
        self,
        texts: Sequence[str],
        tokenizer: Tokenizer,
        dictionary: Dictionary,
        length: int,
        span: int = 5,
        mask: str = "[MASK]",
        is_padded: bool = False,
        is_train: bool = False,
        seed: int = 1,
        multiple: int = 1,
    ):
        super().__init__()
        self.texts, self.tokenizer, self.dictionary, self.length = texts, tokenizer, dictionary, length
        self.span, self.mask, self.is_padded, self.is_train, self.seed, self.multiple = (
            span,
            mask,
            is_padded,
            is_train,
            seed,
            multiple,
        )
        self.epoch = 1

    # Each epoch has an order of its own, and so batches of its own.
    can_reuse_epoch_itr_across_epochs = False

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, number: int) -> Dict:
        text = self.texts[number]
        random = generator_of(self.seed, self.epoch if self.is_train else 0, number)
        return {"id": number, "first": text, "second": mask_span(text, random, self.span, self.mask)}

    def num_tokens(self, number: int) -> int:
        return 2 * self.length  # at most; they are not counted before they are wanted

    def size(self, number: int) -> int:
        return self.length

    def num_tokens_vec(self, numbers) -> numpy.ndarray:
        return numpy.full(len(numbers), 2 * self.length)

    def ordered_indices(self) -> numpy.ndarray:
        if not self.is_train:
            return numpy.arange(len(self))
        return numpy.random.default_rng([ORDER, self.seed, self.epoch]).permutation(len(self))

    def batch_by_size(self, indices, max_tokens=None, max_sentences=None, required_batch_size_multiple=1) -> List:
        """In training as many pairs as ``--batch-size`` says: fairseq would round it down to a multiple of 8. In validation no text
        is left out, and the batches are of one size, or differ by one pair: a pair alone has a loss of 0 and is always right. So
        where batches of two are asked for, one of an odd number has three.

        Raises:
            ValueError: a batch would have one pair alone, or in training fewer than ``--batch-size``.
        """
        if max_sentences == 1:
            raise ValueError(
                f"{'--batch-size' if self.is_train else '--batch-size-valid (fairseq-validate: --batch-size)'} 1: {ALONE}"
            )
        if not self.is_train:
            if max_tokens is not None and max_tokens < 4 * self.length:
                words = f"a pair may have {2 * self.length} (--max-length), and {ALONE}"
                raise ValueError(f"--max-tokens-valid (fairseq-validate: --max-tokens) {max_tokens}: {words}")
            batches = super().batch_by_size(indices, max_tokens, max_sentences, 1)
            return numpy.array_split(indices, max(1, min(len(batches), len(indices) // 2)))
        if max_tokens is not None and max_sentences is not None and 2 * self.length * max_sentences > max_tokens:
            raise ValueError(f"--max-tokens {max_tokens} is less than a batch of {max_sentences} pairs may have (--batch-size)")
        batches = super().batch_by_size(indices, max_tokens, max_sentences, 1)
        full = [batch for batch in batches if len(batch) == len(batches[0])]
        return full[: len(full) // self.multiple * self.multiple]

    def rows(self, texts: Sequence[str]) -> Tensor:
        """(B, T) int64, ``<s> text </s>`` each, padded on the right."""
        return rows_of(texts, self.tokenizer, self.dictionary, self.length, self.is_padded)

    def collater(self, samples: Sequence[Dict]) -> Dict:
        if not samples:
            return {}
        tokens = self.rows([sample["first"] for sample in samples] + [sample["second"] for sample in samples])
        # The lengths are numbers of the host: the criterion cuts rows to them, and shall not wait for a device. A text may spell
        # the padding symbol, so the last other symbol counts.
        places = torch.arange(1, tokens.size(1) + 1)
        ends = (tokens.ne(self.dictionary.pad()) * places).amax(1)
        lengths, by_length = ends.sort(stable=True)
        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "nsentences": len(samples),
            "ntokens": int(lengths.sum()),
            "lengths": lengths.tolist(),
            "by_length": by_length,
            "groups": torch.tensor([group_of(row[:end]) for row, end in zip(tokens[: len(samples)], ends)]),
            "net_input": {"src_tokens": tokens},
        }


def group_of(symbols: Tensor) -> int:
    """A number of 63 bits that equal texts share, on all workers: texts are equal where the model is given the same symbols.

    Args:
        symbols: (T,) int64, without padding.

    >>> group_of(torch.tensor([0, 8, 2])) == group_of(torch.tensor([0, 8, 2, 1])[:3]) != group_of(torch.tensor([0, 9, 2]))
    True
    """
    return int.from_bytes(hashlib.blake2b(symbols.numpy().tobytes(), digest_size=8).digest(), "big") >> 1


def rows_of(texts: Sequence[str], tokenizer: Tokenizer, dictionary: Dictionary, length: int, is_padded: bool) -> Tensor:
    """(B, T) int64, ``<s> text </s>`` each, cut to *length* symbols, padded on the right to it or to the longest."""
    rows = []
    for symbols in tokenizer.encode_many(texts):
        inner = [dictionary.index(symbol) for symbol in symbols[: length - 2]]
        rows.append([dictionary.bos(), *inner, dictionary.eos()])
    width = length if is_padded else max(map(len, rows))
    return torch.tensor([row + [dictionary.pad()] * (width - len(row)) for row in rows])
