"""Whether the sizes in the config of a decoder's checkpoint are those of its weights."""

from pathlib import Path
from typing import Dict

import torch
from fairseq.models import ARCH_MODEL_REGISTRY

from sharp_plugins.models.decoder import DecoderModel
from sharp_plugins.models.decoder_config import DEFAULTS
from sharp_plugins.models.decoder_sizes import SIZES

# Architectures that put something into another one, each with its flag of a size, and where that size is in a weight's shape.
INSIDE = {
    "lora": ("lora_rank", (".lora_A",), 0),
    "adapter": ("adapter_size", (".adapter.down.weight",), 0),
    "prefix": ("prefix_length", (".prefix.embedding", ".prefix.table"), 0),
}
# Numbers in a table of rotary positions that any model may have; a larger table has at most as many as the model's weights.
ROTARY_NUMBERS = 1 << 24


def check_decoder(path: Path, settings: Dict, weights: Dict[str, torch.Tensor]) -> None:
    """Look at a checkpoint of a published decoder, perhaps with LoRA, adapters or a prefix, before fairseq builds a model of its
    settings.

    fairseq does so before it looks at the weights: settings from elsewhere could take any memory.

    Args:
        path: the checkpoint's, for the message.
        settings: of the model, from the checkpoint's config.
        weights: the model's, by fairseq's names.

    Raises:
        ValueError: it is of another architecture, or has other sizes than its weights.
    """
    arch = settings.get("_name") or settings.get("arch")
    base = settings.get("base_arch") if arch in INSIDE else arch
    if (ARCH_MODEL_REGISTRY.get(base) if isinstance(base, str) else None) is not DecoderModel:
        raise ValueError(f"{path}: its architecture, {base}, is none of a published decoder (GPT-2, OPT, Llama)")

    def size(ending: str, dimension: int) -> int:
        """That of the first matrix of such a name; 0 where there is none."""
        found = (weight for name, weight in weights.items() if name.endswith(ending) and torch.is_tensor(weight))
        return next((weight.shape[dimension] for weight in found if weight.dim() == 2), 0)

    said = {**DEFAULTS, **SIZES.get(base, {}), **{name: value for name, value in settings.items() if value is not None}}
    heads = said["decoder_attention_heads"]
    queries, keys = (size(f"layers.0.self_attn.{part}_proj.weight", 0) for part in "qk")
    head = queries // heads if type(heads) is int and heads > 0 else 0
    layers = {name.split(".")[2] for name in weights if name.startswith("decoder.layers.")}
    shapes = {
        "decoder_layers": len(layers),
        "decoder_embed_dim": size("layers.0.fc1.weight", 1),
        "decoder_ffn_embed_dim": size("layers.0.fc1.weight", 0),
        "decoder_head_dim": head,
        "decoder_kv_heads": keys // max(head, 1),
        "decoder_input_dim": size("decoder.embed_tokens.weight", 1),
    }
    positions = "max_target_positions" if settings.get("max_target_positions") is not None else "tokens_per_sample"
    if str(said["decoder_positions"]) == "learned":
        shapes[positions] = size("decoder.embed_positions.weight", 0)
    elif said.get(positions) is not None:
        room = max(ROTARY_NUMBERS, sum(weight.numel() for weight in weights.values() if torch.is_tensor(weight)))
        if type(said[positions]) is not int or said[positions] * head > room:
            raise ValueError(
                f"{path}: its config says {positions} {said[positions]}, and in heads of {head} these rotary positions would take "
                "more memory than its weights"
            )
    if arch in INSIDE:
        flag, endings, dimension = INSIDE[arch]
        shapes[flag] = max(size(ending, dimension) for ending in endings)
    if arch == "prefix":
        shapes["prefix_hidden"] = size(".prefix.fc1.weight", 0)
    for name, found in shapes.items():
        if settings.get(name) is not None and settings[name] != found:
            raise ValueError(f"{path}: its config says {name} {settings[name]}, and its weights have {found}")
