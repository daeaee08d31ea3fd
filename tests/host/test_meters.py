"""What was measured goes through a checkpoint as plain numbers and tensors, and comes back as it was."""

import numpy
import pytest
import torch
from fairseq.logging import metrics
from fairseq.logging.meters import AverageMeter, MetersDict, SumMeter

from sharp_plugins.files import safe_load


def test_values_in_checkpoints_are_plain_numbers():
    with metrics.aggregate() as log:
        metrics.log_scalar("loss", 1.0)
        metrics.log_derived("pearson", lambda meters: numpy.float64(1.5))
    value = log.get_smoothed_value("pearson")
    assert type(value) is float and value == 1.5
    assert type(log.get_smoothed_values()["pearson"]) is float


def logged(*rounds):
    """A log of what ``--eval-bleu`` and scikit-learn's metrics give."""
    log = MetersDict()
    meters = {"counts": AverageMeter(), "f1": AverageMeter(), "errors": SumMeter(), "loss": AverageMeter(round=3)}
    for name, meter in meters.items():
        log.add_meter(name, meter, 10)
    return more(log, *rounds)


def more(log, *rounds):
    for number in rounds:
        log["counts"].update(numpy.array([number, 2 * number, 0]))
        log["f1"].update(numpy.float64(number) / 3, numpy.int64(2))
        log["errors"].update(numpy.array([[number / 7]], dtype=numpy.float32))
        log["loss"].update(torch.tensor(number / 3))
    return log


@pytest.mark.parametrize("rounds", [(), (5,), (5, 6)], ids=len)
def test_a_log_goes_on_after_loading_as_if_it_had_never_been_saved(tmp_path, rounds):
    torch.save(logged(*rounds).state_dict(), tmp_path / "log.pt")
    loaded = MetersDict()
    loaded.load_state_dict(safe_load.load(tmp_path / "log.pt"))
    whole, parts = logged(*rounds, 7, 8), more(loaded, 7, 8)
    assert list(whole) == list(parts)
    for name in whole:
        for key, value in vars(whole[name]).items():
            other = vars(parts[name])[key]
            assert value == other if key == "round" else numpy.array_equal(value, other), (name, key)
        assert numpy.array_equal(whole.get_smoothed_value(name), parts.get_smoothed_value(name))
    assert type(parts["counts"].sum) is numpy.ndarray and parts["counts"].sum.dtype == whole["counts"].sum.dtype
    assert parts["errors"].sum.dtype == whole["errors"].sum.dtype


def test_what_is_saved_does_not_change_with_what_is_measured_next():
    log = logged(5)
    ((saved,),) = [[state["sum"] for _, name, _, state in log.state_dict() if name == "counts"]]
    log["counts"].sum += 1
    assert saved.tolist() == [5, 10, 0]


def test_fairseq_without_the_plugin_adds_to_the_tensors():
    for _, name, _, state in logged(5).state_dict():
        if name == "counts":
            meter = AverageMeter()
            meter.load_state_dict(state)
            meter.update(numpy.array([1, 1, 1]))
            assert meter.sum.tolist() == [6, 11, 1] and meter.avg.tolist() == [3, 5.5, 0.5]
