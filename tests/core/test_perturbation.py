"""Climbing and coming back, on tensors alone."""

import math

import pytest
import torch
from parameters import HALF, assert_home, copies, flat, give_gradients, parameters

from sharp_plugins.core import flat as flat_arithmetic
from sharp_plugins.core.perturbation import Perturbation


def test_epsilon_is_rho_times_the_normalised_gradient():
    params = parameters()
    w, g = copies(params), flat(give_gradients(params))
    ball = Perturbation(params, rho=0.3)
    with ball.climb(measure=True):
        epsilon = flat(params) - flat(w)
        torch.testing.assert_close(epsilon, 0.3 * g / g.norm(), rtol=1e-4, atol=1e-7)
        assert all(p.grad is None for p in params)
    assert_home(params, w)
    assert ball.ascent.grad_norm.item() == pytest.approx(g.norm().item(), rel=1e-6)
    assert ball.ascent.radius.item() == pytest.approx(0.3, rel=1e-5)
    assert ball.ascent.projection.item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("move", ["climb", "perturb_randomly"])
def test_one_autocast_around_the_whole_step_sees_the_perturbed_weights(move):
    """Autocast keeps the half-precision copies of the weights until its outermost block ends."""
    torch.manual_seed(0)
    model, x = torch.nn.Linear(4, 4), torch.randn(8, 4)
    ball = Perturbation(list(model.parameters()), rho=1.0)

    def loss():
        return model(x).float().square().mean()

    def step(forward):
        before = forward()
        before.backward()
        torch.manual_seed(1)
        with getattr(ball, move)():
            perturbed = forward()
        model.zero_grad()
        return before.item(), perturbed.item(), forward().item()

    def cast():
        with torch.autocast("cpu", torch.bfloat16):
            return loss()

    with torch.autocast("cpu", torch.bfloat16):
        around = step(loss)
    assert around == step(cast) and around[0] == around[2] and abs(around[1] - around[0]) > 0.1


def test_adaptive_epsilon_scales_with_the_weights():
    params = parameters()
    w, g = copies(params), flat(give_gradients(params))
    scale = flat(w).abs() + 0.02
    with Perturbation(params, rho=0.3, adaptive=True, eta=0.02).climb():
        epsilon = flat(params) - flat(w)
    torch.testing.assert_close(epsilon, 0.3 * scale**2 * g / (scale * g).norm(), rtol=1e-4, atol=1e-8)
    assert_home(params, w)


def test_the_random_point_lies_on_the_sphere_in_a_uniform_direction():
    params = parameters()
    w = copies(params)
    ball = Perturbation(params, rho=0.5)
    directions = []
    for seed in range(300):
        with ball.perturb_randomly(seed):
            directions.append(flat(params) - flat(w))
    assert_home(params, w)
    directions = torch.stack(directions) / 0.5
    n = directions.size(1)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(300, dtype=torch.float64), rtol=1e-4, atol=0)
    # Each coordinate of a uniform direction has mean 0 and variance 1/n; five standard errors over coordinates and draws.
    assert directions.mean().abs() < 5 * (1 / n / directions.numel()) ** 0.5
    assert (directions.mean(0).norm() - (1 / 300) ** 0.5).abs() < 0.02
    assert abs((directions**2).mean(0)[-1] - 1 / n) < 5 * (2 / 300) ** 0.5 / n


@pytest.mark.parametrize("with_masters", [True, False])
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_comes_back_and_measures_what_the_model_sees(dtype, with_masters):
    params = parameters(dtype)
    # The master copy holds more digits than the parameters, which are the master rounded.
    masters = [p.detach().float() * (1 + 1e-4) for p in params] if with_masters else None
    if masters:
        for p, m in zip(params, masters):
            p.data.copy_(m)
    w, g = copies(params), flat(give_gradients(params))
    ball = Perturbation(params, 0.05, masters, rounding="stochastic")
    with ball.climb(measure=True):
        realised = flat(params) - flat(w)
    assert_home(params, w)
    intended = 0.05 * g / g.norm()
    assert ball.ascent.radius.item() == pytest.approx(realised.norm().item(), rel=1e-4)
    expected_projection = (realised @ intended / (intended @ intended)).item()
    assert ball.ascent.projection.item() == pytest.approx(expected_projection, rel=1e-3)


@pytest.mark.parametrize("size", [2000.0, 1e-6])
@pytest.mark.parametrize("dtype", HALF)
def test_the_norm_of_a_half_precision_gradient_is_computed_in_fp32(dtype, size):
    """In fp16 the norm of the large gradient and the squares of the small one would be lost, in bf16 all but 3 digits."""
    params = parameters(dtype)
    for p, g in zip(params, give_gradients(parameters())):
        p.grad = (size * g).to(dtype)
    norm = flat([p.grad for p in params]).norm().item()
    ball = Perturbation(params, 0.05, [p.detach().float() for p in params])
    with ball.climb():
        pass
    assert ball.ascent.grad_norm.item() == pytest.approx(norm, rel=1e-6) and ball.ascent.skipped == 0
    assert dtype != torch.float16 or norm > 65504 or size**2 < 6e-8


def test_an_epsilon_smaller_than_fp16s_numbers_is_kept_on_average():
    """As in a model of a hundred million weights: 1e-8 for each of them, 1/3000 of the spacing of 0.05."""
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.full((400_000,), 0.05).half())
    p.grad = torch.randn(p.shape, generator=generator).sign().half()
    w, direction = p.detach().double(), p.grad.double()
    target = w.float() + 1e-8 * direction.float()  # fp32 numbers, whose spacing there is 0.4e-8
    expected = ((target.double() - w) * direction).mean().item()
    with Perturbation([p], 1e-8 * 400_000**0.5, [p.detach().float()]).climb(seed=0):
        moved = ((p.detach().double() - w) * direction).mean().item()
    # About 150 weights move, by a spacing each: a standard error of 0.09e-8.
    assert moved == pytest.approx(expected, abs=0.4e-8) and expected == pytest.approx(1e-8, rel=0.2)


@pytest.mark.parametrize("dtype", HALF)
def test_stochastic_rounding_keeps_the_projection_where_nearest_loses_it(dtype):
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter((torch.randn(400_000, generator=generator) * 0.05).to(dtype))
    g = torch.randn(p.shape, generator=generator)
    projections = {}
    for rounding in ("nearest", "stochastic"):
        p.grad = g.to(dtype)
        ball = Perturbation([p], 0.005, [p.detach().float()], rounding)
        with ball.climb(measure=True):
            pass
        projections[rounding] = ball.ascent.projection.item()
    assert projections["nearest"] < 0.9
    assert projections["stochastic"] == pytest.approx(1.0, abs=0.03)


def test_views_of_one_flat_master_will_do():
    params = parameters(torch.float16)
    master = torch.cat([p.detach().float().reshape(-1) for p in params])
    views = [part.view(p.shape) for part, p in zip(master.split([p.numel() for p in params]), params)]
    w = copies(params)
    give_gradients(params)
    with Perturbation(params, 1.0, views).climb():
        assert not torch.equal(params[0], w[0])
    assert_home(params, w)


def test_copies_are_made_kind_by_kind(monkeypatch):
    """torch's own way over many tensors on a GPU took destinations of several dtypes for ones of the first one's."""
    copy = torch._foreach_copy_

    def of_one_kind(to, source):
        assert len({t.dtype for t in to}) == 1 == len({t.dtype for t in source})
        copy(to, source)

    monkeypatch.setattr(torch, "_foreach_copy_", of_one_kind)
    # As with fairseq's Fp32BatchNorm.
    params = [*parameters(torch.float16), *parameters(torch.float32), *parameters(torch.bfloat16)]
    w = copies(params)
    ball = Perturbation(params, 1.0, [p.detach().float().clone() for p in params])
    give_gradients(params)
    with ball.climb(measure=True):
        assert not any(torch.equal(p, there) for p, there in zip(params, w))
    assert_home(params, w)
    with ball.perturb_randomly():
        assert not torch.equal(params[0], w[0])
    assert_home(params, w)


def test_the_perturbed_weights_lie_in_memory_as_the_weights_do():
    p = torch.nn.Parameter(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))
    w = p.detach().clone()
    ball = Perturbation([p], 0.5)
    p.square().sum().backward()
    with ball.climb(measure=True):
        assert p.stride() == w.stride() and ball.ascent.radius.item() == pytest.approx(0.5, rel=1e-5)
        torch.testing.assert_close(p.detach(), w + 0.5 * w / w.norm())
        p.square().sum().backward()
        assert p.grad.stride() == w.stride()
    assert torch.equal(p, w)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_first_used_in_inference_mode_trains_later(dtype):
    """As a look at the sharpness while Lightning validates, which is before training."""
    params = parameters(dtype)
    masters = None if dtype == torch.float32 else [p.detach().float() for p in params]
    w, ball = copies(params), Perturbation(params, 1.0, masters)
    with torch.inference_mode(), ball.perturb_randomly(seed=1):
        assert not torch.equal(params[0], w[0])
    assert_home(params, w)
    give_gradients(params)
    with ball.climb(measure=True):
        assert not torch.equal(params[0], w[0])
    assert_home(params, w)


def test_no_gradient_and_zero_gradient_stay_at_w():
    params = parameters()
    w = copies(params)
    ball = Perturbation(params, rho=1.0)
    with ball.climb():
        assert_home(params, w)
    assert ball.ascent.skipped == 1
    for p in params:
        p.grad = torch.zeros_like(p)
    with ball.climb():
        assert_home(params, w)
    assert ball.ascent.skipped == 1 and ball.ascent.grad_norm == 0


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_non_finite_gradient_makes_the_pass_fail_and_not_the_weights(bad):
    params = parameters()
    w = copies(params)
    give_gradients(params)
    params[1].grad[3] = bad
    ball = Perturbation(params, rho=1.0)
    with ball.climb():
        assert params[0].isnan().all()
    assert ball.ascent.skipped == 1
    assert_home(params, w)


def test_frozen_parameters_cost_nothing():
    params = parameters()
    params[0].requires_grad_(False)
    frozen = params[0].data.data_ptr()
    give_gradients(params)
    ball = Perturbation(params, rho=1.0)
    with ball.climb():
        assert params[0].data.data_ptr() == frozen
    with ball.perturb_randomly(0):
        assert params[0].data.data_ptr() == frozen
    assert sum(t.numel() for t in ball._buffer) == sum(p.numel() for p in params[1:])


@pytest.mark.parametrize("with_masters", [True, False])
def test_frozen_parameters_take_no_part(with_masters):
    """One that was frozen after its gradient was made, too: ε is as long as ρ over the others, and the norm is theirs."""
    params = parameters(torch.float16 if with_masters else torch.float32)
    others = params[1:]
    w, g = copies(params), flat(give_gradients(params)[1:])
    params[0].requires_grad_(False)
    ball = Perturbation(params, 0.5, [p.detach().float() for p in others] if with_masters else None)
    tolerance = 0.02 if with_masters else 1e-5
    with ball.climb(measure=True):
        epsilon = flat(others) - flat(w[1:])
        torch.testing.assert_close(epsilon @ g / g.norm(), torch.tensor(0.5).double(), rtol=tolerance, atol=0)
        assert torch.equal(params[0], w[0])
    assert ball.ascent.grad_norm.item() == pytest.approx(g.norm().item(), rel=1e-6)
    assert ball.ascent.radius.item() == pytest.approx(0.5, rel=tolerance)
    with ball.perturb_randomly(0):
        assert (flat(others) - flat(w[1:])).norm().item() == pytest.approx(0.5, rel=tolerance)
        assert torch.equal(params[0], w[0])
    assert_home(params, w)


def test_both_perturbations_share_one_copy_and_w_is_never_written():
    params = parameters()
    w_memory = [p.data_ptr() for p in params]
    ball = Perturbation(params, rho=1.0)
    with ball.perturb_randomly(0):
        buffer = [p.data_ptr() for p in params]
    for _ in range(3):
        give_gradients(params)
        with ball.climb():
            assert [p.data_ptr() for p in params] == buffer
        assert [p.data_ptr() for p in params] == w_memory


def test_an_exception_inside_comes_back():
    for with_masters in (False, True):
        params = parameters(torch.float16 if with_masters else torch.float32)
        masters = [p.detach().float() for p in params] if with_masters else None
        w = copies(params)
        give_gradients(params)
        ball = Perturbation(params, 1.0, masters)
        with pytest.raises(KeyboardInterrupt):
            with ball.climb():
                raise KeyboardInterrupt
        assert_home(params, w)
        assert not ball.climbed


def test_climbing_twice_is_refused():
    params = parameters()
    ball = Perturbation(params, 1.0)
    ball.perturb_randomly(0)
    with pytest.raises(RuntimeError, match="descend"):
        ball.climb()
    ball.descend()


@pytest.mark.parametrize("arguments", [{"rho": -1.0}, {"rho": math.nan}, {"rho": 1.0, "eta": -1.0}, {"rho": 1.0, "rounding": "up"}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError):
        Perturbation(parameters(), **arguments)
    with pytest.raises(ValueError, match="requires_grad"):
        Perturbation([], 1.0)


def test_stochastic_rounding_starts_from_what_the_model_sees():
    """A master copy off the half-precision grid: rounding it at random would move weights by far more than ε does."""
    generator = torch.Generator().manual_seed(0)
    master = torch.randn(400_000, generator=generator) * 0.05
    p = torch.nn.Parameter(master.to(torch.bfloat16))
    p.grad = torch.randn(p.shape, generator=generator).to(torch.bfloat16)
    ball = Perturbation([p], 0.005, [master], "stochastic")
    with ball.climb(measure=True):
        pass
    assert ball.ascent.projection.item() == pytest.approx(1.0, abs=0.05)
    on_the_grid = torch.nn.Parameter(p.detach().clone())
    on_the_grid.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    twin = Perturbation([on_the_grid], 0.005, [on_the_grid.detach().float()], "stochastic")
    with twin.climb(measure=True):
        pass
    assert ball.ascent.radius.item() == pytest.approx(twin.ascent.radius.item(), rel=0.05)


def test_a_parameter_that_is_named_twice_counts_once():
    """As in [*encoder.parameters(), *decoder.parameters()] with tied embeddings."""
    params = parameters()
    w, g = copies(params), flat(give_gradients(params))
    with Perturbation([*params, params[0]], 0.3).climb():
        torch.testing.assert_close(flat(params) - flat(w), 0.3 * g / g.norm(), rtol=1e-4, atol=1e-7)
    assert_home(params, w)


def test_parameters_and_masters_of_other_kinds_are_refused():
    with pytest.raises(ValueError, match="complex64"):
        Perturbation([torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))], 1.0)
    params = parameters(torch.float16)
    with pytest.raises(ValueError, match="masters must be fp32"):
        Perturbation(params, 1.0, [p.detach().double() for p in params])
    params = parameters()
    with pytest.raises(ValueError, match="memory of their own"):  # coming back would find w + ε
        Perturbation(params, 1.0, [p.detach().float() for p in params])


@pytest.mark.parametrize("move", ["climb", "perturb_randomly"])
def test_a_move_that_fails_half_way_comes_back(monkeypatch, move):
    """The with statement has not begun then: nothing else would."""
    monkeypatch.setattr(flat_arithmetic, "CHUNK", 100)
    params = parameters(torch.float16)
    w = copies(params)
    give_gradients(params)
    ball = Perturbation(params, 1.0, [p.detach().float().clone() for p in params])
    load, loaded = ball._scratch.load, []

    def fail_at_the_end(name, chunk):
        if name == "weights":
            loaded.append(torch.equal(params[0], w[0]))
        if len(loaded) == 5:
            raise RuntimeError("out of memory")
        return load(name, chunk)

    monkeypatch.setattr(ball._scratch, "load", fail_at_the_end)
    with pytest.raises(RuntimeError, match="out of memory"):
        getattr(ball, move)()
    assert not loaded[-1]  # some weights had been written
    assert_home(params, w)
    assert not ball.climbed


# ---------------------------------------------------------------------- whose random numbers


def noise_of(ball, params, w, **arguments):
    with ball.perturb_randomly(**arguments):
        return flat(params) - flat(w)


def test_the_noise_follows_the_users_seed():
    params = parameters()
    w, ball = copies(params), Perturbation(params, 1.0)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second = noise_of(ball, params, w), noise_of(ball, params, w)
    assert not torch.equal(first, second)
    torch.manual_seed(2)
    assert not torch.equal(noise_of(ball, params, w), first)
    torch.manual_seed(1)  # in the middle of a run
    assert torch.equal(noise_of(ball, params, w), first)
    torch.set_rng_state(state)  # and a new process that goes on from a checkpoint
    assert torch.equal(noise_of(Perturbation(params, 1.0), params, w), first)


def test_stochastic_rounding_follows_the_users_seed():
    params = parameters(torch.bfloat16)
    w, ball, points = copies(params), Perturbation(params, 0.05), []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        give_gradients(params)
        with ball.climb():
            points.append(flat(params))
        assert_home(params, w)
    assert torch.equal(points[0], points[2]) and not torch.equal(points[0], points[1])


def test_a_seed_of_the_callers_and_what_needs_none_leave_the_global_generator_alone():
    """Else the dropout masks of what follows would be others."""
    before = torch.get_rng_state()
    for dtype, rounding, seed in [(torch.float32, "stochastic", None), (HALF[0], "nearest", None), (HALF[1], "stochastic", 5)]:
        params = parameters(dtype)
        give_gradients(params)
        with Perturbation(params, 1.0, rounding=rounding).climb(seed=seed):
            pass
    noise_of(Perturbation(params, 1.0), params, copies(params), seed=3)
    assert torch.equal(torch.get_rng_state(), before)
