"""Published shapes of decoders, with random weights: transformers' model and ours with the same ones, and LoRA in both."""

from typing import Dict, Tuple

import torch
from torch import Tensor, nn

from sharp_plugins.convert.decoder_names import FAMILIES, HEAD, TABLE
from sharp_plugins.networks import LoRASettings, add_lora, mark_only_lora_as_trainable
from sharp_plugins.networks.decoder import Decoder
from sharp_plugins.networks.decoder_settings import DecoderSettings

RANK, ALPHA = 8, 16.0
# Layers, width, width inside, heads, heads of keys, vocabulary.
SHAPES: Dict[str, Tuple[int, int, int, int, int, int]] = {
    "smollm2-135m": (30, 576, 1536, 9, 3, 49152),
    "gpt2-medium": (24, 1024, 4096, 16, 16, 50257),
}


def settings_of(shape: str, layers: int, dropout: float, tiny: bool = False) -> DecoderSettings:
    """Of a key of `SHAPES`; *layers* 0 stands for all. *tiny*: with small widths, to try the script itself."""
    count, width, inner, heads, kv_heads, words = SHAPES[shape]
    if tiny:
        width, inner, heads, kv_heads, words = 4 * heads, 8 * heads, heads, kv_heads, 50
    common = {
        "vocabulary": words,
        "layers": layers or count,
        "width": width,
        "ffn_width": inner,
        "heads": heads,
        "max_positions": 1024,
        "dropout": dropout,
        "attention_dropout": dropout,
    }
    if shape == "gpt2-medium":
        return DecoderSettings(**common)
    llama = {"norm": "rms", "activation": "silu", "gated": True, "attention_bias": False, "ffn_bias": False}
    return DecoderSettings(**common, **llama, kv_heads=kv_heads, positions="rotary", rope_theta=100000.0)


def theirs_of(settings: DecoderSettings) -> nn.Module:
    """transformers' model of the same shape, with random weights; its own default attention, which is torch's."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    ends = {"bos_token_id": 0, "eos_token_id": 0, "use_cache": False}
    torch.manual_seed(0)
    if settings.positions == "learned":
        drop = {f"{part}_pdrop": settings.dropout for part in ("embd", "resid", "attn")}
        sizes = {"n_embd": settings.width, "n_layer": settings.layers, "n_head": settings.heads, "n_inner": settings.ffn_width}
        return GPT2LMHeadModel(GPT2Config(vocab_size=settings.vocabulary, **sizes, **drop, **ends))
    config = LlamaConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.width,
        num_hidden_layers=settings.layers,
        intermediate_size=settings.ffn_width,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv,
        max_position_embeddings=settings.max_positions,
        rms_norm_eps=settings.norm_eps,
        tie_word_embeddings=True,
        **ends,
    )
    config.rope_theta = settings.rope_theta  # transformers 4
    if getattr(config, "rope_parameters", None):  # and 5
        config.rope_parameters["rope_theta"] = settings.rope_theta
    return LlamaForCausalLM(config)


def state_for_ours(state: Dict[str, Tensor], settings: DecoderSettings) -> Dict[str, Tensor]:
    """Those of transformers' weights that are in *state*, by our names, as conversion does it; the words keep their order."""
    family, front = ("gpt2", "transformer.") if settings.positions == "learned" else ("llama", "model.")
    sizes = {
        "decoder_layers": settings.layers,
        "decoder_embed_dim": settings.width,
        "decoder_ffn_embed_dim": settings.ffn_width,
        "decoder_attention_heads": settings.heads,
        "decoder_kv_heads": settings.kv,
        "decoder_head_dim": settings.head_width,
        "max_target_positions": settings.max_positions,
        "no_attention_bias": not settings.attention_bias,
        "no_ffn_bias": not settings.ffn_bias,
    }
    parts = [(own, front + part.name, part.take) for own, part in FAMILIES[family](sizes)]
    tables = [("embed_tokens.weight", front + TABLE[family]), ("output_projection.weight", HEAD)]
    parts += [(own, name, lambda table: table) for own, name in tables]
    return {own: take(state[name]) for own, name, take in parts if name in state}


def ours_of(settings: DecoderSettings, theirs: nn.Module) -> Decoder:
    """Ours with copies of the weights of *theirs*."""
    model = Decoder(settings)
    model.load_state_dict(state_for_ours(theirs.state_dict(), settings))
    return model


def add_our_lora(model: Decoder) -> None:
    settings = LoRASettings(rank=RANK, alpha=ALPHA)  # q_proj and v_proj
    add_lora(model, settings)
    mark_only_lora_as_trainable(model, settings)


def add_pefts_lora(model: nn.Module) -> nn.Module:
    """PEFT's on the same projections; GPT-2's, which are one there, get one update."""
    from peft import LoraConfig, get_peft_model

    is_gpt2 = hasattr(model, "transformer")
    targets = ["c_attn"] if is_gpt2 else ["q_proj", "v_proj"]
    return get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, fan_in_fan_out=is_gpt2))
