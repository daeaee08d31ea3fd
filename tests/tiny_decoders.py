"""Tiny decoders of transformers with random weights, and ours with the same: GPT-2, OPT and Llama with grouped queries.

Ids are the published ones in both, so that what is compared is the network alone; the weights' names are written out here a second
time, apart from the package's tables.
"""

import re

import pytest
import torch

from sharp_plugins.networks.decoder import Decoder
from sharp_plugins.networks.decoder_settings import DecoderSettings

KINDS = ("gpt2", "opt", "llama")
SMALL = dict(vocabulary=40, layers=2, width=24, ffn_width=32, max_positions=32, dropout=0.0, attention_dropout=0.0)
SETTINGS = {
    "gpt2": DecoderSettings(**{**SMALL, "ffn_width": 96}, heads=4),
    "opt": DecoderSettings(**SMALL, heads=4, activation="relu"),
    "llama": DecoderSettings(
        **SMALL,
        heads=6,
        kv_heads=2,
        positions="rotary",
        norm="rms",
        activation="silu",
        gated=True,
        attention_bias=False,
        ffn_bias=False,
    ),
}


def theirs(kind, seed=0):
    """transformers' model, with weights large enough to matter."""
    transformers = pytest.importorskip("transformers")
    no_dropout = dict(attention_dropout=0.0, bos_token_id=1, eos_token_id=2, pad_token_id=2)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=40, n_layer=2, n_embd=24, n_head=4, n_positions=32, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
        )
        config.bos_token_id = config.eos_token_id = 2
    elif kind == "opt":
        config = transformers.OPTConfig(
            vocab_size=40,
            num_hidden_layers=2,
            hidden_size=24,
            ffn_dim=32,
            num_attention_heads=4,
            max_position_embeddings=32,
            word_embed_proj_dim=24,
            dropout=0.0,
            **no_dropout,
        )
    else:
        config = transformers.LlamaConfig(
            vocab_size=40,
            num_hidden_layers=2,
            hidden_size=24,
            intermediate_size=32,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=32,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            **no_dropout,
        )
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(torch.randn_like(p) * (0.05 if p.dim() == 1 else 0.2))
    return model.eval()


RENAMES = {
    "gpt2": [
        (r"^transformer\.", ""),
        (r"^h\.", "layers."),
        (r"attn\.c_proj", "self_attn.out_proj"),
        (r"ln_1", "self_attn_layer_norm"),
        (r"ln_2", "final_layer_norm"),
        (r"mlp\.c_fc", "fc1"),
        (r"mlp\.c_proj", "fc2"),
        (r"^ln_f", "layer_norm"),
        (r"^wte", "embed_tokens"),
        (r"^wpe", "embed_positions"),
    ],
    "opt": [(r"^model\.decoder\.", ""), (r"^final_layer_norm", "layer_norm")],
    "llama": [
        (r"^model\.", ""),
        (r"o_proj", "out_proj"),
        (r"input_layernorm", "self_attn_layer_norm"),
        (r"post_attention_layernorm", "final_layer_norm"),
        (r"mlp\.up_proj", "fc1"),
        (r"mlp\.gate_proj", "fc_gate"),
        (r"mlp\.down_proj", "fc2"),
        (r"^norm\.", "layer_norm."),
    ],
}


def our_state(kind, weights):
    """The state dict of our network with transformers' *weights*."""
    state = {}
    for name, value in weights.items():
        for pattern, new in RENAMES[kind]:
            name = re.sub(pattern, new, name)
        if name == "lm_head.weight":
            name = "output_projection.weight"
        if kind == "gpt2" and value.dim() == 2 and not name.startswith(("embed", "output")):
            value = value.t()
        if kind == "opt" and name == "embed_positions.weight":
            value = value[2:]
        parts = zip("qkv", value.chunk(3)) if "attn.c_attn" in name else [("", value)]
        for letter, part in parts:
            state[re.sub(r"attn\.c_attn", f"self_attn.{letter}_proj", name)] = part.contiguous().clone()
    return state


def ours(kind, model):
    """Our network with the weights of transformers' *model*."""
    decoder = Decoder(SETTINGS[kind]).eval()
    decoder.load_state_dict(our_state(kind, model.state_dict()))
    return decoder


def tokens(rows=3, length=7):
    return torch.randint(3, 40, (rows, length), generator=torch.Generator().manual_seed(1))
