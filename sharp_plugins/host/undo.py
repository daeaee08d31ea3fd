"""What an update that is not made must leave as it found it: the weights, random numbers and the buffers of the modules.

Some buffers move with each pass in training mode: a batch norm's running mean and variance, a spectral norm's vectors. Only the
move of the descent is kept, as a plain update has one pass, and each pass begins with the buffers as they were. If the update is
skipped, the values from before it are put back.
"""

from contextlib import contextmanager
from typing import Iterator, List, Optional, Tuple

import torch
from fairseq.optim import AMPOptimizer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sharp_plugins.core.flat import by_kind
from sharp_plugins.host.randomness import RandomState
from sharp_plugins.host.weights import registered_optimizer
from sharp_plugins.optim.base import WrappingOptimizer


class Buffers:
    """The buffers of *modules*.

    Example::

        >>> norm = nn.BatchNorm1d(1)
        >>> buffers = Buffers(norm)
        >>> before = buffers.now()
        >>> _ = norm(torch.tensor([[1.0], [3.0]]))
        >>> buffers.restore(before)
        >>> norm.running_mean
        tensor([0.])
    """

    def __init__(self, *modules: nn.Module):
        every = dict.fromkeys(module for root in modules for module in root.modules())
        # With --broadcast-buffers these send rank 0's to the others in the first pass of an update, and not in those after it.
        self.sending = [module for module in every if isinstance(module, DistributedDataParallel)]
        # By their places: a module may put another tensor there, as fairseq's Fp32BatchNorm does in its first pass.
        self.places: List[Tuple[nn.Module, str]] = [
            (module, name)
            for module in every
            for name, buffer in module._buffers.items()
            if buffer is not None and not _is_expanded(buffer)
        ]

    def now(self) -> List[Optional[Tensor]]:
        here = [module._buffers[name] for module, name in self.places]
        return [None if buffer is None else buffer.clone() for buffer in here]

    def restore(self, values: List[Optional[Tensor]]) -> None:
        """Write them back; a cache that has grown since stays. (Torch counts no write into a batch norm's: all are written.)"""
        here = [module._buffers[name] for module, name in self.places]
        both = [(a, b) for a, b in zip(here, values) if a is not None and b is not None and a.shape == b.shape]
        for group in by_kind([a for a, _ in both]):  # see Perturbation.descend
            torch._foreach_copy_([both[i][0] for i in group], [both[i][1] for i in group])


def _is_expanded(buffer: Tensor) -> bool:
    """Whether elements share their memory: torch refuses to write into such a buffer, so no pass moves it."""
    return any(stride == 0 and size > 1 for size, stride in zip(buffer.size(), buffer.stride()))


class Beginning:
    """The state in which an update of *trainer* begins, besides the weights. `restore` brings it back: before each pass that is to
    see what the base optimizer's only pass would have seen, and when the update has not been made.

    Example::

        beginning = Beginning(trainer, method)
        passes.forward_backward()  # draws random numbers, and moves the buffers
        beginning.restore()
    """

    def __init__(self, trainer, method: WrappingOptimizer):
        if method.buffers is None:
            method.buffers = Buffers(trainer.model, trainer.criterion)
        self.buffers, self.values = method.buffers, method.buffers.now()
        self.is_first_pass = [module.require_forward_param_sync for module in self.buffers.sending]
        self.random, self.optimizer = RandomState(trainer.cfg), trainer.optimizer

    def restore_buffers(self) -> None:
        self.buffers.restore(self.values)
        for module, is_first in zip(self.buffers.sending, self.is_first_pass):
            module.require_forward_param_sync = is_first

    def restore(self) -> None:
        self.restore_buffers()
        self.random.restore()
        if isinstance(self.optimizer, AMPOptimizer) and self.optimizer.scaler.is_enabled():  # fairseq's is off on a CPU
            # The scaler notes whose gradients it has unscaled until the update is made, and refuses to do so twice. It has no
            # public function that forgets it and nothing else.
            self.optimizer.scaler._per_optimizer_states.clear()


def undo(trainer) -> None:
    """Bring back all that an update which has begun, and not been made, has changed; nothing between updates."""
    method = registered_optimizer(trainer)
    if isinstance(method, WrappingOptimizer):
        method.return_to_w()
    beginning = getattr(trainer, "_sharp_beginning", None)
    if beginning is not None:
        beginning.restore()


@contextmanager
def undone_unless_made(trainer, method: WrappingOptimizer) -> Iterator[Beginning]:
    """An update of *trainer*: however it ends, the weights are w, and if it has not been made, all else is as it was too."""
    beginning: Optional[Beginning] = getattr(trainer, "_sharp_beginning", None)
    if beginning is not None:
        # AMP repeats an overflowed update by calling train_step from within itself, at w + ε: the first try was not made.
        undo(trainer)
        yield beginning
        return
    updates = trainer.get_num_updates()
    trainer._sharp_beginning = beginning = Beginning(trainer, method)
    try:
        yield beginning
    finally:
        trainer._sharp_beginning = None
        method.return_to_w()
        if trainer.get_num_updates() == updates:
            beginning.restore()
