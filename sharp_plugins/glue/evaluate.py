"""What a fine-tuned checkpoint predicts for a task's data, and how well."""

from pathlib import Path
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional

import torch

from sharp_plugins.files.checkpoint_config import config_of
from sharp_plugins.glue.submission import write_submission
from sharp_plugins.glue.tasks import TASKS, Task
from sharp_plugins.models.encoder_sizes import check_encoder
from sharp_plugins.models.loading import by_length, load_model, read_state
from sharp_plugins.runs.metrics import scores
from sharp_plugins.runs.prepared import Prepared

BATCH = 64


class Predictions(NamedTuple):
    """Of one split, in the order of its file: classes as the files name them, or numbers from 0 to 1.

    Attributes:
        targets: None where the file has no labels.
    """

    values: List
    targets: Optional[List]


class Checkpoint:
    """A fine-tuned model with its task, on the data of a `Prepared` directory; computes in fp32.

    Args:
        device: where to compute; a GPU where there is one by default.
        tell: is given a line about the progress now and then.

    Raises:
        FileNotFoundError: the checkpoint is not there.
        OSError: it cannot be read now, for want of memory, say.
        ValueError: it is cut off, cannot be read safely, or is no classifier of the task's classes.

    Example::

        Checkpoint("checkpoint_best.pt", read_prepared("glue-bin/RTE")).score()  # {"valid": {"accuracy": 71.5}}
    """

    def __init__(self, path, prepared: Prepared, device: Optional[str] = None, tell: Callable[[str], None] = lambda line: None):
        self.tell = tell
        state = read_state(path)
        self.prepared, self.glue_task = prepared, TASKS[prepared.task]
        outputs, trained_on = max(1, len(self.glue_task.classes)), config_of(state, "task")
        if trained_on.get("_name") != "sentence_prediction" or trained_on.get("num_classes") != outputs:
            raise ValueError(f"{path}: no classifier with {outputs} outputs, as {prepared.task} wants it")
        self.loaded = load_model(path, state, prepared.directory, check_encoder, device)
        self.head = getattr(self.loaded.cfg.criterion, "classification_head_name", None)
        if self.head not in self.loaded.model.classification_heads:
            raise ValueError(f"{path}: no classifier: its weights have no head of the name in its config, {self.head}")

    def check_lengths(self, splits: Iterable[str]) -> None:
        """Raise ValueError where a row of one of the *splits* is longer than the model."""
        room = self.loaded.model.max_positions()
        for split in splits:
            longest = max(int(sizes.max()) for sizes in self.loaded.task.load_dataset(split).sizes)
            if longest > room:
                raise ValueError(
                    f"{self.prepared.directory}: the longest row of {split} has {longest} tokens, and the model {room} positions; "
                    f"prepare the data again with `--max-positions {room}`"
                )

    @torch.no_grad()
    def predict(self, split: str) -> Predictions:
        """Predict for all rows of one of fairseq's splits.

        Raises:
            ValueError: an output is NaN or infinite.
        """
        dataset = self.loaded.task.load_dataset(split)
        values: Dict[int, object] = {}
        targets: Dict[int, object] = {}
        for rows, sample in by_length(dataset, BATCH, self.loaded.device, lambda words: self.tell(f"{split}: {words}")):
            logits = self.loaded.model(**sample["net_input"], features_only=True, classification_head_name=self.head)[0]
            if not logits.isfinite().all():
                raise ValueError(f"{split}: the model's outputs are no finite numbers; its training diverged")
            # (rows, outputs) -> (rows,)
            values.update(zip(rows, named(self.glue_task, logits if self.glue_task.is_regression else logits.argmax(dim=1))))
            if "target" in sample:
                targets.update(zip(rows, named(self.glue_task, sample["target"])))
        order = range(len(dataset))
        return Predictions([values[row] for row in order], [targets[row] for row in order] if targets else None)

    def score(self) -> Dict[str, Dict[str, float]]:
        """The task's metrics in percent, on each split but the training set that has labels.

        Raises:
            ValueError: a row of one of them is longer than the model, or an output is NaN or infinite.
        """
        splits = [split for split in self.prepared.rows if split != "train" and self.has_labels(split)]
        self.check_lengths(splits)  # before any is scored
        result = {}
        for split in splits:
            predictions = self.predict(split)
            result[split] = scores(self.glue_task.metrics, predictions.values, predictions.targets)
        return result

    def has_labels(self, split: str) -> bool:
        """Whether the split's file has them; a published test set has none, and may be large."""
        return any((self.prepared.directory / "label" / f"{split}.{ending}").is_file() for ending in ("idx", "label"))

    def write_submissions(self, directory) -> List[Path]:
        """Write what gluebenchmark.com takes for each test set, and return the files' paths.

        Raises:
            ValueError: see `check_submission`; or an output is NaN or infinite.
        """
        written = []
        for split in self.check_submission():
            index = (self.prepared.directory / "index" / f"{split}.txt").read_text(encoding="utf-8").splitlines()
            written.append(write_submission(directory, self.glue_task, split, index, self.predict(split).values))
        return written

    def check_submission(self) -> List[str]:
        """The test sets.

        Raises:
            ValueError: there is none, it has typing errors, or a row is longer than the model.
        """
        if self.prepared.source.get("typos"):
            raise ValueError(
                f"--submission: the sets in {self.prepared.directory} have typing errors; prepare them without --typos"
            )
        tests = [split for split in self.prepared.rows if split.startswith("test")]
        if not tests:
            raise ValueError(f"--submission: {self.prepared.directory} has no test set")
        self.check_lengths(tests)
        return tests


def named(task: Task, numbers: torch.Tensor) -> List:
    """Scores as they are, and indices of classes as the files' names of them."""
    listed = numbers.view(-1).tolist()
    return listed if task.is_regression else [task.classes[i] for i in listed]
