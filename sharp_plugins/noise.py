"""Gaussian noise for every weight, drawn fast and reproducibly.

δ-SAM's guardedness (Eq. 3) needs ε̂ ~ N(0, I) with as many entries as the model has trainable weights, once per update.
torch draws it on one CPU thread, which alone costs more than the forward pass it serves is allowed to, and from the
global generator, which would change the dropout masks of everything that follows. Here the tensors are cut into fixed
pieces, each with a generator of its own: any number of threads gives the same numbers, and the global state is untouched.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Iterator, List, Sequence, Tuple

import torch
from torch import Tensor

# A piece is 1 MiB of fp32: long enough that seeding is noise-free in the timing, short enough to stay in a core's cache.
PIECE = 2**18


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
def generator_on(device: torch.device) -> torch.Generator:
    """The generator of a device that is not a CPU; it is seeded again before each use."""
    return torch.Generator(device=device)


@lru_cache(maxsize=None)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="sharp_plugins-noise")


def _pieces(tensors: Sequence[Tensor]) -> List[Tensor]:
    return [piece for tensor in tensors for piece in tensor.view(-1).split(PIECE)]


def _draw(piece_and_seed: Tuple[Tensor, int]) -> None:
    piece, seed = piece_and_seed
    piece.normal_(generator=torch.Generator().manual_seed(seed))


def fill_normal_(tensors: Sequence[Tensor], seed: int) -> None:
    """Fill *tensors* in place with independent N(0, 1) draws that depend on *seed* and on the shapes alone.

    Args:
        tensors: contiguous floating-point tensors of one device, of any shapes. The numbers differ between devices.
        seed: any integer; the same seed gives the same numbers, on any number of threads.
    """
    if not tensors:
        return
    device = tensors[0].device
    if device.type != "cpu":
        generator = generator_on(device).manual_seed(mix(seed))
        for tensor in tensors:  # torch has no _foreach_normal_
            tensor.normal_(generator=generator)
        return
    jobs: Iterator[Tuple[Tensor, int]] = (
        (piece, mix(seed, index)) for index, piece in enumerate(_pieces(tensors))
    )
    threads = torch.get_num_threads()
    if threads == 1:
        for job in jobs:
            _draw(job)
    else:
        for _ in _pool(threads).map(_draw, jobs):  # normal_ releases the interpreter's lock
            pass
