"""An update that fails anywhere leaves the weights, running statistics, the optimizer and the random numbers as if it had not
begun, and no file holds anything else."""

import copy
import time

import pytest
import torch
import toy
from events import Calls, events_of, failing
from every_method import promise
from fairseq.optim import FP16Optimizer
from processes import assert_equal
from state import assert_alike, everything, updated
from torch.overrides import TorchFunctionMode
from trainers import build, forget, method_of, shared

from sharp_plugins import Perturbation
from sharp_plugins.optim.base import STATE_KEY

# Of these fairseq itself says: an exception in a forward or a backward pass is worth a crash.pt. A climb is part of a pass.
WRITES_CRASH = {
    **dict.fromkeys(("forward", "backward", "climb"), True),
    **dict.fromkeys(("all-reduce", "clipping", "base update"), False),
}


def writes_crash(event, events) -> bool:
    """The last way back to w is the optimizer's own; one before it is part of a pass, too."""
    return event != [one for one in events if one.name == "descent"][-1] if event.name == "descent" else WRITES_CRASH[event.name]


def climbs(events) -> bool:
    return any(event.name == "climb" for event in events)


class Fault(Exception):
    """Stands for any exception of a criterion, a task or a data set."""


def raiser(error):
    def fault():
        raise error

    return fault


def assert_crash_checkpoint_holds(path, before):
    """fairseq writes it for exceptions in forward and backward passes, and for gradients that are not finite."""
    saved = torch.load(path)
    for name, value in before["weights"].items():
        assert torch.equal(saved["model"][name], value.cpu()), f"{name} in {path.name}"
    state = saved["last_optimizer_state"]
    for name, value in before["optimizer"].items():
        if name != STATE_KEY:  # to which the trainer adds
            assert_equal(on_cpu(state[name]), on_cpu(value), f"{name} of the optimizer in {path.name}")
    masters = state.get(STATE_KEY, {}).get("fp32_params")
    if masters is not None:  # one for each weight, where what is updated may be flat
        ours, theirs = (torch.cat([value.cpu().reshape(-1) for value in values]) for values in (masters, before["updated"]))
        assert torch.equal(ours, theirs), f"master copies in {path.name}"
    path.unlink()


def on_cpu(state):
    if isinstance(state, dict):
        return {name: on_cpu(value) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [on_cpu(value) for value in state]
    return state.cpu() if torch.is_tensor(state) else state


@promise(of_criterions="fp32")
def an_exception_leaves_nothing(world, method, precision):
    path = world.directory / "crash.pt"
    path.unlink(missing_ok=True)
    events = events_of(world, method)
    with shared(world, method, precision) as trainer:
        before = everything(trainer)
        samples = toy.batches(trainer, [4, 4])
        for event in events:
            with failing(trainer, event, raiser(Fault())):
                with pytest.raises(Fault):
                    trainer.train_step(samples)
                assert_equal(before, everything(trainer))
                assert path.exists() == writes_crash(event, events)
                if path.exists():
                    assert_crash_checkpoint_holds(path, before)


@promise()
def ctrl_c_at_any_call_leaves_nothing(world, method, precision):
    """Up to the base optimizer's own update; most closely on the ways to perturbed weights, and within the method's step."""
    with shared(world, method, precision) as trainer:
        before = everything(trainer)
        samples = toy.batches(trainer, [4, 4])
        optimizer, calls, at, ways = method_of(trainer), Calls(), {}, []
        step = optimizer.step

        def noting(way):
            def noted(*args, **kwargs):
                begin = calls.count
                result = way(*args, **kwargs)
                ways.append((begin, calls.count))
                return result

            return noted

        def note_step(*args, **kwargs):
            at["step"] = calls.count
            return step(*args, **kwargs)

        def stop(*args, **kwargs):
            at["base"] = calls.count
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(optimizer, "step", note_step)
            patch.setattr(optimizer.base, "step", stop)
            for name in ("climb", "perturb_randomly"):
                patch.setattr(Perturbation, name, noting(getattr(Perturbation, name)))
            with pytest.raises(KeyboardInterrupt), calls:
                trainer.train_step(samples)
        assert_equal(before, everything(trainer))
        spread = [1 + part * at["step"] // 5 for part in range(5)]
        near = [
            number
            for begin, end in (*ways, (at["step"], at["base"]))
            for number in range(begin + 1, end + 1, max((end - begin) // 5, 1))
        ]
        assert len(ways) == (0 if "sam" not in method.logs or not climbs(events_of(world, method)) else 1 + ("dsam" in method.logs))
        for number in [*spread, *near]:
            with pytest.raises(KeyboardInterrupt), Calls(interrupt_at=number):
                trainer.train_step(samples)
            try:
                assert_equal(before, everything(trainer))
            except AssertionError as error:
                raise AssertionError(f"interrupted at call {number} of {at}: {error}") from error


@promise()
def out_of_memory_leaves_nothing(world, method, precision):
    """In a forward or a backward pass fairseq gives the update up and goes on, unless it is told to raise."""
    events = events_of(world, method)
    with shared(world, method, precision) as trainer:
        before = everything(trainer)
        samples = toy.batches(trainer, [4, 4])
        for event in events:
            is_survived = event.name in ("forward", "backward")
            for raise_oom in (False, True):
                with failing(trainer, event, raiser(RuntimeError("CUDA out of memory"))):
                    if is_survived and not raise_oom:
                        assert trainer.train_step(samples) is None
                    else:
                        with pytest.raises(RuntimeError, match="out of memory"):
                            trainer.train_step(samples, raise_oom=raise_oom)
                    assert_equal(before, everything(trainer))


@promise(of_criterions="fp32")
def a_checkpoint_in_the_middle_of_an_update_holds_its_beginning(world, method, precision):
    path, events = world.directory / "middle.pt", events_of(world, method)
    with shared(world, method, precision) as trainer:
        before = everything(trainer)

        def save():
            trainer.consolidate_optimizer()
            trainer.save_checkpoint(str(path), {})
            raise Fault

        for event in events[:-1]:  # nobody saves from within the base optimizer's update
            with failing(trainer, event, save):
                with pytest.raises(Fault):
                    trainer.train_step(toy.batches(trainer, [4, 4]))
                assert_crash_checkpoint_holds(path, before)


@promise()
def a_checkpoint_that_cannot_be_written_leaves_nothing(world, method, precision):
    """Between two updates, on a disk that is full."""
    path = world.directory / "full.pt"
    with shared(world, method, precision) as trainer, pytest.MonkeyPatch.context() as patch:
        before = everything(trainer)
        patch.setattr(time, "sleep", lambda seconds: None)  # fairseq waits, and tries twice more
        patch.setattr(torch, "save", lambda *args, **kwargs: raiser(OSError("no space left on device"))())
        with pytest.raises(OSError, match="no space"):
            trainer.consolidate_optimizer()
            trainer.save_checkpoint(str(path), {})
        assert_equal(before, everything(trainer))
        assert not path.exists()


@promise()
def training_goes_on_as_if_nothing_had_been(world, method, precision):
    """After a fault at the last event, when all else is done, and after all faults of the promises above."""
    twin, last = build(world, method, precision), events_of(world, method)[-1]
    with shared(world, method, precision) as trainer:
        with failing(trainer, last, raiser(KeyboardInterrupt())), pytest.raises(KeyboardInterrupt):
            trainer.train_step(toy.batches(trainer, [4, 4]))
        for each in (trainer, twin):
            each.train_step(toy.batches(each, [3, 5]))
        assert_alike(everything(trainer), everything(twin))
    forget(world, method, precision)  # it has made an update


# ---------------------------------------------------------------------- the base optimizer's own failure


class HalfWay(TorchFunctionMode):
    """Fails as soon as half of the *tensors* are no longer what they were."""

    def __init__(self, tensors):
        super().__init__()
        self.tensors, self.found = tensors, [t.detach().clone() for t in tensors]

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        changed = sum(not torch.equal(t, found) for t, found in zip(self.tensors, self.found))
        if 2 * changed >= len(self.tensors):
            raise Fault
        return result


@promise()
def a_base_optimizer_that_fails_half_way_leaves_what_it_leaves_alone(world, method, precision):
    """Every weight is as it was, or as the base optimizer had left it when it failed: none at w + ε, none only balanced."""
    trainer = build(world, method, precision)
    before, samples = everything(trainer), toy.batches(trainer, [4, 4])
    optimizer, noted = method_of(trainer).base.optimizer, {}
    step = optimizer.step

    def fail(*args, **kwargs):
        noted["found"] = [w.clone() for w in updated(trainer)]
        try:
            with HalfWay([p for group in optimizer.param_groups for p in group["params"]]):
                step(*args, **kwargs)
        finally:
            noted["left"] = [w.clone() for w in updated(trainer)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizer, "step", fail)
        with pytest.raises(Fault):
            trainer.train_step(samples)
    was, after, changed = before["updated"], everything(trainer), 0
    for w, found, left, now in zip(was, noted["found"], noted["left"], after["updated"]):
        is_updated = not torch.equal(found, left)
        changed += is_updated
        assert torch.equal(now, left if is_updated else w)
    assert 0 < changed and (changed < len(was) or precision == "fp16")  # which the base optimizer sees as one flat tensor
    # BAR has moved the weights by then, and those that climb are back at w.
    assert ("bar_alpha" in method.logs) != all(map(torch.equal, was, noted["found"]))
    assert_kept_but_for_what_is_updated(trainer, before, after)


@promise()
def a_failure_after_the_base_optimizers_update_leaves_that_and_nothing_else(world, method, precision):
    """Before fairseq has counted the update: the weights stay updated, and the numbers and statistics are as before it."""
    trainer = build(world, method, precision)
    before, samples = everything(trainer), toy.batches(trainer, [4, 4])
    optimizer, left = method_of(trainer), {}
    step = optimizer.step

    def fail(*args, **kwargs):
        step(*args, **kwargs)
        left.update(updated=[w.clone() for w in updated(trainer)], optimizer=copy.deepcopy(optimizer.base.state_dict()))
        raise Fault

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizer, "step", fail)
        with pytest.raises(Fault):
            trainer.train_step(samples)
    after = everything(trainer)
    assert not any(map(torch.equal, before["updated"], left["updated"]))
    assert_equal(left, {"updated": after["updated"], "optimizer": optimizer.base.state_dict()})
    assert_kept_but_for_what_is_updated(trainer, before, after)


def assert_kept_but_for_what_is_updated(trainer, before, after):
    for name in ("random", "cuda", "updates"):
        assert_equal(before[name], after[name])
    statistics = [name for name in before["weights"] if ".running_" in name or ".num_batches" in name]
    # fairseq writes the half-precision weights last; without master copies they are what the base optimizer updates.
    whole = list(before["weights"]) if isinstance(trainer.optimizer, FP16Optimizer) else statistics
    assert statistics and all(torch.equal(before["weights"][name], after["weights"][name]) for name in whole)
