"""A validation set some of whose batches bring prompts with them, which are continued while the batch's loss is computed."""

import logging
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch
from fairseq.data import data_utils

from sharp_plugins.prompted.dataset import PromptedDataset, pad_right
from sharp_plugins.prompted.prepared import COMMAND
from sharp_plugins.prompted.references import Reference, read_references, reference_file
from sharp_plugins.text.parts import evenly

logger = logging.getLogger(__name__)


def inputs_of(directory: Path, split: str, sizes: Sequence[int], room: int, count: int) -> List[Reference]:
    """The prompts of *split* in prepared data that validation continues.

    Args:
        sizes: positions of each row. A prompt whose row takes more than *room* is left out, as its row is.
        count: how many, evenly spread; 0 for all.

    Raises:
        ValueError: the data have no references of *split*, or none is left.
    """
    if count < 0:
        raise ValueError(f"--eval-bleu-inputs must be 0 (all prompts) or more, and is {count}")
    path = directory / reference_file(split)
    if not path.is_file():
        raise ValueError(f"--eval-bleu: {path} is not there: make the data again, with `{COMMAND}`, as --valid or --test")
    there = read_references(path, len(sizes))
    fitting = [each for each in there if sizes[each.row] <= room]
    if not fitting:
        raise ValueError(f"--eval-bleu: no prompt of {split} fits into {room} positions")
    if len(fitting) < len(there):
        logger.warning(
            "--eval-bleu: %d of %d prompts of %s are too long, and left out", len(there) - len(fitting), len(there), split
        )
    return evenly(fitting, count or None)


class ValidationDataset(PromptedDataset):
    """A `PromptedDataset` with prompts that are continued.

    Each text is a row of its own, and a prompt with several texts has several rows, but is continued once. So the prompts form
    batches of their own. `share_out` gives one each to the first batches of rows, or several where there are more of them than of
    rows, and the collater puts them there.

    Args:
        inputs: the distinct prompts that are continued, each with a row that has it.

    Example::

        data.share_out(iterator, max_sentences=8)  # fairseq's iterator over the rows
        data.collater([data[0], data[1]])["generation"]  # of each batch of prompts "net_input", as of a sample, and "references"
    """

    def __init__(self, *settings: Any, inputs: Sequence[Reference]):
        super().__init__(*settings)
        self.inputs = inputs
        self.brought: Dict[int, List[List[int]]] = {}  # batches of prompts, by the first row of a batch

    @property
    def lengths(self) -> np.ndarray:
        """Symbols of each prompt that is continued."""
        return np.array([self.prompts.sizes[each.row] for each in self.inputs], dtype=np.int64)

    def share_out(
        self, iterator: Any, max_tokens: Optional[int] = None, max_sentences: Optional[int] = None, max_steps: Optional[int] = None
    ) -> None:
        """Choose which of a rank's batches bring which prompts. Over all ranks each prompt is brought once.

        Args:
            iterator: over the rows, an `EpochBatchIterator` of the rank.
            max_tokens, max_sentences: of a batch of prompts, as of one of rows.
            max_steps: how many batches of rows each rank will read, at most.
        """
        lengths = self.lengths
        order = np.argsort(lengths, kind="mergesort")
        groups = data_utils.batch_by_size(order, lambda number: lengths[number], lengths[order], max_tokens, max_sentences)
        batches = iterator.frozen_batches
        batches = batches[: None if max_steps is None else max_steps * iterator.num_shards]
        self.brought = {}
        for number, group in enumerate(groups):
            place = number % len(batches)
            # A rank without a batch left is given another one's first, for a step that counts nothing: that one brings no prompts.
            if place % iterator.num_shards == iterator.shard_id:
                self.brought.setdefault(int(batches[place][0]), []).append(list(map(int, group)))

    def collater(self, rows: List[Dict]) -> Optional[Dict]:
        """A batch; where it brings prompts, with "generation": batches of them, which are continued one after the other."""
        sample = super().collater(rows)
        groups = self.brought.get(rows[0]["id"], ()) if rows else ()
        if sample and groups:
            sample["generation"] = [self._prompts_of([self.inputs[number] for number in group]) for group in groups]
        return sample

    def _prompts_of(self, chosen: Sequence[Reference]) -> Dict:
        prompts = [self.prompts[each.row].long() for each in chosen]
        inputs = {"src_tokens": pad_right(prompts, self.pad), "src_lengths": torch.tensor([len(prompt) for prompt in prompts])}
        return {"net_input": inputs, "references": [each.texts for each in chosen]}
