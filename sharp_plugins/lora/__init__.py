"""LoRA on any torch model: layers, which layers get it, and its files. Needs torch and NumPy alone (and safetensors for PEFT's).

    layer.py        a linear layer with a low-rank update, W + s B A
    read_only.py    that sum as others read it, which refuses what is written to it
    model.py        give it to the layers of a model by name, and freeze the rest
    foresight.py    what merging or saving will refuse, said when the updates are added
    merge.py        W + s B A as plain weights; average.py: the mean of several models
    peft.py         the update alone, in the files of Hugging Face PEFT; peft_config.py has their settings, peft_names.py their
                    names, promises.py what the file must hold; transformers_names.py and to_transformers.py: adapters of
                    transformers' BERT and RoBERTa
    checkpoint.py   the commands on fairseq's checkpoints; config.py has the config in them, files.py reads and writes
    __main__.py     their command line: python -m sharp_plugins.lora save | load | merge
"""

from sharp_plugins.lora.layer import LoRALinear
from sharp_plugins.lora.model import LoRASettings, add_lora, freeze, lora_layers

__all__ = ["LoRALinear", "LoRASettings", "add_lora", "freeze", "lora_layers"]
