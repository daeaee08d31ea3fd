"""Groups of rows of like length: no other way to cut the sorted rows costs less."""

import itertools
import random

import pytest

from sharp_plugins.networks.length_groups import groups_by_length


def cost(groups, overhead):
    return sum(len(group) * max(group) + overhead for group in groups)


def least(lengths, overhead):
    """Of all ways to cut the sorted rows anywhere."""
    ordered, found = sorted(lengths), []
    for cuts in itertools.product([False, True], repeat=len(lengths) - 1):
        groups = [[ordered[0]]]
        for cut, length in zip(cuts, ordered[1:]):
            groups += [[length]] if cut else []
            groups[-1] += [] if cut else [length]
        found.append(cost(groups, overhead))
    return min(found)


@pytest.mark.parametrize("overhead", [0, 1, 10, 48, 1000])
def test_no_other_cut_costs_less(overhead):
    draw = random.Random(overhead)
    for _ in range(20):
        lengths = [draw.randint(1, 60) for _ in range(draw.randint(1, 9))]
        groups = groups_by_length(lengths, overhead)
        assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
        assert cost([[lengths[row] for row in group] for group in groups], overhead) == least(lengths, overhead)


def test_rows_of_one_length_stay_together():
    assert groups_by_length([9] * 50, overhead=0) == [list(range(50))]
    assert groups_by_length([3]) == [[0]] and groups_by_length([]) == []
