import pytest
import torch

from sharp_plugins.core.rounding import round_stochastically_

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


def bits(x):
    """As integers, which tell 0 from -0."""
    return x.view(torch.int16 if x.element_size() == 2 else torch.int32)


def every_value(dtype):
    """All 65,536 of a half-precision format, in the order of their bit patterns."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_value_of_the_format_stays_what_it_is(dtype, seed):
    """Infinities and 0 with its sign among them; NaN stays NaN."""
    values = every_value(dtype)
    rounded = round_stochastically_(values.float(), dtype, generator(seed)).to(dtype)
    assert torch.equal(rounded.isnan(), values.isnan())
    assert torch.equal(bits(rounded)[~values.isnan()], bits(values)[~values.isnan()])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [2.0**-12, 0.25, 0.5, 1 - 2.0**-12])
def test_between_any_two_neighbours_the_result_is_one_of_them(dtype, share):
    """At the largest finite value too, where rounding up would make an infinity of it; and both of them occur."""
    values = every_value(dtype).double()
    lower = values[values.isfinite() & (values >= 0)].unique()
    spacing = torch.cat([lower.diff(), lower[-1:] - lower[-2:-1]])
    for sign in (1, -1):
        x = (sign * (lower + share * spacing)).float()
        rounded = round_stochastically_(x.clone(), dtype, generator()).double() * sign
        up = rounded == lower + spacing
        assert (up | (rounded == lower)).all()
        assert rounded.isfinite().all() and rounded[-1] == lower[-1]
        assert abs(up.double().mean() - share) < 5 * (share * (1 - share) / len(up)) ** 0.5 + 1 / len(up)


@pytest.mark.parametrize("dtype", DTYPES)
def test_finite_values_stay_finite_and_nan_stays_nan(dtype):
    largest, greatest = torch.finfo(dtype).max, torch.finfo(torch.float32).max
    beyond = torch.tensor([65519.0, 65520.0, 70000.0, 3.39e38, greatest])
    beyond = torch.cat([beyond, -beyond]).repeat(50)
    rounded = round_stochastically_(beyond.clone(), dtype, generator())
    assert rounded.to(dtype).isfinite().all() and torch.equal(rounded, rounded.to(dtype).float())
    clamped = beyond.abs() >= largest
    assert clamped.any() and torch.equal(rounded[clamped], beyond[clamped].sign() * largest)
    # Every NaN whose first 7 bits of the mantissa are 0: cut off after them, it would be an infinity. And the last ones.
    nans = torch.cat([torch.arange(0x7F800001, 0x7F810000), torch.arange(0x7FFF0000, 0x7FFFFFFF + 1)]).to(torch.int32)
    nans = torch.cat([nans, nans | -(2**31)]).view(torch.float32)
    assert nans.isnan().all()
    rounded = round_stochastically_(nans, dtype, generator())
    assert rounded.isnan().all() and rounded.to(dtype).isnan().all()


def test_fp32_is_left_alone():
    x = torch.randn(100)
    assert torch.equal(round_stochastically_(x.clone(), torch.float32, generator()), x)
