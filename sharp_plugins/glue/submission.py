"""Predictions in the files that gluebenchmark.com takes: ``index`` and ``prediction``, one file for each test set.

The server wants all its tasks in one zip file, WNLI and the diagnostic AX (predicted by the model of MNLI) among them,
which are not in the paper and not here.
"""

from pathlib import Path
from typing import Sequence

from sharp_plugins.files.writing import write_text
from sharp_plugins.glue.tasks import MOST, Task


def write_submission(directory, task: Task, split: str, indices: Sequence[str], predictions: Sequence) -> Path:
    """Write the file of a test set and return its path.

    Args:
        indices: the rows' numbers in the test file.
        predictions: classes as the files name them, or scores from 0 to 1 as the model predicts them.

    Raises:
        ValueError: there are not as many predictions as rows, or the split is no test set.
    """
    name = task.splits[split].submission
    if not name:
        raise ValueError(f"{task.name}: {split} is no test set")
    if len(indices) != len(predictions):
        raise ValueError(f"{task.name}: {len(predictions)} predictions for {len(indices)} rows of {split}")
    if task.is_regression:
        predictions = [f"{min(max(MOST * value, 0.0), MOST):.3f}" for value in predictions]
    lines = [f"{index}\t{prediction}\n" for index, prediction in zip(indices, predictions)]
    path = Path(directory) / f"{name}.tsv"
    write_text(path, "".join(["index\tprediction\n", *lines]))
    return path
