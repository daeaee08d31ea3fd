"""Gaussian noise for every weight, drawn fast and reproducibly.

δ-SAM's guardedness (Eq. 3) needs ε̂ ~ N(0, I) with as many entries as the model has trainable weights, once per update.
torch draws it on one CPU thread, which alone costs more than the forward pass it serves is allowed to, and from the
global generator, which would change the dropout masks of everything that follows. Here the tensors are cut into fixed
pieces, each with a generator of its own: any number of threads gives the same numbers, and the global state is untouched.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Sequence

import torch
from torch import Tensor

# On a CPU a piece is 1 MiB of fp32: long enough that seeding costs nothing, short enough to stay in a core's cache. On a GPU
# it bounds the fp32 scratch that half precision needs.
PIECE = 2**18
_GPU_PIECE = 2**22


def mix(*numbers: int) -> int:
    """Hash integers into one 63-bit seed (SplitMix64's finaliser), so that neighbouring seeds give unrelated streams."""
    state = 0
    for number in numbers:
        state = (state + 0x9E3779B97F4A7C15 + (number & (2**64 - 1))) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


@lru_cache(maxsize=None)
def _generator_on(device: torch.device) -> torch.Generator:
    return torch.Generator(device=device)


def seeded_generator(device: torch.device, seed: int) -> torch.Generator:
    """A generator on *device*, seeded; on a GPU it is one object that every call seeds again."""
    return (torch.Generator() if device.type == "cpu" else _generator_on(device)).manual_seed(seed)


@lru_cache(maxsize=None)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="sharp_plugins-noise")


def _draw(piece: Tensor, generator: torch.Generator) -> None:
    """N(0, 1), drawn in fp32 so that every precision gets the same numbers, rounded."""
    if piece.dtype == torch.float32:
        piece.normal_(generator=generator)
    else:
        piece.copy_(torch.empty_like(piece, dtype=torch.float32).normal_(generator=generator))


def fill_normal_(tensors: Sequence[Tensor], seed: int) -> None:
    """Fill *tensors* in place with independent N(0, 1) draws that depend on *seed* and on the shapes alone.

    Args:
        tensors: contiguous floating-point tensors of one device, of any shapes and dtypes. Half-precision tensors get the
            numbers of fp32 ones, rounded. The numbers differ between devices.
        seed: any integer; the same seed gives the same numbers, on any number of threads.
    """
    if not tensors:
        return
    device = tensors[0].device
    if device.type != "cpu":
        generator = seeded_generator(device, mix(seed))
        for tensor in tensors:  # torch has no _foreach_normal_
            for piece in tensor.view(-1).split(_GPU_PIECE):
                _draw(piece, generator)
        return
    pieces = [piece for tensor in tensors for piece in tensor.view(-1).split(PIECE)]
    threads = torch.get_num_threads()
    over_pieces = map if threads == 1 else _pool(threads).map  # normal_ releases the interpreter's lock

    def draw(piece: Tensor, index: int) -> None:
        _draw(piece, seeded_generator(device, mix(seed, index)))

    for _ in over_pieces(draw, pieces, range(len(pieces))):
        pass
