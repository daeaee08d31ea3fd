"""What an adapter's config promises is in its file, or it is refused; and names however a training loop has left them."""

import copy
import json
import re

import pytest
import torch
from peft_models import build, lora_model, outputs, their_adapter
from safetensors.torch import load_file, save_file, save_model

from sharp_plugins.lora.config import lora_settings
from sharp_plugins.lora.peft import CONFIG, WEIGHTS, from_peft, read_adapter
from sharp_plugins.lora.promises import is_target
from sharp_plugins.networks.expressions import check_expression

peft = pytest.importorskip("peft")

PREFIX = "base_model.model."
LAYER = "encoder.layers.0.self_attn.q_proj"


def cut(directory, *patterns):
    """Take the tensors that a pattern matches out of the file."""
    tensors = load_file(directory / WEIGHTS)
    kept = {key: value for key, value in tensors.items() if not any(re.search(pattern, key) for pattern in patterns)}
    assert len(kept) < len(tensors)
    save_file(kept, directory / WEIGHTS)


@pytest.mark.parametrize(
    "config, patterns, words",
    [
        (dict(bias="lora_only"), [r"base_layer\.bias"], f"no {LAYER}.bias, and .* bias 'lora_only'"),
        (dict(bias="lora_only"), [rf"{LAYER}\.base_layer\.bias"], f"no {LAYER}.bias, and {CONFIG} says bias 'lora_only'"),
        (dict(bias="all"), [r"layers\.0\.fc2\.bias"], r"no (en|de)coder.layers.0.fc2.bias, and .* bias 'all'"),
        (dict(bias="all"), [r"base_layer\.bias"], r"no .*q_proj.bias, and .* bias 'all'"),
        ({}, [LAYER], f"no update for {LAYER}, which {CONFIG} names by target_modules"),
        (
            dict(target_modules=r".*layers\.[01]\.fc1"),
            ["encoder.layers.1"],
            "no update for encoder.layers.1.fc1, .* target_modules",
        ),
        ({}, [rf"{LAYER}\.lora_B"], f"there is no {LAYER}.lora_B"),
        (
            dict(modules_to_save=["final_layer_norm"]),
            [r"encoder.layers.1.final_layer_norm"],
            "no encoder.layers.1.final_layer_norm.weight, whose module .* modules_to_save",
        ),
        (dict(modules_to_save=["final_layer_norm"]), ["final_layer_norm"], "nothing of final_layer_norm, .* modules_to_save"),
    ],
)
def test_a_missing_tensor_is_an_error_that_names_the_setting(tmp_path, config, patterns, words):
    their_adapter(tmp_path, "transformer", **{"target_modules": ["q_proj"], **config})
    plain = build("transformer").state_dict()
    from_peft(read_adapter(tmp_path), plain)
    cut(tmp_path, *patterns)
    with pytest.raises(ValueError, match=words):
        from_peft(read_adapter(tmp_path), plain)


def test_a_head_that_is_not_whole_is_refused(tmp_path):
    their_adapter(tmp_path, "roberta", target_modules=["q_proj"], modules_to_save=["classification_heads.main"])
    plain = {key: value for key, value in build("roberta").state_dict().items() if "classification_heads" not in key}
    from_peft(read_adapter(tmp_path), plain)
    cut(tmp_path, "main.out_proj.bias")
    with pytest.raises(ValueError, match="holds no classification_heads.main.out_proj.bias"):
        from_peft(read_adapter(tmp_path), plain)


def test_an_update_that_the_config_does_not_name_is_refused(tmp_path):
    their_adapter(tmp_path, "transformer", target_modules=["q_proj", "fc1"])
    config = json.loads((tmp_path / CONFIG).read_text())
    for change in ({"target_modules": ["fc1"]}, {"exclude_modules": ["q_proj"]}, {"layers_to_transform": [1]}):
        (tmp_path / CONFIG).write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match="target_modules"):
            from_peft(read_adapter(tmp_path), build("transformer").state_dict())


TARGETS = [
    dict(target_modules=["q_proj", "fc1"]),
    dict(target_modules=["layers.0.fc1"], exclude_modules=["encoder.layers.0.fc1"]),
    dict(target_modules=["fc1", "fc2"], layers_to_transform=[1]),
    dict(target_modules=["fc1"], layers_to_transform=0, layers_pattern="layers"),
    dict(target_modules=["fc1", "encoder.layers.0.fc2"], layers_to_transform=[1], layers_pattern=["blocks", "layers"]),
    dict(target_modules=r".*\.fc[12]", exclude_modules=r"decoder.*", layers_to_transform=None),
    dict(target_modules=["fc1", "out_proj"], modules_to_save=["encoder.layers.0.fc1", "self_attn"]),
]


@pytest.mark.parametrize("config", TARGETS)
def test_the_layers_are_those_that_peft_chooses(config):
    model = peft.get_peft_model(build("transformer"), peft.LoraConfig(r=2, **config))
    theirs = {name for name, module in model.base_model.model.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)}
    names = [name for name, module in build("transformer").named_modules() if isinstance(module, torch.nn.Linear)]
    assert {name for name in names if is_target(config, name)} == theirs and theirs


SLOW = "repeats in too many ways"


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(target_modules="("), "target_modules is no regular expression: missing"),
        (dict(target_modules="(.*.*)*x"), f"target_modules {SLOW}"),
        (dict(target_modules=".*" * 8 + "x"), f"target_modules {SLOW}"),
        (dict(target_modules=".?" * 40 + "x"), f"target_modules {SLOW}"),
        (dict(target_modules="(.|.)*x"), f"target_modules {SLOW}"),
        (dict(target_modules="(?:){4000000000}"), f"target_modules {SLOW}"),
        (dict(target_modules="x" * 20000), "target_modules is a regular expression of 20000 characters"),
        (dict(target_modules={"q_proj": 1}), "target_modules must be a list of names, or one regular expression"),
        (dict(exclude_modules=5), "exclude_modules must be a list of names, or one regular expression, and is 5"),
        (dict(exclude_modules="*"), "exclude_modules is no regular expression"),
        (dict(exclude_modules="(.*a?)*x"), f"exclude_modules {SLOW}"),
        (dict(exclude_modules=[5]), "exclude_modules must be a list"),
        (dict(modules_to_save=["("]), r"nothing of \(, which .* modules_to_save"),
        (dict(modules_to_save="fc1"), "modules_to_save must be a list of names"),
        (dict(layers_to_transform=[0, 1], layers_pattern="("), "target_modules"),
        (dict(layers_to_transform=[0, 1], layers_pattern="(.*.*)*x"), "target_modules"),
        (dict(layers_to_transform=[0], layers_pattern=[3]), "layers_pattern must be a name, or a list"),
        (dict(layers_to_transform="x"), "layers_to_transform must be a number"),
        (dict(layers_to_transform=[[0]]), "layers_to_transform must be a number"),
        (dict(task_type=["SEQ_CLS"]), "task_type must be a name"),
        (dict(auto_mapping=["x"]), "auto_mapping must be"),
        (dict(bias=["all"]), "bias"),
        (dict(r=float("inf")), "r, lora_alpha and lora_dropout must be there and be numbers"),
        (dict(r=-1, use_rslora=True), "rank must be 1 or larger, and is -1"),
        (dict(r=10**400, use_rslora=True), "must be there and be numbers"),
        (dict(lora_alpha=10**400), "must be there and be numbers"),
        (dict(r={}), "must be there and be numbers"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_config_of_other_types_and_expressions_that_never_end(tmp_path, change, words):
    """By JSON, which knows Infinity as Python writes it."""
    their_adapter(tmp_path, "transformer", target_modules=["q_proj"])
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=words):
        from_peft(read_adapter(tmp_path), build("transformer").state_dict())


@pytest.mark.parametrize(
    "expression",
    [
        r".*layers\.[01]\.(q|v)_proj",
        r"model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|up|down|gate)_proj",
        "(encoder|decoder)?.*fc1",
        r"^(?!.*(?:vision|aligner)).*(?:q_proj|k_proj|gate_proj)(?=\.|$)",
        r"^((?!(lm_head|out_proj)).)*$",
        r"^((?!(fc|fc1)\b).)*$",
        r".*layers\.(1|10|11|2)\.(q|query|v|value)_proj",
        r"(layers\.|blocks\.)*fc1",
        r"encoder(\.\w+)*\.q_proj",
        r"(encoder|decoder)\.layers\.\d+(\.\w+)+\.(q|v)_proj",
        r"(?:[a-z_0-9]+\.)*q_proj",
        r"([^.]+\.)*q_proj",
        r"([^._]+\.)*q_proj",
        r"layers(?:\d{2})+q",
        r".*layers\.(\d{2}\.)+q",
        "|".join(f"encoder.layers.{n}.self_attn.{part}_proj" for n in range(24) for part in "qkvo"),
        r"(?:.*?(?:vision|language).*?(?:self_attn|mlp|dense).*?(?:k_proj|q_proj|fc2).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:q|k)_proj)",
    ],
)
def test_expressions_that_choose_layers_are_read(expression):
    check_expression(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "(a|aa)*x",
        "(a|)*x",
        "(?:a|aa){2,}x",
        "(ab|abc|cab)*x",
        "(?i)(ab|AB)*x",
        "(?:(?:ab)|(?:abab))*x",
        "(?i)(sa|\u017fa)*x",
        "(?!(a|aa)*x)b",
        r"(\.[\w.]+)*x",
        r"(\.[^\w]+)*x",
        r"(\.\S+)*x",
        r"(\..+)*x",
        r"(a\w+)*x",
        r"(\w+a)*x",
        r"(\.(\w+)?)*x",
        r"(\.\w*\w*)*x",
        r"((\.\w+)*)*x",
        "(?i)(k[A-Z]+)*x",
        "(?i)(s[\u017f-\u0180]+)*x",
        "(?:k(?i:[^K])+)*x",
        "([^a]+A)*x",
    ],
)
def test_names_that_divide_in_many_ways_are_not_repeated(expression):
    """`(a|aa)*x` takes 12 s for a name of 38 letters, and twice as long for two letters more."""
    with pytest.raises(ValueError, match="repeats in too many ways"):
        check_expression(expression)


@pytest.mark.parametrize("layer", ["(?:{})?", "(?={})", "(?:{}|b)", "(?:x{}){{1}}"])
def test_deep_ones_are_looked_at_in_no_time(layer):
    """The look itself must not double with each level."""
    expression = "a"
    for _ in range(60):
        expression = layer.format(expression)
    try:
        check_expression(expression)
    except ValueError as error:
        assert "repeats in too many ways" in str(error)


@pytest.mark.parametrize("setting", ["target", "also_train"])
@pytest.mark.parametrize("expression, words", [("(.*.*)*x", "repeats in too many ways"), ("(", "is no regular expression")])
def test_a_checkpoints_own_expressions_are_checked(setting, expression, words):
    """`python -m sharp_plugins.lora save` and `sharpness` match them, before anything is known of the checkpoint."""
    with pytest.raises(ValueError, match=words):
        lora_settings({"model": {"_name": "lora", "base_arch": "transformer", f"lora_{setting}": expression}})


# ---------------------------------------------------------------------- names


def in_memory(key):
    """A name as it is in PEFT's model, and not in its file."""
    return re.sub(r"(lora_[AB])\.weight$", r"\1.default.weight", key)


def part_of_another(key):
    return key.replace(PREFIX, f"{PREFIX}net.")


RENAMES = {
    "as written": lambda key: key,
    "distributed": lambda key: f"module.{key}",
    "distributed inside": lambda key: key.replace(PREFIX, f"{PREFIX}module."),
    "compiled": lambda key: f"_orig_mod.{key}",
    "compiled layers": lambda key: key.replace("layers.0.", "layers.0._orig_mod."),
    "sharded": lambda key: f"module._fsdp_wrapped_module.{key}".replace("self_attn.", "self_attn._fsdp_wrapped_module."),
    "in memory": in_memory,
    "bare": lambda key: key[len(PREFIX) :],
    "part of another model": part_of_another,
    "all at once": lambda key: f"module.{part_of_another(in_memory(key))}",
}


@pytest.mark.parametrize("rename", RENAMES)
@pytest.mark.parametrize("target", [["q_proj"], r".*encoder\.layers\.0.*q_proj"])
def test_names_lose_what_stands_before_and_between_them(tmp_path, rename, target):
    merged, _ = their_adapter(
        tmp_path, "transformer", target_modules=target, bias="lora_only", modules_to_save=["final_layer_norm"]
    )
    adapter = read_adapter(tmp_path)
    plain = build("transformer").state_dict()
    expected, settings = from_peft(adapter, plain)
    renamed = {RENAMES[rename](key): value for key, value in adapter.tensors.items()}
    state, again = from_peft(adapter._replace(tensors=renamed), plain)
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)
    assert again == settings
    torch.testing.assert_close(outputs(lora_model("transformer", state, again)), outputs(merged), rtol=1e-4, atol=1e-5)


def test_weights_that_were_trained_as_a_whole_by_their_names_in_memory(tmp_path):
    their_adapter(tmp_path, "transformer", target_modules=["q_proj"], modules_to_save=["fc1"], bias="all")
    adapter = read_adapter(tmp_path)
    plain = build("transformer").state_dict()
    expected, _ = from_peft(adapter, plain)
    renamed = {}
    for key, value in adapter.tensors.items():
        if ".fc1." in key and "modules_to_save" not in key and "original" not in key:
            renamed[key.replace(".fc1.", ".fc1.original_module.")] = torch.zeros_like(value)
            key = key.replace(".fc1.", ".fc1.modules_to_save.default.")
        renamed[key] = value
    state, _ = from_peft(adapter._replace(tensors=renamed), plain)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_tensors_that_share_memory_are_there_under_all_their_names(tmp_path):
    """safetensors' save_model writes one of them, and the others' names as metadata."""
    their_adapter(tmp_path, "transformer", target_modules=["q_proj"])
    tensors = load_file(tmp_path / WEIGHTS)
    shared = tensors[f"{PREFIX}encoder.layers.0.self_attn.q_proj.lora_A.weight"]
    holder = torch.nn.Module()  # a module whose state dict has these names
    for key in tensors:
        tensors[key] = shared if "lora_A" in key else tensors[key]
        module = holder
        for part in key.split(".")[:-1]:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module._modules[part]
        module.register_buffer("weight", tensors[key])
    save_model(holder, str(tmp_path / WEIGHTS))
    assert sum("lora_A" in key for key in load_file(tmp_path / WEIGHTS)) == 1
    state, _ = from_peft(read_adapter(tmp_path), build("transformer").state_dict())
    for key, value in tensors.items():
        assert torch.equal(state[re.sub(r"(lora_[AB])\.weight$", r"\1", key[len(PREFIX) :])], value)


def test_metadata_names_no_other_tensor_than_the_files_own(tmp_path):
    their_adapter(tmp_path, "transformer", target_modules=["q_proj"])
    tensors = load_file(tmp_path / WEIGHTS)
    one, other = [key for key in tensors if "lora_A" in key][:2]
    save_file(tensors, tmp_path / WEIGHTS, metadata={"format": "pt", other: one})
    read = read_adapter(tmp_path).tensors
    assert not torch.equal(tensors[one], tensors[other]) and torch.equal(read[other], tensors[other])


def test_two_adapters_in_one_file_are_refused(tmp_path):
    their_adapter(tmp_path, "transformer", target_modules=["q_proj"])
    adapter = read_adapter(tmp_path)
    names = {re.sub(r"(lora_[AB])\.weight$", rf"\1.{name}.weight", key): v for key, v in adapter.tensors.items() for name in "ab"}
    with pytest.raises(ValueError, match="several adapters, a and b"):
        from_peft(adapter._replace(tensors=names), build("transformer").state_dict())


def test_every_setting_of_pefts_config_is_read_or_refused_by_name(tmp_path):
    their_adapter(tmp_path, "transformer", target_modules=["q_proj"])
    adapter, plain = read_adapter(tmp_path), build("transformer").state_dict()
    honoured = {"r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "bias", "modules_to_save", "init_lora_weights"}
    honoured |= {"alpha_pattern"}  # rank_pattern too: below it is refused because the file has another rank
    said_of_the_run = {"task_type", "base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping"}
    choosing = {"exclude_modules", "layers_to_transform", "layers_pattern"}  # which layers, checked against the tensors
    of_others = {"loftq_config", "eva_config", "megatron_core", "qalora_group_size", "runtime_config"}  # nothing without others
    for name, value in peft.LoraConfig().to_dict().items():
        if name in honoured | said_of_the_run | choosing | of_others:
            continue
        other = {bool: True, dict: {"q_proj": 4}}.get(type(value), ["q_proj"])
        config = {**copy.deepcopy(adapter.config), name: other}
        with pytest.raises(ValueError, match=f"{CONFIG}: {name} is "):
            from_peft(adapter._replace(config=config), plain)
