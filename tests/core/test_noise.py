import pytest
import torch

from sharp_plugins.core.noise import PIECE, fill_normal_, mix


def test_noise_is_standard_normal():
    tensors = [torch.empty(PIECE + 1000), torch.empty(300, 200)]
    fill_normal_(tensors, seed=3)
    values = torch.cat([t.view(-1) for t in tensors]).double()
    n = values.numel()
    # Standard errors of mean, variance, skewness and kurtosis of n standard normal draws, times five.
    assert abs(values.mean()) < 5 / n**0.5
    assert abs(values.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((values**3).mean()) < 5 * (15 / n) ** 0.5
    assert abs((values**4).mean() - 3) < 5 * (96 / n) ** 0.5
    # Kolmogorov-Smirnov against the normal distribution function; 1.95 / sqrt(n) is the 0.1 % point.
    ordered = values.sort().values
    cdf = torch.special.ndtr(ordered)
    steps = torch.arange(1, n + 1, dtype=torch.float64) / n
    assert torch.maximum((steps - cdf).abs(), (cdf - steps + 1 / n).abs()).max() < 1.95 / n**0.5


def test_pieces_are_independent():
    tensor = torch.empty(4 * PIECE)
    fill_normal_([tensor], seed=0)
    pieces = tensor.view(4, PIECE)
    correlations = (pieces @ pieces.T / PIECE).fill_diagonal_(0)
    assert correlations.abs().max() < 5 / PIECE**0.5


def test_noise_depends_on_the_seed_and_not_on_the_global_generator():
    before = torch.get_rng_state()
    expected = [torch.empty(3 * PIECE), torch.empty(7)]
    fill_normal_(expected, seed=5)
    again = [torch.empty(3 * PIECE), torch.empty(7)]
    fill_normal_(again, seed=5)
    other = torch.empty(3 * PIECE)
    fill_normal_([other], seed=6)
    assert all(torch.equal(a, b) for a, b in zip(expected, again))
    assert not torch.equal(expected[0], other)
    assert torch.equal(before, torch.get_rng_state())


def test_mixed_seeds_do_not_collide():
    seeds = {mix(seed, index) for seed in range(200) for index in range(-2, 200)}
    assert len(seeds) == 200 * 202
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_noise_does_not_depend_on_strides(dtype):
    contiguous, transposed = torch.empty(300, 2 * PIECE // 300, dtype=dtype), torch.empty(2 * PIECE // 300, 300, dtype=dtype).t()
    strided, after = torch.empty(7, 2, dtype=dtype)[:, 0], torch.empty(5, dtype=dtype)
    fill_normal_([contiguous, torch.empty(7, dtype=dtype), after], seed=2)
    expected = after.clone()
    fill_normal_([transposed, strided, after], seed=2)
    assert torch.equal(transposed, contiguous) and torch.equal(after, expected)
