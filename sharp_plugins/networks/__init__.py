"""What trains inside a frozen model, on torch alone: low-rank layers, bottleneck adapters, prefixes; published decoders; and how
modules are chosen."""

from sharp_plugins.networks.lora import LoRASettings, add_lora, lora_layers, mark_only_lora_as_trainable
from sharp_plugins.networks.low_rank import LoRALinear

__all__ = ["LoRALinear", "LoRASettings", "add_lora", "lora_layers", "mark_only_lora_as_trainable"]
