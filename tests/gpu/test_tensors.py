"""The core's tensor functions on a GPU."""

import on_gpu
import pytest
import torch
from on_gpu import needs_gpu
from torch import nn

from sharp_plugins.core.noise import fill_normal_, seeded_generator
from sharp_plugins.core.perturbation import Perturbation
from sharp_plugins.core.rounding import round_stochastically_

pytestmark = needs_gpu("its generator, its kernels and its memory addresses are others than a CPU's")

HALF = [torch.float16, torch.bfloat16]


def tensors(*shapes, dtype=torch.float32):
    return [torch.empty(shape, dtype=dtype, device=on_gpu.DEVICE) for shape in shapes]


def test_noise_is_standard_normal():
    drawn = tensors((2**22 + 1000,), (300, 200))
    fill_normal_(drawn, seed=3)
    values = torch.cat([t.view(-1) for t in drawn]).double()
    n = values.numel()
    # Five standard errors of mean, variance, skewness and kurtosis of n standard normal draws.
    assert abs(values.mean().item()) < 5 / n**0.5
    assert abs(values.var().item() - 1) < 5 * (2 / n) ** 0.5
    assert abs((values**3).mean().item()) < 5 * (15 / n) ** 0.5
    assert abs((values**4).mean().item() - 3) < 5 * (96 / n) ** 0.5
    assert abs((drawn[0][:60_000] @ drawn[1].view(-1)).item() / 60_000) < 5 / 60_000**0.5


def test_noise_depends_on_the_seed_alone():
    before = [torch.get_rng_state()] + ([torch.cuda.get_rng_state()] if on_gpu.DEVICE == "cuda" else [])
    first, again, other = (tensors((2**22 + 5,), (7, 3), (0,)) for _ in range(3))
    for drawn, seed in ((first, 5), (other, 6), (again, 5)):
        fill_normal_(drawn, seed)
    after = [torch.get_rng_state()] + ([torch.cuda.get_rng_state()] if on_gpu.DEVICE == "cuda" else [])
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not any(torch.equal(a, b) for a, b in zip(first[:2], other[:2]))
    assert all(torch.equal(a, b) for a, b in zip(before, after))


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_gets_the_same_noise_rounded(dtype):
    wide, half = tensors((2**22 + 5,), (7, 3)), tensors((2**22 + 5,), (7, 3), dtype=dtype)
    fill_normal_(wide, 5), fill_normal_(half, 5)
    assert all(torch.equal(a.to(dtype), b) for a, b in zip(wide, half))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("value", [0.05, -0.0123, 5e-5, -3e-7, 0.12499, 1.0, 0.0, 300.7])
def test_stochastic_rounding_is_right_on_average(dtype, value):
    n = 1_000_000
    x = torch.full((n,), value, device=on_gpu.DEVICE)
    exact, device = x[0].double(), x.device
    rounded = round_stochastically_(x.clone(), dtype, seeded_generator(device, 1))
    assert torch.equal(rounded, rounded.to(dtype).float())  # representable
    neighbours = rounded.unique()
    assert neighbours.numel() <= 2
    spacing = (neighbours.max() - neighbours.min()).double()
    assert (rounded.double().mean() - exact).abs().item() <= 5 * (spacing / 2).item() / n**0.5
    assert torch.equal(rounded, round_stochastically_(x.clone(), dtype, seeded_generator(device, 1)))
    if neighbours.numel() == 2:
        assert not torch.equal(rounded, round_stochastically_(x.clone(), dtype, seeded_generator(device, 2)))


@pytest.mark.parametrize("where", ["first", "last", "all around"])
@pytest.mark.parametrize("measure", [False, True])
def test_empty_tensors_do_not_spoil_the_climb(where, measure):
    """Off the CPU all empty tensors have the same address."""
    torch.manual_seed(0)
    full, empty = [nn.Parameter(t.normal_()) for t in tensors((5, 3), (4,))], [nn.Parameter(t) for t in tensors((0,), (0, 3))]
    order = {"first": empty + full, "last": full + empty, "all around": [empty[0], full[0], empty[1], full[1]]}[where]
    before = [p.detach().clone() for p in full]
    grads = [torch.randn_like(p) for p in full]
    for p, g in [*zip(full, grads), *((p, torch.zeros_like(p)) for p in empty)]:
        p.grad = g.clone()
    there = Perturbation(order, rho=0.5)
    there.climb(measure=measure)
    norm = torch.cat([g.view(-1) for g in grads]).norm()
    for p, w, g in zip(full, before, grads):
        torch.testing.assert_close(p.detach(), w + 0.5 * g / norm)
    there.descend()
    there.perturb_randomly(1)
    distance = torch.cat([(p.detach() - w).view(-1) for p, w in zip(full, before)]).norm()
    torch.testing.assert_close(distance, torch.tensor(0.5, device=on_gpu.DEVICE))
    there.descend()
    assert all(torch.equal(p, w) for p, w in zip(full, before))


@pytest.mark.parametrize(
    "dtype, has_master", [(torch.float32, False), *((half, master) for half in HALF for master in (False, True))]
)
def test_weights_that_are_not_contiguous(dtype, has_master):
    torch.manual_seed(0)
    w = nn.Parameter(tensors((6, 4))[0].normal_().to(dtype).t())
    before, there = w.detach().clone(), Perturbation([w], rho=0.5, masters=[w.detach().float()] if has_master else None)
    there.perturb_randomly(1)
    assert not torch.equal(w, before)
    there.descend()
    assert torch.equal(w, before)
    w.grad = torch.randn_like(w)
    expected = before.double() + 0.5 * w.grad.double() / w.grad.double().norm()
    with there.climb(1):
        coarse = {torch.bfloat16: 2e-2, torch.float16: 2e-3}.get(dtype, 1e-6)
        torch.testing.assert_close(w.detach().double(), expected, rtol=coarse, atol=coarse)
    assert torch.equal(w, before)


def test_what_has_no_gradient_stays():
    first, second = (nn.Parameter(t.normal_()) for t in tensors((5,), (3,)))
    before, there = [first.detach().clone(), second.detach().clone()], Perturbation([first, second], rho=0.5)
    second.grad = torch.ones_like(second)
    with there.climb():
        assert torch.equal(first, before[0]) and not torch.equal(second, before[1])
    assert torch.equal(first, before[0]) and torch.equal(second, before[1])
