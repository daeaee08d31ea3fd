"""The published shapes: ``--arch sharp_gpt2_medium``, ``sharp_opt_1_3b``, ``sharp_smollm2_135m``, ``sharp_llama2_7b``, ...

Each is `sharp_plugins.models.decoder` with the settings below, where no flag says otherwise.
"""

from typing import Any, Dict

from fairseq.models import register_model_architecture
from fairseq.utils import safe_getattr

from sharp_plugins.models.decoder_config import DEFAULTS
from sharp_plugins.networks.decoder_settings import SCALED_BY


def _shape(layers: int, width: int, ffn_width: int, heads: int, positions: int) -> Dict[str, Any]:
    return {
        "decoder_layers": layers,
        "decoder_embed_dim": width,
        "decoder_ffn_embed_dim": ffn_width,
        "decoder_attention_heads": heads,
        "max_target_positions": positions,
    }


def _gpt2(layers: int, width: int, heads: int) -> Dict[str, Any]:
    """Radford et al. 2019, table 2."""
    return _shape(layers, width, 4 * width, heads, 1024)


def _opt(layers: int, width: int, heads: int, **others: Any) -> Dict[str, Any]:
    """Zhang et al. 2022, table 1. The published models drop nothing of the embeddings and attention weights."""
    shape = _shape(layers, width, 4 * width, heads, 2048)
    return {**shape, "activation_fn": "relu", "embedding_dropout": 0.0, "attention_dropout": 0.0, **others}


def _llama(layers: int, width: int, ffn_width: int, heads: int, kv_heads: int, positions: int, theta: float, **others: Any):
    """Touvron et al. 2023, section 2.2. Nothing is dropped."""
    return {
        **_shape(layers, width, ffn_width, heads, positions),
        "decoder_kv_heads": kv_heads,
        "decoder_positions": "rotary",
        "rope_theta": theta,
        "decoder_norm": "rms",
        "activation_fn": "silu",
        "decoder_gated_ffn": True,
        "no_attention_bias": True,
        "no_ffn_bias": True,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        **others,
    }


SIZES: Dict[str, Dict[str, Any]] = {
    "sharp_gpt2": _gpt2(12, 768, 12),
    "sharp_gpt2_medium": _gpt2(24, 1024, 16),
    "sharp_gpt2_large": _gpt2(36, 1280, 20),
    "sharp_gpt2_xl": _gpt2(48, 1600, 25),
    "sharp_opt_125m": _opt(12, 768, 12),
    "sharp_opt_350m": _opt(24, 1024, 16, decoder_post_norm=True, decoder_input_dim=512),
    "sharp_opt_1_3b": _opt(24, 2048, 32),
    "sharp_opt_2_7b": _opt(32, 2560, 32),
    "sharp_opt_6_7b": _opt(32, 4096, 32),
    "sharp_opt_13b": _opt(40, 5120, 40),
    "sharp_opt_30b": _opt(48, 7168, 56),
    "sharp_opt_66b": _opt(64, 9216, 72),
    "sharp_smollm2_135m": _llama(30, 576, 1536, 9, 3, 8192, 100000.0),
    "sharp_smollm2_360m": _llama(32, 960, 2560, 15, 5, 8192, 100000.0),
    "sharp_smollm2_1_7b": _llama(24, 2048, 8192, 32, 32, 8192, 130000.0),
    "sharp_tinyllama_1_1b": _llama(22, 2048, 5632, 32, 4, 2048, 10000.0, untied_output=True),
    "sharp_llama2_7b": _llama(32, 4096, 11008, 32, 32, 4096, 10000.0, untied_output=True),
    "sharp_llama2_13b": _llama(40, 5120, 13824, 40, 40, 4096, 10000.0, untied_output=True),
    "sharp_llama3_2_1b": _llama(
        16,
        2048,
        8192,
        32,
        8,
        131072,
        500000.0,
        decoder_head_dim=64,
        rope_scaling="llama3",
        rope_factor=32.0,
        rope_low_freq_factor=1.0,
        rope_high_freq_factor=4.0,
        rope_original_positions=8192,
    ),
}


def register_sizes() -> None:
    """Register each of `SIZES` as an architecture."""
    for name, settings in SIZES.items():
        register_model_architecture("sharp_decoder", name)(_with(settings))


def _with(settings: Dict[str, Any]):
    def apply(args):
        # With --rope-scaling none the size's numbers of a scaling are not meant, and they would be refused.
        dropped = SCALED_BY if str(safe_getattr(args, "rope_scaling")) == "none" else ()
        for key, default in DEFAULTS.items():
            usual = default if key in dropped else settings.get(key, default)
            setattr(args, key, safe_getattr(args, key, usual))

    return apply
