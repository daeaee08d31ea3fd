"""Ways of writing to the weight of a LoRA layer: each takes effect, or raises and says what to write to; none is lost."""

import copy
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from fairseq.modules.transformer_sentence_encoder import init_bert_params
from torch import nn

from sharp_plugins.networks import LoRALinear, LoRASettings, add_lora

NEW = torch.arange(30.0).view(5, 6)


def lora_linear():
    torch.manual_seed(0)
    layer = nn.Linear(6, 5)
    LoRALinear.convert(layer, 2, 4.0)
    nn.init.normal_(layer.lora_B)
    return layer


def total(layer):
    """W + s B A by hand."""
    return (layer._parameters["weight"] + 2.0 * layer.lora_B @ layer.lora_A).detach()


def item(target):
    target[0, 1] = 1.0


def add(target):
    target += 1.0


def rows(target):
    for row in target:
        row.zero_()


def array(target):
    target.detach().numpy()[0] = 1.0


def asarray(target):
    np.asarray(target.detach())[0] = 1.0


def data(target):
    target.data = NEW


def grad(target):
    target.grad = NEW


def requires_grad(target):
    target.requires_grad = False


# What is written to a tensor: the weight itself, or one that shares a plain layer's memory.
WRITES = {
    "zero_": lambda t: t.zero_(),
    "copy_": lambda t: t.copy_(NEW),
    "normal_": lambda t: t.normal_(),
    "mul_": lambda t: t.mul_(0.5),
    "item": item,
    "+=": add,
    "data =": data,
    "row": lambda t: t[0].zero_(),
    "rows": rows,
    "slice of a view": lambda t: t.view(-1)[3:].fill_(1.0),
    "transposed": lambda t: t.t().mul_(2.0),
    "T": lambda t: t.T.add_(1.0),
    "chunk": lambda t: t.chunk(2)[1].zero_(),
    "float": lambda t: t.float().zero_(),
    "cpu": lambda t: t.cpu().zero_(),
    "contiguous": lambda t: t.contiguous().zero_(),
    "numpy": array,
    "asarray": asarray,
    "out": lambda t: torch.add(NEW, NEW, out=t),
    "foreach": lambda t: torch._foreach_mul_([torch.ones(2), t], 2.0),
    "inplace": lambda t: F.relu(t, inplace=True),
    "vector_to_parameters": lambda t: nn.utils.vector_to_parameters(NEW.view(-1), [t]),
    **{
        name: lambda t, init=getattr(nn.init, name): init(t)
        for name in (
            "zeros_",
            "ones_",
            "normal_",
            "uniform_",
            "trunc_normal_",
            "xavier_uniform_",
            "xavier_normal_",
            "kaiming_uniform_",
            "kaiming_normal_",
            "orthogonal_",
            "eye_",
        )
    },
    "constant_": lambda t: nn.init.constant_(t, 1.0),
    "sparse_": lambda t: nn.init.sparse_(t, 0.5),
}
TARGETS = {
    "weight": lambda layer: layer.weight,
    "weight.data": lambda layer: layer.weight.data,
    "weight.detach()": lambda layer: layer.weight.detach(),
    "weight.data[:]": lambda layer: layer.weight.data[:],
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("write", WRITES)
def test_what_would_be_lost_is_refused(write, target):
    layer = lora_linear()
    before = copy.deepcopy(layer.state_dict())
    read_only = ValueError if write in ("numpy", "asarray") else RuntimeError  # NumPy's own words for the first
    with pytest.raises(read_only, match="base_weight.*lora_A or lora_B.*clone|read-only"), torch.no_grad():
        WRITES[write](TARGETS[target](layer))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


# What changes no number, and would be forgotten.
@pytest.mark.parametrize(
    "write",
    [
        grad,
        requires_grad,
        lambda t: t.requires_grad_(),
        lambda t: t.register_hook(print),
        lambda t: t.retain_grad(),
        lambda t: nn.Parameter(t),
        lambda t: nn.Parameter(t.data),
        lambda t: t.share_memory_(),
    ],
)
def test_what_would_be_forgotten_is_refused(write):
    with pytest.raises(RuntimeError, match="base_weight"):
        write(lora_linear().weight)


@pytest.mark.parametrize("initialise", [init_bert_params, lambda layer: layer.reset_parameters()])
def test_initialising_a_layer_after_its_update_is_refused(initialise):
    with pytest.raises(RuntimeError, match="initialise a model before it gets its updates"):
        initialise(lora_linear())


def test_initialising_a_model_after_its_updates_is_refused():
    attention = MultiheadAttention(16, 4, self_attention=True)
    add_lora(attention, LoRASettings(rank=2))
    before = copy.deepcopy(attention.v_proj.state_dict())
    with pytest.raises(RuntimeError, match="base_weight"):
        attention.apply(init_bert_params)
    assert all(torch.equal(value, before[name]) for name, value in attention.v_proj.state_dict().items())


def assign(layer):
    layer.weight = nn.Parameter(NEW.clone())


def in_place(layer):
    with torch.no_grad():
        layer.base_weight.copy_(NEW)


def by_vector(layer):
    names = [name for name, _ in layer.named_parameters()]
    values = {**dict(layer.named_parameters()), "weight": NEW}
    nn.utils.vector_to_parameters(torch.cat([values[name].detach().view(-1) for name in names]), layer.parameters())


def init(layer):
    with torch.no_grad():
        nn.init.eye_(layer.base_weight).mul_(0).add_(NEW)


@pytest.mark.parametrize(
    "write",
    [
        assign,
        in_place,
        by_vector,
        init,
        lambda layer: layer.base_weight.data.copy_(NEW),
        lambda layer: setattr(layer.base_weight, "data", NEW.clone()),
        lambda layer: layer.load_state_dict({**layer.state_dict(), "weight": NEW}),
        lambda layer: layer.load_state_dict({**layer.state_dict(), "weight": NEW.clone()}, assign=True),
    ],
)
def test_what_is_written_to_w_takes_effect_and_the_update_stays(write):
    layer, x = lora_linear(), torch.randn(3, 6)
    update = total(layer) - layer.base_weight.detach()
    write(layer)
    assert torch.equal(layer.base_weight, NEW) and torch.equal(layer.state_dict()["weight"], NEW)
    torch.testing.assert_close(layer.weight.detach() + 0, NEW + update)
    torch.testing.assert_close(layer(x), x @ (NEW + update).T + layer.bias)


def test_other_values_are_no_weight():
    layer = lora_linear()
    for value in (NEW, layer.weight, layer.weight.data):
        with pytest.raises(TypeError, match="cannot assign"):
            layer.weight = value


def test_reading_is_as_before():
    """Copies are for writing, other tensors take the sum, and files hold plain tensors."""
    layer = lora_linear()
    w, other = total(layer), nn.Linear(6, 5)
    for read in (layer.weight, layer.weight.data, layer.weight.detach(), layer.weight.view(5, 6)):
        with torch.no_grad():
            torch.testing.assert_close(read.clone().zero_(), torch.zeros(5, 6))
            torch.testing.assert_close(torch.zeros(5, 6).copy_(read), w)
            sum_ = torch.ones(5, 6)
            sum_ += read
            torch.testing.assert_close(sum_, 1 + w)
            torch.testing.assert_close(torch.stack(list(read)), w)
            other.weight.copy_(read)
        other.weight.data = read.data
        torch.testing.assert_close(other.weight.detach(), w)
        assert type(read * 1) is torch.Tensor and type(nn.Parameter(read.detach().clone())) is nn.Parameter
        file = io.BytesIO()
        torch.save(read.detach(), file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        assert type(saved) is torch.Tensor
        torch.testing.assert_close(saved, w)
        torch.testing.assert_close(copy.deepcopy(read.detach()), w)
        np.testing.assert_allclose(read.detach().numpy(), w.numpy(), rtol=1e-6, atol=1e-6)  # summed anew, in another order
    assert total(layer).equal(w)


def test_parts_of_the_weight_have_its_gradient():
    layer = lora_linear()
    layer.weight[1:3].square().sum().backward()
    w = layer.base_weight.detach().requires_grad_()
    parts = [p.detach().requires_grad_() for p in (layer.lora_A, layer.lora_B)]
    (w + 2.0 * parts[1] @ parts[0])[1:3].square().sum().backward()
    for ours, theirs in zip((layer.base_weight, layer.lora_A, layer.lora_B), (w, *parts)):
        torch.testing.assert_close(ours.grad, theirs.grad)
