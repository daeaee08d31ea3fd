"""Drawing the dropout masks of a forward pass once and using them twice.

Both losses of δ-SAM's Eq. 3 see the same dropout masks. Reseeding does that too, but draws every mask a second time, and
torch draws them on one thread of a CPU: a third of a small encoder's forward pass on two. A tape notes the masks of one
pass, and the state of the random generator after each; the next pass over the same samples takes both from it. So
everything is bit for bit as after reseeding, other random functions and recomputed activations included.
"""

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_BERNOULLI = torch.ops.aten.bernoulli_.float  # what dropout draws its masks with on a CPU

Draw = Tuple[Tensor, Tensor]  # a mask, one byte an entry, and the generator's state after it


class Tape:
    """The masks of one pass.

    Example::

        >>> tape, x = Tape(), torch.ones(100)
        >>> with tape.record():
        ...     first = torch.nn.functional.dropout(x)
        >>> with tape.replay():
        ...     second = torch.nn.functional.dropout(x)
        >>> torch.equal(first, second)
        True
    """

    def __init__(self) -> None:
        self.draws: List[Draw] = []

    @contextmanager
    def record(self) -> Iterator[None]:
        """Note the masks drawn inside."""
        self.draws = []
        with _Recorder(self.draws):
            yield

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Hand out the noted masks in their order. A pass that draws others than the recorded one draws them itself, from
        the first that differs on; the generator is where it would be without a tape."""
        with _Player(iter(self.draws)):
            yield


def _is_mask(func: Callable, kwargs: Optional[Dict[str, Any]]) -> bool:
    return func is _BERNOULLI and not (kwargs or {}).get("generator")


class _Recorder(TorchDispatchMode):
    def __init__(self, draws: List[Draw]):
        super().__init__()
        self.draws = draws

    def __torch_dispatch__(self, func: Callable, types: Any, args: Tuple = (), kwargs: Optional[Dict[str, Any]] = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if _is_mask(func, kwargs):
            self.draws.append((result.bool(), torch.get_rng_state()))
        return result


class _Player(TorchDispatchMode):
    def __init__(self, draws: Iterator[Draw]):
        super().__init__()
        self.draws = draws

    def __torch_dispatch__(self, func: Callable, types: Any, args: Tuple = (), kwargs: Optional[Dict[str, Any]] = None) -> Any:
        if _is_mask(func, kwargs):
            mask, state = next(self.draws, (None, None))
            if mask is not None and state is not None and mask.shape == args[0].shape:
                torch.set_rng_state(state)
                return args[0].copy_(mask)
            self.draws = iter(())
        return func(*args, **(kwargs or {}))
