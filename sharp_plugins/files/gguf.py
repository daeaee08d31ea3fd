"""GGUF files, llama.cpp's format of models: a header of settings and tensors' places, and then the tensors, often quantized.

The header is read here, with no number in it trusted: nothing is read beyond the file's end. Quantized numbers become floats by
the package `gguf`, whose own reader takes seconds for a header, and no end of them for a false one.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, in the little-endian order of all common files.
"""

import math
import struct
from pathlib import Path
from typing import Any, Dict, NamedTuple, Tuple

import numpy as np
import torch
from torch import Tensor

from sharp_plugins.files.unreadable import what_it_is

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# Types of settings: struct's letter; text and lists are read by hand.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
# Dimensions of a tensor; ggml has no more.
DIMENSIONS = 4
ALIGNMENT = "general.alignment"


class Place(NamedTuple):
    """Where a tensor of a file is, and what of.

    shape: as in PyTorch, the rows first.
    kind: ggml's number of the format of the numbers.
    offset: in bytes from the beginning of the file.
    size: in bytes, quantized.
    """

    shape: Tuple[int, ...]
    kind: int
    offset: int
    size: int


class GGUF:
    """A GGUF file.

    Attributes:
        settings: the header's settings by name: numbers, texts, lists of them.
        tensors: the `Place` of each tensor by name.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no GGUF file, is cut off, or holds a format that `gguf` does not know.
        ImportError: gguf is not installed.

    Example::

        file = GGUF("SmolLM2-135M-Instruct.Q4_1.gguf")
        file.settings["general.architecture"]  # "llama"
        file.tensor("token_embd.weight").shape  # (49152, 576), fp32 by now
    """

    def __init__(self, path):
        try:
            from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
        except ImportError as error:
            raise ImportError(f"{path} is read with gguf: pip install gguf") from error
        self.path = Path(path)
        with open(self.path, "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                other = what_it_is(self.path) or "it is no GGUF file, which begins with the letters GGUF"
                raise ValueError(f"{path}: cannot be read: {other}")
        self._bytes = np.memmap(self.path, mode="r")
        self._at = len(MAGIC)
        try:
            self.settings, declared = self._header()
            alignment = self.settings.get(ALIGNMENT, 32)
            if type(alignment) is not int or alignment < 1:
                raise ValueError(f"{ALIGNMENT} is {alignment!r}")
            start = -(-self._at // alignment) * alignment
            self.tensors: Dict[str, Place] = {}
            for name, (shape, kind, offset) in declared.items():
                if kind not in list(GGMLQuantizationType):
                    raise ValueError(f"{name} is of kind {kind}, which this gguf does not know")
                block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
                if shape[-1] % block:
                    raise ValueError(f"{name} has rows of {shape[-1]} numbers, and its format has blocks of {block}")
                place = Place(shape, kind, start + offset, math.prod(shape) // block * size)
                if place.offset + place.size > len(self._bytes):
                    raise ValueError(
                        f"it is cut off: {name} ends at byte {place.offset + place.size}, and {len(self._bytes)} are there"
                    )
                self.tensors[name] = place
        except (ValueError, struct.error) as error:  # UnicodeDecodeErrors among them
            raise ValueError(f"{path}: cannot be read: {error}") from None

    def tensor(self, name: str) -> Tensor:
        """A tensor as fp32, in memory of its own.

        Raises:
            ValueError: its format cannot be dequantized.
        """
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        place, kind = self.tensors[name], GGMLQuantizationType(self.tensors[name].kind)
        with open(self.path, "rb") as file:  # pages of a map would stay in memory
            file.seek(place.offset)
            data = np.frombuffer(file.read(place.size), np.uint8)
        try:
            if kind == GGMLQuantizationType.F64:
                numbers = data.view(np.float64).astype(np.float32)
            else:
                numbers = dequantize(data.reshape(*place.shape[:-1], -1), kind)
        except NotImplementedError as error:
            raise ValueError(f"{self.path}: {name}: {error}; quantize it otherwise, or take another file") from None
        result = torch.from_numpy(numbers if numbers.flags.writeable else numbers.copy()).reshape(place.shape)
        return result.float()

    def _header(self):
        version, tensors, settings = self._numbers("IQQ")
        if version not in VERSIONS:
            raise ValueError(f"it is of version {version}; {VERSIONS[0]} and {VERSIONS[1]} are read, in little-endian order")
        found: Dict[str, Any] = {}
        for _ in range(settings):
            name = self._text()
            (kind,) = self._numbers("I")
            found[name] = self._value(kind)
        declared = {}
        for _ in range(tensors):
            name = self._text()
            (dimensions,) = self._numbers("I")
            if not 1 <= dimensions <= DIMENSIONS or name in declared:
                raise ValueError(f"{name} is there twice, or has {dimensions} dimensions")
            shape = tuple(reversed(self._numbers("Q" * dimensions)))
            if not all(shape):
                raise ValueError(f"{name} has shape {shape}, and so no numbers")
            declared[name] = (shape, *self._numbers("IQ"))
        return found, declared

    def _numbers(self, letters: str) -> Tuple:
        size = struct.calcsize(f"<{letters}")
        return struct.unpack(f"<{letters}", self._take(size))

    def _take(self, size: int) -> bytes:
        if size > len(self._bytes) - self._at:
            raise ValueError(f"it is cut off: its header has not ended at byte {len(self._bytes)}, where the file ends")
        self._at += size
        return self._bytes[self._at - size : self._at].tobytes()

    def _text(self) -> str:
        (size,) = self._numbers("Q")
        return self._take(size).decode("utf-8")

    def _value(self, kind: int, inside: bool = False):
        if kind in NUMBERS:
            return self._numbers(NUMBERS[kind])[0]
        if kind == TEXT:
            return self._text()
        if kind != LIST or inside:
            raise ValueError(f"a setting is of kind {kind}, which GGUF has not here")
        of, count = self._numbers("IQ")
        if of in NUMBERS:
            size = struct.calcsize(f"<{NUMBERS[of]}")
            return list(struct.unpack(f"<{count}{NUMBERS[of]}", self._take(count * size)))
        return [self._value(of, inside=True) for _ in range(count)]
