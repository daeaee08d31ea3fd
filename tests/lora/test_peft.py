"""Adapters in PEFT's files: the names by hand, PEFT itself reading ours, PEFT's own read here, and what is refused."""

import json

import pytest
import torch
from parameters import as_after_training
from peft_models import build, lora_model, outputs, their_adapter
from torch import nn

from sharp_plugins.lora.peft import CONFIG, WEIGHTS, Adapter, from_peft, names_for_flag, read_adapter, to_peft, write_adapter
from sharp_plugins.networks import LoRASettings, add_lora, lora_layers, mark_only_lora_as_trainable

pytest.importorskip("safetensors")
from safetensors.torch import load_file, save_file


def trained(arch, settings, seed=0):
    """A model with an update, after training: all that `mark_only_lora_as_trainable` lets train has changed."""
    model = build(arch, seed)
    add_lora(model, settings)
    mark_only_lora_as_trainable(model, settings)
    return as_after_training(model)


def save(model, settings, directory):
    """Through the file, as the commands do."""
    directory.mkdir()
    write_adapter(to_peft(model.state_dict(), settings), directory)
    return directory


# ---------------------------------------------------------------------- names


def tiny():
    net = nn.ModuleDict(
        {
            "layers": nn.ModuleList([nn.ModuleDict({"q": nn.Linear(4, 6), "k": nn.Linear(4, 6)}) for _ in range(2)]),
            "norm": nn.LayerNorm(4),
            "classification_heads": nn.ModuleDict({"main": nn.ModuleDict({"dense": nn.Linear(4, 2)})}),
        }
    )
    return net


A_B = {f"base_model.model.layers.{i}.q.lora_A.weight": (2, 4) for i in (0, 1)}
A_B.update({f"base_model.model.layers.{i}.q.lora_B.weight": (6, 2) for i in (0, 1)})
HEAD_BIAS = {"base_model.model.classification_heads.main.dense.bias": (2,)}
HEAD = {"base_model.model.classification_heads.main.dense.weight": (2, 4), **HEAD_BIAS}
Q_BIASES = {f"base_model.model.layers.{i}.q.base_layer.bias": (6,) for i in (0, 1)}
K_BIASES = {f"base_model.model.layers.{i}.k.bias": (6,) for i in (0, 1)}
NORM = {"base_model.model.norm.weight": (4,), "base_model.model.norm.bias": (4,)}


@pytest.mark.parametrize(
    "bias, also_train, expected, modules",
    [
        ("none", None, {**A_B, **HEAD}, ["classification_heads.main.dense"]),
        ("none", "", A_B, None),
        ("none", "nosuch", A_B, None),
        ("lora_only", "", {**A_B, **Q_BIASES}, None),
        ("all", "norm.weight", {**A_B, **Q_BIASES, **K_BIASES, **NORM, **HEAD_BIAS}, ["norm"]),
        ("none", "norm,dense", {**A_B, **HEAD, **NORM}, ["classification_heads.main.dense", "norm"]),
    ],
)
def test_names_shapes_and_settings(tmp_path, bias, also_train, expected, modules):
    settings = LoRASettings(2, 3.0, dropout=0.25, target="q", init="gaussian", bias=bias, also_train=also_train)
    net = tiny()
    add_lora(net, settings)
    save(net, settings, tmp_path / "adapter")
    written = load_file(tmp_path / "adapter" / WEIGHTS)
    assert {key: tuple(value.shape) for key, value in written.items()} == expected
    for key, value in written.items():
        name = key[len("base_model.model.") :].replace(".base_layer", "").replace("lora_A.weight", "lora_A")
        assert torch.equal(value, net.state_dict()[name.replace("lora_B.weight", "lora_B")])
    config = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    assert config == {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 3,
        "lora_dropout": 0.25,
        "bias": bias,
        "target_modules": ["layers.0.q", "layers.1.q"],
        "modules_to_save": modules,
        "init_lora_weights": "gaussian",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "task_type": None,
        "base_model_name_or_path": None,
    }


def test_the_file_is_as_large_as_the_update(tmp_path):
    settings = LoRASettings(rank=4, target="a,b")
    net = nn.Sequential()
    net.a, net.b, net.c = nn.Linear(512, 512), nn.Linear(512, 512), nn.Linear(512, 512)
    add_lora(net, settings)
    size = (save(net, settings, tmp_path / "adapter") / WEIGHTS).stat().st_size
    update = 4 * 4 * (512 + 512) * 2
    assert update < size < update + 2000 < 0.05 * sum(4 * p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    "chosen, expected",
    [
        (["a.0.q", "a.1.q"], "q"),
        (["a.0.q", "a.1.q", "a.0.k", "a.1.k"], "k,q"),
        (["a.0.q", "a.1.k"], "a.0.q,a.1.k"),
        (["heads.my-head", "a.0.q"], r"a\.0\.q|heads\.my\-head"),
        ([], ""),
    ],
)
def test_names_for_the_flag_choose_these_layers_alone(chosen, expected):
    candidates = ["a.0.q", "a.1.q", "a.0.k", "a.1.k", "out", "heads.my-head"]
    assert names_for_flag(chosen, candidates) == expected
    if chosen:
        settings = LoRASettings(rank=1, target=expected)
        net = nn.ModuleDict(
            {
                "a": nn.ModuleList([nn.ModuleDict({"q": nn.Linear(2, 2), "k": nn.Linear(2, 2)}) for _ in range(2)]),
                "out": nn.Linear(2, 2),
                "heads": nn.ModuleDict({"my-head": nn.Linear(2, 2)}),
            }
        )
        assert sorted(add_lora(net, settings)) == sorted(chosen)


# ---------------------------------------------------------------------- there and back

SETTINGS = [
    ("transformer", LoRASettings(rank=3, alpha=6.0)),
    ("transformer", LoRASettings(2, target=r".*\.fc1|out_proj", bias="all", also_train="decoder.*final_layer_norm")),
    ("transformer", LoRASettings(2, 5.0, target="encoder.layers.1.fc2,k_proj", bias="lora_only", dropout=0.1)),
    ("transformer", LoRASettings(rank=2, alpha=1.0, also_train="embed_tokens")),
    ("roberta", LoRASettings(rank=2, alpha=4.0, bias="all")),
    ("roberta", LoRASettings(2, bias="lora_only", init="gaussian", also_train="lm_head,classification_heads")),
    ("roberta", LoRASettings(rank=2, alpha=4.0, also_train="")),
]


@pytest.mark.parametrize("arch, settings", SETTINGS)
def test_back_on_the_plain_model_it_is_the_same_model(tmp_path, arch, settings):
    model = trained(arch, settings).eval()
    adapter = read_adapter(save(model, settings, tmp_path / "adapter"))
    state, again = from_peft(adapter, build(arch).state_dict())
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value), name
    assert (again.rank, again.alpha, again.dropout, again.init, again.bias) == (
        settings.rank,
        settings.alpha,
        settings.dropout,
        settings.init,
        settings.bias,
    )
    net = lora_model(arch, state, again)
    assert set(lora_layers(net)) == set(lora_layers(model))
    if settings.also_train == "":
        again.also_train = ""  # PEFT's files do not tell this from the default
    mark_only_lora_as_trainable(net, again)
    assert {name for name, p in net.named_parameters() if p.requires_grad} == {
        name for name, p in model.named_parameters() if p.requires_grad
    }
    assert torch.equal(outputs(net), outputs(model))


@pytest.mark.parametrize("arch, settings", SETTINGS)
def test_peft_reads_ours(tmp_path, arch, settings):
    peft = pytest.importorskip("peft")
    model = trained(arch, settings).eval()
    directory = save(model, settings, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(build(arch), directory)
    layers = dict(theirs.base_model.model.named_modules())
    for name, layer in lora_layers(model).items():
        x = torch.randn(5, layer.in_features)
        torch.testing.assert_close(layers[name](x), layer(x), rtol=1e-5, atol=1e-6)
        assert (layer(x) - nn.functional.linear(x, layer.base_weight, layer.bias)).abs().max() > 1e-2
    # fairseq's attention does not call PEFT's layers; merged into the weights, the whole model agrees.
    merged = theirs.merge_and_unload()
    torch.testing.assert_close(outputs(merged), outputs(model), rtol=1e-4, atol=1e-5)
    assert (outputs(build(arch)) - outputs(model)).abs().max() > 1e-2


THEIRS = [
    ("transformer", dict(target_modules=["q_proj", "v_proj"])),
    ("transformer", dict(target_modules=r".*decoder.*\.fc[12]", use_rslora=True, r=3)),
    ("transformer", dict(target_modules=["layers.0.fc1", "q_proj"], bias="all", modules_to_save=["final_layer_norm"])),
    ("transformer", dict(target_modules=["k_proj"], modules_to_save=["embed_tokens", "output_projection"])),
    ("roberta", dict(target_modules=["q_proj"], bias="lora_only", modules_to_save=["classification_heads.main"])),
    ("roberta", dict(target_modules=["fc1", "q_proj"], exclude_modules=r".*layers\.1.*", lora_dropout=0.1)),
    ("roberta", dict(target_modules="all-linear", layers_to_transform=None, bias="all")),
]


@pytest.mark.parametrize("arch, config", THEIRS)
def test_pefts_own_adapters_are_read(tmp_path, arch, config):
    merged, names = their_adapter(tmp_path, arch, **config)
    state, settings = from_peft(read_adapter(tmp_path), build(arch).state_dict())
    ours = lora_model(arch, state, settings)
    torch.testing.assert_close(outputs(ours), outputs(merged), rtol=1e-4, atol=1e-5)
    assert (outputs(build(arch)) - outputs(ours)).abs().max() > 1e-2
    settings.also_train = settings.also_train or ""  # without the heads, which train by default here
    mark_only_lora_as_trainable(ours, settings)
    ours_train = {name for name, p in ours.named_parameters() if p.requires_grad}
    assert ours_train == names - {"decoder.output_projection.weight"}  # in PEFT the tied table has two names
    assert settings.dropout == config.get("lora_dropout", 0.0)


def test_a_copy_of_a_tied_weight_is_refused(tmp_path):
    """PEFT trains the copy that modules_to_save makes; fairseq's model has the table for input and output once."""
    their_adapter(tmp_path, "transformer", target_modules=["q_proj"], modules_to_save=["decoder.embed_tokens"])
    with pytest.raises(ValueError, match="embed_tokens.weight and decoder.output_projection.weight are one weight"):
        from_peft(read_adapter(tmp_path), build("transformer").state_dict())


# ---------------------------------------------------------------------- what is refused


@pytest.fixture
def adapter():
    settings = LoRASettings(rank=2, alpha=4.0, also_train="decoder.layers.0.fc1")
    made = to_peft(trained("transformer", settings).state_dict(), settings)
    return Adapter(dict(made.tensors), dict(made.config))


Q = "base_model.model.encoder.layers.0.self_attn.q_proj"


def test_other_kinds_are_refused_by_name(adapter):
    plain = build("transformer").state_dict()
    from_peft(adapter, plain)
    settings = [
        ("use_dora", True),
        ("rank_pattern", {"q_proj": 4}),
        ("alpha_pattern", {"fc1": "4"}),
        ("lora_bias", True),
        ("fan_in_fan_out", True),
        ("layer_replication", [[0, 1]]),
        ("trainable_token_indices", [1]),
        ("target_parameters", ["w"]),
        ("use_qalora", True),
        ("kasa_config", {"a": 1}),
        ("something_new", 1),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", {}),
        ("init_lora_weights", 1),
        ("peft_type", "IA3"),
        ("peft_type", None),
        ("modules_to_save", "fc1"),
        ("target_modules", [1]),
    ]
    for name, value in settings:
        with pytest.raises(ValueError, match=f"{CONFIG}: {name} "):
            from_peft(adapter._replace(config={**adapter.config, name: value}), plain)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"r": 3}, "lora_A has rank 2, and adapter_config.json says r 3"),
        ({"r": None}, "r, lora_alpha and lora_dropout"),
        ({"lora_alpha": "x"}, "r, lora_alpha and lora_dropout"),
        ({"lora_alpha": 0}, "alpha"),
        ({"lora_dropout": 1.5}, "dropout"),
        ({"bias": "some"}, "bias some"),
        ({"target_modules": ["q_proj", "fc7"]}, "no update for fc7"),
        ({"modules_to_save": ["fc1", "fc7"]}, "nothing of fc7"),
        ({"modules_to_save": ["decoder.layers.0.fc1", "decoder.layers.0.fc2"]}, "nothing of decoder.layers.0.fc2"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(adapter, change, words):
    if change.get("modules_to_save") == ["fc1", "fc7"]:
        words = "holds (nothing of fc7|no encoder.layers.0.fc1.weight)"
    with pytest.raises(ValueError, match=words):
        from_peft(adapter._replace(config={**adapter.config, **change}), build("transformer").state_dict())


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(2, 12)}),
            "encoder.layers.0.self_attn.q_proj: lora_B 16 x 2 times lora_A 2 x 12 does not fit the weight 16 x 16",
        ),
        (
            lambda t: t.update({f"{Q}.lora_B.weight": torch.ones(12, 2)}),
            "encoder.layers.0.self_attn.q_proj: lora_B 12 x 2 times lora_A 2 x 16 does not fit the weight 16 x 16",
        ),
        (lambda t: t.pop(f"{Q}.lora_B.weight"), "there is no encoder.layers.0.self_attn.q_proj.lora_B"),
        (lambda t: t.pop(f"{Q}.lora_A.weight"), "there is no encoder.layers.0.self_attn.q_proj.lora_A"),
        (lambda t: [t.pop(f"{Q}.lora_{part}.weight") for part in "AB"], "no update for encoder.layers.0.self_attn.q_proj"),
        (lambda t: t.update({f"nosuch.lora_{part}.weight": torch.ones(2, 2) for part in "AB"}), "no nosuch.weight"),
        (lambda t: t.update({"base_model.model.nosuch.weight": torch.ones(2)}), "the model has no nosuch.weight"),
        (
            lambda t: t.update({"base_model.model.decoder.layers.0.fc1.bias": torch.ones(7)}),
            "decoder.layers.0.fc1.bias is 7, and the model's decoder.layers.0.fc1.bias is 32",
        ),
        (lambda t: t.pop("base_model.model.decoder.layers.0.fc1.bias"), "holds no decoder.layers.0.fc1.bias"),
        (lambda t: t[f"{Q}.lora_A.weight"].fill_(float("nan")), "q_proj.lora_A.weight holds NaN"),
        (lambda t: t.update({f"{Q}.lora_magnitude_vector": torch.ones(16)}), "lora_magnitude_vector"),
        (lambda t: t.clear(), "holds no lora_A and lora_B"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(adapter, change, words):
    change(adapter.tensors)
    with pytest.raises(ValueError, match=words):
        from_peft(adapter, build("transformer").state_dict())


def test_a_rank_that_no_layer_of_ours_can_have(adapter):
    for part, shape in (("A", (20, 16)), ("B", (16, 20))):
        for key in [key for key in adapter.tensors if key.endswith(f"lora_{part}.weight")]:
            adapter.tensors[key] = torch.ones(shape)
    with pytest.raises(ValueError, match="rank 20 is larger than the weight, 16 x 16"):
        from_peft(adapter._replace(config={**adapter.config, "r": 20}), build("transformer").state_dict())


def test_a_head_may_be_the_adapters_alone():
    settings = LoRASettings(rank=2)
    model = trained("roberta", settings).eval()
    plain = {key: value for key, value in build("roberta").state_dict().items() if "classification_heads" not in key}
    state, again = from_peft(to_peft(model.state_dict(), settings), plain)
    net = lora_model("roberta", state, again)
    mark_only_lora_as_trainable(net, again)  # as in model: torch multiplies with frozen weights by other kernels
    assert torch.equal(outputs(net), outputs(model))


@pytest.mark.parametrize("also_train", ["q_proj", "encoder.layers.0.self_attn", "encoder"])
def test_what_is_updated_and_trained_as_a_whole_has_no_place(also_train):
    settings = LoRASettings(rank=2, also_train=also_train)
    model = build("transformer")
    add_lora(model, settings)
    with pytest.raises(ValueError, match="^also_train names (en|de)coder.*[qv]_proj, which has an update"):
        to_peft(model.state_dict(), settings)


def test_plain_models_and_nan_have_no_adapter():
    with pytest.raises(ValueError, match="has no LoRA updates; it is plain or was merged before"):
        to_peft(build("transformer").state_dict(), LoRASettings())
    model = trained("transformer", LoRASettings(rank=2))
    with torch.no_grad():
        lora_layers(model)["encoder.layers.0.self_attn.q_proj"].lora_B[0, 0] = float("nan")
    with pytest.raises(ValueError, match="q_proj.lora_B.weight holds NaN; no adapter is written"):
        to_peft(model.state_dict(), LoRASettings(rank=2))


def test_files_that_cannot_be_read(tmp_path, adapter):
    with pytest.raises(FileNotFoundError, match=CONFIG):
        read_adapter(tmp_path)
    write_adapter(adapter, tmp_path)
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{WEIGHTS}: cannot be read"):
        read_adapter(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=WEIGHTS):
        read_adapter(tmp_path)
    save_file(adapter.tensors, tmp_path / WEIGHTS)
    for text in ("{", "[1]", ""):
        (tmp_path / CONFIG).write_text(text)
        with pytest.raises(ValueError, match=f"{CONFIG}: cannot be read"):
            read_adapter(tmp_path)


def test_without_safetensors_it_says_what_to_install(tmp_path, adapter, monkeypatch):
    write_adapter(adapter, tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    for action in (lambda: read_adapter(tmp_path), lambda: write_adapter(adapter, tmp_path)):
        with pytest.raises(ImportError, match="pip install safetensors"):
            action()
