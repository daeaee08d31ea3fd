"""Small random GPT-2, OPT and Llama models, once in transformers and once here with the same weights and ids."""

import torch
from fairseq.data import Dictionary
from torch import nn

from sharp_plugins.networks.decoder import Decoder
from sharp_plugins.networks.decoder_settings import DecoderSettings

SYMBOLS = 97
PAD, EOS = 1, 2
POSITIONS = 64


def dictionary(symbols=SYMBOLS):
    words = Dictionary()
    for number in range(symbols - len(words)):
        words.add_symbol(f"w{number}")
    assert (words.pad(), words.eos(), len(words)) == (PAD, EOS, symbols)
    return words


class Model(nn.Module):
    """As much of a fairseq language model as a generator needs."""

    def __init__(self, settings):
        super().__init__()
        self.decoder = Decoder(settings)

    def max_positions(self):
        return self.decoder.settings.max_positions


def gpt2(seed=0, **settings):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=SYMBOLS, n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3,
        bos_token_id=None, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    theirs = GPT2LMHeadModel(config).eval()
    ours = Model(
        DecoderSettings(vocabulary=SYMBOLS, layers=2, width=32, ffn_width=128, heads=4, max_positions=POSITIONS, **settings)
    )
    state = theirs.transformer.state_dict()
    new = {"embed_tokens.weight": state["wte.weight"], "embed_positions.weight": state["wpe.weight"]}
    for layer in range(2):
        here, there = f"layers.{layer}.", f"h.{layer}."
        for kind in ("weight", "bias"):
            fused = state[f"{there}attn.c_attn.{kind}"].chunk(3, dim=-1)
            for part, value in zip("qkv", fused):
                new[f"{here}self_attn.{part}_proj.{kind}"] = value
            for name, other in (("self_attn.out_proj", "attn.c_proj"), ("fc1", "mlp.c_fc"), ("fc2", "mlp.c_proj")):
                new[f"{here}{name}.{kind}"] = state[f"{there}{other}.{kind}"]
            new[f"{here}self_attn_layer_norm.{kind}"] = state[f"{there}ln_1.{kind}"]
            new[f"{here}final_layer_norm.{kind}"] = state[f"{there}ln_2.{kind}"]
    for kind in ("weight", "bias"):
        new[f"layer_norm.{kind}"] = state[f"ln_f.{kind}"]
    # GPT-2's linear layers are stored (in, out).
    new = {
        name: value.t() if "_proj.weight" in name or ".fc" in name and value.dim() == 2 else value for name, value in new.items()
    }
    return theirs, load(ours, new)


def opt(seed=0):
    from transformers import OPTConfig, OPTForCausalLM

    torch.manual_seed(seed)
    config = OPTConfig(
        vocab_size=SYMBOLS, max_position_embeddings=POSITIONS, hidden_size=32, ffn_dim=48, num_hidden_layers=2,
        num_attention_heads=4, word_embed_proj_dim=16, do_layer_norm_before=False, init_std=0.3,
        bos_token_id=EOS, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    theirs = OPTForCausalLM(config).eval()
    with torch.no_grad():  # initialised as 0
        theirs.model.decoder.embed_tokens.weight[PAD].normal_(std=0.3)
    ours = Model(
        DecoderSettings(
            vocabulary=SYMBOLS, layers=2, width=32, ffn_width=48, heads=4, max_positions=POSITIONS, activation="relu",
            pre_norm=False, word_width=16,
        )
    )  # fmt: skip
    new = dict(theirs.model.decoder.state_dict())
    new["embed_positions.weight"] = new["embed_positions.weight"][2:]
    return theirs, load(ours, new)


def llama(seed=0):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=SYMBOLS, max_position_embeddings=POSITIONS, hidden_size=48, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=False, rms_norm_eps=1e-5, initializer_range=0.3,
        bos_token_id=None, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    ours = Model(
        DecoderSettings(
            vocabulary=SYMBOLS, layers=2, width=48, ffn_width=40, heads=6, kv_heads=2, max_positions=POSITIONS,
            positions="rotary", norm="rms", activation="silu", gated=True, attention_bias=False, ffn_bias=False, tied=False,
        )
    )  # fmt: skip
    return theirs, load(ours, llama_names(theirs.state_dict()))


def llama_names(state):
    """transformers' Llama state dict with the names of `Decoder`."""
    changes = (
        ("model.", ""), ("lm_head.", "output_projection."), ("self_attn.o_proj", "self_attn.out_proj"),
        ("mlp.gate_proj", "fc_gate"), ("mlp.up_proj", "fc1"), ("mlp.down_proj", "fc2"), ("input_layernorm", "self_attn_layer_norm"),
        ("post_attention_layernorm", "final_layer_norm"),
    )  # fmt: skip
    new = {}
    for name, value in state.items():
        for old, other in changes:
            name = name.replace(old, other)
        new["layer_norm.weight" if name == "norm.weight" else name] = value
    return new


def load(ours, state):
    missing, unexpected = ours.decoder.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"output_projection.weight"}, (missing, unexpected)
    return ours.eval()


FAMILIES = {"gpt2": gpt2, "opt": opt, "llama": llama}


def prompts(*lengths, seed=0, symbols=SYMBOLS):
    """Random prompts, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in zip(rows, lengths):
        row[:length] = torch.randint(4, symbols, (length,), generator=generator)
    return rows
