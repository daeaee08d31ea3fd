"""W + s B A as plain weights, against sums formed by hand, and what rounding leaves of them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sharp_plugins.lora.merge import lora_names, merge, tied_to
from sharp_plugins.networks import LoRASettings, add_lora, lora_layers

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LAYERS = ["encoder.fc", "out"]


def state(dtype=torch.float32, rank=3):
    """Two layers with updates and other things that a checkpoint holds."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    table = normal(11, 8)
    return {
        "encoder.version": torch.tensor([3.0]),
        "encoder.embed_tokens.weight": table,
        "decoder.embed_tokens.weight": table,
        "encoder.steps": torch.tensor([7]),
        "encoder.fc.weight": 0.3 * normal(16, 8),
        "encoder.fc.bias": normal(16),
        "encoder.fc.lora_A": 0.1 * normal(rank, 8),
        "encoder.fc.lora_B": 0.1 * normal(16, rank),
        "out.weight": 0.3 * normal(5, 16),
        "out.lora_A": 0.1 * normal(rank, 16),
        "out.lora_B": 0.1 * normal(5, rank),
    }


def exact(parts, name, scale):
    """W + s B A in NumPy's fp64, term by term."""
    w, a, b = (parts[f"{name}.{part}"].double().numpy() for part in ("weight", "lora_A", "lora_B"))
    total = w.copy()
    for i in range(len(a)):
        total += scale * np.outer(b[:, i], a[i])
    return torch.from_numpy(total)


@pytest.mark.parametrize("scale", [2.0, 0.25])
@pytest.mark.parametrize("dtype", [None, *DTYPES])
@pytest.mark.parametrize("own", DTYPES)
def test_each_weight_is_the_sum_rounded_once_and_nothing_else_changes(own, dtype, scale):
    before = state(own)
    kept = copy.deepcopy(before)
    merged, agreement = merge(before, scale, dtype)
    assert list(merged) == [key for key in before if "lora_" not in key]
    for name in LAYERS:
        ours, sum_ = merged[f"{name}.weight"], exact(before, name, scale)
        assert ours.dtype == (dtype or own)
        # Half a unit in the last place, and not more: rounded once.
        error = (ours.double() - sum_).abs()
        assert (error <= torch.finfo(ours.dtype).eps / 2 * sum_.abs() + 1e-12).all()
    for key, value in merged.items():
        if key not in ("encoder.fc.weight", "out.weight"):
            expected = before[key] if dtype is None or not value.is_floating_point() else before[key].to(dtype)
            assert value.dtype == expected.dtype and torch.equal(value, expected), key
    assert merged["encoder.embed_tokens.weight"].data_ptr() == merged["decoder.embed_tokens.weight"].data_ptr()
    assert all(torch.equal(before[key], kept[key]) for key in kept)
    assert agreement.layers == 2 and agreement.name in LAYERS


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_computes_what_it_computed_unmerged(dtype):
    """In each precision, to a few of its epsilons: two layers, and sums of 32 and 64 terms."""
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 8))
    model = copy.deepcopy(plain)
    add_lora(model, LoRASettings(rank=4, alpha=8.0, target="0,2"))
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora_B, std=0.1)
    merged, _ = merge(model.state_dict(), 2.0, dtype)
    before = copy.deepcopy(plain)
    plain.load_state_dict(merged)
    x = torch.randn(100, 32)

    def distance(net):
        ours, exactly = net.to(dtype)(x.to(dtype)).double(), copy.deepcopy(model).double()(x.double())
        return ((ours - exactly).norm() / exactly.norm()).item()

    tolerance = 4 * torch.finfo(dtype).eps
    assert distance(plain) < tolerance and distance(copy.deepcopy(model)) < tolerance
    assert distance(before) > 0.1  # the update is no small matter


@pytest.mark.parametrize(
    "dtype, difference, survived",
    [(torch.float32, 0.0, 1.0), (torch.float16, 0.0, 1.0), (torch.bfloat16, 2**-10 / (1 + 2**-10), 0.0)],
)
def test_what_is_said_of_rounding(dtype, difference, survived):
    """1 + 2⁻¹⁰ is a number in fp32 and fp16, and 1 in bf16."""
    a, b = torch.full((1, 6), 2.0**-5), torch.full((4, 1), 2.0**-5)
    parts = {"fc.weight": torch.ones(4, 6), "fc.lora_A": a, "fc.lora_B": b}
    merged, agreement = merge(parts, 1.0, dtype)
    assert torch.equal(merged["fc.weight"].double(), torch.full((4, 6), 1 + survived * 2**-10, dtype=torch.float64))
    assert agreement.difference == pytest.approx(difference, rel=1e-9)
    assert agreement.survived == pytest.approx((survived, survived), abs=1e-12)
    assert agreement.tolerance == pytest.approx(torch.finfo(dtype).eps, rel=1e-4)


def test_the_numbers_are_those_of_the_worst_layer():
    """Recomputed for weights in which rounding to bf16 loses more of one layer's update than of the other's."""
    parts = state()
    parts["out.lora_B"] *= 0.01
    merged, agreement = merge(parts, 2.0, torch.bfloat16)
    shares, norms = [], {}
    for name in LAYERS:
        w, sum_ = parts[f"{name}.weight"].double(), exact(parts, name, 2.0)
        change, update = merged[f"{name}.weight"].double() - w, sum_ - w
        shares.append((torch.trace(change @ update.T) / torch.trace(update @ update.T)).item())
        norms[name] = ((merged[f"{name}.weight"].double() - sum_).norm() / sum_.norm()).item()
    assert agreement.survived == pytest.approx((min(shares), max(shares)), rel=1e-6)
    # On random inputs, the outputs' distance is about the weights' own.
    assert agreement.difference == pytest.approx(max(norms.values()), rel=0.3)
    assert agreement.difference <= 2**-7


def test_an_update_of_zero_changes_no_bit():
    parts = {key: torch.zeros_like(value) if key.endswith("lora_B") else value for key, value in state().items()}
    merged, agreement = merge(parts, 2.0)
    assert all(torch.equal(merged[f"{name}.weight"], parts[f"{name}.weight"]) for name in LAYERS)
    assert agreement.difference == 0.0 and agreement.survived == (1.0, 1.0)


def test_a_dtype_that_cannot_hold_the_weights_is_refused():
    parts = state()
    parts["out.weight"] = 1e-8 * torch.randn(5, 16)  # below the smallest number of fp16
    parts["out.lora_B"] *= 1e-8
    with pytest.raises(ValueError, match=r"out: merged in torch.float16.*at most 9.8e-04.*choose fp32"):
        merge(parts, 2.0, torch.float16)
    merge(parts, 2.0, torch.bfloat16)
    parts["encoder.fc.bias"][3] = 1e5  # above the largest
    with pytest.raises(ValueError, match=r"encoder.fc.bias holds infinity.*choose a dtype"):
        merge(parts, 2.0, torch.float16)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["encoder.fc.weight", "out.lora_A", "out.lora_B", "encoder.embed_tokens.weight"])
def test_what_is_not_finite_is_refused_by_name(name, value):
    parts = state()
    parts[name][1, 2] = value
    with pytest.raises(ValueError, match=f"^{name} holds {'NaN' if value != value else 'infinity'}"):
        merge(parts, 2.0)


def test_a_buffer_that_fairseq_never_fills_is_no_reason():
    parts = {**state(), "encoder.embed_positions._float_tensor": torch.tensor([float("nan")])}
    assert "encoder.embed_positions._float_tensor" in merge(parts, 2.0)[0]


def test_merging_twice_is_refused():
    merged, _ = merge(state(), 2.0)
    with pytest.raises(ValueError, match="has no LoRA updates; it is plain or was merged before"):
        merge(merged, 2.0)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda parts: parts.pop("out.lora_A"), "out has an update, but there is no out.lora_A"),
        (lambda parts: parts.pop("out.lora_B"), "out has an update, but there is no out.lora_B"),
        (lambda parts: parts.pop("out.weight"), "out has an update, but there is no out.weight"),
        (lambda parts: parts.update({"out.lora_A": torch.ones(3, 15)}), "lora_B 5 x 3 times lora_A 3 x 15.* 5 x 16"),
        (lambda parts: parts.update({"out.lora_B": torch.ones(5, 2)}), "lora_B 5 x 2 times lora_A 3 x 16.* 5 x 16"),
        (lambda parts: parts.update({"out.lora_B": torch.ones(4, 3)}), "lora_B 4 x 3 times lora_A 3 x 16.* 5 x 16"),
        (lambda parts: parts.update({"out.lora_B": torch.ones(5)}), "out: lora_B 5 times lora_A 3 x 16"),
    ],
)
def test_layers_that_are_not_whole_are_refused_by_name(change, words):
    parts = state()
    change(parts)
    for function in (lora_names, lambda parts: merge(parts, 2.0)):
        with pytest.raises(ValueError, match=words):
            function(parts)


@pytest.mark.parametrize("copied", [False, True])
def test_an_update_of_a_tied_weight_is_refused(copied):
    """As in transformers with --share-decoder-input-output-embed; on a GPU, fairseq writes two copies."""
    parts = state()
    table = parts["decoder.embed_tokens.weight"]
    parts["decoder.output_projection.weight"] = table.clone() if copied else table
    parts["decoder.output_projection.lora_A"] = torch.ones(2, 8)
    parts["decoder.output_projection.lora_B"] = torch.ones(11, 2)
    with pytest.raises(ValueError, match="output_projection.weight and encoder.embed_tokens.weight are one weight"):
        merge(parts, 2.0)


def test_a_layer_under_two_names_is_merged_under_both():
    parts = state()
    parts.update({f"again.{part}": parts[f"out.{part}"] for part in ("weight", "lora_A", "lora_B")})
    merged, agreement = merge(parts, 2.0)
    assert agreement.layers == 3 and torch.equal(merged["again.weight"], merged["out.weight"])


def test_equal_weights_that_are_no_tables_of_embeddings_are_not_tied():
    """As in a model whose decoder begins as a copy of its encoder."""
    parts = state()
    parts["decoder.fc.weight"] = parts["encoder.fc.weight"].clone()
    merged, _ = merge(parts, 2.0)
    assert torch.equal(merged["decoder.fc.weight"], parts["encoder.fc.weight"])
    assert tied_to(parts, "encoder.fc.weight") == []
    assert tied_to(parts, "encoder.embed_tokens.weight") == ["decoder.embed_tokens.weight"]
