"""Checkpoints of a run, as far as the engine reads them."""

from contextlib import nullcontext

import pytest
import torch
from engine import save

from sharp_plugins.runs.checkpoints import BEST, LAST, is_trained, read_checkpoint
from sharp_plugins.runs.settings_check import check_checkpoints


def test_half_a_checkpoint_is_none(tmp_path):
    whole = save(tmp_path / "checkpoint_best.pt")
    assert read_checkpoint(whole)["optimizer_history"][-1] == {"num_updates": 10}
    last = tmp_path / "checkpoint_last.pt"
    assert read_checkpoint(last) is None
    data = whole.read_bytes()
    for length in (0, 3, 100, len(data) // 2, len(data) - 1):
        last.write_bytes(data[:length])
        assert read_checkpoint(last) is None, length


@pytest.mark.parametrize("error", [RuntimeError("unable to mmap: Cannot allocate memory"), OSError(5, "I/O error")], ids=str)
def test_a_whole_checkpoint_that_cannot_be_read_now_is_no_half_one(tmp_path, monkeypatch, error):
    last = save(tmp_path / "checkpoint_last.pt")

    def load(*args, **how):
        raise error

    monkeypatch.setattr(torch.serialization, "load", load)
    with pytest.raises(OSError, match=r"checkpoint_last\.pt: cannot be read: .*(memory|I/O)"):
        read_checkpoint(last)


@pytest.mark.parametrize(
    "limits, updates, epoch, expected",
    [
        ({"max_update": 10}, 9, 5, False),
        ({"max_update": 10}, 10, 1, True),
        ({"max_update": 10, "max_epoch": 3}, 4, 3, False),
        ({"max_update": 10, "max_epoch": 3}, 4, 4, True),  # the epoch to go on in
        ({"stop_time_hours": 0.02}, 4, 4, True),  # the clock is at a minute and a half
        ({"stop_time_hours": 0.03}, 4, 4, False),
        ({}, 99, 99, False),
    ],
)
def test_whether_training_is_over(tmp_path, limits, updates, epoch, expected):
    assert not is_trained(tmp_path, limits)
    save(tmp_path / "checkpoint_last.pt", updates, epoch)
    assert is_trained(tmp_path, limits) is expected


@pytest.mark.parametrize("patience, counts, expected", [(2, 2, True), (2, 1, False), (0, 2, False), (2, None, False)])
def test_training_that_patience_ended_is_over(tmp_path, patience, counts, expected):
    more = {} if counts is None else {"should_stop_early": {"best": 3.0, "num_runs": counts}}
    save(tmp_path / "checkpoint_last.pt", **more)
    assert is_trained(tmp_path, {"max_epoch": 20, "patience": patience}) is expected


@pytest.mark.parametrize(
    "limits, interval, is_fine",
    [
        ({"max_epoch": 3}, 2, False),
        ({"max_epoch": 4}, 2, True),
        ({"max_epoch": 3}, 1, True),
        ({"max_epoch": 3, "max_update": 9}, 2, True),  # where the updates end fairseq saves
        ({"max_update": 9}, 2, True),
    ],
)
def test_the_last_epoch_has_a_checkpoint_where_it_is_measured(limits, interval, is_fine):
    config = {"optimization": limits, "checkpoint": {"save_interval": interval}}
    check_checkpoints(config, "RTE base", LAST, is_placed=False)  # the benchmark may set the number of updates yet
    check_checkpoints(config, "RTE base", BEST)
    with nullcontext() if is_fine else pytest.raises(ValueError, match="save_interval leaves no checkpoint of the last epoch"):
        check_checkpoints(config, "RTE base", LAST)
