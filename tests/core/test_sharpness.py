"""Curvature, rounding and calibration, against plain computations."""

import math

import numpy
import pytest
import torch

from sharp_plugins.core.sharpness import calibration_error, norm, random_direction, rounded, top_eigenvalue


def symmetric(eigenvalues, seed=0):
    torch.manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), dtype=torch.float64))
    return (q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T).float()


@pytest.mark.parametrize(
    "eigenvalues", [[4.0, 1.0, 0.5, -2.0, 0.0, 0.1], [3.0, -7.0, 1.0, -1.0, 0.2, 0.0], [-1.0, -2.0, -5.0, -9.0, -3.0, -4.0]]
)
def test_the_largest_eigenvalue_is_found_whatever_the_smallest(eigenvalues):
    H, like = symmetric(eigenvalues), [torch.zeros(2, 2), torch.zeros(2)]

    def product(v):
        flat = H @ torch.cat([part.flatten() for part in v])
        return [flat[:4].view(2, 2), flat[4:]]

    found = top_eigenvalue(product, like, steps=500, tolerance=1e-7)
    assert found.value == pytest.approx(max(eigenvalues), abs=1e-2) and found.residual < 0.1


@pytest.mark.parametrize(
    "few, bulk, seed", [((2.0, -10.0), 200, 1), ((10.0, -9.0), 199, 2), ((5.0, 4.0, -20.0), 1_000_000, 3), ((-1.0,), 300, 4)]
)
def test_the_default_products_find_it_in_a_bulk(few, bulk, seed):
    """Of a matrix that is diagonal, with most eigenvalues around 0, as a Hessian's are; a steeper descent hides none."""
    diagonal = torch.randn(bulk, generator=torch.Generator().manual_seed(seed)) * 0.02
    diagonal[: len(few)] = torch.tensor(few)
    found = top_eigenvalue(lambda v: [diagonal * v[0]], [torch.zeros(bulk)], seed=seed)
    largest = diagonal.max().item()
    assert found.steps <= 20 and found.value == pytest.approx(largest, abs=0.05) and found.value <= largest + 0.01
    assert found.residual < 0.1


def test_the_norm_of_trained_weights_is_taken_without_a_warning(recwarn):
    assert norm([torch.nn.Parameter(torch.tensor([3.0])), torch.nn.Parameter(torch.tensor([[4.0]]))]) == 5.0
    assert not recwarn.list


def test_of_a_flat_loss_the_curvature_is_0():
    found = top_eigenvalue(lambda v: [torch.zeros_like(part) for part in v], [torch.ones(3)])
    assert found.value == 0 and found.steps == 1


def test_of_a_loss_that_is_no_number_so_is_the_curvature():
    found = top_eigenvalue(lambda v: [torch.full_like(part, math.nan) for part in v], [torch.ones(3)])
    assert math.isnan(found.value) and found.steps == 1


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounding_is_to_the_nearest_of_a_rows_levels(bits):
    torch.manual_seed(0)
    weight = torch.randn(5, 3, 2)
    weight[3] = 0
    found = rounded(weight, bits).numpy()
    for row, other in zip(weight.numpy().reshape(5, -1), found.reshape(5, -1)):
        scale = numpy.abs(row).max() / (2 ** (bits - 1) - 1)
        levels = scale * numpy.arange(-(2 ** (bits - 1) - 1), 2 ** (bits - 1))
        assert other == pytest.approx([levels[numpy.abs(levels - x).argmin()] for x in row], abs=1e-6)
    assert torch.equal(rounded(torch.ones(3) * 0.3, bits), torch.ones(3) * 0.3)
    assert rounded(weight.bfloat16(), bits).dtype == torch.bfloat16


def test_one_bit_has_no_sign():
    with pytest.raises(ValueError, match="2 or more"):
        rounded(torch.ones(2, 2), 1)


def test_the_calibration_error_is_that_of_the_bins():
    generator = numpy.random.default_rng(0)
    probabilities = generator.dirichlet([1, 1, 1], size=400)
    targets = generator.integers(0, 3, size=400)
    expected, confidence = 0.0, probabilities.max(1)
    right = probabilities.argmax(1) == targets
    for lower in range(15):
        inside = (confidence > lower / 15) & (confidence <= (lower + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert calibration_error(torch.tensor(probabilities), torch.tensor(targets)) == pytest.approx(expected)
    assert calibration_error(torch.eye(3), torch.arange(3)) == 0  # sure, and right


@pytest.mark.parametrize("relative", [False, True])
def test_a_random_direction_has_its_norm_and_its_seeds(relative):
    weights = [torch.full((30, 3), 2.0), torch.full((7,), 0.5), torch.zeros(2)]
    direction = random_direction(weights, 1, relative)
    norms = [float(part.norm()) for part in direction]
    if relative:
        assert norms == pytest.approx([float(weight.norm()) for weight in weights])
    else:
        assert sum(norm**2 for norm in norms) == pytest.approx(1)
    again, other = random_direction(weights, 1, relative), random_direction(weights, 2, relative)
    assert all(map(torch.equal, direction, again)) and not torch.equal(direction[0], other[0])
