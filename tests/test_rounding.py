import pytest
import torch

from sharp_plugins.rounding import round_stochastically_

DTYPES = [torch.float16, torch.bfloat16]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", DTYPES)
# 5e-5 and 3e-7 are subnormal in fp16; 0.0999 and 0.12499 lie at the upper end of a binade.
@pytest.mark.parametrize("value", [0.05, -0.0123, 5e-5, -3e-7, 0.12499, 1.0, 0.0, 300.7])
def test_the_expectation_is_the_value(dtype, value):
    n = 200_000
    x = torch.full((n,), value)
    exact = x[0].double()
    rounded = round_stochastically_(x, dtype, generator())
    assert torch.equal(rounded, rounded.to(dtype).float())  # representable
    neighbours = rounded.unique()
    assert neighbours.numel() <= 2
    spacing = (neighbours.max() - neighbours.min()).double()
    # Five standard errors of the mean of n draws between two neighbours.
    assert abs(rounded.double().mean() - exact) <= 5 * spacing / 2 / n**0.5


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_goes_to_a_neighbour_of_every_value(dtype):
    x = torch.cat([torch.randn(20_000, generator=generator()) * 10.0**e for e in range(-8, 4)])
    down_or_up = x.to(dtype)
    spacing = torch.maximum(
        (torch.nextafter(down_or_up, torch.full_like(down_or_up, torch.inf)).float() - down_or_up.float()).abs(),
        (down_or_up.float() - torch.nextafter(down_or_up, torch.full_like(down_or_up, -torch.inf)).float()).abs(),
    )
    rounded = round_stochastically_(x.clone(), dtype, generator())
    assert torch.equal(rounded, rounded.to(dtype).float())
    assert ((rounded - x).abs() <= spacing).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_representable_values_and_non_finite_ones_stay(dtype):
    x = torch.tensor([0.5, -2.0, 0.0, torch.inf, -torch.inf])
    assert torch.equal(round_stochastically_(x.clone(), dtype, generator()), x)
    assert round_stochastically_(torch.full((9,), torch.nan), dtype, generator()).isnan().all()


def test_fp32_is_left_alone():
    x = torch.randn(100)
    assert torch.equal(round_stochastically_(x.clone(), torch.float32, generator()), x)
