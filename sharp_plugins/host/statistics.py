"""What an update that is not made must leave as it found it, besides the weights: random numbers and running statistics."""

from typing import List

import torch
from fairseq.optim import AMPOptimizer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from sharp_plugins.host.randomness import RandomState
from sharp_plugins.host.weights import registered_optimizer
from sharp_plugins.optim.base import WrappingOptimizer


class RunningStatistics:
    """The statistics of the batch norms in *modules*, which every pass in training mode moves."""

    def __init__(self, *modules: nn.Module):
        norms = {module for root in modules for module in root.modules() if isinstance(module, _NormBase)}
        self.buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]

    def now(self) -> List[Tensor]:
        return [buffer.clone() for buffer in self.buffers]

    def restore(self, values: List[Tensor]) -> None:
        if values:
            torch._foreach_copy_(self.buffers, values)


class Beginning:
    """The state in which an update of *trainer* begins. `restore` brings it back, before each pass that is to see what the base
    optimizer's only pass would have seen, and when the update has not been made."""

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


def as_if_not_begun(train_step):
    """`Trainer.train_step`, which with the plugin's optimizers leaves nothing of an update that it does not make."""

    def train_step_or_nothing(self, samples, raise_oom=False):
        method = registered_optimizer(self)
        if not isinstance(method, WrappingOptimizer):
            return train_step(self, samples, raise_oom)
        beginning = getattr(self, "_sharp_beginning", None)
        if beginning is not None:
            # AMP repeats an overflowed update by calling train_step from within itself: the first try was not made either.
            beginning.restore()
            return train_step(self, samples, raise_oom)
        updates = self.get_num_updates()
        self._sharp_beginning = Beginning(self, method)
        try:
            return train_step(self, samples, raise_oom)
        finally:
            beginning, self._sharp_beginning = self._sharp_beginning, None
            if self.get_num_updates() == updates:
                beginning.restore()

    return train_step_or_nothing
