"""Gradients that are no finite numbers, in any pass: what fairseq does about them, and nothing else happens."""

import itertools

import every_method
import pytest
import torch
import toy
from every_method import failing, watched
from processes import assert_equal

SCALED = ("fp16", "fp16-not-flat", "memory-efficient-fp16")
UNSCALED = ("fp32", "bf16", "memory-efficient-bf16")


def poison(trainer, value):
    def fault():
        params = getattr(trainer.optimizer, "fp16_params", None) or list(trainer.optimizer.params)
        next(p.grad for p in params if p.grad is not None).view(-1)[0] = value

    return fault


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("contract")


@pytest.fixture
def trainer(translation_data, directory, method, precision):
    return every_method.build(translation_data, method, precision, directory)


@pytest.fixture
def backwards(translation_data, directory, method):
    """The backward passes of an update; one of two micro-batches, of which either may be the bad one."""
    return [event for event in every_method.events_of(translation_data, method, directory) if event.name == "backward"]


@every_method.everywhere(*SCALED)
def test_an_overflow_lowers_the_loss_scale_and_skips_the_update(trainer, backwards):
    before = every_method.everything(trainer)
    for event in backwards:
        with failing(trainer, event, poison(trainer, float("inf"))):
            assert trainer.train_step(toy.batches(trainer, [4, 4])) is None
            after = every_method.everything(trainer)
            assert trainer.optimizer.scaler.loss_scale == every_method.SCALE / 2
            after["scaler"] = before["scaler"]
            after["optimizer"]["loss_scale"] = before["optimizer"]["loss_scale"]
            assert_equal(before, after)
            vars(trainer.optimizer.scaler).update(before["scaler"])
    assert trainer.train_step(toy.batches(trainer, [4, 4])) is not None


@every_method.everywhere(*UNSCALED)
def test_training_without_a_loss_scale_stops_as_in_fairseq(trainer, backwards, directory):
    before = every_method.everything(trainer)
    for event, value in zip(backwards, itertools.cycle([float("nan"), float("inf")])):
        # fairseq saves crash.pt and runs the update again to find the place of the NaN. For a model whose encoder returns a
        # dict of lists, as transformers do, torch then stumbles over fairseq's hooks (StopIteration), plugin or not.
        with failing(trainer, event, poison(trainer, value)):
            with pytest.raises((FloatingPointError, StopIteration)):
                trainer.train_step(toy.batches(trainer, [4, 4]))
            assert_equal(before, every_method.everything(trainer))
            saved = torch.load(directory / "crash.pt")["model"]
            toy.assert_same({n: saved[n].to(w.device) for n, w in before["weights"].items()}, before["weights"])
            (directory / "crash.pt").unlink()  # the next event is to write its own


# ---------------------------------------------------------------------- AMP, which tries the same update again

needs_a_scaler = pytest.mark.skipif(not every_method.HAS_A_SCALER, reason="this torch has no GradScaler for a CPU")


@needs_a_scaler
@every_method.everywhere("amp")
def test_amp_repeats_an_overflowed_update_as_if_it_were_the_first_try(translation_data, tmp_path, trainer, method, precision):
    """fairseq calls train_step from within itself. Batch norms count one update, and weights come from w."""
    twin = every_method.build(translation_data, method, precision, tmp_path)
    seen = []
    with watched(twin, seen.append):
        twin.train_step(toy.batches(twin, [4, 4]))
    backwards = [event for event in seen if event.name == "backward"]
    repeated = []
    with watched(trainer, repeated.append), failing(trainer, backwards[-1], poison(trainer, float("inf"))):
        trainer.train_step(toy.batches(trainer, [4, 4]))
    assert len(repeated) == 2 * len(seen) - 1  # all but the base optimizer's update were made twice
    ours, theirs = every_method.everything(trainer), every_method.everything(twin)
    assert ours["updates"] == 2 and ours.pop("scaler")["scale"] == theirs.pop("scaler")["scale"] / 2
    every_method.assert_alike(ours, theirs)
    counts = [value for name, value in ours["weights"].items() if name.endswith("num_batches_tracked")]
    assert counts and all(count == 4 for count in counts)  # two updates of two micro-batches


@needs_a_scaler
@every_method.everywhere("amp")
def test_an_update_that_amp_gives_up_leaves_nothing(trainer):
    before = every_method.everything(trainer)

    def poison_every(event):
        if event.name == "backward":
            poison(trainer, float("inf"))()

    tries = trainer.cfg.common.amp_batch_retries + 1
    with watched(trainer, poison_every):
        trainer.train_step(toy.batches(trainer, [4, 4]))
    after = every_method.everything(trainer)
    assert after.pop("scaler")["scale"] == before.pop("scaler")["scale"] / 2**tries
    assert_equal(before, after)
    trainer.train_step(toy.batches(trainer, [4, 4]))
    assert trainer.get_num_updates() == 2
