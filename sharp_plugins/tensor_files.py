"""Files of tensors from elsewhere, torch's and safetensors': read so that nothing in them runs or takes more than they hold."""

import zipfile
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

from torch import Tensor

from sharp_plugins import safe_load
from sharp_plugins.unreadable import ZIP, cause, what_it_is, words_of


def read_torch(path, mmap: bool = False) -> Any:
    """What is in a file of ``torch.save``, on the CPU, by `safe_load.load`.

    Args:
        mmap: read tensors when they are used, where the file's format allows it.

    Raises:
        OSError: the file cannot be opened or read, or memory is short.
        ValueError: it is no such file, is cut off, holds objects beside tensors, or would take more memory than its size; the
            message says which of these.

    Example:
        ``read_torch("pytorch_model.bin")["bert.pooler.dense.bias"]``
    """
    path = Path(path)
    with open(path, "rb") as file:
        is_zip = file.read(len(ZIP)) == ZIP
    try:
        if is_zip:
            _check_archive(path)
        content = safe_load.load(path, map_location="cpu", mmap=mmap and is_zip)
    except safe_load.Refused as error:
        other = what_it_is(path)  # torch takes zeros for a tar file
        raise ValueError(f"{path}: cannot be read: {other}" if other else str(error)) from None
    except OSError as error:
        raise OSError(f"{path}: cannot be read: {error}") from error
    except Exception as error:  # zip and pickle raise errors of many types
        words = f"{path}: cannot be read: {cause(path, error)}"
        raise (OSError if _is_want_of_memory(error) else ValueError)(words) from None
    size = path.stat().st_size
    for name, tensor in _tensors(content):
        _check_tensor(path, name, tensor, size)
    return content


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


def _check_archive(path: Path) -> None:
    """Raise ValueError where a zip file would unpack to more than it holds. torch.save does not compress, and torch.load unpacks
    what others have compressed: a few bytes can be terabytes of zeros."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(words_of(error)) from error  # `cause` says more
    unpacked = sum(member.file_size for member in members)
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or unpacked > path.stat().st_size:
        raise ValueError(f"it is compressed, which torch.save never does, and would unpack to {unpacked} bytes; unpack it yourself")


def _is_want_of_memory(error: Exception) -> bool:
    words = str(error).lower()
    return isinstance(error, MemoryError) or "allocate memory" in words or "out of memory" in words


def _tensors(content) -> Iterator[Tuple[str, Tensor]]:
    """All tensors in nested dicts and lists, with the names on the way to them."""
    rest, seen = [("", content)], set()
    while rest:
        name, value = rest.pop()
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            rest += [(f"{name}.{key}".lstrip("."), part) for key, part in items]


def _check_tensor(path: Path, name: str, tensor: Tensor, size: int) -> None:
    """Raise ValueError where a tensor has no values, or where one value stands for more than the file holds: a copy would take
    all that."""
    if tensor.is_meta:
        raise ValueError(f"{path}: {name} has no values in the file (it is a meta tensor)")
    claimed = tensor.numel() * tensor.element_size()
    if claimed > size:
        raise ValueError(f"{path}: {name} has shape {tuple(tensor.shape)}, {claimed} bytes, and the whole file has {size}")
