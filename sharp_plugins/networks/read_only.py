"""Computed tensors that refuse to be written into, since what is written would be lost with them.

``weight.data.zero_()`` writes into a tensor that shares the weight's memory. Where the weight is computed for its reader, that
memory is the reader's alone. `ReadOnly` marks it, and everything that shares it: views, ``.data``, ``detach()``, NumPy arrays.
"""

from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

# They end in no underscore, and leave something with the tensor all the same.
_ATTACHING = {"register_hook", "register_post_accumulate_grad_hook", "retain_grad"}


def _writes(name: str) -> bool:
    """Whether the function of Tensor that is called so changes the tensor: add_, __iadd__, __setitem__, the setter of data."""
    if name.startswith("__"):
        return name in ("__set__", "__setitem__") or (name.startswith("__i") and name not in ("__index__", "__int__", "__invert__"))
    return name.endswith("_") or name in _ATTACHING


def _refuse_writing(func: Callable, args: Tuple, kwargs: Dict[str, Any]) -> None:
    """Raise RuntimeError where *func* would write into a `ReadOnly`; it may read one to write elsewhere."""
    targets = [kwargs.get("out")]
    if _writes(func.__name__) or kwargs.get("inplace"):
        targets.append(args[0] if args else next(iter(kwargs.values()), None))
    if any(isinstance(target, ReadOnly) for target in tree_flatten(targets)[0]):
        name = "data" if func.__name__ == "__set__" else func.__name__
        raise RuntimeError(
            f"{name}: a LoRA layer's weight is W + s B A, computed anew at each reading, and what is written to it would be "
            "lost. Write to the layer's base_weight (W), lora_A or lora_B; initialise a model before it gets its updates; "
            "weight.detach().clone() is a copy of your own"
        )


def _mark(result: Any, sources: Iterable[Tensor]) -> Any:
    """*result*, in which all tensors and arrays that share the memory of *sources* are for reading."""
    memories = {_memory(source) for source in sources}

    def mark(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.as_subclass(ReadOnly) if _memory(value) in memories else value
        if hasattr(value, "setflags"):
            value.setflags(write=False)
        return value

    return tree_map(mark, result)


def _memory(tensor: Tensor) -> object:
    """What is equal for tensors that share memory; of sparse ones, and inside torch.func, it is not known."""
    try:
        return tensor.untyped_storage()._cdata
    except NotImplementedError:
        return id(tensor)


class ReadOnly(Tensor):
    """A tensor for reading: what functions make of it is plain, and writing into it raises RuntimeError.

    Example::

        >>> w = torch.ones(2).as_subclass(ReadOnly)
        >>> w + 1
        tensor([2., 2.])
        >>> w.zero_()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        RuntimeError: zero_: a LoRA layer's weight is W + s B A, computed anew at each reading, ...
    """

    def plain(self) -> Tensor:
        """The same as a plain tensor, with its graph."""
        with torch._C.DisableTorchFunctionSubclass():
            return self.as_subclass(Tensor)

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: Tuple = (), kwargs: Optional[Dict[str, Any]] = None) -> Any:
        kwargs = kwargs or {}
        _refuse_writing(func, args, kwargs)
        if func is Tensor.__iter__:
            return iter(args[0].unbind(0))
        sources: List[Tensor] = []

        def read(value: Any) -> Any:
            if isinstance(value, ReadOnly):
                value = value.plain()
                sources.append(value)
            return value

        args, kwargs = tree_map(read, (args, kwargs))
        return _mark(func(*args, **kwargs), sources)
