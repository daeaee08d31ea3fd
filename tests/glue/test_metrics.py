"""The metrics against their formulas, and what is handed to the server."""

import math
import random

import pytest

from sharp_plugins.glue.submission import write_submission
from sharp_plugins.glue.tasks import TASKS
from sharp_plugins.runs.metrics import scores


def random_classes(classes, count=57, seed=0):
    rng = random.Random(seed)
    targets = [rng.choice(classes) for _ in range(count)]
    return [t if rng.random() < 0.7 else rng.choice(classes) for t in targets], targets


def confusion(predictions, targets):
    pairs = list(zip(predictions, targets))
    return [float(pairs.count(pair)) for pair in (("1", "1"), ("1", "0"), ("0", "1"), ("0", "0"))]


@pytest.mark.parametrize("task", ["SST-2", "MRPC", "QQP", "MNLI", "QNLI", "RTE"])
def test_accuracy(task):
    predictions, targets = random_classes(TASKS[task].classes)
    right = sum(p == t for p, t in zip(predictions, targets))
    assert scores(TASKS[task].metrics, predictions, targets)["accuracy"] == pytest.approx(100 * right / len(targets))


@pytest.mark.parametrize("task", ["MRPC", "QQP"])
def test_f1_is_of_the_class_1(task):
    predictions, targets = random_classes(("0", "1"), seed=1)
    tp, fp, fn, _ = confusion(predictions, targets)
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    expected = 100 * 2 * precision * recall / (precision + recall)
    assert scores(TASKS[task].metrics, predictions, targets)["f1"] == pytest.approx(expected)
    assert scores(TASKS[task].metrics, ["0"] * 3, ["0", "1", "1"])["f1"] == 0


def test_matthews():
    predictions, targets = random_classes(("0", "1"), seed=2)
    tp, fp, fn, tn = confusion(predictions, targets)
    expected = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert scores(TASKS["CoLA"].metrics, predictions, targets) == {"mcc": pytest.approx(100 * expected)}
    assert scores(TASKS["CoLA"].metrics, ["1"] * 57, targets) == {"mcc": 0}


def pearson(x, y):
    mx, my = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mx) * (b - my) for a, b in zip(x, y))
    return covariance / math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))


def ranks(x):
    """Mean ranks of equal values."""
    return [sum(b < a for b in x) + (x.count(a) + 1) / 2 for a in x]


def test_correlations():
    rng = random.Random(3)
    targets = [rng.choice((0.0, 0.2, 0.5, 1.0)) for _ in range(40)]
    predictions = [t**3 + 0.2 * rng.random() for t in targets]
    found = scores(TASKS["STS-B"].metrics, predictions, targets)
    assert found["pearson"] == pytest.approx(100 * pearson(predictions, targets))
    assert found["spearman"] == pytest.approx(100 * pearson(ranks(predictions), ranks(targets)))
    assert found["pearson"] != pytest.approx(found["spearman"], abs=0.5)
    assert scores(TASKS["STS-B"].metrics, [0.3] * 40, targets) == {"pearson": 0.0, "spearman": 0.0}


@pytest.mark.parametrize("predictions, targets", [([], []), (["1"], ["1", "0"])])
def test_as_many_predictions_as_rows(predictions, targets):
    with pytest.raises(ValueError, match="predictions for"):
        scores(TASKS["CoLA"].metrics, predictions, targets)


# ---------------------------------------------------------------------- submissions


@pytest.mark.parametrize(
    "task, split, name",
    [(task, "test", f"{task}.tsv") for task in TASKS if task != "MNLI"]
    + [("MNLI", "test", "MNLI-m.tsv"), ("MNLI", "test1", "MNLI-mm.tsv")],
)
def test_each_test_set_has_a_file_of_its_own(tmp_path, task, split, name):
    classes = TASKS[task].classes
    predictions = [classes[0], classes[-1]] if classes else [0.0, 1.0]
    path = write_submission(tmp_path, TASKS[task], split, ["0", "1"], predictions)
    shown = [str(p) for p in predictions] if classes else ["0.000", "5.000"]
    assert path == tmp_path / name
    assert path.read_text() == f"index\tprediction\n0\t{shown[0]}\n1\t{shown[1]}\n"


def test_scores_go_back_to_0_to_5(tmp_path):
    path = write_submission(tmp_path, TASKS["STS-B"], "test", list("0123"), [-0.1, 0.5, 0.76, 1.3])
    assert [line.split("\t")[1] for line in path.read_text().splitlines()[1:]] == ["0.000", "2.500", "3.800", "5.000"]


def test_what_cannot_be_submitted(tmp_path):
    with pytest.raises(ValueError, match="no test set"):
        write_submission(tmp_path, TASKS["RTE"], "valid", ["0"], ["entailment"])
    with pytest.raises(ValueError, match="1 predictions for 2 rows"):
        write_submission(tmp_path, TASKS["RTE"], "test", ["0", "1"], ["entailment"])
    assert list(tmp_path.iterdir()) == []
