"""Choosing layers by name, freezing the rest, and loading plain checkpoints."""

import copy
import re

import pytest
import torch
from torch import nn

from sharp_plugins.lora.merge import merge
from sharp_plugins.lora.peft import to_peft
from sharp_plugins.networks import LoRALinear, LoRASettings, add_lora, lora_layers, mark_only_lora_as_trainable
from sharp_plugins.networks.module_names import trained_along


def model():
    torch.manual_seed(0)

    def layer():
        return nn.ModuleDict(
            {
                "self_attn": nn.ModuleDict({name: nn.Linear(8, 8) for name in ("q_proj", "k_proj", "v_proj")}),
                "fc1": nn.Linear(8, 16),
                "norm": nn.LayerNorm(8),
            }
        )

    return nn.ModuleDict(
        {
            "embed": nn.Embedding(10, 8),
            "layers": nn.ModuleList([layer(), layer()]),
            "out": nn.Linear(8, 2, bias=False),
            "classification_heads": nn.ModuleDict({"main": nn.Linear(8, 3)}),
        }
    )


def trained(net):
    return {name for name, p in net.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "target, expected",
    [
        (
            "q_proj,v_proj",
            ["layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj", "layers.0.self_attn.v_proj", "layers.1.self_attn.v_proj"],
        ),
        ("layers.1.fc1", ["layers.1.fc1"]),
        ("out", ["out"]),
        (r"layers\.0\..*(q|k)_proj|out", ["layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj", "out"]),
        (
            r"self_attn\.[qk]_proj",
            ["layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj", "layers.1.self_attn.q_proj", "layers.1.self_attn.k_proj"],
        ),
    ],
)
def test_targets(target, expected):
    net = model()
    assert add_lora(net, LoRASettings(rank=2, target=target)) == expected
    assert set(lora_layers(net)) == set(expected)


@pytest.mark.parametrize("target", ["proj", "q_proj,nosuch", "embed", "norm", r".*\.fc7"])
def test_a_target_that_matches_no_linear_layer_says_what_there_is(target):
    with pytest.raises(ValueError, match="^target") as error:
        add_lora(model(), LoRASettings(rank=2, target=target))
    for name in ("q_proj", "fc1", "layers.0.self_attn.q_proj"):
        assert name in str(error.value)


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(rank=0), "^rank must be 1 or larger, and is 0$"),
        (dict(rank=9), "^rank 9 is larger than layers.0.self_attn.q_proj, which is 8 x 8"),
        (dict(alpha=0.0), "^alpha"),
        (dict(alpha=-1.0), "^alpha"),
        (dict(dropout=1.0), "^dropout"),
        (dict(target=""), "^target"),
        (dict(target="(q"), "^target"),
        (dict(bias="some"), "^bias"),
    ],
)
def test_bad_settings_leave_the_model_as_it_was(settings, words):
    net = model()
    with pytest.raises(ValueError, match=words):
        add_lora(net, LoRASettings(**settings))
    assert not lora_layers(net)


def test_the_updates_alone_are_trained_and_the_heads():
    net = model()
    settings = LoRASettings(rank=2)
    add_lora(net, settings)
    count, total = mark_only_lora_as_trainable(net, settings)
    updates = {f"layers.{i}.self_attn.{n}.lora_{part}" for i in (0, 1) for n in ("q_proj", "v_proj") for part in "AB"}
    heads = {"classification_heads.main.weight", "classification_heads.main.bias"}
    assert trained(net) == updates | heads
    assert count == 8 * 2 * 8 + 27 and total == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_biases(bias):
    net = model()
    settings = LoRASettings(rank=2, bias=bias, also_train="out")
    add_lora(net, settings)
    mark_only_lora_as_trainable(net, settings)
    biases = {name for name in trained(net) if name.endswith(".bias")}
    chosen = {f"layers.{i}.self_attn.{n}.bias" for i in (0, 1) for n in ("q_proj", "v_proj")}
    every = {name for name, _ in net.named_parameters() if name.endswith(".bias")}
    assert biases == {"none": set(), "all": every, "lora_only": chosen}[bias]
    assert "out.weight" in trained(net)


def test_all_biases_train_whatever_they_are_called():
    net = nn.ModuleDict({"q_proj": nn.Linear(4, 4), "attention": nn.MultiheadAttention(4, 1), "memory": nn.LSTM(4, 4)})
    settings = LoRASettings(rank=2, target="q_proj", bias="all")
    add_lora(net, settings)
    mark_only_lora_as_trainable(net, settings)
    others = {"attention.in_proj_bias", "attention.out_proj.bias", "memory.bias_ih_l0", "memory.bias_hh_l0"}
    assert trained(net) == {"q_proj.lora_A", "q_proj.lora_B", "q_proj.bias", *others}


def test_a_model_that_is_not_made_yet():
    with torch.device("meta"):
        net = nn.ModuleDict({"q_proj": nn.Linear(4, 4)})
    add_lora(net, LoRASettings(rank=2, target="q_proj"))
    assert net["q_proj"].lora_A.device.type == "meta" and net["q_proj"].lora_A.shape == (2, 4)


def test_modules_and_parameters_trained_along():
    net = model()
    settings = LoRASettings(rank=2, also_train="norm,embed.weight")
    add_lora(net, settings)
    mark_only_lora_as_trainable(net, settings)
    along = {name for name in trained(net) if "lora_" not in name}
    assert along == {"embed.weight", *(f"layers.{i}.norm.{part}" for i in (0, 1) for part in ("weight", "bias"))}


@pytest.mark.parametrize("name", ["encoder.embed_tokens", "decoder.embed_tokens", "embed_tokens"])
def test_a_shared_module_has_each_of_its_names(name):
    """As the words of --share-all-embeddings."""
    net = nn.ModuleDict({"encoder": nn.ModuleDict({"embed_tokens": nn.Embedding(5, 4), "q_proj": nn.Linear(4, 4)})})
    net["decoder"] = nn.ModuleDict({"embed_tokens": net["encoder"]["embed_tokens"]})
    settings = LoRASettings(rank=2, target="q_proj", also_train=name)
    add_lora(net, settings)
    mark_only_lora_as_trainable(net, settings)
    assert {each for each in trained(net) if "lora_" not in each} == {"encoder.embed_tokens.weight"}
    assert len(trained_along("also_train", net, name, "", strict=True)) == 1


def test_a_name_to_train_along_that_matches_nothing():
    net = model()
    settings = LoRASettings(rank=2, also_train="lm_head")
    add_lora(net, settings)
    with pytest.raises(ValueError, match="^also_train lm_head.*classification_heads"):
        mark_only_lora_as_trainable(net, settings)
    mark_only_lora_as_trainable(net, settings, strict=False)  # a task may add it later


def test_plain_checkpoints_load_and_mixed_ones_do_not():
    base, net = model(), model()
    add_lora(net, LoRASettings(rank=2))
    for layer in lora_layers(net).values():
        nn.init.normal_(layer.lora_B)
    updates = {name: p.clone() for name, p in net.named_parameters() if "lora_" in name}
    with torch.no_grad():
        for p in base.parameters():
            p.add_(1.0)
    net.load_state_dict(base.state_dict())
    for name, value in base.state_dict().items():
        assert torch.equal(net.state_dict()[name], value)
    for name, value in updates.items():
        assert torch.equal(net.state_dict()[name], value)
    whole = net.state_dict()
    net.load_state_dict(whole)
    missing = {name: value for name, value in whole.items() if name != "layers.1.self_attn.v_proj.lora_B"}
    with pytest.raises(RuntimeError, match="layers.1.self_attn.v_proj.lora_B"):
        net.load_state_dict(missing)
    other = model()
    add_lora(other, LoRASettings(rank=3))
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict(whole)


def test_a_copy_of_a_model_loads_into_itself():
    net = model()
    add_lora(net, LoRASettings(rank=2))
    clone = copy.deepcopy(net)
    plain = model().state_dict()
    with torch.no_grad():
        for layer in lora_layers(clone).values():
            layer.lora_B.fill_(1.0)
    clone.load_state_dict(plain)
    assert all((layer.lora_B == 1).all() for layer in lora_layers(clone).values())
    assert all((layer.lora_B == 0).all() for layer in lora_layers(net).values())


def test_a_plain_checkpoint_of_modules_that_are_shared():
    """As multilingual models share encoders: their weights have two names in a checkpoint."""
    shared = nn.Linear(8, 8)
    net, plain = (
        nn.ModuleDict({"a": nn.ModuleDict({"q_proj": layer}), "b": nn.ModuleDict({"q_proj": layer})})
        for layer in (shared, nn.Linear(8, 8))
    )
    add_lora(net, LoRASettings(rank=2, target="q_proj"))
    lora_a = net["a"]["q_proj"].lora_A.detach().clone()
    net.load_state_dict(plain.state_dict())
    assert torch.equal(net["b"]["q_proj"].base_weight, plain["a"]["q_proj"].weight)
    assert torch.equal(net["b"]["q_proj"].lora_A, lora_a)


def test_linear_layers_whose_weight_is_computed_are_none():
    net = nn.ModuleDict({"fc1": nn.utils.weight_norm(nn.Linear(8, 8)), "fc2": nn.Linear(8, 8)})
    with pytest.raises(ValueError, match="nothing matches 'fc1'; the model's linear layers are fc2"):
        add_lora(net, LoRASettings(rank=2, target="fc1"))
    with pytest.raises(TypeError, match="no plain|not a plain"):
        LoRALinear.convert(net["fc1"], 2, 16.0)


def test_an_expression_that_cannot_be_part_of_another_is_refused():
    with pytest.raises(ValueError, match=r"^target \(\?i\)q_proj: "):
        LoRASettings(target="(?i)q_proj").check()


# ---------------------------------------------------------------------- what is said at the start


def with_tied_output():
    net = model()
    net["out"] = nn.Linear(8, 10, bias=False)
    net["out"].weight = net["embed"].weight
    return net


@pytest.mark.parametrize(
    "settings, words",
    [
        (
            dict(target="out,q_proj"),
            "out.weight and embed.weight are one weight.*merge. will refuse this model. Leave out out of the target",
        ),
        (
            dict(target="q_proj", also_train="layers.1"),
            "layers.1.self_attn.q_proj .*trained as a whole.*save. will refuse this model",
        ),
        (
            dict(target="q_proj", also_train="q_proj"),
            "layers.0.self_attn.q_proj .*trained as a whole.*save. will refuse this model",
        ),
    ],
)
def test_what_merging_or_saving_will_refuse_is_said_when_updates_are_added(settings, words, caplog):
    """And it is refused, of this model."""
    caplog.set_level("WARNING")
    net, settings = with_tied_output(), LoRASettings(rank=2, **settings)
    chosen = add_lora(net, settings)
    (said,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert re.search(words, said.getMessage())
    for layer in lora_layers(net).values():
        nn.init.normal_(layer.lora_B)
    refused = (lambda: merge(net.state_dict(), 2.0)) if "merge" in words else (lambda: to_peft(net.state_dict(), settings))
    with pytest.raises(ValueError, match="are one weight|which has an update"):
        refused()
    assert chosen


def test_nothing_is_said_where_nothing_will_be_refused(caplog):
    """Among these models is one whose layers share a weight under two names, which is merged under both."""
    caplog.set_level("WARNING")
    shared = model()["layers"][0]
    for net, settings in (
        (with_tied_output(), dict(target="q_proj,fc1", also_train="norm,embed")),
        (model(), dict(target="out", also_train=None)),
        (nn.ModuleDict({"a": shared, "b": shared}), dict(target="q_proj")),
    ):
        settings = LoRASettings(rank=2, **settings)
        add_lora(net, settings)
        merge(net.state_dict(), 2.0)
        to_peft(net.state_dict(), settings)
    assert not caplog.records
