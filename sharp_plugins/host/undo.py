"""What an update that is not made must leave as it found it: the weights, random numbers and the running statistics of batch norms.

Each pass in training mode moves a batch norm's running mean and variance. Only the move of the descent is kept, as a plain update
has one pass. If the update is skipped, the values from before it are put back.
"""

from contextlib import contextmanager
from typing import Iterator, List, Optional

import torch
from fairseq.optim import AMPOptimizer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from sharp_plugins.host.randomness import RandomState
from sharp_plugins.host.weights import registered_optimizer
from sharp_plugins.optim.base import WrappingOptimizer


class RunningStatistics:
    """The running means and variances of the batch norms in *modules*.

    Example::

        >>> norm = nn.BatchNorm1d(1)
        >>> statistics = RunningStatistics(norm)
        >>> before = statistics.now()
        >>> _ = norm(torch.tensor([[1.0], [3.0]]))
        >>> statistics.restore(before)
        >>> norm.running_mean
        tensor([0.])
    """

    def __init__(self, *modules: nn.Module):
        norms = {module for root in modules for module in root.modules() if isinstance(module, _NormBase)}
        self.buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]

    def now(self) -> List[Tensor]:
        return [buffer.clone() for buffer in self.buffers]

    def restore(self, values: List[Tensor]) -> None:
        if values:
            torch._foreach_copy_(self.buffers, values)


class Beginning:
    """The state in which an update of *trainer* begins, besides the weights. `restore` brings it back: before each pass that is to
    see what the base optimizer's only pass would have seen, and when the update has not been made.

    Example::

        beginning = Beginning(trainer, method)
        passes.forward_backward()  # draws random numbers, and moves the statistics
        beginning.restore()
    """

    def __init__(self, trainer, method: WrappingOptimizer):
        if method.statistics is None:
            method.statistics = RunningStatistics(trainer.model, trainer.criterion)
        self.statistics, self.values = method.statistics, method.statistics.now()
        self.random, self.optimizer = RandomState(trainer.cfg), trainer.optimizer

    def restore(self) -> None:
        self.statistics.restore(self.values)
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
