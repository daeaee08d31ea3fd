"""Gaussian noise for every weight, drawn fast and reproducibly.

δ-SAM's guardedness (Eq. 3) needs ε̂ ~ N(0, I) with as many entries as the model has trainable weights, once per update.
torch's generator for CPUs takes a fifth as long for that as a small model's forward pass on one thread, and drawing from
the global one would change the dropout masks of everything that follows. Here

- the tensors are cut into fixed pieces, each with a generator of its own, and the global state is untouched (`draw_seed`
  takes one number from it, where a caller has no seed of its own);
- on a CPU an entry is the normal quantile of one of 65,536 equally likely probabilities, looked up by 16 random bits,
  which is more than twice as fast. The entries are independent and symmetric, with variance 1, and their distribution function is
  nowhere further than 2^-16 from the normal one (bf16 would round a Gaussian more coarsely).
"""

from functools import lru_cache
from typing import Sequence

import numpy
import torch
from torch import Tensor

# On a CPU a piece is 1 MiB of fp32: long enough that seeding costs nothing, short enough to stay in a core's cache. On a GPU
# it bounds the fp32 scratch that half precision needs.
PIECE = 2**18
_GPU_PIECE = 2**22
# Random bits are drawn for so many entries at a time, on a CPU.
_BLOCK = 2**16


def mix(*numbers: int) -> int:
    """Hash integers into one 63-bit seed (SplitMix64's finaliser), so that neighbouring seeds give unrelated streams."""
    state = 0
    for number in numbers:
        state = (state + 0x9E3779B97F4A7C15 + (number & (2**64 - 1))) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return state >> 1


def draw_seed() -> int:
    """A seed from torch's global generator, which decides it and is moved by one draw: ``torch.manual_seed`` repeats what follows
    from it, and so does a generator's state that is put back, as in a run that goes on from a checkpoint."""
    return int(torch.empty((), dtype=torch.int64, device="cpu").random_())


@lru_cache(maxsize=None)
def _generator_on(device: torch.device) -> torch.Generator:
    return torch.Generator(device=device)


def seeded_generator(device: torch.device, seed: int) -> torch.Generator:
    """A generator on *device*, seeded; on a GPU it is one object that every call seeds again."""
    return (torch.Generator() if device.type == "cpu" else _generator_on(device)).manual_seed(seed)


@lru_cache(maxsize=None)
def _quantiles() -> numpy.ndarray:
    """(65536,) fp32 normal quantiles at the middle of equally likely intervals, scaled to variance 1."""
    z = torch.special.ndtri((torch.arange(2**16, dtype=torch.float64, device="cpu") + 0.5) / 2**16)
    return (z / z.square().mean().sqrt()).float().numpy()


def _draw_on_cpu(piece: Tensor, seed: int) -> None:
    bits, table = numpy.random.SFC64(seed), _quantiles()
    fp32 = piece if piece.dtype == torch.float32 else torch.empty_like(piece, dtype=torch.float32)
    flat = fp32.numpy()
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK]
        indices = bits.random_raw(-(-len(block) // 4)).view(numpy.uint16)[: len(block)]
        numpy.take(table, indices, out=block, mode="wrap")  # "wrap" checks no bounds
    if fp32 is not piece:
        piece.copy_(fp32)


def _draw_on_device(piece: Tensor, generator: torch.Generator) -> None:
    if piece.dtype == torch.float32:
        piece.normal_(generator=generator)
    else:  # in fp32 first, so that every precision gets the same numbers, rounded
        piece.copy_(torch.empty_like(piece, dtype=torch.float32).normal_(generator=generator))


def fill_normal_(tensors: Sequence[Tensor], seed: int) -> None:
    """Fill *tensors* in place with independent N(0, 1) draws that depend on *seed* and on the shapes alone.

    Args:
        tensors: floating-point tensors of one device, of any shapes, strides and dtypes. Half-precision tensors get the
            numbers of fp32 ones, rounded. The numbers differ between devices.
        seed: any integer; the same seed gives the same numbers.
    """
    if not tensors:
        return
    device, index = tensors[0].device, 0
    generator = None if device.type == "cpu" else seeded_generator(device, mix(seed))
    for tensor in tensors:  # torch has no _foreach_normal_
        contiguous = tensor if tensor.is_contiguous() else torch.empty_like(tensor, memory_format=torch.contiguous_format)
        for piece in contiguous.view(-1).split(PIECE if generator is None else _GPU_PIECE):
            if generator is None:
                # On one thread: a pool of Python threads halves this on a quiet machine, and loses ten times as much waiting for
                # the interpreter's lock where fairseq's data loading has a thread of its own (measured: 164 ms an update, not 105).
                _draw_on_cpu(piece, mix(seed, index))
            else:
                _draw_on_device(piece, generator)
            index += 1
        if contiguous is not tensor:
            tensor.copy_(contiguous)
