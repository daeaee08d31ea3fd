"""Where an update can fail. The phases need no list: they are counted in an update that does not fail."""

import contextlib
import functools
from typing import List, NamedTuple

import pytest
import torch
import toy
from torch.overrides import TorchFunctionMode
from trainers import build, method_of

from sharp_plugins import Perturbation


class Event(NamedTuple):
    """The *number*-th of its name in an update: the end of a forward pass, of a backward pass, of a climb to w + ε, of the
    all-reduce or the clipping of the gradient; the beginning of a way back to w, or of the base optimizer's own update."""

    name: str
    number: int


@contextlib.contextmanager
def watched(trainer, happens):
    """Call *happens*(event) at every event of the updates made inside."""
    counts = {}

    def event(name):
        counts[name] = counts.get(name, 0) + 1
        happens(Event(name, counts[name]))

    def after(name, function):
        def replacement(*args, **kwargs):
            result = function(*args, **kwargs)
            event(name)
            return result

        return replacement

    def before(name, function):
        def replacement(*args, **kwargs):
            event(name)
            return function(*args, **kwargs)

        return replacement

    def before_descent(descend):
        def replacement(perturbation):
            if perturbation.climbed:
                event("descent")
            descend(perturbation)

        return replacement

    model, base = trainer.get_model(), method_of(trainer).base
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "forward", after("forward", model.forward))
        patch.setattr(trainer.optimizer, "backward", after("backward", trainer.optimizer.backward))
        patch.setattr(Perturbation, "climb", after("climb", Perturbation.climb))
        patch.setattr(Perturbation, "descend", before_descent(Perturbation.descend))
        patch.setattr(trainer.optimizer, "all_reduce_grads", after("all-reduce", trainer.optimizer.all_reduce_grads))
        patch.setattr(trainer, "clip_grad_norm", after("clipping", trainer.clip_grad_norm))
        patch.setattr(base, "step", before("base update", base.step))
        yield


@functools.lru_cache(maxsize=None)
def events_of(world, method) -> List[Event]:
    """The events of an update of two micro-batches that does not fail. They are the same in every precision."""
    seen = []
    trainer = build(world, method)
    with watched(trainer, seen.append):
        trainer.train_step(toy.batches(trainer, [4, 4]))
    return seen


@contextlib.contextmanager
def failing(trainer, where: Event, fault):
    """Call *fault* at an event of the update made inside; it has to happen. An assertion that fails names the event."""
    fired = []

    def happens(event):
        if event == where and not fired:
            fired.append(event)
            fault()

    try:
        with watched(trainer, happens):
            yield
        assert fired, "has not happened"
    except AssertionError as error:
        raise AssertionError(f"a fault at {where}: {error}") from error


class Calls(TorchFunctionMode):
    """Notes the calls of torch's functions, methods and properties made inside, and raises Ctrl-C's exception at one.

    Not at those with which torch's no_grad comes and goes: interrupted there, it leaves gradients off for good.
    """

    def __init__(self, interrupt_at=None):
        super().__init__()
        self.names, self.interrupt_at = [], interrupt_at

    @property
    def count(self) -> int:
        return len(self.names)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not torch._C._set_grad_enabled:
            self.names.append(getattr(function, "__name__", str(function)))
            if self.count == self.interrupt_at:
                raise KeyboardInterrupt
        return function(*args, **(kwargs or {}))
