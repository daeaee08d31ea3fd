"""An update that fails anywhere leaves the weights, running statistics, the optimizer and the random numbers as if it had not
begun, and no file holds anything else; for every method, in every precision."""

import every_method
import pytest
import torch
import toy
from every_method import Calls, failing
from fairseq.optim import FP16Optimizer
from processes import assert_equal
from torch.overrides import TorchFunctionMode

from sharp_plugins.host.weights import registered_optimizer


class Fault(Exception):
    """Stands for any exception of a criterion, a task or a data set."""


def raiser(error):
    def fault():
        raise error

    return fault


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("contract")


@pytest.fixture
def trainer(translation_data, directory, method, precision, request):
    failed = request.session.testsfailed
    yield every_method.trainer_of(translation_data, method, precision, directory)
    if request.session.testsfailed > failed:
        every_method.forget(method, precision)


@pytest.fixture
def events(translation_data, directory, method):
    return every_method.events_of(translation_data, method, directory)


def assert_crash_checkpoint_holds(directory, before):
    """fairseq writes it for exceptions in forward and backward passes, and for gradients that are not finite."""
    saved = torch.load(directory / "crash.pt")["model"]
    for name, value in before["weights"].items():
        assert torch.equal(saved[name], value.cpu()), f"{name} in crash.pt"
    (directory / "crash.pt").unlink()


@every_method.everywhere()
def test_an_exception(trainer, events, directory, precision):
    before = every_method.everything(trainer)
    samples = toy.batches(trainer, [4, 4])
    for event in events:
        with failing(trainer, event, raiser(Fault())):
            with pytest.raises(Fault):
                trainer.train_step(samples)
            assert_equal(before, every_method.everything(trainer))
            assert (directory / "crash.pt").exists() == (event.name in ("forward", "backward"))
            if (directory / "crash.pt").exists():
                assert_crash_checkpoint_holds(directory, before)


@every_method.everywhere("fp32", "fp16", "memory-efficient-fp16", "amp")  # bf16 and unflattened fp16 go the ways of these
def test_ctrl_c_at_any_call(trainer):
    """Up to the base optimizer's own update; most closely within the method's step, which comes just before that."""
    before = every_method.everything(trainer)
    samples = toy.batches(trainer, [4, 4])
    method, calls, at = registered_optimizer(trainer), Calls(), {}
    step = method.step

    def note_step(*args, **kwargs):
        at["step"] = calls.count
        return step(*args, **kwargs)

    def stop(*args, **kwargs):
        at["base"] = calls.count
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, "step", note_step)
        patch.setattr(method.base, "step", stop)
        with pytest.raises(KeyboardInterrupt), calls:
            trainer.train_step(samples)
    assert_equal(before, every_method.everything(trainer))
    spread = [1 + part * at["step"] // 5 for part in range(5)]
    near = range(at["step"] + 1, at["base"] + 1, max((at["base"] - at["step"]) // 5, 1))
    for number in [*spread, *near]:
        with pytest.raises(KeyboardInterrupt), Calls(interrupt_at=number):
            trainer.train_step(samples)
        try:
            assert_equal(before, every_method.everything(trainer))
        except AssertionError as error:
            raise AssertionError(f"interrupted at call {number} of {at}: {error}") from error


@every_method.everywhere("fp32", "fp16")  # otherwise what is caught and what is not are the same
def test_out_of_memory(trainer, events):
    """In a forward or a backward pass fairseq gives the update up and goes on, unless it is told to raise."""
    before = every_method.everything(trainer)
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
                assert_equal(before, every_method.everything(trainer))


@every_method.everywhere("fp32", "fp16", "memory-efficient-fp16")
def test_a_checkpoint_written_in_the_middle_of_an_update_holds_its_beginning(trainer, events, tmp_path):
    before = every_method.everything(trainer)

    def save():
        trainer.consolidate_optimizer()
        trainer.save_checkpoint(str(tmp_path / "crash.pt"), {})
        raise Fault

    for event in events[:-1]:  # nobody saves from within the base optimizer's update
        with failing(trainer, event, save):
            with pytest.raises(Fault):
                trainer.train_step(toy.batches(trainer, [4, 4]))
            assert_crash_checkpoint_holds(tmp_path, before)


@every_method.everywhere()
def test_training_goes_on_as_if_nothing_had_been(translation_data, tmp_path, trainer, events, method, precision):
    """After a fault at the last event, when all else is done, and after all faults of the tests before."""
    twin = every_method.build(translation_data, method, precision, tmp_path)
    with failing(trainer, events[-1], raiser(KeyboardInterrupt())), pytest.raises(KeyboardInterrupt):
        trainer.train_step(toy.batches(trainer, [4, 4]))
    for each in (trainer, twin):
        each.train_step(toy.batches(each, [3, 5]))
    every_method.forget(method, precision)  # it has made an update
    every_method.assert_alike(every_method.everything(trainer), every_method.everything(twin))


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


@every_method.everywhere()
def test_a_base_optimizer_that_fails_half_way_leaves_what_it_leaves_without_the_method(
    translation_data, tmp_path, method, precision
):
    """Every weight is as it was, or as the base optimizer had left it when it failed: none at w + ε, none only balanced."""
    trainer = every_method.build(translation_data, method, precision, tmp_path)
    before, samples = every_method.everything(trainer), toy.batches(trainer, [4, 4])
    optimizer, noted = registered_optimizer(trainer).base.optimizer, {}
    step = optimizer.step

    def fail(*args, **kwargs):
        noted["found"] = [w.clone() for w in every_method.updated(trainer)]
        try:
            with HalfWay([p for group in optimizer.param_groups for p in group["params"]]):
                step(*args, **kwargs)
        finally:
            noted["left"] = [w.clone() for w in every_method.updated(trainer)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizer, "step", fail)
        with pytest.raises(Fault):
            trainer.train_step(samples)
    was, after, changed = before["updated"], every_method.everything(trainer), 0
    for w, found, left, now in zip(was, noted["found"], noted["left"], after["updated"]):
        is_updated = not torch.equal(found, left)
        changed += is_updated
        assert torch.equal(now, left if is_updated else w)
    assert 0 < changed and (changed < len(was) or precision == "fp16")  # which the base optimizer sees as one flat tensor
    assert method.startswith("bar") != all(map(torch.equal, was, noted["found"]))
    assert_equal(before["random"], after["random"])
    statistics = [name for name in before["weights"] if ".running_" in name or ".num_batches" in name]
    # fairseq writes the half-precision weights last; without master copies they are what the base optimizer updates.
    whole = list(before["weights"]) if isinstance(trainer.optimizer, FP16Optimizer) else statistics
    assert statistics and all(torch.equal(before["weights"][name], after["weights"][name]) for name in whole)
