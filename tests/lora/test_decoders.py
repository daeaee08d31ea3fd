"""PEFT's adapters of transformers' GPT-2, OPT and Llama on converted decoders: both compute the same, and back again."""

import copy
import re

import decoders
import pytest
import torch
from parameters import as_after_training
from torch import nn

from sharp_plugins.lora import decoder_adapters
from sharp_plugins.lora.decoder_names import published
from sharp_plugins.lora.merge import merge
from sharp_plugins.lora.peft import Adapter, from_peft, read_adapter, to_peft, write_adapter
from sharp_plugins.networks import LoRASettings, add_lora, lora_layers, mark_only_lora_as_trainable

pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

SIZES = dict(decoder_layers=3, decoder_embed_dim=24, decoder_attention_heads=4, max_target_positions=32)
LEARNED = dict(decoder_positions="learned", activation_fn="gelu_accurate")
FAMILIES = {
    "gpt2": (decoders.gpt2, {**SIZES, **LEARNED, "decoder_ffn_embed_dim": 96}),
    "opt": (decoders.opt, {**SIZES, **LEARNED, "decoder_ffn_embed_dim": 40, "activation_fn": "relu"}),
    "llama": (
        decoders.llama,
        {
            **SIZES,
            **dict(decoder_embed_dim=36, decoder_ffn_embed_dim=50, decoder_attention_heads=9, decoder_kv_heads=3),
            **dict(decoder_positions="rotary", decoder_gated_ffn=True, activation_fn="silu"),
            **dict(no_attention_bias=True, no_ffn_bias=True, decoder_norm="rms"),
        },
    ),
}
TOKENS = torch.randint(3, decoders.VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(1))


class Both:
    """A published decoder with random weights, and what it is converted to."""

    def __init__(self, family):
        make, settings = FAMILIES[family]
        self.theirs, self.ours = make()
        self.published = published(settings)
        self.plain = {f"decoder.{name}": value for name, value in self.ours.state_dict().items()}

    def their_model(self):
        return copy.deepcopy(self.theirs)

    def adapter(self, directory, cls="LoraConfig", **config):
        """An adapter as PEFT writes it, with values as after training; returns PEFT's model."""
        config = {"task_type": "CAUSAL_LM", **({"r": 2, "lora_alpha": 6} if cls == "LoraConfig" else {}), **config}
        model = peft.get_peft_model(self.their_model(), getattr(peft, cls)(**config)).eval()
        as_after_training(model)
        model.save_pretrained(directory)
        return model

    def read(self, directory):
        return from_peft(read_adapter(directory), self.plain, self.published)

    def model(self, state=None, settings=None):
        """Our network, under the names of a checkpoint."""
        model = nn.ModuleDict({"decoder": copy.deepcopy(self.ours)})
        if settings is not None:
            add_lora(model, settings)
        model.load_state_dict(self.plain if state is None else state)
        return model.eval()


def their_outputs(model):
    with torch.no_grad():
        return model(TOKENS, attention_mask=torch.ones_like(TOKENS)).logits


def outputs(model):
    with torch.no_grad():
        return model["decoder"](TOKENS)


@pytest.fixture(scope="module", params=list(FAMILIES))
def both(request):
    return Both(request.param)


@pytest.fixture(scope="module")
def gpt2():
    return Both("gpt2")


@pytest.fixture(scope="module")
def llama():
    return Both("llama")


def assert_close(found, expected):
    """Up to rounding, relative to the range of the scores."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * (expected.max() - expected.min()).item())


def check_read(both, directory, theirs):
    """Our model with the adapter in *directory*, and its merged one, compute what *theirs* does; returns state and settings."""
    state, settings = both.read(directory)
    expected, model = their_outputs(theirs), both.model(state, settings)
    assert_close(outputs(model), expected)
    merged, _ = merge(state, settings.alpha / settings.rank)
    assert_close(outputs(both.model(merged)), expected)
    assert (outputs(both.model()) - expected).abs().max() > 1e-2  # the adapter matters
    mark_only_lora_as_trainable(model, settings)  # names what there is
    return state, settings


# ---------------------------------------------------------------------- from PEFT

ALL = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "opt": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
QV = {"gpt2": ["c_attn"], "opt": ["q_proj", "v_proj"], "llama": ["q_proj", "v_proj"]}
NORM = {"gpt2": "ln_f", "opt": "final_layer_norm", "llama": "norm"}
FFN = {"gpt2": "mlp.c_fc", "opt": "fc1", "llama": "mlp.up_proj"}
CASES = {
    "pefts default": lambda family: {},
    "all": lambda family: dict(target_modules=ALL[family]),
    "all linear, rslora": lambda family: dict(target_modules="all-linear", use_rslora=True, r=3),
    "an expression": lambda family: dict(target_modules=r".*\.1\..*(c_attn|c_fc|v_proj|o_proj|fc1)"),
    "some layers": lambda family: dict(target_modules=QV[family], layers_to_transform=[0, 2]),
    "ranks and scales of their own": lambda family: dict(
        target_modules=ALL[family], rank_pattern={FFN[family]: 5, QV[family][0]: 4}, alpha_pattern={FFN[family]: 40}
    ),
    "rslora with ranks": lambda family: dict(target_modules=ALL[family], rank_pattern={FFN[family]: 4}, use_rslora=True),
    "a module trained along": lambda family: dict(modules_to_save=[NORM[family]]),
    "an updated layers neighbour trained along": lambda family: dict(modules_to_save=[FFN[family]]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_converted_decoder_with_an_adapter_computes_what_transformers_and_peft_do(tmp_path, both, case):
    theirs = both.adapter(tmp_path, **CASES[case](both.published.family))
    check_read(both, tmp_path, theirs)


@pytest.mark.parametrize("family", ["gpt2", "opt"])
@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases(tmp_path, family, bias):
    both = Both(family)
    theirs = both.adapter(tmp_path, target_modules=QV[family], bias=bias)
    _, settings = check_read(both, tmp_path, theirs)
    assert settings.bias == bias


def test_of_gpt2s_c_attn_each_of_q_k_and_v_gets_the_one_a(tmp_path, gpt2):
    theirs = gpt2.adapter(tmp_path)
    state, settings = gpt2.read(tmp_path)
    layer = theirs.base_model.model.transformer.h[1].attn.c_attn
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    for number, part in enumerate("qkv"):
        name = f"decoder.layers.1.self_attn.{part}_proj"
        assert torch.equal(state[f"{name}.lora_A"], a)
        assert torch.equal(state[f"{name}.lora_B"], b[24 * number : 24 * (number + 1)])
    assert (settings.rank, settings.alpha, settings.target) == (2, 6, "k_proj,q_proj,v_proj")


def test_the_decoder_alone_has_an_adapter_too(tmp_path, both):
    """PEFT on transformers' AutoModel, whose names have less in front."""
    decoder = getattr(both.their_model(), both.theirs.base_model_prefix)
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=QV[both.published.family])
    model = peft.get_peft_model(decoder, config)
    as_after_training(model)
    model.save_pretrained(tmp_path)
    state, settings = both.read(tmp_path)
    theirs = both.their_model()
    setattr(theirs, theirs.base_model_prefix, model.merge_and_unload())
    assert_close(outputs(both.model(state, settings)), their_outputs(theirs))


# ---------------------------------------------------------------------- to PEFT

TRAINED = {
    "q and v": LoRASettings(rank=3, alpha=12),
    "q, k and v": LoRASettings(rank=2, alpha=5, target="q_proj,k_proj,v_proj"),
    "v": LoRASettings(rank=2, alpha=5, target="v_proj", init="gaussian"),
    "all": LoRASettings(rank=2, alpha=7, target="q_proj,v_proj,out_proj,fc1,fc2", dropout=0.1),
    "a layer": LoRASettings(rank=2, alpha=7, target=r"layers\.1\..*(q_proj|fc1)|layers\.0\..*v_proj"),
    "norms along": LoRASettings(rank=2, alpha=7, also_train="decoder.layer_norm,self_attn_layer_norm"),
    "biases": LoRASettings(rank=2, alpha=7, target="q_proj,v_proj,fc2", bias="all"),
    "biases of the layers": LoRASettings(rank=2, alpha=7, target="q_proj,v_proj", bias="lora_only"),
}


def trained(both, settings):
    """A model of ours with an update, and all that trains as after training."""
    model = both.model(settings=None)
    add_lora(model, settings)
    mark_only_lora_as_trainable(model, settings)
    return as_after_training(model, seed=3).eval()


def save(both, model, settings, directory):
    adapter = to_peft(model.state_dict(), settings)
    config = dict(adapter.config)
    tensors, said = decoder_adapters.to_transformers(adapter.tensors, config, model.state_dict(), both.published)
    directory.mkdir(exist_ok=True)
    write_adapter(Adapter(tensors, config), directory)
    return config, said


def test_a_part_of_c_attn_that_was_trained_as_a_whole_is_refused_beside_an_update_of_another(tmp_path, gpt2):
    """PEFT would leave the update out, without a word."""
    settings = LoRASettings(rank=2, alpha=7, target="q_proj,v_proj,fc1", also_train="k_proj")
    with pytest.raises(ValueError, match=r"names of transformers: transformer.h.0.attn.c_attn has an update in one of its parts"):
        save(gpt2, trained(gpt2, settings), settings, tmp_path / "adapter")


@pytest.mark.parametrize("case", TRAINED)
def test_saved_with_transformers_names_it_is_an_adapter_of_the_published_decoder(tmp_path, both, case):
    """Read by PEFT onto the published model; and read here again, it is what was saved, bit for bit."""
    settings = TRAINED[case]
    model = trained(both, settings)
    save(both, model, settings, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(both.their_model(), tmp_path / "adapter").eval()
    assert_close(their_outputs(theirs), outputs(model))
    assert_close(their_outputs(theirs.merge_and_unload()), outputs(model))
    assert (outputs(both.model()) - outputs(model)).abs().max() > 1e-2
    state, again = both.read(tmp_path / "adapter")
    expected = model.state_dict()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(state[name], value), name
    assert (again.rank, again.alpha, again.dropout, again.bias) == (settings.rank, settings.alpha, settings.dropout, settings.bias)
    assert set(lora_layers(both.model(state, again))) == set(lora_layers(model))


def test_q_and_v_of_gpt2_are_one_update_of_twice_the_rank(tmp_path, gpt2):
    settings = TRAINED["q and v"]
    model = trained(gpt2, settings)
    config, said = save(gpt2, model, settings, tmp_path)
    assert (config["r"], config["lora_alpha"], config["fan_in_fan_out"]) == (6, 24, True)
    assert "q, v are parts of one layer, c_attn" in said and "rank 3 are written as one of rank 6 with alpha 24" in said
    adapter = read_adapter(tmp_path).tensors
    front = "base_model.model.transformer.h.0.attn.c_attn"
    a, b = adapter[f"{front}.lora_A.weight"], adapter[f"{front}.lora_B.weight"]
    q, v = (getattr(model["decoder"].layers[0].self_attn, f"{part}_proj") for part in "qv")
    assert torch.equal(a, torch.cat([q.lora_A, v.lora_A]))
    assert torch.equal(b[:24, :3], q.lora_B) and torch.equal(b[48:, 3:], v.lora_B)
    assert not b[24:48].any() and not b[:24, 3:].any() and not b[48:, :3].any()


def test_beside_other_layers_c_attn_has_a_rank_of_its_own(tmp_path, gpt2):
    config, _ = save(gpt2, trained(gpt2, TRAINED["all"]), TRAINED["all"], tmp_path)
    assert (config["r"], config["rank_pattern"], config["alpha_pattern"]) == (2, {"c_attn": 4}, {"c_attn": 14})


def test_saved_with_our_own_names_it_is_read_again(tmp_path, both):
    settings = LoRASettings(rank=2, alpha=7, also_train="layer_norm")
    model = trained(both, settings)
    write_adapter(to_peft(model.state_dict(), settings), tmp_path)
    state, again = both.read(tmp_path)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert again == settings


@pytest.mark.parametrize("name", ["embed_tokens", "output_projection"])
def test_tables_of_words_are_not_saved(tmp_path, both, name):
    settings = LoRASettings(rank=2, alpha=7, also_train=name)
    with pytest.raises(ValueError, match=r"names of transformers: decoder.*rows in another order|has no counterpart"):
        save(both, trained(both, settings), settings, tmp_path)


# ---------------------------------------------------------------------- what is refused

WORDS = {"gpt2": "wte", "opt": "embed_tokens", "llama": "embed_tokens"}


@pytest.mark.parametrize(
    "config, words",
    [
        (dict(modules_to_save="words"), "tables of words have their rows in another order"),
        (dict(modules_to_save="lm_head"), "lm_head.weight: .*tables of words have their rows in another order"),
        (dict(target_modules="lm_head"), r"lm_head.(weight|lora_.): .*tables of words have their rows in another order"),
        (
            dict(target_modules="words"),
            r"(wte|embed_tokens).(weight|lora_embedding_.): .*tables of words have their rows in another order",
        ),
        (dict(use_dora=True), "adapter_config.json: use_dora is true"),
        (dict(lora_bias=True), "adapter_config.json: lora_bias is true"),
        (dict(modules_to_save="words", ensure_weight_tying=True), "adapter_config.json: ensure_weight_tying is true"),
        (dict(init_lora_weights="pissa"), "init_lora_weights is 'pissa'"),
        (dict(trainable_token_indices=[3]), "adapter_config.json: trainable_token_indices is"),
    ],
)
def test_what_cannot_be_applied_is_refused_by_name(tmp_path, both, config, words):
    config, family = dict(config), both.published.family
    for name in ("modules_to_save", "target_modules"):
        if name in config:
            config[name] = [WORDS[family] if config[name] == "words" else config[name]]
            config[name] += QV[family] if name == "target_modules" else []
    config.setdefault("target_modules", QV[family])
    if family == "gpt2" and config.get("lora_bias"):
        config["fan_in_fan_out"] = True
    both.adapter(tmp_path, **config)
    with pytest.raises(ValueError, match=words):
        both.read(tmp_path)


@pytest.mark.parametrize(
    "cls, config",
    [
        ("IA3Config", dict(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])),
        ("LoHaConfig", dict(target_modules=["q_proj"])),
        ("LoKrConfig", dict(target_modules=["q_proj"])),
        ("VeraConfig", dict(target_modules=["q_proj"], r=2)),
        ("OFTConfig", dict(target_modules=["q_proj"], oft_block_size=0, r=2)),
        ("AdaLoraConfig", dict(target_modules=["q_proj"], total_step=10)),
        ("PromptTuningConfig", dict(num_virtual_tokens=2)),
    ],
)
def test_other_methods_are_refused_by_name(tmp_path, llama, cls, config):
    llama.adapter(tmp_path, cls, **config)
    kind = read_adapter(tmp_path).config["peft_type"]
    with pytest.raises(ValueError, match=f"peft_type is '{kind}'"):
        llama.read(tmp_path)


def test_an_adapter_of_another_family_is_refused(tmp_path, gpt2, llama):
    llama.adapter(tmp_path)
    with pytest.raises(ValueError, match="an adapter of a llama, and the model is a converted gpt2"):
        gpt2.read(tmp_path)


def test_a_deeper_adapter_is_refused(tmp_path, both):
    both.adapter(tmp_path)
    shallow = {name: part for name, part in both.published.parts.items() if ".2." not in name}
    with pytest.raises(ValueError, match=r"2\..*lora_.: in a converted .* it has no counterpart"):
        from_peft(read_adapter(tmp_path), both.plain, both.published._replace(parts=shallow))


@pytest.mark.parametrize(
    "missing, words", [("h.1.*lora_B", "not whole"), ("h.1.attn", "no update for transformer.h.1.attn.c_attn")]
)
def test_a_part_that_is_missing_is_named(tmp_path, gpt2, missing, words):
    gpt2.adapter(tmp_path)
    adapter = read_adapter(tmp_path)
    kept = {name: value for name, value in adapter.tensors.items() if not re.search(missing, name)}
    with pytest.raises(ValueError, match=words):
        from_peft(adapter._replace(tensors=kept), gpt2.plain, gpt2.published)


def test_a_rank_that_does_not_fit_another_layer_is_refused(tmp_path, llama):
    """The key-value heads' projections have 12 outputs here."""
    llama.adapter(tmp_path, target_modules=["v_proj", "up_proj"], rank_pattern={"up_proj": 20})
    with pytest.raises(ValueError, match="v_proj has an update of rank 2, and would need one of 20"):
        llama.read(tmp_path)


@pytest.mark.parametrize(
    "settings, family",
    [
        (dict(LEARNED, decoder_gated_ffn=True), None),
        (dict(decoder_positions="rotary", activation_fn="silu"), None),
        (dict(activation_fn="relu"), None),
        (dict(LEARNED, activation_fn="gelu"), "gpt2"),
        (dict(LEARNED, activation_fn="gelu", no_attention_bias=True, no_ffn_bias=True), "opt"),
        (FAMILIES["llama"][1], "llama"),
        (FAMILIES["opt"][1], "opt"),
    ],
)
def test_which_decoder_it_is(settings, family):
    found = published({**SIZES, "decoder_ffn_embed_dim": 40, **settings})
    assert (found and found.family) == family


@pytest.mark.parametrize(
    "settings, family, how",
    [
        (dict(LEARNED, activation_fn="relu", _name="sharp_gpt2_medium"), "gpt2", "--arch sharp_gpt2_medium"),
        (dict(LEARNED, activation_fn="gelu", _name="lora", base_arch="sharp_opt_125m"), "opt", "--arch sharp_opt_125m"),
        (dict(LEARNED, no_ffn_bias=True, _name="sharp_gpt2"), "opt", "--no-ffn-bias"),
        (
            dict(LEARNED, activation_fn="relu", _name="sharp_decoder"),
            "opt",
            "a guess by --activation-fn relu: --arch sharp_decoder",
        ),
    ],
)
def test_how_it_is_known(tmp_path, llama, settings, family, how):
    found = published({**SIZES, "decoder_ffn_embed_dim": 40, **settings})
    assert found.family == family and how in found.how
    llama.adapter(tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"and the model is a converted {family} ({how}")):
        from_peft(read_adapter(tmp_path), llama.plain, found)
