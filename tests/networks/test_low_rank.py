"""A linear layer with a low-rank update, against W + s B A formed by hand."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from torch import nn

from sharp_plugins.networks import LoRALinear, LoRASettings, add_lora, lora_layers


def lora_linear(inputs=6, outputs=5, rank=2, alpha=4.0, trained=True, **options):
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs)
    LoRALinear.convert(layer, rank, alpha, **options)
    if trained:
        nn.init.normal_(layer.lora_B)
    return layer


def merged(model):
    """A copy of a model with W + s B A as plain weights in plain layers, computed here."""
    plain = copy.deepcopy(model)
    for layer in lora_layers(plain).values():
        w = layer.base_weight.data + layer.lora_scale * layer.lora_B.data @ layer.lora_A.data
        layer.__class__ = nn.Linear
        del layer.lora_A, layer.lora_B
        layer.weight = nn.Parameter(w)
    assert not lora_layers(plain)
    return plain


@pytest.mark.parametrize("shape", [(6,), (3, 6), (4, 3, 6), (0, 6)])
def test_output_and_gradients_are_those_of_the_merged_weight(shape):
    layer = lora_linear()
    x = torch.randn(*shape, requires_grad=True)
    scale = 4.0 / 2
    w = layer.base_weight + scale * layer.lora_B @ layer.lora_A
    torch.testing.assert_close(layer(x), x @ w.T + layer.bias)
    assert layer(x).shape == (*shape[:-1], 5)
    wanted = [x, layer.lora_A, layer.lora_B]
    upstream = torch.randn(*shape[:-1], 5)
    for ours, theirs in zip(
        torch.autograd.grad((layer(x) * upstream).sum(), wanted),
        torch.autograd.grad(((x @ w.T + layer.bias) * upstream).sum(), wanted),
    ):
        torch.testing.assert_close(ours, theirs)


def test_conversion_changes_nothing_bit_for_bit_nor_draws_random_numbers():
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 5), torch.randn(7, 6)
    before, state = layer(x), torch.get_rng_state()
    weight = layer.weight
    LoRALinear.convert(layer, 3, 8.0, dropout=0.5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(layer(x), before)
    assert layer.base_weight is weight
    assert torch.count_nonzero(layer.lora_B) == 0 and torch.count_nonzero(layer.lora_A) == 18


@pytest.mark.parametrize("init, std", [("kaiming", 1 / 3**0.5 / 400**0.5), ("gaussian", 1 / 8)])
def test_a_is_drawn_as_said(init, std):
    layer = lora_linear(400, 300, rank=8, init=init)
    assert layer.lora_A.std().item() == pytest.approx(std, rel=0.05)
    if init == "kaiming":
        assert layer.lora_A.abs().max() <= 1 / 400**0.5


def test_dropout_is_on_the_input_of_a_alone():
    layer = lora_linear(dropout=0.5).train()
    x = torch.randn(1000, 6)
    torch.manual_seed(1)
    y = layer(x)
    torch.manual_seed(1)
    dropped = F.dropout(x, 0.5)
    expected = x @ layer.base_weight.T + layer.bias + layer.lora_scale * dropped @ (layer.lora_B @ layer.lora_A).T
    torch.testing.assert_close(y, expected)
    layer.eval()
    torch.testing.assert_close(layer(x), merged(layer)(x))


def test_no_dense_gradient_and_no_product_of_the_weights_size_in_training():
    """The largest tensor that autograd keeps or makes for the weight's side has r rows."""
    layer = lora_linear(64, 48, rank=2)
    layer.base_weight.requires_grad_(False)
    seen = []

    class Shapes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if torch.is_tensor(result) and not func.is_view:
                seen.append(tuple(result.shape))
            return result

    x = torch.randn(3, 64, requires_grad=True)
    with Shapes():
        layer(x).sum().backward()
    assert seen and all(sorted(shape) != [48, 64] for shape in seen)
    assert layer.base_weight.grad is None and layer.lora_A.grad is not None


# ---------------------------------------------------------------------- the weight that others read


def test_the_weight_that_others_read_is_the_sum():
    layer = lora_linear()
    w = (layer.base_weight + layer.lora_scale * layer.lora_B @ layer.lora_A).detach()
    x = torch.randn(3, 6)
    torch.testing.assert_close(F.linear(x, layer.weight, layer.bias), x @ w.T + layer.bias)
    torch.testing.assert_close(x @ layer.weight.t(), x @ w.T)
    torch.testing.assert_close(torch.cat([layer.weight, layer.weight])[5:], w)
    torch.testing.assert_close(layer.weight[1:3], w[1:3])
    torch.testing.assert_close(layer.weight.detach() * 2, w * 2)
    assert layer.weight.shape == (5, 6) and layer.weight.size(1) == 6 and layer.weight.dtype == torch.float32
    assert dict(layer.named_parameters())["weight"] is layer.base_weight
    assert torch.equal(layer.state_dict()["weight"], layer.base_weight)


def write_data(weight):
    weight.data = torch.zeros(5, 6)


def write_item(weight):
    weight[0, 0] = 1.0


def write_sum(weight):
    weight += 1.0


@pytest.mark.parametrize("write", [lambda weight: weight.zero_(), write_data, write_item, write_sum, nn.init.zeros_])
def test_writing_to_the_sum_is_refused_and_not_lost(write):
    layer = lora_linear()
    with pytest.raises(RuntimeError, match="base_weight"), torch.no_grad():
        write(layer.weight)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_are_whole(how):
    layer = lora_linear()
    other, x = how(layer), torch.randn(2, 6)
    assert torch.equal(other(x), layer(x)) and other.lora_A is not layer.lora_A


def attention(**options):
    torch.manual_seed(0)
    return MultiheadAttention(16, 4, dropout=0.0, self_attention=True, **options)


def passes(module, x, mask):
    """The ways through fairseq's attention: torch's fused function with and without weights, and fairseq's own code."""
    yield module(x, x, x, need_weights=False)[0]
    yield module(x, x, x, need_weights=True)[0]
    yield module(x, x, x, key_padding_mask=mask, need_weights=False)[0]
    yield module(x, x, x, key_padding_mask=mask, incremental_state={})[0]
    module.skip_embed_dim_check = True
    yield module(x, x, x)[0]
    module.skip_embed_dim_check = False


TARGETS = ["q_proj,v_proj", "out_proj", ".*_proj", "k_proj"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("training", [True, False])
def test_attention_begins_as_the_base_bit_for_bit_and_sees_the_update_in_every_path(target, training):
    base = attention().train(training)
    module = copy.deepcopy(base)
    add_lora(module, LoRASettings(rank=2, alpha=2.0, target=target))
    x, mask = torch.randn(5, 3, 16), torch.zeros(3, 5, dtype=torch.bool)
    mask[1, 3:] = True
    for ours, theirs in zip(passes(module, x, mask), passes(base, x, mask)):
        assert torch.equal(ours, theirs)
    for layer in lora_layers(module).values():
        nn.init.normal_(layer.lora_B, std=0.3)
    plain = merged(module)
    before = [y.clone() for y in passes(base, x, mask)]
    for ours, theirs, old in zip(passes(module, x, mask), passes(plain, x, mask), before):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert (ours - old).abs().max() > 0.01


@pytest.mark.parametrize("target", TARGETS)
def test_the_fused_path_has_the_gradients_of_the_merged_weights(target):
    module = attention()
    add_lora(module, LoRASettings(rank=2, alpha=2.0, target=target))
    for layer in lora_layers(module).values():
        nn.init.normal_(layer.lora_B, std=0.3)
    x = torch.randn(5, 3, 16)
    module(x, x, x, need_weights=False)[0].square().sum().backward()
    plain = merged(module)
    plain(x, x, x, need_weights=False)[0].square().sum().backward()
    for name, layer in lora_layers(module).items():
        dense = plain.get_submodule(name).weight.grad
        torch.testing.assert_close(layer.lora_A.grad, layer.lora_scale * layer.lora_B.T @ dense, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(layer.lora_B.grad, layer.lora_scale * dense @ layer.lora_A.T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("target", TARGETS)
def test_scripted_attention_sees_the_update_and_leaves_the_original_as_it_was(target):
    module = attention().eval()
    add_lora(module, LoRASettings(rank=2, alpha=2.0, target=target))
    for layer in lora_layers(module).values():
        nn.init.normal_(layer.lora_B, std=0.3)
    x = torch.randn(5, 3, 16)
    expected = merged(module)(x, x, x)[0]
    torch.testing.assert_close(torch.jit.script(module)(x, x, x)[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module(x, x, x)[0], expected, rtol=1e-4, atol=1e-5)
    assert len(lora_layers(module)) > 0


def test_compiled_attention_sees_the_update():
    module = attention().eval()
    add_lora(module, LoRASettings(rank=2, alpha=2.0, target="q_proj,out_proj"))
    for layer in lora_layers(module).values():
        nn.init.normal_(layer.lora_B, std=0.3)
    x = torch.randn(5, 3, 16)
    ours = torch.compile(module, backend="eager")(x, x, x)[0]
    torch.testing.assert_close(ours, merged(module)(x, x, x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    module = attention()
    add_lora(module, LoRASettings(rank=2, alpha=2.0))
    for layer in lora_layers(module).values():
        nn.init.normal_(layer.lora_B, std=0.3)
    x = torch.randn(5, 3, 16)
    expected = module(x, x, x, need_weights=False)[0]
    x = x.to(dtype)
    ours = module.to(dtype)(x, x, x, need_weights=False)[0]
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.float(), expected, rtol=0.1, atol=0.1)


def test_autocast():
    layer, x = lora_linear(), torch.randn(4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        z = F.linear(x, layer.weight, layer.bias)
    assert y.dtype == torch.bfloat16 and torch.equal(y, z)
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(rank=0, alpha=1.0), "^rank 0"),
        (dict(rank=6, alpha=1.0), "^rank 6"),
        (dict(rank=2, alpha=0.0), "^alpha"),
        (dict(rank=2, alpha=float("nan")), "^alpha"),
        (dict(rank=2, alpha=1.0, dropout=1.0), "^dropout"),
        (dict(rank=2, alpha=1.0, init="zeros"), "^init"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        LoRALinear.convert(nn.Linear(6, 5), **arguments)


def test_only_plain_linear_layers_are_converted():
    with pytest.raises(TypeError, match="Embedding"):
        LoRALinear.convert(nn.Embedding(6, 5), 2, 1.0)
