"""Weights of all kinds of memory: long, transposed, empty, fp64, mixed; and the arithmetic on them."""

import pytest
import torch
from parameters import HALF, assert_home, copies, flat, give_gradients, parameters

from sharp_plugins.core import flat as flat_arithmetic
from sharp_plugins.core.balancedness import squared_norms
from sharp_plugins.core.perturbation import Perturbation


@pytest.mark.parametrize("dtype", [*HALF, torch.float32, torch.float64])
def test_norms_are_those_of_one_long_vector(monkeypatch, dtype):
    monkeypatch.setattr(flat_arithmetic, "CHUNK", 100)
    tensors, scratch = [p.detach() for p in parameters(dtype)], flat_arithmetic.Scratch()
    zero = torch.zeros((), dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    norm = flat_arithmetic.norm(tensors, zero, scratch)
    assert norm.dtype == zero.dtype and norm.item() == pytest.approx(flat(tensors).norm().item(), rel=1e-6)
    scaled = flat_arithmetic.scaled_norm(tensors, tensors, 0.5, zero, scratch)
    assert scaled.item() == pytest.approx(((flat(tensors).abs() + 0.5) * flat(tensors)).norm().item(), rel=1e-6)
    assert flat_arithmetic.norm([], zero, scratch) == 0


def test_the_norm_of_a_long_tensor_keeps_its_digits():
    """Of as many entries as BERT's embeddings have; torch's own is 0.13 % too small in fp32 on a CPU. A step is ρ g / ‖g‖ long."""
    torch.manual_seed(0)
    w = torch.nn.Parameter(torch.zeros(23_000_000))
    w.grad = torch.randn(23_000_000)
    exact = w.grad.double().norm().item()
    ball = Perturbation([w], rho=1.0).climb()
    assert ball.ascent.grad_norm.item() == pytest.approx(exact, rel=2e-4)
    assert w.detach().double().norm().item() == pytest.approx(1.0, rel=2e-4)
    long, short = torch.randn(23_000_000), torch.ones(4)
    expected = [long.double().square().sum().item(), 4.0]
    assert squared_norms([long, short]).tolist() == pytest.approx(expected, rel=2e-4)


def test_chunks_hold_all_once_and_are_of_one_kind(monkeypatch):
    monkeypatch.setattr(flat_arithmetic, "CHUNK", 100)
    first = [torch.arange(250.0), torch.arange(3.0).double(), torch.arange(30.0).view(5, 6).t()]
    second = [t.clone() + 1000 for t in first]
    seen = []
    for one, other in flat_arithmetic.chunks(first, second):
        assert len({t.dtype for t in other}) == 1
        assert sum(t.numel() for t in one) <= 100
        assert all(torch.equal(a + 1000, b) for a, b in zip(one, other))
        seen += [value for t in one for value in t.reshape(-1).tolist()]
    assert sorted(seen) == sorted(value for t in first for value in t.reshape(-1).tolist())


def test_scratch_is_kept_and_grows_only_with_the_longest_chunk():
    scratch = flat_arithmetic.Scratch()
    long = scratch.load("weights", [torch.ones(10).half()])
    short = scratch.load("weights", [torch.zeros(2, 2).half()])
    assert long.dtype == torch.float32 and short.data_ptr() == long.data_ptr() and long.tolist() == [0] * 4 + [1] * 6
    assert scratch.load("home", [torch.ones(1).half()]).data_ptr() != long.data_ptr()


def test_long_and_non_contiguous_parameters(monkeypatch):
    monkeypatch.setattr("sharp_plugins.core.flat.CHUNK", 100)
    params = [torch.nn.Parameter(torch.randn(50, 41).t()), torch.nn.Parameter(torch.randn(333))]
    w, g = copies(params), flat(give_gradients(params))
    scale = flat(w).abs() + 0.01
    with Perturbation(params, 0.3, adaptive=True).climb():  # adaptive goes through the chunks
        torch.testing.assert_close(flat(params) - flat(w), 0.3 * scale**2 * g / (scale * g).norm(), rtol=1e-3, atol=1e-6)
    assert_home(params, w)


@pytest.fixture
def off_the_cpu(monkeypatch):
    """Fp32 and fp64 weights go the way that they go on a GPU."""

    def at_once(w, direction, out, scale, in_place, epsilon=False):
        assert len(w) > 0  # the _foreach_ functions of a GPU take no empty lists
        flat_arithmetic._add_scaled_at_once(w, direction, out, scale, in_place)

    monkeypatch.setattr(flat_arithmetic, "_add_scaled", at_once)


def test_no_gradient_at_all_off_the_cpu(off_the_cpu):
    """As on a worker that lost its whole ascent to memory."""
    params = parameters()
    w = copies(params)
    with Perturbation(params, 1.0).climb():
        assert_home(params, w)


@pytest.mark.parametrize("path", ["one sweep", "off the CPU", "adaptive"])
@pytest.mark.parametrize("dtype, with_masters", [(torch.float32, False), (torch.float64, False), *((d, True) for d in HALF)])
def test_a_climb_that_is_measured_goes_to_the_same_point(path, dtype, with_masters, request):
    """Bit for bit: what is only measured must not change what is trained."""
    if path == "off the CPU":
        request.getfixturevalue("off_the_cpu")
    points = []
    for measure in (False, True):
        transposed = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)).to(dtype).t()
        params = [*parameters(dtype), torch.nn.Parameter(transposed)]
        masters = [p.detach().float().clone() for p in params] if with_masters else None
        give_gradients(params)
        with Perturbation(params, 0.3, masters, adaptive=path == "adaptive").climb(seed=1, measure=measure):
            points.append(copies(params))
    assert all(torch.equal(one, other) for one, other in zip(*points))


@pytest.mark.parametrize("with_masters", [False, True])
def test_empty_tensors_wherever_they_are(off_the_cpu, with_masters):
    """All empty tensors lie at address 0, which says nothing about the tensors after them."""
    params = [torch.nn.Parameter(torch.empty(0, 3)), *parameters(), torch.nn.Parameter(torch.empty(0))]
    masters = [p.detach().clone() for p in params] if with_masters else None
    w, g = copies(params), flat(give_gradients(params))
    ball = Perturbation(params, 0.3, masters)
    with ball.climb(measure=True):
        torch.testing.assert_close(flat(params) - flat(w), 0.3 * g / g.norm(), rtol=1e-4, atol=1e-7)
    assert ball.ascent.radius.item() == pytest.approx(0.3, rel=1e-5)
    assert ball.ascent.projection.item() == pytest.approx(1, rel=1e-5)
    with ball.perturb_randomly(0):
        assert (flat(params) - flat(w)).norm().item() == pytest.approx(0.3, rel=1e-4)
    assert_home(params, w)
    with Perturbation([torch.nn.Parameter(torch.empty(0))], 0.3).perturb_randomly(0):
        pass


def test_gradients_without_memory_of_their_own(off_the_cpu):
    """An expanded gradient, and a sparse one in which an entry occurs twice."""
    embedding = torch.nn.Embedding(5, 3, sparse=True)
    params = [torch.nn.Parameter(torch.zeros(4, 2)), embedding.weight]
    w = copies(params)
    params[0].grad = torch.ones(()).expand(4, 2)
    embedding(torch.tensor([1, 1, 4])).sum().backward()
    rows = torch.tensor([0.0, 2.0, 0.0, 0.0, 1.0])
    g = torch.cat([torch.ones(8), rows.repeat_interleave(3)]).double()
    with Perturbation(params, 0.3).climb():
        torch.testing.assert_close(flat(params) - flat(w), 0.3 * g / g.norm(), rtol=1e-5, atol=1e-7)
    assert_home(params, w)


@pytest.mark.parametrize("with_masters", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_transposed_parameters_get_the_noise_of_contiguous_ones(dtype, with_masters):
    points = []
    for transposed in (False, True):
        values = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)).to(dtype)
        p = torch.nn.Parameter(values.t().contiguous().t() if transposed else values)
        assert p.is_contiguous() != transposed
        masters = [p.detach().float().clone()] if with_masters else None
        with Perturbation([p], 0.5, masters).perturb_randomly(3):
            points.append(p.detach().clone())
        assert torch.equal(p, values)
    torch.testing.assert_close(*points)  # the norm adds up in the order of the memory


@pytest.mark.parametrize("path", ["one sweep", "off the CPU", "measured"])
def test_fp64_weights_are_perturbed_in_fp64(path, request):
    if path == "off the CPU":
        request.getfixturevalue("off_the_cpu")
    params = parameters(torch.float64)
    w, g = copies(params), give_gradients(params)
    for each, p in zip(g, params):  # entries with a zero gradient have ε = 0
        p.grad.view(-1)[::3] = each.view(-1)[::3] = 0
    ball = Perturbation(params, 0.3)
    with ball.climb(measure=path == "measured"):
        torch.testing.assert_close(flat(params) - flat(w), 0.3 * flat(g) / flat(g).norm(), rtol=0, atol=1e-15)
        assert all(torch.equal(p[each == 0], home[each == 0]) for p, each, home in zip(params, g, w))
    if path == "measured":
        assert ball.ascent.radius.item() == pytest.approx(0.3, rel=1e-13)
    with ball.perturb_randomly(0):
        assert (flat(params) - flat(w)).norm().item() == pytest.approx(0.3, rel=1e-13)
    assert_home(params, w)


def test_fp64_weights_beside_fp32_ones():
    params = [torch.nn.Parameter(torch.randn(50)), torch.nn.Parameter(torch.randn(60, dtype=torch.float64))]
    w, g = copies(params), flat(give_gradients(params))
    for measure in (False, True):
        give_gradients(params)
        with Perturbation(params, 0.3).climb(measure=measure):
            torch.testing.assert_close(flat(params) - flat(w), 0.3 * g / g.norm(), rtol=1e-4, atol=1e-7)
        assert_home(params, w)
