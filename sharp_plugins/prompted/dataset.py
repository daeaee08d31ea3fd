"""Prompts and texts as batches for a language model: one sequence for each, and what of it the loss counts.

    sequence        p₁ p₂ p₃ t₁ t₂ t₃          a prompt of 3 symbols, a text of 3, the last of them its end
    source          p₁ p₂ p₃ t₁ t₂             what the model reads
    target          ·  ·  t₁ t₂ t₃             what it shall predict there; nothing is counted where padding stands

Rows are padded on the right.
"""

from typing import Dict, List, Optional, Sequence

import numpy as np
import torch
from fairseq.data import FairseqDataset
from torch import Tensor


def pad_right(rows: Sequence[Tensor], pad: int) -> Tensor:
    """(B, T) of *rows* of up to T symbols.

    >>> pad_right([torch.tensor([5, 6]), torch.tensor([7])], pad=1)
    tensor([[5, 6],
            [7, 1]])
    """
    padded = torch.full((len(rows), max(map(len, rows))), pad, dtype=torch.long)
    for row, symbols in zip(padded, rows):
        row[: len(symbols)] = symbols
    return padded


def sample_of(prompts: Sequence[Tensor], texts: Sequence[Tensor], pad: int, count_prompt: bool, only_scored: bool) -> Dict:
    """What the model reads and predicts, by fairseq's names.

    Args:
        prompts, texts: of each row, int64; no text is empty.
        count_prompt: whether the loss counts all symbols but the first.
        only_scored: whether the model shall compute scores of the positions alone that the loss counts. The target then has
            these alone: C columns, as many as the longest text has symbols.

    Returns:
        net_input: "src_tokens" (B, T), "src_lengths" (B,), and with *only_scored* "scored" (B, C), the positions.
        target: (B, T) or (B, C), *pad* where nothing is counted.
        ntokens: how many symbols are counted.
        prompt_lengths: (B,).

    >>> sample = sample_of([torch.tensor([5, 6])], [torch.tensor([7, 2])], pad=1, count_prompt=False, only_scored=False)
    >>> sample["net_input"]["src_tokens"], sample["target"], sample["ntokens"]
    (tensor([[5, 6, 7]]), tensor([[1, 7, 2]]), 2)
    >>> sample = sample_of([torch.tensor([5, 6])], [torch.tensor([7, 2])], pad=1, count_prompt=False, only_scored=True)
    >>> sample["net_input"]["scored"], sample["target"]
    (tensor([[1, 2]]), tensor([[7, 2]]))
    """
    sequences = [torch.cat(pair) for pair in zip(prompts, texts)]
    net_input = {
        "src_tokens": pad_right([sequence[:-1] for sequence in sequences], pad),
        "src_lengths": torch.tensor([len(sequence) - 1 for sequence in sequences]),
    }
    prompt_lengths = torch.tensor([len(prompt) for prompt in prompts])
    if count_prompt:
        target = pad_right([sequence[1:] for sequence in sequences], pad)
    elif only_scored:
        target = pad_right(texts, pad)
        places = prompt_lengths[:, None] - 1 + torch.arange(target.size(1))
        net_input["scored"] = places.minimum(net_input["src_lengths"][:, None] - 1)  # beyond a text: any place, as nothing counts
    else:
        counted = [torch.cat([prompt.new_full((len(prompt) - 1,), pad), text]) for prompt, text in zip(prompts, texts)]
        target = pad_right(counted, pad)
    ntokens = sum(map(len, sequences)) - len(sequences) if count_prompt else sum(map(len, texts))
    return {"net_input": net_input, "target": target, "ntokens": ntokens, "prompt_lengths": prompt_lengths}


def prompts_alone(sample: Dict, pad: int) -> Dict:
    """A sample for generation of one of `sample_of`: the prompts as "src_tokens", the texts as "target", with
    their ends where the data have them.

    >>> sample = sample_of([torch.tensor([5, 6])], [torch.tensor([7, 2])], pad=1, count_prompt=False, only_scored=False)
    >>> alone = prompts_alone(sample, pad=1)
    >>> alone["net_input"]["src_tokens"], alone["target"]
    (tensor([[5, 6]]), tensor([[7, 2]]))
    """
    source, target, lengths = sample["net_input"]["src_tokens"], sample["target"], sample["prompt_lengths"]
    prompts = source[:, : int(lengths.max())]
    columns = torch.arange(prompts.size(1), device=source.device)
    prompts = prompts.masked_fill(columns >= lengths[:, None], pad)
    if "scored" not in sample["net_input"]:  # the texts stand at the ends of their rows
        ends = sample["net_input"]["src_lengths"]
        places = lengths[:, None] - 1 + torch.arange(int((ends - lengths).max()) + 1, device=source.device)
        target = target.gather(1, places.clamp(max=target.size(1) - 1)).masked_fill(places >= ends[:, None], pad)
    return {**sample, "net_input": {"src_tokens": prompts, "src_lengths": lengths}, "target": target}


class PromptedDataset(FairseqDataset):
    """Prompts with their texts, in batches of rows of like length.

    Args:
        prompts, texts: data sets of int64 tensors with "sizes", such as fairseq's indexed ones; None for prompts alone.
        shuffle: whether rows of one length come in another order in each training.
        leave_out_end: whether the texts are without the symbol that ends them.

    Example::

        >>> class Rows(list):
        ...     sizes = np.array([2])
        >>> data = PromptedDataset(Rows([torch.tensor([5, 6])]), Rows([torch.tensor([7, 2])]), pad=1)
        >>> data.collater([data[0]])["target"], data.size(0)
        (tensor([[1, 7, 2]]), 3)
    """

    def __init__(self, prompts, texts, pad: int, count_prompt=False, only_scored=False, shuffle=False, leave_out_end=False):
        self.prompts, self.texts, self.pad = prompts, texts, pad
        self.text_end = -1 if leave_out_end else None
        self.count_prompt, self.only_scored, self.shuffle = count_prompt, only_scored and not count_prompt, shuffle
        self.sizes = np.asarray(prompts.sizes) + (0 if texts is None else np.asarray(texts.sizes) - 1 - leave_out_end)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> Dict:
        text = None if self.texts is None else self.texts[index][: self.text_end]
        return {"id": index, "prompt": self.prompts[index], "text": text}

    def collater(self, rows: List[Dict]) -> Optional[Dict]:
        """A batch; empty without rows."""
        if not rows:
            return {}
        prompts = [row["prompt"].long() for row in rows]
        if self.texts is None:
            lengths = torch.tensor(list(map(len, prompts)))
            inputs = {"src_tokens": pad_right(prompts, self.pad), "src_lengths": lengths}
            sample = {"net_input": inputs, "target": None, "ntokens": int(lengths.sum())}
        else:
            texts = [row["text"].long() for row in rows]
            sample = sample_of(prompts, texts, self.pad, self.count_prompt, self.only_scored)
        return {"id": torch.tensor([row["id"] for row in rows]), "nsentences": len(rows), **sample}

    def num_tokens(self, index: int) -> int:
        return int(self.sizes[index])

    def num_tokens_vec(self, indices) -> np.ndarray:
        return self.sizes[indices]

    def size(self, index: int) -> int:
        return int(self.sizes[index])

    def ordered_indices(self) -> np.ndarray:
        """By length; of one length in random order, with *shuffle*, by NumPy's global generator, as fairseq seeds it."""
        indices = np.random.permutation(len(self)) if self.shuffle else np.arange(len(self))
        return indices[np.argsort(self.sizes[indices], kind="mergesort")]


class Rows(list):
    """Tensors, with their lengths as fairseq's data sets have them.

    Example::

        >>> Rows([torch.tensor([5, 6])], [2]).sizes
        [2]
    """

    def __init__(self, rows, sizes):
        super().__init__(rows)
        self.sizes = sizes
