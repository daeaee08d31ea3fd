"""The problems of examples/balancedness against autograd and plain loops, the theorems, and what the figures show."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from sharp_plugins.core import balancedness, balancing

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "balancedness"
A = torch.diag(torch.tensor([0.5, 0.0, 0.0], dtype=torch.float64))


@pytest.fixture
def testbeds(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE))
    return importlib.import_module("testbeds")


@pytest.fixture(params=["NOP", "OP"])
def problem(request, testbeds):
    return getattr(testbeds, request.param)()


def loss(problem, x, y, target):
    """The loss of one sample, as the paper writes it."""
    if problem.name == "NOP":
        return ((torch.outer(x, y) - target) ** 2).sum()
    return (torch.dot(x, y) - target) ** 2


def autograd(problem, x, y, target):
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    return torch.autograd.grad(loss(problem, x, y, target), (x, y))


def sample(problem, seed=0, alpha=0.3):
    """One target A + α N, as an array that broadcasts over a batch (K, C) and as a tensor."""
    noise = alpha * problem.noise(np.random.default_rng(seed), 1, 1)
    target = np.reshape(problem.signal, np.shape(problem.signal) + (1, 1)) + noise
    return target, torch.from_numpy(target).squeeze()


def points(count, seed=3):
    """Random x and y, (2, 3, count, 1)."""
    return np.random.default_rng(seed).standard_normal((2, 3, count, 1))


def sam_gradients(problem, x, y, target, rho):
    """SAM's gradients: at the point that the joint gradient of x and y leads to."""
    gx, gy = autograd(problem, x, y, target)
    norm = torch.sqrt((gx**2).sum() + (gy**2).sum())
    return autograd(problem, x + rho * gx / norm, y + rho * gy / norm, target)


def balance(w):
    """B = ½ (‖x‖² − ‖y‖²) of an array (2, 3, ...)."""
    return 0.5 * ((w[0] ** 2).sum(0) - (w[1] ** 2).sum(0))


# ---------------------------------------------------------------------- the problems


def test_gradients_equal_autograd(problem):
    array, target = sample(problem)
    w = points(6)
    found = problem.gradients(w, array)
    for number in range(6):
        expected = autograd(problem, *torch.from_numpy(w[:, :, number, 0]), target)
        for mine, theirs in zip(found[:, :, number, 0], expected):
            np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-12, atol=1e-12)


def test_the_start_and_the_signal_are_the_paper_s(testbeds):
    np.testing.assert_allclose(testbeds.START, [[0.2, -0.1, 0.3], [-0.6, 0.3, -0.9]], rtol=1e-15)
    assert np.array_equal(testbeds.NOP.signal, A.numpy()) and testbeds.OP.signal == 0.5
    assert (testbeds.NOP.rho, testbeds.OP.rho) == (0.1, 0.2)


def test_noise_has_the_paper_s_scales(testbeds):
    draws = 40_000
    matrix = testbeds.NOP().noise(np.random.default_rng(0), draws // 4, 4).reshape(9, draws)
    expected = np.diag(np.repeat([1.0, 0.64, 0.25], 3))  # entries of U are independent
    np.testing.assert_allclose(np.cov(matrix), expected, atol=0.03)
    assert np.abs(matrix.mean(axis=1)).max() < 0.02
    single = testbeds.NOP(scalar_noise=True).noise(np.random.default_rng(0), draws // 4, 4).reshape(3, 3, draws)
    u = single[0, 0]
    np.testing.assert_array_equal(single, np.einsum("ij,n->ijn", np.diag([1.0, 0.8, 0.5]), u))
    number = testbeds.OP().noise(np.random.default_rng(0), draws // 4, 4).ravel()
    for values in (u, number):
        assert abs(values.mean()) < 0.02 and values.var() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("snr", [10.0, 0.1])
def test_noise_levels_are_signal_to_noise_ratios(testbeds, snr):
    for problem in (testbeds.NOP(), testbeds.NOP(scalar_noise=True), testbeds.OP()):
        noise = testbeds.alpha_at(problem, snr) * problem.noise(np.random.default_rng(1), 20_000, 1)
        power = (noise**2).reshape(-1, 20_000).sum(axis=0).mean()
        assert np.sum(np.square(problem.signal)) / power == pytest.approx(snr, rel=0.05)
        assert testbeds.alpha_at(problem, float("inf")) == 0


# ---------------------------------------------------------------------- the methods


def plain_run(problem, method, targets, eta, rho, alpha):
    """One method on one sequence of samples: autograd, and the project's own rule of BAR."""
    x = torch.tensor([0.2, -0.1, 0.3], dtype=torch.float64)
    y = -3 * x
    signs = []
    for target in targets:
        gx, gy = sam_gradients(problem, x, y, target, rho) if method == "SAM" else autograd(problem, x, y, target)
        if method in ("oBAR", "nBAR"):
            rule, sides = (balancing.obar_sign, (x, y)) if method == "oBAR" else (balancing.nbar_sign, (gx, gy))
            signs.append(rule(*(balancedness.squared_norms([side]) for side in sides)))
            for_x, for_y = balancing.factors(signs[-1], eta, eta, alpha)
            x, y = for_x * x, for_y * y
        x, y = x - eta * gx, y - eta * gy
    return torch.stack([x, y]), {sign.item() for sign in signs}


def test_steps_equal_a_plain_loop_with_the_project_s_rule(problem, testbeds):
    # So strong that oBAR comes to the balance, where its sign changes.
    eta, rho, alpha, strength, steps = 4e-3, 0.1, 0.7, 0.5, 2 * testbeds.BLOCK
    options = dict(steps=steps, repeats=2, eta=eta, rho=rho, strength=strength, seed=4)
    record = testbeds.run(problem, [0.0, alpha], **options)
    # The draws of a block come at once.
    rng = np.random.default_rng(4)
    noise = np.concatenate([problem.noise(rng, testbeds.BLOCK, 2) for _ in range(2)], axis=-2)
    noise = torch.from_numpy(np.moveaxis(noise, (-2, -1), (0, 1)))
    signal = A if problem.name == "NOP" else 0.5
    for number, method in enumerate(testbeds.METHODS):
        for level, size in enumerate((0.0, alpha)):
            expected, signs = plain_run(problem, method, signal + size * noise[:, 1], eta, rho, strength)
            found = record.w[:, :, number, level, 1]
            assert np.isfinite(found).all()
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9, atol=1e-11, err_msg=f"{method}, {size}")
            if method == "oBAR":
                assert signs == {1.0, -1.0}


def test_without_strength_or_radius_all_methods_are_sgd(problem, testbeds):
    record = testbeds.run(problem, [0.0, 0.5], steps=1000, rho=0.0, strength=0.0)
    for number in range(1, len(testbeds.METHODS)):
        assert np.array_equal(record.w[:, :, number], record.w[:, :, 0])
        assert np.array_equal(record.difference[:, number], record.difference[:, 0])
    assert not np.array_equal(record.w[..., 0, 0], record.w[..., 1, 0])


def test_a_zero_gradient_makes_no_ascent(testbeds):
    w = np.zeros((2, 3, 1, 1))
    testbeds.step(testbeds.OP(), w, np.full((1, 1), 0.5), 1e-2, np.array([[0.2]]), 0.0, False)
    assert np.array_equal(w, np.zeros_like(w))


def test_the_record_is_that_of_the_run(problem, testbeds):
    options = dict(steps=3 * testbeds.BLOCK, repeats=2, eta=1e-3)
    whole = testbeds.run(problem, [0.1, 0.4], **options)
    first = testbeds.run(problem, [0.1, 0.4], **{**options, "steps": testbeds.BLOCK})
    assert whole.steps.tolist() == [0, 500, 1000, 1500] and whole.difference.shape == (4, 4, 2, 2)
    np.testing.assert_allclose(whole.difference[0], 0.14 - 1.26)
    np.testing.assert_allclose(whole.difference[1], 2 * balance(first.w))
    np.testing.assert_allclose(whole.difference[-1], 2 * balance(whole.w))
    change = np.diff(whole.difference, axis=0) / 2
    np.testing.assert_allclose(whole.measured_slope, change / (testbeds.BLOCK * 1e-3), atol=1e-12)


# ---------------------------------------------------------------------- the theorems


def test_sgd_keeps_balancedness_up_to_the_step_size(problem, testbeds):
    def drift(eta):
        record = testbeds.run(problem, [0.0], methods=["SGD"], steps=round(2 / eta), eta=eta)
        return 0.5 * (record.difference[-1] - record.difference[0]).item()

    coarse, fine = drift(1e-3), drift(5e-4)
    assert coarse / fine == pytest.approx(2, rel=0.01)
    assert 0 < abs(fine) < 1e-3 * 0.56


def slope_of_sam(problem, x, y, target, rho):
    """dB/dt = xᵀ dx/dt − yᵀ dy/dt where x and y follow SAM's gradients, by autograd."""
    gx, gy = sam_gradients(problem, x, y, target, rho)
    return (torch.dot(y, gy) - torch.dot(x, gx)).item()


def theorem_2(problem, x, y, target, rho):
    gx, gy = (g.norm().item() for g in autograd(problem, x, y, target))
    return rho * (gx**2 - gy**2) / (gx**2 + gy**2) ** 0.5


@pytest.mark.parametrize("seed", range(4))
def test_exact_slope_is_sam_s(problem, seed):
    array, target = sample(problem, seed)
    w = points(5, seed)
    found = problem.exact_slope(w, problem.gradients(w, array), 0.3)
    expected = [slope_of_sam(problem, *torch.from_numpy(w[:, :, n, 0]), target, 0.3) for n in range(5)]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-9, atol=1e-12)


def test_first_order_slope_is_theorem_2(problem, testbeds):
    array, target = sample(problem)
    w = points(5)
    found = testbeds.first_order_slope(problem.gradients(w, array), 0.3)
    expected = [theorem_2(problem, *torch.from_numpy(w[:, :, n, 0]), target, 0.3) for n in range(5)]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-12)


def test_theorem_2_holds_up_to_rho_squared(problem, testbeds):
    """One step of SAM from the start on one sample: the error of Theorem 2 falls by 4 where ρ is halved."""
    array, target = sample(problem)
    x, y = torch.from_numpy(testbeds.START)
    errors = []
    for rho in (0.04, 0.02, 0.01):
        w, eta = testbeds.START[:, :, None, None].copy(), 1e-7
        testbeds.step(problem, w, array, eta, np.array([[rho]]), strength=0.0, by_gradients=False)
        measured = ((balance(w) - balance(testbeds.START)) / eta).item()
        errors.append(measured - theorem_2(problem, x, y, target, rho))
    assert 0 < abs(errors[-1]) < 0.1 * abs(theorem_2(problem, x, y, target, 0.01))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)


def test_measured_drift_of_a_run_is_the_mean_of_its_samples_slopes(problem, testbeds):
    def error(eta):
        record = testbeds.run(problem, [0.4], methods=["SAM"], steps=2000, eta=eta)
        return np.abs(record.measured_slope - record.exact_slope).max() / np.abs(record.exact_slope).max()

    # What is left is the discretisation, ½ η (‖g̃_x‖² − ‖g̃_y‖²).
    assert error(1e-4) < 3e-3
    assert error(1e-5) < 3e-4


def test_theorem_3_sam_shrinks_balancedness_at_every_step_on_op(testbeds):
    problem = testbeds.OP()
    record = testbeds.run(problem, [0.0, 0.5, 1.5], methods=["SAM"], steps=10_000, eta=1e-3)
    size = np.abs(record.difference[:, 0, :, 0])
    seen = size[:-1] > 1e-6  # the change of smaller ones is rounding
    assert np.all(size[1:][seen] < size[:-1][seen]) and seen.sum() > 20


# ---------------------------------------------------------------------- what the figures show


@pytest.fixture
def short(problem, testbeds):
    """The figures' runs with steps ten times as long: | ‖x‖² − ‖y‖² | by method, at the start and the end, (2, L)."""
    alphas = [testbeds.alpha_at(problem, snr) for snr in (10, 1, 0.1)]
    record = testbeds.run(problem, alphas, steps=10_000, eta=1e-3, repeats=4)
    return dict(zip(testbeds.METHODS, np.abs(record.difference[[0, -1]]).mean(axis=-1).swapaxes(0, 1)))


def test_more_noise_makes_sam_shrink_balancedness_faster(short):
    start, end = short["SAM"]
    weak, middle, strong = end
    assert strong < middle < weak < start[0]
    assert strong < 0.6 * middle < 0.6 * 0.7 * weak


def test_bar_shrinks_balancedness_and_sgd_does_not(short):
    start, end = short["SGD"]
    assert np.all(end > 0.85 * start)
    assert np.all(short["oBAR"][1] < 1e-3)
    assert np.all(short["nBAR"][1] < 0.5 * start)


def test_both_bars_are_one_on_op(testbeds):
    """g_x = c y and g_y = c x, so the gradients decide as the norms do."""
    record = testbeds.run(testbeds.OP(), [0.2, 1.5], methods=["oBAR", "nBAR"], steps=5000, eta=1e-3)
    assert np.abs(record.difference[-1]).max() < 0.7 * 1.12
    np.testing.assert_allclose(record.difference[:, 0], record.difference[:, 1], atol=2e-3)


def test_the_command_writes_pictures_and_tables(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(EXAMPLE))
    figures = importlib.import_module("figures")
    records = figures.main(["--out", str(tmp_path / "new"), "--steps", "1000", "--repeats", "2"])
    assert records["NOP"].difference.shape == records["OP"].difference.shape == (3, 4, 3, 2)
    for name in ("figure1.png", "figure2.png", "theory.png"):
        data = (tmp_path / "new" / name).read_bytes()
        assert data.startswith(b"\x89PNG") and 10_000 < len(data) < 150_000
    printed = "\n" + capsys.readouterr().out
    for name, record in records.items():
        row = next(row for row in printed.split(f"\n{name}: ")[-1].splitlines() if row.startswith("| SAM"))
        final = np.abs(record.difference[-1, list(figures.METHODS).index("SAM")]).mean(axis=-1)
        assert [cell.split()[0] for cell in row.split("|")[2:5]] == [f"{value:.3g}" for value in final]
    assert "s for the runs" in printed


@pytest.mark.parametrize("wrong", [("--steps", "0"), ("--repeats", "0"), ("--snr", "1", "0")])
def test_the_command_refuses_empty_runs(monkeypatch, tmp_path, wrong, capsys):
    monkeypatch.syspath_prepend(str(EXAMPLE))
    with pytest.raises(SystemExit):
        importlib.import_module("figures").main(["--out", str(tmp_path / "new"), *wrong])
    assert wrong[0] in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "new").exists()
