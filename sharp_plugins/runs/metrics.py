"""Metrics of classifiers and of predicted numbers, by scikit-learn and scipy, in percent."""

from typing import Dict, Sequence

import numpy
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


def _correlation(function):
    """Of numbers of which all are the same there is none; a model that predicts so has learnt nothing: 0 (ours)."""

    def value(targets, predictions):
        if numpy.ptp(targets) == 0 or numpy.ptp(predictions) == 0:
            return 0.0
        return function(targets, predictions)[0]

    return value


def _f1(targets, predictions):
    """Of the class "1", as of GLUE's paraphrases and duplicates."""
    return f1_score(targets, predictions, pos_label="1", zero_division=0.0)


METRICS = {
    "accuracy": accuracy_score,
    "f1": _f1,
    "mcc": matthews_corrcoef,
    "pearson": _correlation(pearsonr),
    "spearman": _correlation(spearmanr),
}


def scores(names: Sequence[str], predictions: Sequence, targets: Sequence) -> Dict[str, float]:
    """Metrics in percent, by name.

    Args:
        names: of `METRICS`.
        predictions, targets: names of classes, or numbers.

    Raises:
        ValueError: they are not equally many, or none.

    >>> scores(["accuracy"], ["entailment", "entailment"], ["entailment", "not_entailment"])
    {'accuracy': 50.0}
    """
    if len(predictions) != len(targets) or not len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} rows")
    return {name: 100 * float(METRICS[name](targets, predictions)) for name in names}
