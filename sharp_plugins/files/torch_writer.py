"""Checkpoints that are written tensor by tensor: a model that is converted need not fit into memory.

`torch.save` wants all tensors at once. Here each is made when its turn comes, written, and let go. The file is torch's own kind: an
uncompressed zip archive of a pickle, which describes the tensors, and of their numbers.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from math import prod
from pathlib import Path
from typing import Any, Callable, NamedTuple, Tuple

import torch
from torch import Tensor

# As in torch's own files, so that a loader can map tensors into memory.
ALIGNMENT = 64
STORAGES = {torch.float32: torch.FloatStorage, torch.float16: torch.HalfStorage, torch.bfloat16: torch.BFloat16Storage}


class Later(NamedTuple):
    """A tensor that is made when it is needed.

    make: gives it, of this *shape* and *dtype*.
    """

    shape: Tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]


class Pending:
    """A `Later` in what `write_torch` is given; where one object stands twice, the file holds one tensor with two names.

    Example::

        >>> table = Pending(Later((2, 3), torch.float32, lambda: torch.ones(2, 3)))
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     write_torch(file.name, {"words": table, "output": table, "steps": 0})
        ...     torch.load(file.name, weights_only=True)["output"].sum()
        tensor(6.)
    """

    def __init__(self, later: Later):
        self.later = later


class _Numbers:
    """What a pickle names in place of a tensor's numbers."""

    def __init__(self, key: str, later: Later):
        self.key, self.later = key, later


class _Pickler(pickle.Pickler):
    def __init__(self, file):
        super().__init__(file, protocol=2)
        self.numbers = []

    def reducer_override(self, value):
        if not isinstance(value, Pending):
            return NotImplemented
        later = value.later
        self.numbers.append(_Numbers(str(len(self.numbers)), later))
        stride = tuple(prod(later.shape[n + 1 :]) for n in range(len(later.shape)))
        parts = (self.numbers[-1], 0, later.shape, stride, False, OrderedDict())
        return torch._utils._rebuild_tensor_v2, parts

    def persistent_id(self, value):
        if isinstance(value, _Numbers):
            return ("storage", STORAGES[value.later.dtype], value.key, "cpu", prod(value.later.shape))
        return None


def write_torch(path, content: Any) -> None:
    """Write *content*, plain values and containers with a `Pending` for each tensor, as ``torch.save`` writes it with tensors.

    Raises:
        ValueError: a tensor is made in another shape or dtype than was said.
        OSError: the file cannot be written.
    """
    pickled = io.BytesIO()
    pickler = _Pickler(pickled)
    pickler.dump(content)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        _add(archive, "data.pkl", pickled.getvalue())
        _add(archive, "byteorder", b"little")
        for numbers in pickler.numbers:
            _add(archive, f"data/{numbers.key}", _bytes_of(numbers.later))
        _add(archive, "version", b"3\n")


def save_torch(content: Any, path: Path, place: Path) -> None:
    """``torch.save``, with its error for a full disk as others are.

    Args:
        place: where the file will be, for the message.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        torch.save(content, path)
    except RuntimeError as error:
        raise OSError(f"{place}: cannot be written: {error}") from error


def _bytes_of(later: Later):
    tensor = later.make()
    if tuple(tensor.shape) != tuple(later.shape) or tensor.dtype != later.dtype:
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} in {tensor.dtype} was made, for {later.shape} in {later.dtype}")
    return memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy())


def _add(archive: zipfile.ZipFile, name: str, content) -> None:
    """Add a member whose content begins at a multiple of `ALIGNMENT`."""
    member = zipfile.ZipInfo(f"archive/{name}")
    large = len(content) > zipfile.ZIP64_LIMIT
    # 30 bytes of a local header, the name, 20 more bytes where sizes need them, and 4 of the padding's own header.
    before = archive.fp.tell() + 30 + len(member.filename) + (20 if large else 0) + 4
    padding = -before % ALIGNMENT
    member.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    member.file_size = len(content)
    with archive.open(member, "w", force_zip64=large) as file:
        file.write(content)
