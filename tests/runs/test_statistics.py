"""The statistics of reports, against textbooks, closed forms, brute force and scipy's own paired t-test."""

import doctest
import importlib
import math
import random
from fractions import Fraction
from itertools import combinations, product

import pytest
from scipy.stats import ttest_rel

from sharp_plugins.runs.statistics import (
    Comparison,
    compare,
    confidence_interval,
    correct,
    holm,
    least_p,
    sign_flip_test,
    summarize,
)

# Darwin's maize: cross- minus self-fertilized plants of a pot, in eighths of an inch. Fisher's own example of the test, in
# The Design of Experiments (1935), section 21.
MAIZE = (49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48)


@pytest.mark.parametrize("name", ["statistics", "coordinates", "selection", "lines", "tables", "words", "report", "table"])
def test_examples(name):
    found = doctest.testmod(importlib.import_module(f"sharp_plugins.runs.{name}"))
    assert found.attempted and not found.failed


def test_summaries():
    # (70 + 72 + 77) / 3 = 73; deviations -3, -1, 4; sqrt((9 + 1 + 16) / 2) = sqrt(13)
    assert summarize([70, 72, 77]) == (3, 73, pytest.approx(13**0.5), 77)
    assert summarize([70, 72, 77], higher_is_better=False).best == 70
    assert summarize([75.0]) == (1, 75, None, 75)


def test_a_run_that_diverged_is_shown_and_is_not_the_best():
    summary = summarize([math.nan, 70.0], higher_is_better=False)
    assert math.isnan(summary.mean) and math.isnan(summary.std) and summary.best == 70
    one = compare({1: 70.0, 2: math.nan}, {1: 69.0, 2: 68.0})
    assert (one.pairs, one.better, one.interval, one.p) == (2, 1, None, None) and math.isnan(one.difference)


def test_intervals_are_those_of_the_paired_t_test():
    generator = random.Random(1)
    for n in (2, 3, 5, 12):
        one, other = ([generator.gauss(70, 3) for _ in range(n)] for _ in range(2))
        expected = ttest_rel(one, other).confidence_interval(0.95)
        assert confidence_interval([a - b for a, b in zip(one, other)]) == pytest.approx(tuple(expected))


def test_an_interval_by_hand():
    # Mean 2, deviations -1, 0, 1: std 1. Student's 97.5 % quantile of 2 degrees of freedom is 4.3027.
    half = 4.302652729911275 / 3**0.5
    assert confidence_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - half, 2 + half))


def brute_force(differences):
    """In whole numbers, hence exactly."""
    observed = abs(sum(differences))
    sums = [abs(sum(sign * one for sign, one in zip(signs, differences))) for signs in product((1, -1), repeat=len(differences))]
    return Fraction(sum(one >= observed for one in sums), len(sums))


def test_fishers_own_example():
    # In 863 of the 32768 cases the sum is as large as the one found, and in as many it is as far below zero: 5.267 %.
    assert sum(MAIZE) == 314
    assert sign_flip_test(MAIZE) == 2 * 863 / 32768


@pytest.mark.parametrize("scale", [1.0, 0.1, 100 / 277])  # accuracies of 277 sentences: sums that are equal differ in their bits
def test_sign_flips_are_all_counted_with_their_ties(scale):
    generator = random.Random(2)
    for n in (2, 3, 5, 8, 10):
        for _ in range(20):
            differences = [generator.randint(-4, 4) for _ in range(n)]
            if any(differences):
                assert sign_flip_test([scale * one for one in differences]) == brute_force(differences)


def test_a_mean_of_zero_is_as_near_as_any():
    differences = [100 / 277 * one for one in (2, 5, -1, 1, -7)]
    # Their sum is zero, but for the last bits.
    assert sign_flip_test(differences) == 1


def test_the_least_p_is_reached():
    for n in (2, 3, 5, 6, 16):
        assert least_p(n) == 2 / 2**n == sign_flip_test([1.0 + 0.1 * i for i in range(n)])
    assert least_p(1) == 1


def test_more_seeds_are_estimated_the_same_way_each_time():
    generator = random.Random(3)
    differences = [generator.gauss(0.4, 1) for _ in range(30)]
    first = sign_flip_test(differences)
    assert first == sign_flip_test(differences)
    # The t-test is close for 30 normal differences.
    assert first == pytest.approx(ttest_rel(differences, [0.0] * 30).pvalue, abs=0.01)
    assert least_p(30) <= sign_flip_test([1.0] * 30) == 2 / (2**16 + 1)


def test_what_cannot_be_computed():
    assert sign_flip_test([5.0]) is None and confidence_interval([5.0]) is None
    assert sign_flip_test([0.0, 0.0, 0.0]) is None and confidence_interval([0.0, 0.0, 0.0]) is None
    # Equal, but for their last bits: there is no spread, and the signs can still be flipped.
    differences = [70.3 - 70.1, 60.3 - 60.1, 1.3 - 1.1]
    assert len(set(differences)) == 3
    assert confidence_interval(differences) is None and sign_flip_test(differences) == 0.25


def test_seeds_are_paired():
    values, baseline = {1: 70.0, 2: 73.0, 3: 75.0, 9: 99.0}, {3: 74.0, 1: 71.0, 2: 70.0, 8: 1.0}
    one = compare(values, baseline)  # -1, +3, +1
    expected = ttest_rel([70, 73, 75], [71, 70, 74])
    assert (one.pairs, one.better, one.difference) == (3, 2, pytest.approx(1))
    assert one.interval == pytest.approx(tuple(expected.confidence_interval()))
    assert one.p == brute_force([-1, 3, 1]) and one.corrected is None
    lower = compare(values, baseline, higher_is_better=False)
    assert lower.better == 1 and lower[2:] == one[2:]
    assert compare({1: 70.0}, {2: 70.0}) is None
    assert compare({1: 70.0, 2: 71.0}, {1: 70.0, 2: 71.0}) == (2, 0, 0, None, None, None)
    # The same number, computed in two ways.
    assert compare({1: 0.1 + 0.2, 2: 1.0}, {1: 0.3, 2: 1.0}).better == 0


def test_holm_by_a_known_example():
    # Wikipedia, "Holm-Bonferroni method": of 0.005, 0.01, 0.03 and 0.04 the first two stay significant at 5 %.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.7]) == [0.7] and holm([0.7, 0.8]) == [1, 1]


def test_holm_is_closed_testing_with_bonferroni():
    """Marcus, Peritz and Gabriel 1976: corrected p is the largest of Bonferroni's in all sets of comparisons that it is in."""
    generator = random.Random(4)
    for _ in range(20):
        ps = [round(generator.random() ** 3, 2) for _ in range(5)]  # with ties
        sets = [chosen for size in range(1, 6) for chosen in combinations(range(5), size)]
        expected = [max(min(1, len(chosen) * min(ps[j] for j in chosen)) for chosen in sets if i in chosen) for i in range(5)]
        assert holm(ps) == pytest.approx(expected)


def test_only_comparisons_with_a_p_count():
    def comparison(p):
        return None if p is None else Comparison(3, 3, 1.0, None, p if p >= 0 else None)

    corrected = correct([comparison(p) for p in (0.25, None, -1, 0.01)])
    assert corrected[1] is None
    assert [one.corrected for one in corrected if one] == [0.25, None, 0.02]
    # A seed that diverged is an outcome, and makes the others no surer.
    diverged = compare({1: math.nan, 2: 1.0, 3: 2.0}, {1: 0.0, 2: 0.0, 3: 0.0})
    corrected = correct([comparison(p) for p in (0.25, 0.01)] + [diverged])
    assert [one.corrected for one in corrected] == [0.5, 0.03, None]
