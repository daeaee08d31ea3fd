"""Whether the sizes in the config of a decoder's checkpoint are those of its weights."""

from pathlib import Path
from typing import Dict

import torch
from fairseq.models import ARCH_MODEL_REGISTRY

from sharp_plugins.models.decoder import DecoderModel

# Architectures that put something into another one, each with its flag of a size, and where that size is in a weight's shape.
INSIDE = {
    "lora": ("lora_rank", (".lora_A",), 0),
    "adapter": ("adapter_size", (".adapter.down.weight",), 0),
    "prefix": ("prefix_length", (".prefix.embedding", ".prefix.table"), 0),
}


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

    layers = {name.split(".")[2] for name in weights if name.startswith("decoder.layers.")}
    shapes = {
        "decoder_layers": len(layers),
        "decoder_embed_dim": size("layers.0.fc1.weight", 1),
        "decoder_ffn_embed_dim": size("layers.0.fc1.weight", 0),
    }
    if "decoder.embed_positions.weight" in weights:
        shapes["max_target_positions"] = size("decoder.embed_positions.weight", 0)
    if arch in INSIDE:
        flag, endings, dimension = INSIDE[arch]
        shapes[flag] = max(size(ending, dimension) for ending in endings)
    for name, found in shapes.items():
        if settings.get(name) is not None and settings[name] != found:
            raise ValueError(f"{path}: its config says {name} {settings[name]}, and its weights have {found}")
