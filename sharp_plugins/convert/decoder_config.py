"""A published decoder's ``config.json`` (GPT-2, OPT, Llama) as settings of ``sharp_decoder``.

The settings are the model's flags (`sharp_plugins.models.decoder_config.DecoderConfig`). A variant that the decoder cannot compute
is refused by name.
"""

from typing import Any, Callable, Dict, NamedTuple

import numpy as np

# The name in config.json -> ours.
ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "silu": "silu",
    "swish": "silu",
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast"), "gelu_accurate"),
}
# Sizes above are no model's, and neither PyTorch's nor the tokenizers' own integers hold them; the same for numbers in fp32.
LARGEST, GREATEST = 2**31 - 1, 3.4e38
OPT_OFFSET = 2  # rows of OPT's table of positions that no position uses
# Values that GPT-2's configs leave out, as the first published ones do.
GPT2_USUAL = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "activation_function": "gelu_new"}
GPT2_USUAL |= {"layer_norm_epsilon": 1e-5, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1, "vocab_size": 50257}
# transformers takes other models' names for them, too.
GPT2_OTHER_NAMES = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
GPT2_OTHER_NAMES["max_position_embeddings"] = "n_positions"


class DecoderModelSettings(NamedTuple):
    """What ``config.json`` says.

    family: "gpt2", "opt" or "llama".
    rows: of the table of words.
    model: the settings of ``sharp_decoder`` by the names of its flags; what is left out is as the flag's default.
    """

    family: str
    rows: int
    model: Dict[str, Any]


class _Config:
    """``config.json`` with a check for each value."""

    def __init__(self, config: Dict, path):
        self.config, self.path = config, path

    def size(self, name: str, *other) -> int:
        """A whole number from 1 to `LARGEST`; without other names or values it must be there."""
        value = self.config.get(name)
        for instead in other:
            if value is None:
                value = self.config.get(instead) if isinstance(instead, str) else instead
        if value is None:
            raise ValueError(f"{self.path}: {name} missing")
        if type(value) is not int or not 1 <= value <= LARGEST:
            raise ValueError(f"{self.path}: {name} must be a whole number, 1 or larger up to {LARGEST}, and is {_shown(value)}")
        return value

    def number(self, name: str, usual: float, below: float = GREATEST, config=None, above: bool = False) -> float:
        """A number from 0 to below *below*; *above*: not 0 itself. null is as not given, here and below, as for sizes."""
        value = (self.config if config is None else config).get(name)
        value = usual if value is None else value
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 <= value < below or (above and value == 0):
            words = "larger than 0 and" if above else "from 0 to"
            raise ValueError(f"{self.path}: {name} must be a number {words} below {below}, and is {_shown(value)}")
        single = np.float32(value)  # 9.999999747378752e-06 is 1e-05, after a file that held it in fp32
        return float(str(single)) if float(single) == value else float(value)

    def is_so(self, name: str, usual: bool) -> bool:
        value = self.config.get(name)
        value = usual if value is None else value
        if not isinstance(value, bool):
            raise ValueError(f"{self.path}: {name} must be true or false, and is {value!r}")
        return value

    def needs(self, **values) -> None:
        for name, value in values.items():
            if self.config.get(name, value) not in (value, None):
                found = self.config[name]
                raise ValueError(f"{self.path}: {name} is {found!r}; sharp_decoder computes only models with {name} {value!r}")

    def activation(self, name: str, usual=None) -> str:
        value = self.config.get(name, usual)
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise ValueError(f"{self.path}: {name} is {_shown(value)}; sharp_decoder has {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]


def _shown(value) -> str:
    """A value as a message shows it: of a long one the beginning. Python writes no integer of thousands of digits."""
    if isinstance(value, int) and abs(value) >= 10**60:
        return "a number of more than 60 digits"
    words = repr(value)
    return words if len(words) <= 80 else words[:79] + "…"


def read_decoder_config(config: Dict, path="config.json") -> DecoderModelSettings:
    """The settings of a model.

    Args:
        config: the content of config.json, with a ``model_type`` of `FAMILIES`.
        path: what messages begin with.

    Raises:
        ValueError: it describes a model that ``sharp_decoder`` cannot compute, or none at all.

    >>> settings = read_decoder_config({"model_type": "gpt2", "n_layer": 24, "n_embd": 1024, "n_head": 16})
    >>> settings.rows, settings.model["decoder_layers"], settings.model["decoder_ffn_embed_dim"]
    (50257, 24, 4096)
    """
    family = config["model_type"]
    if family == "gpt2":
        given = {name: value for name, value in config.items() if value is not None}
        others = {own: given[name] for name, own in GPT2_OTHER_NAMES.items() if name in given}
        config = {**GPT2_USUAL, **given, **others}
    read = _Config(config, path)
    read.needs(add_cross_attention=False, is_encoder_decoder=False, quantization_config=None)
    model = FAMILIES[family](read)
    width, heads = model["decoder_embed_dim"], model["decoder_attention_heads"]
    if model.get("decoder_head_dim") is None and width % heads:
        raise ValueError(f"{path}: the width of the layers, {width}, is no multiple of the {heads} heads")
    if heads % (model.get("decoder_kv_heads") or heads):
        raise ValueError(f"{path}: num_attention_heads, {heads}, is no multiple of num_key_value_heads")
    return DecoderModelSettings(family, read.size("vocab_size"), model)


def _gpt2(read: _Config) -> Dict[str, Any]:
    """transformers' GPT2Config."""
    read.needs(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, reorder_and_upcast_attn=False)
    width = read.size("n_embd")
    return {
        "decoder_layers": read.size("n_layer"),
        "decoder_embed_dim": width,
        "decoder_ffn_embed_dim": read.size("n_inner", 4 * width),
        "decoder_attention_heads": read.size("n_head"),
        "max_target_positions": read.size("n_positions"),
        "activation_fn": read.activation("activation_function"),
        "decoder_norm_eps": read.number("layer_norm_epsilon", 1e-5, above=True),
        "untied_output": not read.is_so("tie_word_embeddings", True),
        "dropout": read.number("resid_pdrop", 0.1, 1),
        "embedding_dropout": read.number("embd_pdrop", 0.1, 1),
        "attention_dropout": read.number("attn_pdrop", 0.1, 1),
    }


def _opt(read: _Config) -> Dict[str, Any]:
    """transformers' OPTConfig. Layer normalisations have PyTorch's epsilon."""
    read.needs(layer_norm_elementwise_affine=True)
    width, has_bias = read.size("hidden_size"), read.is_so("enable_bias", True)
    words, pre_norm = read.size("word_embed_proj_dim", width), read.is_so("do_layer_norm_before", True)
    return {
        "decoder_layers": read.size("num_hidden_layers"),
        "decoder_embed_dim": width,
        "decoder_ffn_embed_dim": read.size("ffn_dim"),
        "decoder_attention_heads": read.size("num_attention_heads"),
        "decoder_input_dim": words,
        "max_target_positions": read.size("max_position_embeddings"),
        "activation_fn": read.activation("activation_function", "relu"),
        "decoder_post_norm": not pre_norm,
        "no_decoder_final_norm": pre_norm and read.is_so("_remove_final_layer_norm", False),
        "no_attention_bias": not has_bias,
        "no_ffn_bias": not has_bias,
        "untied_output": not read.is_so("tie_word_embeddings", True),
        "dropout": read.number("dropout", 0.1, 1),
        "embedding_dropout": 0.0,  # the published models were trained without
        "attention_dropout": read.number("attention_dropout", 0.0, 1),
    }


def _llama(read: _Config) -> Dict[str, Any]:
    """transformers' LlamaConfig."""
    heads, width = read.size("num_attention_heads"), read.size("hidden_size")
    kv_heads, head = read.size("num_key_value_heads", heads), read.size("head_dim", width // heads)
    return {
        "decoder_layers": read.size("num_hidden_layers"),
        "decoder_embed_dim": width,
        "decoder_ffn_embed_dim": read.size("intermediate_size"),
        "decoder_attention_heads": heads,
        "decoder_kv_heads": kv_heads,
        "decoder_head_dim": head,
        "max_target_positions": read.size("max_position_embeddings"),
        "activation_fn": read.activation("hidden_act", "silu"),
        "decoder_gated_ffn": True,
        "decoder_norm": "rms",
        "decoder_norm_eps": read.number("rms_norm_eps", 1e-6, above=True),
        "decoder_positions": "rotary",
        **_rope(read),
        "no_attention_bias": not read.is_so("attention_bias", False),
        "no_ffn_bias": not read.is_so("mlp_bias", False),
        "untied_output": not read.is_so("tie_word_embeddings", False),
        "dropout": 0.0,
        "attention_dropout": read.number("attention_dropout", 0.0, 1),
    }


THETA = 10000.0  # where a config does not say it
# Our setting -> the name in config.json, of the two ways to scale rotary positions.
LINEAR = {"rope_factor": "factor"}
LLAMA3 = {
    **LINEAR,
    "rope_low_freq_factor": "low_freq_factor",
    "rope_high_freq_factor": "high_freq_factor",
    "rope_original_positions": "original_max_position_embeddings",
}
SCALINGS: Dict[str, Dict[str, str]] = {"default": {}, "linear": LINEAR, "llama3": LLAMA3}


def _rope(read: _Config) -> Dict[str, Any]:
    """The rotary positions: ``rope_theta`` and ``rope_scaling``, or both in ``rope_parameters``."""
    every = {name: read.config[name] for name in ("rope_parameters", "rope_scaling") if read.config.get(name) is not None}
    for name, given in every.items():
        if not isinstance(given, dict):
            raise ValueError(f"{read.path}: {name} are {given!r}; an object with rope_type is expected")
    every = {name: given for name, given in every.items() if given}
    if len(every) == 2:
        # transformers goes by rope_scaling, and by the config's own rope_theta. Version 5 writes rope_parameters into each config.
        theta = read.config.get("rope_theta") or THETA
        same = [{"rope_theta": theta, "rope_type": given.get("type"), **given, "type": None} for given in every.values()]
        if same[0] != same[1]:
            raise ValueError(f"{read.path}: rope_parameters and rope_scaling differ; take out the one that does not hold")
    given = next(iter(every.values()), {})
    read.needs(partial_rotary_factor=1.0)
    kind = given.get("rope_type", given.get("type")) or "default"
    if not isinstance(kind, str) or kind not in SCALINGS or given.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(f"{read.path}: rope_type is {_shown(kind)} in {_shown(given)}; known are {', '.join(SCALINGS)}")
    missing = [name for name in SCALINGS[kind].values() if name not in given]
    if missing:
        raise ValueError(f"{read.path}: {', '.join(missing)} missing in rope_parameters, for rope_type {kind!r}")
    theta = read.number("rope_theta", read.number("rope_theta", THETA, above=True), config=given, above=True)
    found: Dict[str, Any] = {"rope_theta": theta}
    if kind != "default":
        found["rope_scaling"] = kind
    for own, theirs in SCALINGS[kind].items():
        found[own] = read.number(theirs, 0.0, LARGEST, given, above=True)
    if found.get("rope_factor", 1.0) < 1:
        raise ValueError(f"{read.path}: factor must be 1 or larger in rope_parameters, and is {found['rope_factor']}")
    if "rope_original_positions" in found:
        found["rope_original_positions"] = int(found["rope_original_positions"])
    return found


FAMILIES: Dict[str, Callable[[_Config], Dict[str, Any]]] = {"gpt2": _gpt2, "llama": _llama, "opt": _opt}
