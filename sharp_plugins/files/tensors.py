"""Files of tensors from elsewhere, torch's and safetensors': read so that nothing in them runs, and no tensor takes more
than they hold."""

from pathlib import Path
from typing import Any, Dict, Tuple

from torch import Tensor

from sharp_plugins.files import safe_load
from sharp_plugins.files.unreadable import cause


def read_torch(path, mmap: bool = False) -> Any:
    """What is in a file of ``torch.save``, on the CPU, by `safe_load.load`.

    Args:
        mmap: read tensors when they are used, where the file's format allows it.

    Raises:
        OSError: the file cannot be opened or read, or memory is short.
        ValueError: it is no such file, is cut off, holds objects beside tensors, or would take more memory than its size; the
            message says which of these.

    Example::

        bias = read_torch("pytorch_model.bin")["bert.pooler.dense.bias"]
    """
    return safe_load.load(path, map_location="cpu", mmap=mmap)


def read_safetensors(path) -> Tuple[Dict[str, Tensor], Dict[str, str]]:
    """The tensors of a safetensors file by their names, on the CPU, and its metadata.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no such file, or is cut off.
        ImportError: safetensors is not installed.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(f"{path} is read with safetensors: pip install safetensors") from error
    path = Path(path)
    with open(path, "rb"):  # the library has no errors of their own for files that cannot be opened
        pass
    try:
        with safetensors.safe_open(str(path), framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except Exception as error:  # safetensors' own error, which is none of Python's
        raise ValueError(f"{path}: cannot be read: {cause(path, error)}") from None


def is_finite(tensor: Tensor) -> bool:
    """Whether none of the numbers, floating-point ones, is NaN or infinite. Without a copy, as torch.isfinite makes one: a NaN is
    both the least and the greatest.

    >>> import torch
    >>> is_finite(torch.tensor([1.0, -2.0])), is_finite(torch.tensor([1.0, float("nan")])), is_finite(torch.zeros(0))
    (True, False, True)
    """
    return not tensor.numel() or all(bool(bound.isfinite()) for bound in tensor.aminmax())
