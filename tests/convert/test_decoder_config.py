"""Published decoders' config.json as flags; the published configs here are the real ones, without what nobody reads."""

import pytest
import transformers

from sharp_plugins.convert.decoder_config import read_decoder_config
from sharp_plugins.convert.decoder_flags import decoder_flags

GPT2 = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_type": "cls_index",
    "vocab_size": 50257,
}
OPT_350M = {
    "_remove_final_layer_norm": False,
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "do_layer_norm_before": False,
    "dropout": 0.1,
    "eos_token_id": 2,
    "ffn_dim": 4096,
    "hidden_size": 1024,
    "max_position_embeddings": 2048,
    "model_type": "opt",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "pad_token_id": 1,
    "prefix": "</s>",
    "vocab_size": 50272,
    "word_embed_proj_dim": 512,
}
OPT_1_3B = {**OPT_350M, "do_layer_norm_before": True, "ffn_dim": 8192, "hidden_size": 2048, "num_attention_heads": 32}
OPT_1_3B["word_embed_proj_dim"] = 2048
SMOLLM2 = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
LLAMA3 = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
LLAMA_3_2_1B = {
    **SMOLLM2,
    "head_dim": 64,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rope_scaling": LLAMA3,
    "rope_theta": 500000.0,
    "vocab_size": 128256,
}
LLAMA2_7B = {
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}


def flags(config, **changes):
    settings = read_decoder_config({**config, **changes})
    assert settings.rows == config["vocab_size"]
    return " ".join(decoder_flags(settings.model, settings.family)[1:])


@pytest.mark.parametrize(
    "config, arch",
    [
        (GPT2, "sharp_gpt2"),
        ({**GPT2, "n_embd": 1600, "n_head": 25, "n_layer": 48}, "sharp_gpt2_xl"),
        (OPT_350M, "sharp_opt_350m"),
        (OPT_1_3B, "sharp_opt_1_3b"),
        (SMOLLM2, "sharp_smollm2_135m"),
        (LLAMA2_7B, "sharp_llama2_7b"),
        (LLAMA_3_2_1B, "sharp_llama3_2_1b"),
    ],
    ids=str,
)
def test_published_models_have_names(config, arch):
    assert flags(config) == arch


def test_what_differs_is_flagged():
    assert flags(GPT2, n_inner=512, n_layer=6) == "sharp_gpt2 --decoder-layers 6 --decoder-ffn-embed-dim 512"
    assert flags(GPT2, embd_pdrop=0.0, resid_pdrop=0.2) == "sharp_gpt2 --dropout 0.2 --embedding-dropout 0.0"
    more = {"hidden_size": 2304, "ffn_dim": 9216, "word_embed_proj_dim": 2304, "num_attention_heads": 36}
    assert flags(OPT_1_3B, **more) == (  # without --decoder-input-dim and the like, which follow from these
        "sharp_opt_1_3b --decoder-embed-dim 2304 --decoder-ffn-embed-dim 9216 --decoder-attention-heads 36"
    )
    assert flags(SMOLLM2, num_key_value_heads=9).startswith("sharp_smollm2_135m --decoder-kv-heads 9")  # which the name has as 3
    assert flags(OPT_1_3B, _remove_final_layer_norm=True) == "sharp_opt_1_3b --no-decoder-final-norm"
    assert flags(SMOLLM2, attention_dropout=0.1, tie_word_embeddings=False) == (
        "sharp_smollm2_135m --untied-output --attention-dropout 0.1"
    )
    assert flags(LLAMA2_7B, rope_scaling={"type": "linear", "factor": 2}) == (
        "sharp_llama2_7b --rope-scaling linear --rope-factor 2.0"
    )


def test_rotary_positions_in_both_spellings():
    """transformers 5 writes rope_parameters for rope_theta and rope_scaling; and a GGUF file's epsilon has gone through fp32."""
    new = {name: value for name, value in LLAMA_3_2_1B.items() if name not in ("rope_scaling", "rope_theta")}
    new["rope_parameters"] = {**LLAMA3, "rope_theta": 500000.0}
    assert read_decoder_config(new) == read_decoder_config(LLAMA_3_2_1B)
    # Both, as some directories have them for programs of both kinds; empty is as not there.
    assert read_decoder_config({**new, "rope_theta": 500000.0, "rope_scaling": LLAMA3}) == read_decoder_config(LLAMA_3_2_1B)
    assert read_decoder_config({**LLAMA_3_2_1B, "rope_parameters": {}}) == read_decoder_config(LLAMA_3_2_1B)
    linear = {"type": "linear", "factor": 2.0}
    unsaid = {name: value for name, value in LLAMA2_7B.items() if name not in ("rope_scaling", "rope_theta")}
    both = {**unsaid, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}, "rope_scaling": linear}
    assert read_decoder_config(both) == read_decoder_config({**unsaid, "rope_scaling": linear})
    plain = {name: value for name, value in SMOLLM2.items() if name not in ("rope_scaling", "rope_theta")}
    plain.update(rope_parameters={"rope_theta": 100000.0, "rope_type": "default"}, rms_norm_eps=9.999999747378752e-06)
    assert read_decoder_config(plain) == read_decoder_config(SMOLLM2)


def test_what_configs_leave_out():
    bare = {"model_type": "gpt2", "vocab_size": 50257}
    assert read_decoder_config(bare) == read_decoder_config(GPT2)
    old = {name: value for name, value in LLAMA2_7B.items() if name not in ("num_key_value_heads", "rope_scaling")}
    assert read_decoder_config(old) == read_decoder_config(LLAMA2_7B)


def test_null_is_as_not_given():
    without = {name: value for name, value in LLAMA2_7B.items() if name not in ("rope_theta", "attention_dropout", "rms_norm_eps")}
    nulls = dict.fromkeys(("rope_theta", "attention_dropout", "rms_norm_eps", "attention_bias"))
    assert read_decoder_config({**without, **nulls}) == read_decoder_config(without)


def test_gpt2_by_other_models_names():
    """transformers' GPT2Config takes them."""
    own = {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 64}
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    others = {"model_type": "gpt2", **dict(zip(names, own.values()))}
    assert read_decoder_config(others) == read_decoder_config({"model_type": "gpt2", **own})
    theirs = transformers.GPT2Config(**{name: value for name, value in others.items() if name != "model_type"})
    assert {name: getattr(theirs, name) for name in own} == own
    # Where a file has both, transformers goes by the others; null is as not given.
    for both in ({**others, "n_embd": 64}, {"n_embd": 64, **others}):
        assert read_decoder_config(both) == read_decoder_config(others)
    nulls = dict.fromkeys((*names, "n_inner", "activation_function", "vocab_size", "layer_norm_epsilon"))
    assert read_decoder_config({"model_type": "gpt2", **own, **nulls}) == read_decoder_config({"model_type": "gpt2", **own})
