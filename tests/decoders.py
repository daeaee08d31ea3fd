"""Small random models of transformers, and our decoder with their weights."""

import re

import torch

from sharp_plugins.networks.decoder import Decoder
from sharp_plugins.networks.decoder_settings import DecoderSettings

VOCABULARY = 53


def gpt2(**changes):
    """transformers' GPT-2 and ours."""
    from transformers import GPT2Config, GPT2LMHeadModel

    ours = {key: changes.pop(key) for key in list(changes) if key.startswith("our_")}
    settings = {"n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 32, "vocab_size": VOCABULARY, **changes}
    theirs = GPT2LMHeadModel(GPT2Config(**settings, **_ends()))
    settings = {
        "layers": 3,
        "width": 24,
        "ffn_width": 96,
        "heads": 4,
        "max_positions": 32,
        **{key[len("our_") :]: value for key, value in ours.items()},
    }
    return _pair(theirs, settings, _gpt2_state)


def opt(**changes):
    """transformers' OPT and ours; *changes* of transformers' config."""
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=VOCABULARY,
        **{
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "ffn_dim": 40,
            "num_attention_heads": 4,
            "max_position_embeddings": 32,
            **changes,
        },
        pad_token_id=1,
        bos_token_id=2,
        eos_token_id=2,
    )
    theirs = OPTForCausalLM(config)
    settings = {
        "layers": 3,
        "width": 24,
        "ffn_width": 40,
        "heads": 4,
        "max_positions": config.max_position_embeddings,
        "activation": "relu",
        "word_width": config.word_embed_proj_dim,
        "pre_norm": config.do_layer_norm_before,
        "final_norm": not config._remove_final_layer_norm,
        "attention_bias": config.enable_bias,
        "ffn_bias": config.enable_bias,
        "embedding_dropout": 0.0,
        "attention_dropout": 0.0,
    }
    return _pair(theirs, settings, _opt_state)


def llama(**changes):
    """transformers' Llama and ours; *changes* of transformers' config."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 36,
            "num_hidden_layers": 3,
            "intermediate_size": 50,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "max_position_embeddings": 32,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
            "rms_norm_eps": 1e-5,
            **changes,
        },
        **_ends(),
    )
    theirs = LlamaForCausalLM(config)
    rope = config.rope_parameters
    settings = {
        "layers": 3,
        "width": 36,
        "ffn_width": 50,
        "heads": 9,
        "kv_heads": config.num_key_value_heads,
        "head_size": config.head_dim,
        "max_positions": config.max_position_embeddings,
        "positions": "rotary",
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"default": "none"}.get(rope["rope_type"], rope["rope_type"]),
        "rope_factor": rope.get("factor", 1.0),
        "rope_low_freq_factor": rope.get("low_freq_factor", 1.0),
        "rope_high_freq_factor": rope.get("high_freq_factor", 4.0),
        "rope_original_positions": rope.get("original_max_position_embeddings", 8192),
        "norm": "rms",
        "norm_eps": 1e-5,
        "activation": "silu",
        "gated": True,
        "attention_bias": config.attention_bias,
        "ffn_bias": config.mlp_bias,
        "tied": config.tie_word_embeddings,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    }
    return _pair(theirs, settings, _llama_state)


def _ends():
    return {"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": None}


def _pair(theirs, settings, state_of):
    generator = torch.Generator().manual_seed(0)
    for name, p in theirs.named_parameters():
        with torch.no_grad():  # biases and norms too
            p.copy_(torch.randn(p.shape, generator=generator) * (0.2 if p.dim() > 1 else 0.1) + ("norm" in name or "ln_" in name))
    ours = Decoder(DecoderSettings(**{"vocabulary": theirs.config.vocab_size, **settings}))
    state = state_of(theirs.state_dict())
    assert ours.load_state_dict(state, strict=True)
    return theirs.eval(), ours.eval()


def _renamed(state, *rules):
    found = {}
    for name, value in state.items():
        for pattern, by in rules:
            name = re.sub(pattern, by, name)
        found[name] = value
    return found


def _gpt2_state(state):
    state = _renamed(
        state,
        (r"^transformer\.", ""),
        (r"^h\.", "layers."),
        (r"^wte\.", "embed_tokens."),
        (r"^wpe\.", "embed_positions."),
        (r"^ln_f\.", "layer_norm."),
        (r"^lm_head\.", "output_projection."),
        (r"\.ln_1\.", ".self_attn_layer_norm."),
        (r"\.ln_2\.", ".final_layer_norm."),
        (r"\.attn\.c_proj\.", ".self_attn.out_proj."),
        (r"\.mlp\.c_fc\.", ".fc1."),
        (r"\.mlp\.c_proj\.", ".fc2."),
    )
    found = {}
    for name, value in state.items():
        is_conv = re.search(r"(c_attn|out_proj|fc1|fc2)\.weight$", name)
        value = value.t() if is_conv else value
        if "c_attn" in name:
            for part, piece in zip("qkv", value.chunk(3)):
                found[name.replace("attn.c_attn", f"self_attn.{part}_proj")] = piece
        else:
            found[name] = value
    return found


def _opt_state(state):
    state = _renamed(
        state, (r"^model\.decoder\.", ""), (r"^final_layer_norm\.", "layer_norm."), (r"^lm_head\.", "output_projection.")
    )
    state["embed_positions.weight"] = state["embed_positions.weight"][2:]
    return state


def _llama_state(state):
    return _renamed(
        state,
        (r"^model\.", ""),
        (r"^norm\.", "layer_norm."),
        (r"^lm_head\.", "output_projection."),
        (r"\.o_proj\.", ".out_proj."),
        (r"\.mlp\.gate_proj\.", ".fc_gate."),
        (r"\.mlp\.up_proj\.", ".fc1."),
        (r"\.mlp\.down_proj\.", ".fc2."),
        (r"\.input_layernorm\.", ".self_attn_layer_norm."),
        (r"\.post_attention_layernorm\.", ".final_layer_norm."),
    )
