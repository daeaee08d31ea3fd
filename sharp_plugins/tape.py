"""Drawing the dropout masks of a forward pass once and using them twice.

Both losses of δ-SAM's Eq. 3 see the same dropout masks. Reseeding does that too, but draws every mask a second time, and
torch draws them on one thread of a CPU: a third of a small encoder's forward pass on two. A tape notes the masks of one
pass and hands them out again in the next one over the same samples, bit for bit what reseeding gives.
"""

from contextlib import contextmanager
from typing import Iterator, List

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_BERNOULLI = torch.ops.aten.bernoulli_.float  # what dropout draws its masks with on a CPU


class Tape:
    """The masks of one pass.

    Attributes:
        usable: False where the pass drew other random numbers too, which are not on the tape: reseed instead.
    """

    def __init__(self):
        self.usable = False
        self.masks: List[Tensor] = []  # one byte an entry

    @contextmanager
    def record(self) -> Iterator[None]:
        """Note the masks drawn inside."""
        self.masks, self.usable = [], True
        with _Recorder(self):
            yield

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Hand out the noted masks, in their order; RuntimeError where the pass draws others than the recorded one."""
        with _Player(iter(self.masks)):
            yield


def _is_random(func) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


class _Recorder(TorchDispatchMode):
    def __init__(self, tape: Tape):
        super().__init__()
        self.tape = tape

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is _BERNOULLI:
            self.tape.masks.append(result.bool())
        elif _is_random(func):
            self.tape.usable = False
        return result


class _Player(TorchDispatchMode):
    def __init__(self, masks: Iterator[Tensor]):
        super().__init__()
        self.masks = masks

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is not _BERNOULLI:
            if _is_random(func):
                raise RuntimeError(f"the pass calls {func}, which the recorded one did not")
            return func(*args, **(kwargs or {}))
        mask = next(self.masks, None)
        if mask is None or mask.shape != args[0].shape:
            raise RuntimeError("the pass draws other dropout masks than the recorded one")
        return args[0].copy_(mask)
