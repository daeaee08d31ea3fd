"""Whether the sizes in the config of a fine-tuned encoder's checkpoint are those of its weights."""

from pathlib import Path
from typing import Dict

import torch
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.models.roberta import RobertaModel

from sharp_plugins.models.bert import BertModel


def check_encoder(path: Path, settings: Dict, weights: Dict[str, torch.Tensor]) -> None:
    """Look at a checkpoint of a BERT or RoBERTa, perhaps with LoRA or adapters, before fairseq builds a model of its settings.

    fairseq does so before it looks at the weights: settings from elsewhere could take any memory.

    Args:
        path: the checkpoint's, for the message.
        settings: of the model, from the checkpoint's config.
        weights: the model's, by fairseq's names.

    Raises:
        ValueError: it is of another architecture, or has other sizes than its weights.
    """
    arch = settings.get("_name") or settings.get("arch")
    base = settings.get("base_arch") if arch in ("lora", "adapter") else arch
    model = ARCH_MODEL_REGISTRY.get(base) if isinstance(base, str) else None
    if model not in (BertModel, RobertaModel):
        raise ValueError(f"{path}: its architecture, {base}, is none of a BERT or RoBERTa")

    inside = "encoder.sentence_encoder."
    layers = {name[len(inside) :].split(".")[1] for name in weights if name.startswith(f"{inside}layers.")}
    shapes = {
        "encoder_layers": len(layers),
        "encoder_embed_dim": _size(weights, f"{inside}embed_tokens.weight", 1),
        "encoder_ffn_embed_dim": _size(weights, f"{inside}layers.0.fc1.weight", 0),
        "max_positions": _size(weights, f"{inside}embed_positions.weight", 0),
    }
    # Those that have small defaults.
    optional = {"token_types": _size(weights, f"{inside}embed_token_types.weight", 0)} if model is BertModel else {}
    if arch == "lora":
        optional["lora_rank"] = _size(weights, next((name for name in weights if name.endswith(".lora_A")), ""), 0)
    if arch == "adapter":
        down = next((name for name in weights if name.endswith(".adapter.down.weight")), "")
        optional["adapter_size"] = _size(weights, down, 0)
    shapes.update({name: size for name, size in optional.items() if settings.get(name) is not None})
    if settings.get("max_positions") is None:  # the task's, with LoRA or adapters
        del shapes["max_positions"]
    for name, size in shapes.items():
        # RoBERTa's table of positions begins after the padding index.
        if not isinstance(settings.get(name), int) or not size - 2 * (name == "max_positions") <= settings[name] <= size:
            raise ValueError(f"{path}: its config says {name} {settings.get(name)}, and its weights have {size}")


def _size(weights: Dict[str, torch.Tensor], name: str, dimension: int) -> int:
    """The size of a matrix; 0 where there is none of that name."""
    return weights[name].shape[dimension] if torch.is_tensor(weights.get(name)) and weights[name].dim() == 2 else 0
