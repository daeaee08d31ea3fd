"""``--arch benchmark_encoder_peft``: the benchmark's model with PEFT's LoRA in it, to compare ours with.

The same layers get an update of the same rank and α, the same head is trained as a whole, and all else is the same:
fairseq's trainer, criterion and optimizer. PEFT is imported when such a model is built.
"""

import torch
from fairseq.models import register_model, register_model_architecture
from fairseq_side import BenchmarkEncoder
from torch import nn

from sharp_plugins.networks import lora_layers

ARCH = ("benchmark_encoder_peft",)
TARGETS, ALSO_TRAIN = ("query", "value"), ("head", "dense")  # as `fairseq_side.LORA` has them
RANK, ALPHA = 8, 16.0  # ours by default


@register_model("benchmark_encoder_peft")
class PeftEncoder(BenchmarkEncoder):
    @classmethod
    def build_model(cls, args, task):
        from peft import LoraConfig, inject_adapter_in_model

        model = super().build_model(args, task)
        settings = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS))
        inject_adapter_in_model(settings, model)  # freezes the rest
        for name in ALSO_TRAIN:
            model.classifier.get_submodule(name).requires_grad_(True)
        return model


@register_model_architecture("benchmark_encoder_peft", "benchmark_encoder_peft")
def _architecture(args):
    pass  # all flags are always given


@torch.no_grad()
def draw_the_same_updates(ours: nn.Module, theirs: nn.Module, seed: int = 0) -> None:
    """Give the updates of both models the same random A and B."""
    generator = torch.Generator().manual_seed(seed)
    for name, layer in lora_layers(ours).items():
        other = theirs.get_submodule(name)
        for own, peft in ((layer.lora_A, other.lora_A), (layer.lora_B, other.lora_B)):
            own.copy_(torch.randn(own.shape, generator=generator) * 0.1)
            peft["default"].weight.copy_(own)
