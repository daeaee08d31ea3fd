"""Gradients that are no finite numbers, in any pass: what fairseq does about them, and nothing else happens."""

import itertools

import pytest
import torch
import toy
from events import events_of, failing, watched
from every_method import promise
from processes import assert_equal
from state import assert_alike, everything
from trainers import HAS_A_SCALER, SCALE, build


def poison(trainer, value):
    def fault():
        params = getattr(trainer.optimizer, "fp16_params", None) or list(trainer.optimizer.params)
        next(p.grad for p in params if p.grad is not None).view(-1)[0] = value

    return fault


def backwards(world, method):
    """The backward passes of an update; one of two micro-batches, of which either may be the bad one."""
    return [event for event in events_of(world, method) if event.name == "backward"]


@promise("fp16 fp16-not-flat memory-efficient-fp16")
def an_overflow_lowers_the_loss_scale_and_skips_the_update(world, method, precision):
    events, trainer = backwards(world, method), build(world, method, precision)
    before = everything(trainer)
    for event in events:
        with failing(trainer, event, poison(trainer, float("inf"))):
            assert trainer.train_step(toy.batches(trainer, [4, 4])) is None
            after = everything(trainer)
            assert trainer.optimizer.scaler.loss_scale == SCALE / 2
            after["scaler"] = before["scaler"]
            after["optimizer"]["loss_scale"] = before["optimizer"]["loss_scale"]
            assert_equal(before, after)
            vars(trainer.optimizer.scaler).update(before["scaler"])
    assert trainer.train_step(toy.batches(trainer, [4, 4])) is not None


@promise("fp32 bf16 memory-efficient-bf16")
def training_without_a_loss_scale_stops_as_in_fairseq(world, method, precision):
    events, path = backwards(world, method), world.directory / "crash.pt"
    trainer = build(world, method, precision)
    before = everything(trainer)
    for event, value in zip(events, itertools.cycle([float("nan"), float("inf")])):
        # fairseq saves crash.pt and runs the update again to find the place of the NaN.
        with failing(trainer, event, poison(trainer, value)):
            with pytest.raises(FloatingPointError, match="gradients are Nan/Inf"):
                trainer.train_step(toy.batches(trainer, [4, 4]))
            assert_equal(before, everything(trainer))
            saved = torch.load(path)["model"]
            toy.assert_same({n: saved[n].to(w.device) for n, w in before["weights"].items()}, before["weights"])
            path.unlink()  # the next event is to write its own


# ---------------------------------------------------------------------- AMP, which tries the same update again


def need_a_scaler():
    if not HAS_A_SCALER:
        pytest.skip("this torch has no GradScaler for a CPU")


@promise("amp")
def amp_repeats_an_overflowed_update_as_if_it_were_the_first_try(world, method, precision):
    """fairseq calls train_step from within itself. Batch norms count one update, and weights come from w."""
    need_a_scaler()
    trainer, twin = (build(world, method, precision) for _ in range(2))
    seen = []
    with watched(twin, seen.append):
        twin.train_step(toy.batches(twin, [4, 4]))
    repeated = []
    last = [event for event in seen if event.name == "backward"][-1]
    with watched(trainer, repeated.append), failing(trainer, last, poison(trainer, float("inf"))):
        trainer.train_step(toy.batches(trainer, [4, 4]))
    assert len(repeated) == 2 * len(seen) - 1  # all but the base optimizer's update were made twice
    ours, theirs = everything(trainer), everything(twin)
    assert ours["updates"] == 2 and ours.pop("scaler")["scale"] == theirs.pop("scaler")["scale"] / 2
    assert_alike(ours, theirs)
    counts = [value for name, value in ours["weights"].items() if name.endswith("num_batches_tracked")]
    assert counts and all(count == 4 for count in counts)  # two updates of two micro-batches


@promise("amp")
def an_update_that_amp_gives_up_leaves_nothing(world, method, precision):
    need_a_scaler()
    trainer = build(world, method, precision)
    before = everything(trainer)

    def poison_every(event):
        if event.name == "backward":
            poison(trainer, float("inf"))()

    tries = trainer.cfg.common.amp_batch_retries + 1
    with watched(trainer, poison_every):
        trainer.train_step(toy.batches(trainer, [4, 4]))
    after = everything(trainer)
    assert after.pop("scaler")["scale"] == before.pop("scaler")["scale"] / 2**tries
    assert_equal(before, after)
    trainer.train_step(toy.batches(trainer, [4, 4]))
    assert trainer.get_num_updates() == 2
