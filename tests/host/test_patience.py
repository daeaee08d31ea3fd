"""What was counted for --patience and --lr-patience comes back with a checkpoint, and from nowhere else."""

import sys
import types

import pytest
import toy
from fairseq_cli import train
from processes import checkpoint

from sharp_plugins.host import patience

PLATEAU = "--lr-scheduler reduce_lr_on_plateau --lr-patience 2 --lr-shrink 0.5".split()


@pytest.fixture(autouse=True)
def no_counts():
    """Before each test and after it, as at the start of a program."""
    patience.restore(0, None)
    yield
    patience.restore(0, None)


def build(data, *flags):
    return toy.build_trainer(data, "--optimizer", "adam", "--lr", "0.1", *flags)


def save(trainer, path):
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}})
    return checkpoint(path)["extra_state"]


def validated(trainer, *losses):
    return [train.should_stop_early(trainer.cfg, loss) for loss in losses]


def counts():
    return {name: value for name, value in vars(train.should_stop_early).items() if name in patience.COUNTS}


@pytest.fixture
def counting(translation_data, tmp_path):
    """A trainer with two validations that were no better, and its checkpoint."""
    trainer = build(translation_data, "--patience", "3")
    assert validated(trainer, 2.0, 3.0, 2.5) == [False] * 3
    assert save(trainer, tmp_path / "checkpoint.pt")["should_stop_early"] == {"best": 2.0, "num_runs": 2}
    return trainer, str(tmp_path / "checkpoint.pt")


def test_a_checkpoint_brings_the_counts_back(counting):
    trainer, path = counting
    validated(trainer, 1.0)  # of another training
    trainer.load_checkpoint(path)
    assert counts() == {"best": 2.0, "num_runs": 2} and validated(trainer, 2.0) == [True]


@pytest.mark.parametrize("reset", [{"reset_optimizer": True}, {"reset_meters": True}, None], ids=["optimizer", "meters", "no file"])
def test_a_new_start_counts_from_zero(counting, reset):
    trainer, path = counting
    trainer.load_checkpoint(path + ".not" if reset is None else path, **(reset or {}))
    assert counts() == {} and validated(trainer, 9.0, 9.0, 9.0) == [False] * 3


def test_without_patience_nothing_is_kept(counting, translation_data, tmp_path):
    other = build(translation_data)
    assert "should_stop_early" not in save(other, tmp_path / "other.pt")
    other.load_checkpoint(counting[1])
    assert counts() == {}
    counting[0].load_checkpoint(str(tmp_path / "other.pt"))
    assert counts() == {}


def test_before_the_first_validation_there_is_nothing_to_keep(translation_data, tmp_path):
    assert "should_stop_early" not in save(build(translation_data, "--patience", "3"), tmp_path / "checkpoint.pt")


def test_the_program_is_the_module(counting, monkeypatch, tmp_path):
    """``python -m fairseq_cli.train``: its function is another one than the imported module's."""
    trainer, path = counting
    program = types.ModuleType("__main__")
    exec("def should_stop_early(): pass", vars(program))
    monkeypatch.setitem(sys.modules, "__main__", program)
    trainer.load_checkpoint(path)
    assert vars(program.should_stop_early) == {"best": 2.0, "num_runs": 2}
    program.should_stop_early.num_runs = 1
    assert save(trainer, tmp_path / "next.pt")["should_stop_early"] == {"best": 2.0, "num_runs": 1}


def test_the_learning_rate_falls_when_it_would_have_without_a_stop(translation_data, tmp_path):
    trainer = build(translation_data, *PLATEAU)
    trainer.train_step(toy.batches(trainer, [4]))
    for loss in (2.0, 2.0, 2.0):
        assert trainer.lr_step(1, loss) == 0.1
    save(trainer, tmp_path / "checkpoint.pt")
    resumed = build(translation_data, *PLATEAU)
    resumed.load_checkpoint(str(tmp_path / "checkpoint.pt"))
    assert resumed.lr_step(2, 2.0) == trainer.lr_step(2, 2.0) == 0.05
