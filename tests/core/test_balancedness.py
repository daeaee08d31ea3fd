"""Balancedness against plain Python."""

import math

import pytest
import torch

from sharp_plugins.core import balancedness
from sharp_plugins.core.balancedness import squared_norms


def pairs(dtype=torch.float32, seed=0):
    """X and Y of three pairs of different shapes, as LoRA's B and A are."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [((5, 2), (2, 7)), ((3, 4), (4, 3)), ((1, 6), (6, 2))]
    return [tuple(torch.randn(s, generator=generator).to(dtype) for s in pair) for pair in shapes]


def plain_square(*tensors):
    """The sum of squares of all entries, with Python's floats."""
    return math.fsum(value**2 for t in tensors for value in t.double().flatten().tolist())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_squared_norms_and_balancedness_equal_plain_sums(dtype):
    xs, ys = zip(*pairs(dtype))
    x_squared, y_squared = squared_norms(xs), squared_norms(ys)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert x_squared.dtype == y_squared.dtype == wide and x_squared.shape == (3,)
    assert x_squared.tolist() == pytest.approx([plain_square(x) for x in xs], rel=1e-6)
    expected = [(plain_square(x) - plain_square(y)) / 2 for x, y in zip(xs, ys)]
    assert balancedness.balancedness(x_squared, y_squared).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    # 4096 entries of 1000: the norm, 64000, is within fp16, its square 4.1e9 is not; and the same for the norm itself.
    many, larger = torch.full((64, 64), 1000.0, dtype=dtype), torch.full((4096,), 30000.0, dtype=dtype)
    found = squared_norms([many, larger]).tolist()
    assert found == pytest.approx([plain_square(many), plain_square(larger)], rel=1e-5)
    assert found[0] > torch.finfo(torch.float16).max and math.sqrt(found[1]) > torch.finfo(torch.float16).max


def test_half_precision_does_not_underflow():
    small = torch.full((10,), 2.0**-20, dtype=torch.float16)  # the square is 2^-40, and fp16's smallest number 2^-24
    assert squared_norms([small]).tolist() == pytest.approx([10 * 2.0**-40])


def test_sides_of_several_tensors_are_summed_by_their_lengths():
    tensors = [t for pair in pairs(torch.float64) for t in pair]
    found = squared_norms(tensors, torch.tensor([1, 3, 2]))
    expected = [plain_square(tensors[0]), plain_square(*tensors[1:4]), plain_square(*tensors[4:])]
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
