"""Declaring scale-invariant pairs, and finding them again."""

import copy

import pytest
import torch
from torch import nn

from sharp_plugins.core.pairs import declare_pair, scale_invariant_pairs
from sharp_plugins.networks import LoRASettings, add_lora


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Linear(4, 4), nn.Linear(4, 4)
        declare_pair(self, ["query.weight", "query.bias"], ["key.weight", "key.bias"])


def test_pairs_are_found_by_their_module_and_survive_copies_and_precision():
    model = nn.Sequential(Attention(), Attention())
    for net in (model, copy.deepcopy(model), model.to(torch.float64)):
        pairs = scale_invariant_pairs(net)
        assert [pair.name for pair in pairs] == ["0", "1"]
        assert pairs[1].x == (net[1].query.weight, net[1].query.bias)
        assert pairs[1].y == (net[1].key.weight, net[1].key.bias)


def test_a_pair_of_layers_that_lora_is_in_is_of_their_own_weights():
    net = Attention()
    query = net.query.weight
    add_lora(net, LoRASettings(rank=2, target="query"))
    declared, update = scale_invariant_pairs(net)
    assert declared.x[0] is query and declared.x[0] is not net.query.weight and declared.y == (net.key.weight, net.key.bias)
    assert (update.x, update.y) == ((net.query.lora_B,), (net.query.lora_A,))
    del net.key._parameters["bias"]
    with pytest.raises(AttributeError, match="Attention has no parameter key.bias any more"):
        scale_invariant_pairs(net)


def test_the_declared_pair_is_scale_invariant():
    net, x = Attention(), torch.randn(5, 4)
    scores = net.query(x) @ net.key(x).T
    (pair,) = scale_invariant_pairs(net)
    with torch.no_grad():
        torch._foreach_mul_(list(pair.x), 2.0)
        torch._foreach_mul_(list(pair.y), 0.5)
    torch.testing.assert_close(net.query(x) @ net.key(x).T, scores)


def test_several_pairs_of_one_module_have_names_of_their_own():
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False), nn.Linear(2, 2))
    declare_pair(net, "0.weight", "1.weight")
    assert [pair.name for pair in scale_invariant_pairs(net)] == ["0.weight/1.weight"]
    declare_pair(net, "1.weight", "2.weight")
    assert [pair.name for pair in scale_invariant_pairs(net)] == ["0.weight/1.weight", "1.weight/2.weight"]


def test_a_pair_that_is_declared_again_counts_once():
    """In an __init__ and in build_model, of a part and of the whole, and with its sides the other way round."""
    model = nn.ModuleDict({"q": nn.Linear(2, 2, bias=False), "k": nn.Linear(2, 2, bias=False)})
    whole = nn.ModuleDict({"part": model})
    for _ in range(2):
        declare_pair(model, "q.weight", "k.weight")
    declare_pair(model, "k.weight", "q.weight")
    declare_pair(whole, "part.q.weight", "part.k.weight")
    [pair] = scale_invariant_pairs(whole)
    assert {id(p) for p in (*pair.x, *pair.y)} == {id(p) for p in model.parameters()}


def test_lora_layers_declare_b_and_a():
    net = nn.ModuleDict({"q_proj": nn.Linear(4, 3), "other": nn.Linear(3, 3)})
    add_lora(net, LoRASettings(rank=2, target="q_proj"))
    (pair,) = scale_invariant_pairs(net)
    assert pair.name == "q_proj" and pair.x == (net["q_proj"].lora_B,) and pair.y == (net["q_proj"].lora_A,)


@pytest.mark.parametrize("x, y", [("0.weight", "nosuch"), ("0.weight", "0.weight"), ([], "0.weight"), ("0.scale", "1.weight")])
def test_bad_declarations(x, y):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="declare_pair"):
        declare_pair(net, x, y)
    assert scale_invariant_pairs(net) == []
