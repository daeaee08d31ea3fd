"""The loss against a plain loop over anchors."""

import math

import pytest
import torch

from sharp_plugins.contrastive.info_nce import Vectors, is_found, log_probabilities, of_partners, pair_losses


def plain_losses(first, second, temperature, texts=None):
    """l_j by the formula of the module, one anchor at a time."""
    vectors = [*first, *second]
    count = len(first)

    def cosine(a, b):
        return float(a @ b / (a.norm() * b.norm()))

    def term(i):
        partner = (i + count) % (2 * count)
        own, others = i % count, []
        for k in range(2 * count):
            if k == i or (texts is not None and k != partner and texts[k % count] == texts[own] and k % count != own):
                continue
            others.append(math.exp(cosine(vectors[i], vectors[k]) / temperature))
        return -math.log(math.exp(cosine(vectors[i], vectors[partner]) / temperature) / sum(others))

    return [(term(j) + term(count + j)) / 2 for j in range(count)]


@pytest.fixture
def pairs():
    return Vectors.of(torch.randn(10, 6, generator=torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("temperature", [0.04, 1.0])
def test_the_loss_of_a_pair_is_the_formula(pairs, temperature):
    losses = pair_losses(log_probabilities(pairs, pairs, temperature))
    assert losses.tolist() == pytest.approx(plain_losses(*pairs, temperature), rel=1e-4)


def test_a_repeated_text_is_no_negative_of_itself_where_groups_say_so(pairs):
    groups = torch.tensor([0, 1, 0, 2, 3])
    losses = pair_losses(log_probabilities(pairs, pairs, 0.5, groups=groups))
    expected = plain_losses(*pairs, 0.5, texts=groups.tolist())
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)
    assert expected[0] < plain_losses(*pairs, 0.5)[0]


def test_a_part_of_the_anchors_has_its_part_of_the_losses(pairs):
    """As a worker has among several."""
    whole = log_probabilities(pairs, pairs, 0.5)
    own = Vectors(pairs.first[2:4], pairs.second[2:4])
    part = log_probabilities(own, pairs, 0.5, start=2, groups=torch.arange(5))
    torch.testing.assert_close(part, whole[:, 2:4])
    torch.testing.assert_close(of_partners(part, start=2), of_partners(whole)[:, 2:4])


def test_half_precision_is_compared_in_fp32(pairs):
    half = Vectors(*(vectors.half() for vectors in pairs))
    losses = pair_losses(log_probabilities(half, half, 0.04))
    assert losses.dtype == torch.float32
    assert losses.tolist() == pytest.approx(plain_losses(*(v.float() for v in half), 0.04), rel=1e-4)


def test_a_partner_is_found_where_it_is_nearer_than_all_others(pairs):
    near = Vectors(pairs.first, pairs.first + 1e-3)
    assert is_found(log_probabilities(near, near, 0.5)).all()
    swapped = Vectors(pairs.first, pairs.first[[1, 0, 2, 3, 4]] + 1e-3)
    expected = torch.tensor([[False, False, True, True, True]] * 2)
    assert torch.equal(is_found(log_probabilities(swapped, swapped, 0.5)), expected)
    own = Vectors(swapped.first[2:4], swapped.second[2:4])
    assert is_found(log_probabilities(own, swapped, 0.5, start=2), start=2).all()
    collapsed = Vectors(torch.ones(5, 6), torch.ones(5, 6))
    assert not is_found(log_probabilities(collapsed, collapsed, 0.5)).any()
