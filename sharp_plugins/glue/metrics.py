"""GLUE's metrics, by scikit-learn and scipy, in percent."""

from typing import Dict, Sequence

import numpy
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from sharp_plugins.glue.tasks import Task


def _correlation(function):
    """Of numbers of which all are the same there is none; a model that predicts so has learnt nothing: 0 (ours)."""

    def value(targets, predictions):
        if numpy.ptp(targets) == 0 or numpy.ptp(predictions) == 0:
            return 0.0
        return function(targets, predictions)[0]

    return value


METRICS = {
    "accuracy": accuracy_score,
    "mcc": matthews_corrcoef,
    "pearson": _correlation(pearsonr),
    "spearman": _correlation(spearmanr),
}


def scores(task: Task, predictions: Sequence, targets: Sequence) -> Dict[str, float]:
    """The task's metrics in percent.

    Args:
        predictions, targets: classes as the files name them, or numbers in regression.

    Raises:
        ValueError: they are not equally many, or none.
    """
    if len(predictions) != len(targets) or not len(targets):
        raise ValueError(f"{task.name}: {len(predictions)} predictions for {len(targets)} rows")
    result = {}
    for name in task.metrics:
        if name == "f1":  # of the paraphrases and duplicates
            value = f1_score(targets, predictions, pos_label="1", zero_division=0.0)
        else:
            value = METRICS[name](targets, predictions)
        result[name] = 100 * float(value)
    return result
