"""LoRA on any torch model: layers, which layers get it, and its files. Needs torch alone (files in PEFT's layout: safetensors).

    layer.py      a linear layer with a low-rank update, W + s B A
    model.py      give it to the layers of a model by name, and freeze the rest
    merge.py      W + s B A as plain weights
    peft.py       the update alone, in the file layout of Hugging Face PEFT
    checkpoint.py fairseq checkpoints: read, write, make plain
    __main__.py   the commands: python -m sharp_plugins.lora save | load | merge
"""

from sharp_plugins.lora.layer import LoRALinear
from sharp_plugins.lora.model import LoRASettings, add_lora, freeze, lora_layers

__all__ = ["LoRALinear", "LoRASettings", "add_lora", "freeze", "lora_layers"]
