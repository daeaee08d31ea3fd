"""Archives of torch.save's that would unpack to more than the file holds, and tensors that claim more, are refused."""

import zipfile
from typing import Iterator, Tuple

from torch import Tensor


class Oversized(ValueError):
    """What a file holds would take more memory than the file has bytes, or has no values at all."""


def check_archive(opened, size: int) -> None:
    """Raise where a zip file of *size* bytes would unpack to more than it holds. torch.save does not compress, and torch.load
    unpacks what others have compressed: a few bytes can be terabytes of zeros.

    Args:
        opened: the file, open for reading bytes; it is left where it was.

    Raises:
        Oversized: it would.
        Exception: it is damaged, as zipfile says.
    """
    start = opened.tell()
    try:
        with zipfile.ZipFile(opened) as archive:
            members = archive.infolist()
    finally:
        opened.seek(start)
    unpacked = sum(member.file_size for member in members)
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or unpacked > size:
        raise Oversized(f"it is compressed, which torch.save never does, and would unpack to {unpacked} bytes; unpack it yourself")


def check_tensors(content, size: int) -> None:
    """Raise `Oversized` where a tensor has no values, or where one value stands for more than a file of *size* bytes holds: a
    copy would take all that."""
    for name, tensor in _tensors(content):
        if tensor.is_meta:
            raise Oversized(f"{name} has no values in the file (it is a meta tensor)")
        claimed = tensor.numel() * tensor.element_size()
        if claimed > size:
            raise Oversized(f"{name} has shape {tuple(tensor.shape)}, {claimed} bytes, and the whole file has {size}")


def is_want_of_memory(error: Exception) -> bool:
    words = str(error).lower()
    return isinstance(error, MemoryError) or "allocate memory" in words or "out of memory" in words


def _tensors(content) -> Iterator[Tuple[str, Tensor]]:
    """All tensors in nested dicts and lists, with the names on the way to them."""
    rest, seen = [("", content)], set()
    while rest:
        name, value = rest.pop()
        if isinstance(value, Tensor):
            yield name, value
        elif id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
            rest += [(f"{name}.{key}".lstrip("."), part) for key, part in items if isinstance(part, (Tensor, dict, list, tuple))]
