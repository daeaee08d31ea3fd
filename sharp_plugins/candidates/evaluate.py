"""What a checkpoint chooses among the candidates of prepared data, and how often it is right."""

import json
import math
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from sharp_plugins.candidates.config import CandidatesConfig
from sharp_plugins.candidates.criterion import choice_losses
from sharp_plugins.candidates.prepared import EXAMPLES, read_candidates
from sharp_plugins.candidates.scoring import score_candidates
from sharp_plugins.candidates.task import Candidates
from sharp_plugins.files.text import parse_json, text_lines
from sharp_plugins.models.decoder_check import check_decoder
from sharp_plugins.models.loading import Progress, load_model, read_state


class Choice(NamedTuple):
    """What was chosen for an example.

    Attributes:
        scores: of its candidates.
        chosen: the candidate with the highest score.
        answers: the right ones, the first of them the one to learn.
    """

    scores: List[float]
    chosen: int
    answers: List[int]

    @property
    def is_right(self) -> bool:
        return self.chosen in self.answers


class Choices(NamedTuple):
    """Of a split, in the order of its file.

    Attributes:
        loss: the mean of the examples' cross entropies, to base 2 as fairseq logs it.
        rows: the examples as they were read.

    Example::

        >>> Choices([Choice([-1.0, -2.0], 0, [0]), Choice([-1.0, -2.0], 0, [1])], 0.5, []).scores()
        {'accuracy': 50.0, 'loss': 0.5, 'examples': 2}
    """

    choices: List[Choice]
    loss: float
    rows: List[Dict]

    def scores(self) -> Dict[str, float]:
        """Accuracy in percent, loss, number of examples."""
        right = sum(choice.is_right for choice in self.choices)
        return {"accuracy": 100 * right / len(self.choices), "loss": self.loss, "examples": len(self.choices)}


class Checkpoint:
    """A language model with prepared data; computes in fp32.

    Args:
        path: of a trained model, with LoRA's updates or not, whatever it was trained for, or of a converted one.
        data: directory that ``prepare`` wrote.
        device: where to compute; a GPU where there is one by default.
        tell: is given a line about the progress now and then.

    Raises:
        FileNotFoundError: the checkpoint or the data are not there.
        ValueError: they cannot be used, or are not of one model.

    Example::

        Checkpoint("backbones/opt/model.pt", "DATA").choose("valid").scores()["accuracy"]  # zero-shot
    """

    def __init__(self, path, data, device: Optional[str] = None, tell: Callable[[str], None] = lambda line: None):
        self.prepared, self.tell = read_candidates(data), tell
        state = read_state(path)
        task = Candidates.setup_task(CandidatesConfig(data=str(data), path=str(path)))
        self.loaded = load_model(path, state, data, check_decoder, device, task)

    def splits(self, named: Optional[Sequence[str]] = None) -> List[str]:
        """Those of the data that are *named*; all but the training data without names.

        Raises:
            ValueError: one is not there, there are none, or one has a sequence that is longer than the model.
        """
        there = list(self.prepared.facts)
        missing = [name for name in named or () if name not in there]
        if missing:
            raise ValueError(f"--splits {missing[0]}: {self.prepared.directory} has {', '.join(there)}")
        found = list(dict.fromkeys(named or [split for split in there if split != "train"]))
        if not found:
            raise ValueError(f"{self.prepared.directory} has training data alone: --splits train evaluates on them")
        for split in found:  # before any is scored
            self.check_lengths(split)
        return found

    def check_lengths(self, split: str) -> None:
        """Raise ValueError where a sequence of *split*, be it the training data, has more positions than the model."""
        longest, room = self.prepared.facts.get(split, {}).get("longest", 0), self.loaded.model.max_positions()
        if longest > room:
            prefix = getattr(self.loaded.model.decoder, "prefix", None)
            taken = "" if prefix is None else f" beside its prefix of {prefix.length}"
            raise ValueError(
                f"{self.prepared.directory}: the longest sequence of {split} takes {longest} positions, and the model has {room}"
                f"{taken}; prepare the data again with `--max-positions {room + 1}`"  # symbols, of which the last takes no position
            )

    def choose(self, split: str, batch_size: int = 16) -> Choices:
        """Choose for all examples of a split, *batch_size* prompts at once.

        Raises:
            FileNotFoundError: the split is not there.
            ValueError: a sequence is longer than the model, or a score is NaN or infinite.
        """
        self.check_lengths(split)
        task, decoder = self.loaded.task, self.loaded.model.decoder
        dataset, pad = task.load_dataset(split), task.dictionary.pad()
        order = sorted(range(len(dataset)), key=dataset.size, reverse=True)
        scores: Dict[int, Tensor] = {}
        progress = Progress(len(order), "examples", lambda words: self.tell(f"{split}: {words}"))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            found = score_candidates(decoder, [dataset[row] for row in rows], pad)
            scores.update(zip(rows, (each.cpu() for each in found)))
            progress.tell(len(scores))
        self.tell(f"{split}: {len(order)} examples, {len(order) / max(time.monotonic() - progress.begin, 1e-9):.1f} a second")
        answers = [dataset.answers[row].tolist() for row in range(len(dataset))]
        return choices_of([scores[row] for row in range(len(dataset))], answers, split, self.rows(split))

    def rows(self, split: str) -> List[Dict]:
        """The examples as they were read."""
        path = self.prepared.directory / f"{split}.{EXAMPLES}"
        return [parse_json(line, f"{path}:{number}") for number, line in text_lines(path)]


def choices_of(scores: Sequence[Tensor], answers: Sequence[List[int]], split: str, rows: List[Dict]) -> Choices:
    """`Choices` of the scores (M,) of each example."""
    if not all(bool(each.isfinite().all()) for each in scores):
        raise ValueError(f"{split}: the scores are no finite numbers; the model's training diverged")
    losses = [choice_losses(each[None], torch.tensor(right[:1])) for each, right in zip(scores, answers)]
    choices = [Choice(each.tolist(), int(each.argmax()), right) for each, right in zip(scores, answers)]
    return Choices(choices, float(torch.cat(losses).double().mean()) / math.log(2), rows)


def as_json_lines(choices: Dict[str, Choices]) -> Iterator[str]:
    """A line for each example of each split.

    >>> one = Choices([Choice([-1.0, -2.0], 0, [0])], 0.5, [{"candidates": [" good", " bad"]}])
    >>> print(*as_json_lines({"test": one}))
    {"split": "test", "id": 0, "chosen": 0, "candidate": " good", "answers": [0], "right": true, "scores": [-1.0, -2.0]}
    <BLANKLINE>
    """
    for split, found in choices.items():
        for number, (choice, row) in enumerate(zip(found.choices, found.rows)):
            line: Dict[str, Any] = {"split": split, "id": number, "chosen": choice.chosen}
            line |= {"candidate": row["candidates"][choice.chosen], "answers": choice.answers}
            line |= {"right": choice.is_right, "scores": choice.scores}
            yield json.dumps(line, ensure_ascii=False) + "\n"
