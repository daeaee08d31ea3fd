"""Whether an operation's second derivative can be had, and what is no want of one."""

import torch
from torch import Tensor

# What torch says where memory runs out: only a GPU's own has an error of its own.
_MEMORY = ("out of memory", "allocate memory", "ALLOC_FAILED")


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether torch's error says so.

    >>> ran_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."))
    True
    """
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(words in str(error) for words in _MEMORY)


def refuse_functions(loss: Tensor) -> None:
    """Raise NotImplementedError where an operation in the loss's graph is a `torch.autograd.Function`: the gradient that its author
    wrote can be differentiated without an error, and leave out how what it kept depends on the input."""
    seen, ahead = set(), [loss.grad_fn]
    while ahead:
        node = ahead.pop()
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            raise NotImplementedError(f"the second derivative of {node.name()} is not known")
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [before for before, _ in node.next_functions]
