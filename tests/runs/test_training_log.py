"""What a run's log tells: its validations, and how it began and ended."""

import json

import pytest

from sharp_plugins.runs.training_log import read_ends, read_trained_weights, read_validations


def write(tmp_path, *entries):
    path = tmp_path / "train.log"
    path.write_text("".join((entry if isinstance(entry, str) else json.dumps({"epoch": 1, **entry})) + "\n" for entry in entries))
    return path


def inner(update, wall):
    return {"num_updates": str(update), "wall": str(wall), "train_wall": "1"}


def valid(update, **metrics):
    return {"valid_num_updates": str(update), "valid_wps": "9", **{f"valid_{name}": str(value) for name, value in metrics.items()}}


def test_validations_and_their_time(tmp_path):
    path = write(
        tmp_path,
        "noise",
        inner(5, 30),
        valid(5, accuracy=50, best_accuracy=50),
        {"valid1_num_updates": "5", "valid1_accuracy": "1"},
        inner(10, 90),
        valid(10, accuracy=60),
        {"train_num_updates": "10", "train_wall": "120", "train_train_wall": "1"},
        '{"epoch": 2, "cut off',
    )
    found = read_validations(path)
    assert found == [(5, 0.5, {"accuracy": 50.0}), (10, 2.0, {"accuracy": 60.0})]
    assert read_validations(tmp_path / "none") == []


def test_a_resumed_run(tmp_path):
    """Killed at update 9, resumed from a checkpoint of update 4: what came after is repeated, and the clock goes on from there."""
    before = [inner(2, 20), inner(4, 40), valid(4, loss=4), inner(6, 60), inner(8, 80), valid(8, loss=9)]
    started, resumed = "No existing checkpoint found a/last.pt", "Loaded checkpoint a/last.pt (epoch 2 @ 4 updates)"
    after = [inner(6, 15), valid(6, loss="nan"), inner(8, 35), valid(8, loss=3), inner(8, 35)]
    path = write(tmp_path, started, *before, resumed, *after)
    found = read_validations(path)
    assert [(one.update, one.metrics) for one in found] == [(4, {"loss": 4.0}), (6, {}), (8, {"loss": 3.0})]
    assert [one.minutes for one in found] == [pytest.approx(seconds / 60) for seconds in (40, 55, 75)]


def test_a_process_that_tells_its_time_late_is_a_new_one_too(tmp_path):
    """A short task tells its time once an epoch: that of the second process is not below the first one's."""

    def epoch(number, wall):
        return [valid(32 * number, loss=number), {"train_num_updates": str(32 * number), "train_wall": str(wall)}]

    def start(path, updates):
        return f"Loaded checkpoint {path} (epoch 1 @ {updates} updates)"

    published = start("b/model.pt", 0)  # twice: the first process was killed before its first checkpoint
    first, second, third = epoch(1, 60), epoch(2, 61), epoch(3, 62)
    path = write(tmp_path, published, published, *first, start("a b/last.pt", 32), *second, start("a b/last.pt", 64), *third)
    assert [one.minutes for one in read_validations(path)] == [pytest.approx(seconds / 60) for seconds in (60, 121, 183)]


def test_first_and_last_value_of_a_metric(tmp_path):
    path = write(
        tmp_path, {"norm_a": "2.5"}, {"norm_a": "nan", "norm_b": "1"}, {"norm_a": "2.0"}, {"train_norm_a": "9", "other": "3"}
    )
    assert read_ends(path, "norm_") == {"norm_a": (2.5, 2.0), "norm_b": (1.0, 1.0)}
    assert read_ends(tmp_path / "none", "norm_") == {}


def test_how_many_weights_train(tmp_path):
    told = [f"... num. {kind} model params: {n} (num. trained: {n})" for kind, n in (("shared", "1,234"), ("expert", "20"))]
    assert read_trained_weights(write(tmp_path, "noise", *told, *told)) == 1254  # a run that was resumed tells it twice
    assert read_trained_weights(write(tmp_path, "noise")) is None is read_trained_weights(tmp_path / "none")
