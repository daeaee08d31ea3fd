"""The weights of δ-SAM against a direct evaluation of Eq. 3-6 in plain Python."""

import math
import random

import pytest
import torch

from sharp_plugins.core import guardedness
from sharp_plugins.core.guardedness import instance_weights


def direct_evaluation(a, beta):
    """Eq. 4-6, written once more with Python's floats and fractions of the paper's notation."""
    n = len(a)
    g = [abs(x) / sum(abs(y) for y in a) for x in a]
    a_bar = sum(a) / n
    a_s = sum(g_i * a_i for g_i, a_i in zip(g, a))
    r = beta * abs(a_bar) / abs(a_s)
    return [(g_i - 1 / n) * r + 1 / n for g_i in g], r


@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0, 70.0])
@pytest.mark.parametrize("n", [2, 5, 32])
def test_weights_equal_the_direct_evaluation(n, beta):
    rng = random.Random(n)
    a = [rng.gauss(0.1, 1.0) for _ in range(n)]
    expected, r = direct_evaluation(a, beta)
    tensor = torch.tensor(a, dtype=torch.float64)
    torch.testing.assert_close(instance_weights(tensor, beta), torch.tensor(expected, dtype=torch.float64))
    result = guardedness.weights(tensor, guardedness.sums(tensor), beta)
    assert result.r.item() == pytest.approx(r)
    assert result.g_prime.sum().item() == pytest.approx(1.0)


def test_single_weights_may_be_negative_and_stay_so():
    weights = instance_weights(torch.tensor([1.0, 1.0, 1.0, 0.0]), beta=10.0)
    assert weights.min() < 0
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    "a", [[0.0, 0.0, 0.0], [1.0, -1.0], [0.7], [math.nan, math.nan]], ids=["all zero", "a_s zero", "one", "all NaN"]
)
def test_degenerate_batches_get_uniform_weights(a):
    n = len(a)
    assert instance_weights(torch.tensor(a), beta=5.0).tolist() == pytest.approx([1 / n] * n)


def test_a_non_finite_change_counts_as_the_largest_finite_one():
    given = torch.tensor([0.1, math.inf, -0.4, math.nan, -math.inf])
    replaced = torch.tensor([0.1, 0.4, -0.4, 0.4, 0.4])
    torch.testing.assert_close(instance_weights(given, 3.0), instance_weights(replaced, 3.0))


def test_sums_over_parts_give_the_weights_of_the_whole():
    a = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = instance_weights(a, 3.0)
    parts = a.split([5, 0, 7])
    total = guardedness.Sums(*(sum(values) for values in zip(*map(guardedness.sums, parts))))
    split = torch.cat([guardedness.weights(part, total, 3.0).g_prime for part in parts])
    torch.testing.assert_close(split, whole)


def test_entropy_is_one_for_equal_changes_and_zero_for_a_single_one():
    def entropy(a):
        a = torch.tensor(a)
        return guardedness.weights(a, guardedness.sums(a), 3.0).entropy.item()

    assert entropy([0.3, -0.3, 0.3]) == pytest.approx(1.0)
    assert entropy([0.3, 0.0, 0.0]) == pytest.approx(0.0, abs=1e-6)
    probabilities = [0.1 / 0.4, 0.3 / 0.4]
    expected = -sum(p * math.log(p) for p in probabilities) / math.log(2)
    assert entropy([0.1, 0.3]) == pytest.approx(expected)


def test_inverse_weights_fall_with_the_change_of_the_loss():
    a = torch.tensor([0.3, -0.1, 0.0, 2.0], dtype=torch.float64)
    mean = 2.4 / 4
    expected = torch.tensor([mean / (x + mean) for x in (0.3, 0.1, 0.0, 2.0)], dtype=torch.float64)
    torch.testing.assert_close(guardedness.inverse_weights(a, guardedness.sums(a)), expected)
    parts = a.split([1, 0, 3])
    total = guardedness.Sums(*(sum(values) for values in zip(*map(guardedness.sums, parts))))
    torch.testing.assert_close(torch.cat([guardedness.inverse_weights(part, total) for part in parts]), expected)
    zeros = torch.zeros(3)
    assert guardedness.inverse_weights(zeros, guardedness.sums(zeros)).tolist() == [1.0, 1.0, 1.0]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="one entry per instance"):
        instance_weights(torch.zeros(2, 2), 3.0)
    for beta in (-1.0, math.nan):
        with pytest.raises(ValueError, match="beta"):
            instance_weights(torch.zeros(2), beta)
