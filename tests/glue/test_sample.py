"""Parts of a training set, wrong labels, and rows that choose the epoch."""

import json
from collections import Counter

import glue_files
import pytest
from glue_models import fairseq_task, read_back

from sharp_plugins.glue.binarize import prepare
from sharp_plugins.glue.sample import Sample, draw
from sharp_plugins.glue.tasks import TASKS
from sharp_plugins.text.encoder_directory import load_backbone

CLASSES = ("a", "b", "c")
LABELS = ["a"] * 60 + ["b"] * 30 + ["c"] * 10


def test_each_class_has_its_share():
    assert Counter(LABELS[row] for row in draw(LABELS, CLASSES, Sample(1, rows=50)).train) == {"a": 30, "b": 15, "c": 5}
    for rows in range(5, 100):
        counts = Counter(LABELS[row] for row in draw(LABELS, CLASSES, Sample(1, rows=rows)).train)
        assert sum(counts.values()) == rows
        for label in CLASSES:
            assert abs(counts[label] - rows * LABELS.count(label) / len(LABELS)) <= 1


def test_a_larger_sample_holds_the_smaller_one_and_the_rows_that_choose_stay():
    drawn = [draw(LABELS, CLASSES, Sample(7, rows, 0.3, selection=20)) for rows in (10, 11, 40, 80)]
    assert all(one.selection == drawn[0].selection for one in drawn)
    for fewer, more in zip(drawn, drawn[1:]):
        assert set(fewer.train) < set(more.train)
    assert not set(drawn[-1].train) & set(drawn[-1].selection) and len(drawn[-1].train) == 80
    assert draw(LABELS, CLASSES, Sample(7, selection=20)).train == drawn[-1].train  # all that are left


def test_seeds_draw_other_rows():
    drawn = {tuple(draw(LABELS, CLASSES, Sample(seed, rows=30)).train) for seed in range(5)}
    assert len(drawn) == 5
    assert draw(LABELS, CLASSES, Sample(1, rows=30)) == draw(LABELS, CLASSES, Sample(1, rows=30))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.9])
def test_a_share_of_the_labels_is_wrong(share):
    drawn = draw(LABELS, CLASSES, Sample(3, rows=80, noise=share, selection=20))
    assert len(drawn.wrong) == round(80 * share) and drawn.wrong.keys() <= set(drawn.train)
    assert all(label in CLASSES and label != LABELS[row] for row, label in drawn.wrong.items())
    more = draw(LABELS, CLASSES, Sample(3, rows=80, noise=min(share + 0.1, 0.99), selection=20))
    assert drawn.wrong.items() <= more.wrong.items()


def test_all_other_classes_become_wrong_labels():
    wrong = draw(["a"] * 300, CLASSES, Sample(1, noise=0.999)).wrong
    assert Counter(wrong.values()).keys() == {"b", "c"} and min(Counter(wrong.values()).values()) > 100


def test_the_rows_that_choose_have_wrong_labels_where_it_is_wanted():
    drawn = draw(LABELS, CLASSES, Sample(3, rows=40, noise=0.25, selection=20, selection_noise=True))
    assert len(drawn.wrong.keys() & set(drawn.train)) == 10 and len(drawn.wrong.keys() & set(drawn.selection)) == 5


@pytest.mark.parametrize(
    "sample, classes, words",
    [
        (Sample(1, rows=101), CLASSES, "--train-rows 101: the training set has 100 rows"),
        (Sample(1, rows=81, selection=20), CLASSES, "--train-rows 81: the training set has 80 rows"),
        (Sample(1, selection=100), CLASSES, "--selection-rows 100: .* none is left"),
        (Sample(1, rows=2), CLASSES, "--train-rows 2: so few rows have none of the class c"),
        (Sample(1, noise=0.1), (), "--label-noise flips classes"),
    ],
)
def test_what_cannot_be_drawn_names_its_flag(sample, classes, words):
    with pytest.raises(ValueError, match=words):
        draw(LABELS, classes, sample)


def test_no_class_goes_to_the_rows_that_choose_alone():
    """Each of the two has its share of five of a and one of b: the one row of b chooses."""
    with pytest.raises(ValueError, match="--selection-rows 3: none of the class b is left to train on; give fewer"):
        draw(["a"] * 5 + ["b"], ["a", "b"], Sample(seed=1, selection=3))


@pytest.mark.parametrize(
    "sample, what",
    [(Sample(1, rows=12, noise=0.04), r"12 training rows \(--train-rows\)"), (Sample(1, 0, 0.1, 4, True), "4 --selection-rows")],
)
def test_a_share_that_is_no_row_is_refused(sample, what):
    with pytest.raises(ValueError, match=f"--label-noise {sample.noise}: of {what} none would be wrong; give more rows or"):
        draw(["a", "b"] * 20, ["a", "b"], sample)


def test_scores_are_drawn_as_one_class():
    assert len(draw(["0.5", "1.0", "4.2", "4.2"], (), Sample(1, rows=3)).train) == 3


@pytest.mark.parametrize("task, choosing", [("RTE", 0), ("MNLI", 6), ("STS-B", 6)])
def test_the_stock_task_reads_the_rows_that_were_drawn(bert, tmp_path, task, choosing):
    written = glue_files.write_task(tmp_path / "data", task, counts=(40, 8, 4))
    backbone, of = load_backbone(bert), TASKS[task]
    noise = 0.25 if of.classes else 0.0
    sample = Sample(5, 12, noise, choosing)
    prepared = prepare(tmp_path / "data", backbone, of, tmp_path / "out", 64, sample=sample)
    whole = prepare(tmp_path / "data", backbone, of, tmp_path / "whole", 64)
    drawn = json.loads((tmp_path / "out" / "sample.json").read_text())
    everything, targets = read_back(whole, backbone, "train")

    def right(label):
        return float(label) / 5 if of.is_regression else of.classes.index(label)

    def expected(rows):
        labels = {int(row): label for row, label in drawn["wrong"].items()}
        return [right(labels.get(row, written["train"][row][1])) for row in rows]

    for split, rows in (("train", drawn["train"]), ("valid", drawn["selection"])):
        if rows:
            tokens, found = read_back(prepared, backbone, split)
            assert tokens == [everything[row] for row in rows]
            assert [float(one[0]) if of.is_regression else one.item() for one in found] == pytest.approx(expected(rows), abs=1e-5)
    assert len(drawn["train"]) == 12 and len(drawn["wrong"]) == round(12 * noise) and len(drawn["selection"]) == choosing
    dev = "dev" if choosing else "valid"
    assert read_back(prepared, backbone, dev) == read_back(whole, backbone, "valid")
    assert prepared.rows.keys() == {"train", "valid", dev}
    assert len(fairseq_task(prepared, backbone).load_dataset("valid")) == prepared.rows["valid"] == (choosing or 8)


def test_another_sample_makes_other_data(bert, tmp_path):
    glue_files.write_task(tmp_path / "data", "RTE", counts=(40, 8, 4))
    how = tmp_path / "data", load_backbone(bert), TASKS["RTE"], tmp_path / "out", 64
    done = [prepare(*how, sample=sample).done_before for sample in (None, None, Sample(1, 9), Sample(1, 9), Sample(2, 9), None)]
    assert done == [False, True, False, True, False, False]
