"""A trained prefix alone, in the files of Hugging Face PEFT: one tensor, ``prompt_embeddings``, and adapter_config.json.

The tensor is P of `sharp_plugins.networks.prefix`, (length, layers · 2 · kv_heads · head_width), in the same order. The network
that computed P in training is in neither file, here as in PEFT.
"""

import json
import math
from typing import Any, Dict, Mapping, NamedTuple, Tuple

from torch import Tensor

from sharp_plugins.lora.merge import State, check_finite, shape
from sharp_plugins.lora.peft_config import CONFIG
from sharp_plugins.networks.prefix import compute

TENSOR = "prompt_embeddings"
FRONT = "decoder.prefix."
# What says where the prefix comes from, or how it began.
IGNORED = {
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"),
    *("encoder_hidden_size", "prefix_projection", "init_weights", "num_transformer_submodules"),
}
READ = {"peft_type", "num_virtual_tokens", "token_dim", "num_attention_heads", "num_layers"}


class Shape(NamedTuple):
    """What a decoder's prefix has beside its length."""

    layers: int
    kv_heads: int
    head_width: int

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_width


def shape_of(settings: Mapping[str, Any]) -> Shape:
    """That of the decoder with these settings; ValueError if it is no decoder that takes a prefix."""
    if "decoder_positions" not in settings:
        name = settings.get("base_arch") or settings.get("_name")
        raise ValueError(f"its architecture is {name}, and prefixes are for decoders, sharp_decoder in all its sizes")
    heads = settings["decoder_attention_heads"]
    width = settings.get("decoder_head_dim") or settings["decoder_embed_dim"] // heads
    return Shape(settings["decoder_layers"], settings.get("decoder_kv_heads") or heads, width)


def has_prefix(state: State) -> bool:
    """Whether a model's state dict is of ``--arch prefix``."""
    return any(key.startswith(FRONT) for key in state)


def numbers_of(state: State) -> Tensor:
    """P, from the state dict of a model with a prefix; in fp32, whatever the model's dtype, where a network computes it."""
    parts = {key[len(FRONT) :]: value for key, value in state.items() if key.startswith(FRONT)}
    if "table" in parts:
        return parts["table"]
    if missing := {"embedding", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"} - parts.keys():
        raise ValueError(f"there is no {FRONT}{min(missing)}")
    return compute(parts)


def to_peft(state: State, settings: Mapping[str, Any]) -> Tuple[State, Dict[str, Any]]:
    """PEFT's tensors and config of the prefix in a model's state dict.

    Args:
        settings: the model's, with those of the base architecture.

    Raises:
        ValueError: the prefix is not whole, or not finite.
    """
    sizes = shape_of(settings)
    tensors = {TENSOR: numbers_of(state).detach().clone().contiguous()}
    check_finite(tensors, "; no adapter is written")
    config = {
        "peft_type": "PREFIX_TUNING",
        "task_type": "CAUSAL_LM",
        "num_virtual_tokens": len(tensors[TENSOR]),
        "num_layers": sizes.layers,
        "num_attention_heads": sizes.kv_heads,
        "token_dim": sizes.kv_width,
        "num_transformer_submodules": 1,
        "encoder_hidden_size": settings["decoder_embed_dim"],
        "prefix_projection": False,
        "inference_mode": True,
        "base_model_name_or_path": None,
    }
    return tensors, config


def from_peft(tensors: State, config: Dict[str, Any], settings: Mapping[str, Any]) -> Tensor:
    """P of PEFT's files, for the decoder with *settings*.

    Raises:
        ValueError: they hold something else than a prefix, or one of another model's shape.
    """
    for name, value in config.items():
        if value and name not in IGNORED | READ:
            raise ValueError(f"{CONFIG}: {name} is {json.dumps(value)[:200]}, and a prefix here has no such thing")
    if config.get("num_transformer_submodules") not in (None, 1):
        raise ValueError(f"{CONFIG}: num_transformer_submodules is {config['num_transformer_submodules']!r}: no decoder's prefix")
    if tensors.keys() != {TENSOR}:
        raise ValueError(f"the file holds {', '.join(sorted(tensors)) or 'nothing'}; a prefix is one tensor, {TENSOR}")
    numbers, sizes = tensors[TENSOR], shape_of(settings)
    expected = sizes.layers * 2 * sizes.kv_width
    if numbers.dim() != 2 or not len(numbers) or numbers.size(1) != expected or not numbers.is_floating_point():
        raise ValueError(
            f"{TENSOR} is {shape(numbers)}, and the model needs {expected} numbers a token: {sizes.layers} layers · 2 · "
            f"{sizes.kv_heads} heads of keys · {sizes.head_width}"
        )
    if config.get("num_virtual_tokens") != len(numbers):
        raise ValueError(
            f"{CONFIG}: num_virtual_tokens is {config.get('num_virtual_tokens')}, and {TENSOR} has {len(numbers)} rows"
        )
    if len(numbers) >= (settings["max_target_positions"] or math.inf):
        raise ValueError(
            f"a prefix of {len(numbers)} tokens leaves no room: the model has {settings['max_target_positions']} positions"
        )
    check_finite(tensors, "; the adapter is not used")
    return numbers
