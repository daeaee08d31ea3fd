"""Tensors that a file holds once and under several names, as tied weights are."""

from typing import Dict, Mapping

from torch import Tensor

# What all names' tensors may take: a model's tied tables, each a second and a third time, and more in a small file.
TIMES, FREE = 4, 1 << 26


def with_shared(tensors: Dict[str, Tensor], shared: Mapping[str, str]) -> Dict[str, Tensor]:
    """*tensors*, and those that safetensors' ``save_model`` left out, as the metadata says; no memory is taken for these.

    Args:
        shared: a safetensors file's metadata: a name that was left out -> the name that holds its tensor.
    """
    left_out = {name: tensors[kept] for name, kept in shared.items() if name not in tensors and kept in tensors}
    return {**tensors, **left_out}


def check_copies(tensors: Mapping[str, Tensor], size: int) -> None:
    """Raise ValueError where *tensors* have so many names that a copy for each name takes far more memory than the file's *size*.
    A model has such copies once it is changed, converted or written."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if total > TIMES * size + FREE:
        raise ValueError(
            f"its tensors under all their names are {total} bytes, and the file has {size}: too many are copies of others"
        )
