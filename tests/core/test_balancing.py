"""BAR's rule against plain Python."""

import math

import pytest
import torch

from sharp_plugins.core import balancing
from sharp_plugins.core.balancedness import squared_norms
from sharp_plugins.core.balancing import factors, nbar_sign, obar_sign, scheduled_alpha


def pairs(dtype=torch.float32, seed=0):
    """X and Y of three pairs of different shapes, as LoRA's B and A are."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [((5, 2), (2, 7)), ((3, 4), (4, 3)), ((1, 6), (6, 2))]
    return [tuple(torch.randn(s, generator=generator).to(dtype) for s in pair) for pair in shapes]


def test_signs():
    first, second = torch.tensor([4.0, 1.0, 2.0]), torch.tensor([1.0, 4.0, 2.0])
    # The larger side shrinks; X where they are equal ("‖X‖ ≥ ‖Y‖").
    assert obar_sign(first, second).tolist() == [1, -1, 1]
    # The side with the smaller gradient shrinks; Y where they are equal ("‖G_X‖ < ‖G_Y‖").
    assert nbar_sign(first, second).tolist() == [-1, 1, -1]
    for sign in (obar_sign, nbar_sign):
        for dtype in (torch.float32, torch.float64):
            assert sign(first.to(dtype), second.to(dtype)).dtype == dtype


@pytest.mark.parametrize("scale", [2.0**-10, 128.0, 2.0**15])
def test_nbar_does_not_depend_on_the_gradients_scale(scale):
    (gx, gy), (other_gx, other_gy) = [zip(*pairs(seed=seed)) for seed in (1, 2)]
    gx, gy = gx + other_gy, gy + other_gx  # both signs occur
    sign = nbar_sign(squared_norms(gx), squared_norms(gy))
    assert set(sign.tolist()) == {1.0, -1.0}
    scaled = [squared_norms([scale * g for g in side]) for side in (gx, gy)]
    assert torch.equal(nbar_sign(*scaled), sign)


def test_factors_are_the_paper_s_update():
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64)
    for_x, for_y = factors(sign, eta_x=0.1, eta_y=0.3, alpha=0.5)
    assert for_x.tolist() == pytest.approx([1 - 0.05, 1 + 0.05])
    assert for_y.tolist() == pytest.approx([1 + 0.15, 1 - 0.15])


def test_no_strength_changes_nothing():
    for eta, alpha in ((0.1, 0.0), (0.0, 0.5)):
        for factor in factors(torch.tensor([1.0, -1.0]), eta, eta, alpha):
            assert factor.tolist() == [1, 1]


def test_nbar_leaves_pairs_without_gradients_alone():
    gx, gy = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0])
    sign = nbar_sign(gx, gy)
    assert sign.tolist() == [0, 1, -1]
    assert [by.tolist() for by in factors(sign, 0.5, 0.5, 0.5)] == [[1, 0.75, 1.25], [1, 1.25, 0.75]]


def test_factors_bring_unequal_sides_to_balance():
    x, y = pairs(torch.float64)[0]
    x = 3 * x
    eta, alpha = 0.01, 0.2
    distances = []
    for _ in range(2000):
        x_squared, y_squared = squared_norms([x]), squared_norms([y])
        distances.append(abs(x_squared - y_squared).item())
        for_x, for_y = factors(obar_sign(x_squared, y_squared), eta, eta, alpha)
        x, y = for_x * x, for_y * y
    # Once there, every step changes ‖X‖² − ‖Y‖² by 2 η α (‖X‖² + ‖Y‖²), to one side or to the other.
    floor = 2.01 * eta * alpha * (x_squared + y_squared).item()
    arrived = next(step for step, distance in enumerate(distances) if distance < floor)
    assert distances[0] > 100 * floor and 0 < arrived < 1900
    assert distances[:arrived] == sorted(distances[:arrived], reverse=True)
    assert max(distances[arrived:]) < floor


@pytest.mark.parametrize("alpha", [-0.1, math.nan, math.inf])
def test_bad_strengths_are_refused(alpha):
    with pytest.raises(ValueError, match="^alpha must be"):
        factors(torch.ones(1), 0.1, 0.1, alpha)


@pytest.mark.parametrize("eta_x, eta_y", [(2.0, 0.1), (0.1, 2.0), (4.0, 4.0)])
def test_strengths_that_turn_the_sign_of_the_weights_are_refused(eta_x, eta_y):
    with pytest.raises(ValueError, match="^alpha 0.5 times .* lower one of the two"):
        factors(torch.ones(1), eta_x, eta_y, alpha=0.5)
    factors(torch.ones(1), 1.9, 1.9, alpha=0.5)


def test_schedules():
    alphas = {name: [scheduled_alpha(0.4, name, t, 8) for t in range(9)] for name in balancing.SCHEDULES}
    assert alphas["constant"] == [0.4] * 9
    assert alphas["linear"] == pytest.approx([0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0])
    half, quarter = math.sqrt(0.5), math.cos(math.pi / 8)
    turn = [1, quarter, half, math.sin(math.pi / 8), 0]  # cos of 0, 22.5, 45, 67.5, 90 degrees
    expected = [0.2 * (1 + c) for c in turn] + [0.2 * (1 - c) for c in turn[-2::-1]]
    assert alphas["cosine"] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_schedules_that_fall_stay_at_their_end(schedule):
    assert scheduled_alpha(0.4, schedule, 12, 8) == 0
    with pytest.raises(ValueError, match="^schedule .* give the total number of updates"):
        scheduled_alpha(0.4, schedule, 3, 0)


def test_a_constant_strength_needs_no_length():
    assert scheduled_alpha(0.4, "constant", 3, 0) == 0.4


def test_unknown_schedules_are_refused():
    with pytest.raises(ValueError, match="^schedule square: choose one of constant, linear, cosine"):
        scheduled_alpha(0.4, "square", 3, 8)
