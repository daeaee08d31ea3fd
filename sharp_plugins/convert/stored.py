"""The weights of a published checkpoint, one file or shards with an index, each read when it is needed."""

import functools
import zipfile
from pathlib import Path
from typing import Callable, Dict, NamedTuple, Tuple

import torch
from torch import Tensor

from sharp_plugins.convert.decoder_names import HEAD
from sharp_plugins.convert.names import tensors_of, unwrapped, without_wrappers
from sharp_plugins.files.tensors import read_torch
from sharp_plugins.files.text import read_json
from sharp_plugins.files.unreadable import cause

FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# safetensors' names of the number formats that are converted.
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
KINDS = {dtype: kind for kind, dtype in FLOATS.items()}
# Files of torch's that are kept open: a layer's weights may be in two shards. What was read of them stays in memory, and so they
# are opened anew after so many bytes.
OPEN, BYTES = 2, 1 << 25


class Stored(NamedTuple):
    """A tensor in a file.

    kind: the format of its numbers, by safetensors' names.
    read: gives it, on the CPU.
    """

    shape: Tuple[int, ...]
    kind: str
    read: Callable[[], Tensor]


def stored_weights(directory: Path, ends: Tuple[str, ...]) -> Dict[str, Stored]:
    """The weights of a directory by their names, without what training loops put around them.

    Args:
        ends: how the names of some of the model's weights end: they tell the model from what else a file of torch's holds.

    Raises:
        FileNotFoundError: none of `FILES` is there, or a shard is missing.
        ValueError: a file cannot be read, or not safely, or the index does not fit it.
        ImportError: safetensors is not installed.
    """
    first = next((name for name in FILES if (directory / name).is_file()), None)
    if first is None:
        raise FileNotFoundError(f"{directory}: no weights there; expected is one of {', '.join(FILES)}")
    files = _TorchFiles(ends)
    if first.endswith(".index.json"):
        found = _in_shards(directory, first, files)
    else:
        found = _in_file(directory / first, files)
    result: Dict[str, Stored] = {}
    for name, stored in found.items():
        plain = without_wrappers(name)
        if plain in result:
            raise ValueError(f"{directory}: its weights hold two tensors for {plain}, one of them as {name}")
        result[plain] = stored
    return result


class _TorchFiles:
    """Files of torch's, of which some are open."""

    def __init__(self, ends: Tuple[str, ...]):
        self.tensors = functools.lru_cache(maxsize=OPEN)(lambda path: _read_torch(path, ends))
        self.bytes = 0

    def read(self, path: Path, name: str) -> Tensor:
        tensor = self.tensors(path)[name]
        self.bytes += tensor.numel() * tensor.element_size()
        if self.bytes > BYTES and zipfile.is_zipfile(path):  # older files are read as a whole, each time
            self.tensors.cache_clear()
            self.bytes = 0
        return tensor


def _in_shards(directory: Path, index: str, files: _TorchFiles) -> Dict[str, Stored]:
    places = read_json(directory / index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(place, str) for place in places.values()):
        raise ValueError(f"{directory / index}: its weight_map is missing, which names the file of each weight")
    shards = sorted(set(places.values()))
    strange = [shard for shard in shards if Path(shard).name != shard or shard in ("", "..")]
    if strange:
        raise ValueError(f"{directory / index}: {strange[0]!r} is no name of a file beside it")
    missing = [shard for shard in shards if not (directory / shard).is_file()]
    if missing:
        names = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise FileNotFoundError(f"{directory}: {len(missing)} of the {len(shards)} shards in {index} are not there: {names}")
    inside = {shard: _in_file(directory / shard, files) for shard in shards}
    # An output layer that is the table of words is named, and not stored: the config says whether it is.
    places = {name: shard for name, shard in places.items() if name in inside[shard] or not name.endswith(HEAD)}
    lost = [name for name, shard in places.items() if name not in inside[shard]]
    if lost:
        raise ValueError(f"{directory / places[lost[0]]}: it has no {lost[0]}, and {index} says that it has")
    return {name: inside[shard][name] for name, shard in places.items()}


def _in_file(path: Path, files: _TorchFiles) -> Dict[str, Stored]:
    if path.suffix == ".safetensors":
        return _in_safetensors(path)

    def stored(name: str, tensor: Tensor) -> Stored:
        kind = KINDS.get(tensor.dtype, str(tensor.dtype)) if tensor.layout == torch.strided else str(tensor.layout)
        return Stored(tuple(tensor.shape), kind, lambda: files.read(path, name))

    return {name: stored(name, tensor) for name, tensor in files.tensors(path).items()}


def _read_torch(path: Path, ends: Tuple[str, ...]) -> Dict[str, Tensor]:
    content = read_torch(path, mmap=True)
    try:
        return tensors_of(unwrapped(content, ends))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _in_safetensors(path: Path) -> Dict[str, Stored]:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise ImportError(f"{path} is read with safetensors: pip install safetensors") from error
    with open(path, "rb"):  # the library has no errors of their own for files that cannot be opened
        pass

    def reader(name: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            with safe_open(str(path), framework="pt", device="cpu") as file:  # anew: an open file keeps what was read
                return file.get_tensor(name)

        return read

    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            found = {name: Stored(tuple(s.get_shape()), s.get_dtype(), reader(name)) for name, s in slices.items()}
            shared = file.metadata() or {}
    except Exception as error:  # safetensors' own error, which is none of Python's
        raise ValueError(f"{path}: cannot be read: {cause(path, error)}") from None
    return {**{name: found[kept] for name, kept in shared.items() if kept in found}, **found}
