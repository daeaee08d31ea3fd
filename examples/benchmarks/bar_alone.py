"""BAR's own code in an update, without what is around it: how long it takes, and whether it makes the host wait.

It must not wait for the device: a GPU would be idle meanwhile, in every update. On a GPU it runs under
``torch.cuda.set_sync_debug_mode("error")``, which raises where the host waits. On a CPU, where nothing waits, the
operations are counted that would wait on a GPU: those whose result the host reads.
"""

import contextlib
import time
from typing import Callable, ContextManager, List
from unittest import mock

import torch
from fairseq.trainer import Trainer
from torch.utils._python_dispatch import TorchDispatchMode

from sharp_plugins.host import update
from sharp_plugins.host.weights import registered_optimizer

aten = torch.ops.aten


class HostReads(TorchDispatchMode):
    """Counts the operations within it whose result, or its shape, the host must know before it goes on."""

    READS = (aten._local_scalar_dense, aten.equal, aten.is_nonzero, aten.nonzero, aten.masked_select, aten._unique2)

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in self.READS
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def refusing_to_wait():
    """Raises RuntimeError where the host waits for a GPU."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextlib.contextmanager
def around_bar(trainer: Trainer, watch: Callable[[], ContextManager]):
    """Within, each piece of BAR's own code in an update runs in a ``watch()``: its preparation, its step, its metrics.

    The base optimizer's update, which is not BAR's, is left out.
    """
    bar = registered_optimizer(trainer)

    def watched(function):
        def wrapper(*given, **named):
            with watch():
                return function(*given, **named)

        return wrapper

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(bar.base, "step", lambda *given, **named: None))
        for owner, name in ((bar, "step"), (update, "prepare_balancing"), (update, "log_balancedness")):
            stack.enter_context(mock.patch.object(owner, name, watched(getattr(owner, name))))
        yield


def host_reads(trainer: Trainer, sample: dict, updates: int) -> int:
    """How often BAR makes the host wait in *updates* of *trainer*, after two that look up the pairs and take memory.

    Raises:
        RuntimeError: on a GPU, at the first time.
    """
    trainer.train_step([sample]), trainer.train_step([sample])
    counter = HostReads()
    with around_bar(trainer, refusing_to_wait if trainer.cuda else lambda: counter):
        for _ in range(updates):
            trainer.train_step([sample])
    return counter.count


def own_seconds(trainer: Trainer, sample: dict, updates: int) -> List[float]:
    """Seconds that BAR's own code takes in each of *updates* of *trainer*, after two that take memory."""
    trainer.train_step([sample]), trainer.train_step([sample])
    settle = torch.cuda.synchronize if trainer.cuda else lambda: None
    seconds: List[float] = []

    @contextlib.contextmanager
    def timed():
        settle()
        start = time.perf_counter()
        yield
        settle()
        seconds[-1] += time.perf_counter() - start

    with around_bar(trainer, timed):
        for _ in range(updates):
            seconds.append(0.0)
            trainer.train_step([sample])
    return seconds
