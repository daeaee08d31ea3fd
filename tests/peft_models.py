"""Small fairseq models with adapters, ours and those that PEFT makes of them."""

import argparse
import re

import pytest
import torch
from fairseq import models
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.tasks import FairseqTask

from sharp_plugins.networks import add_lora

SMALL = dict(
    encoder_layers=2,
    decoder_layers=1,
    encoder_embed_dim=16,
    decoder_embed_dim=16,
    encoder_ffn_embed_dim=32,
    decoder_ffn_embed_dim=32,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
    pooler_dropout=0.0,
    max_positions=32,
    tokens_per_sample=32,
    max_source_positions=32,
    max_target_positions=32,
    max_tokens=None,
    share_decoder_input_output_embed=True,
)


class Task(FairseqTask):
    def __init__(self):
        super().__init__(None)
        self.dictionary = Dictionary()
        for i in range(20):
            self.dictionary.add_symbol(f"w{i}")

    source_dictionary = target_dictionary = output_dictionary = property(lambda self: self.dictionary)


def build(arch, seed=0):
    """A plain fairseq model; RoBERTa with a head, as for sentence_prediction."""
    args = argparse.Namespace(**SMALL, arch=arch)
    ARCH_CONFIG_REGISTRY[arch](args)
    torch.manual_seed(seed)
    model = models.build_model(args, Task())
    if arch == "roberta":
        model.register_classification_head("main", num_classes=3)
    return model.eval()


def outputs(model):
    """What the model computes of a fixed batch, with everything in it that may be trained along."""
    tokens = torch.randint(4, 24, (3, 6), generator=torch.Generator().manual_seed(1))
    if hasattr(model, "classification_heads"):
        words = model(tokens, masked_tokens=tokens > 0)[0]
        classes = model(tokens, features_only=True, classification_head_name="main")[0]
        return torch.cat([words.flatten(), classes.flatten()])
    return model(tokens, torch.full((3,), 6), tokens.flip(1))[0]


def lora_model(arch, state, settings, seed=0):
    model = build(arch, seed)
    add_lora(model, settings)
    model.load_state_dict(state)
    return model.eval()


def their_adapter(directory, arch, **config):
    """An adapter as PEFT writes it, with values as after training; returns the merged model and the names of what PEFT
    trains, as fairseq's model with our layers has them."""
    peft = pytest.importorskip("peft")
    config = {"r": 2, "lora_alpha": 6, "init_lora_weights": True, **config}
    model = peft.get_peft_model(build(arch), peft.LoraConfig(**config))
    torch.manual_seed(5)
    tied = {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and "embed_tokens" not in name and "output_projection" not in name:
                p.add_(0.3 * torch.randn_like(p))
            elif p.requires_grad:  # PEFT copies each; a tied table stays one only if its copies train alike
                p.add_(tied.setdefault(p.shape, 0.3 * torch.randn_like(p)) if "decoder" in name else 0.1)
    model.save_pretrained(directory)
    parts = r"base_model\.model\.|\.base_layer|\.original_module"
    parts += r"|\.modules_to_save\.default|(?<=lora_[AB])\.default\.weight"
    names = {re.sub(parts, "", name) for name, p in model.named_parameters() if p.requires_grad}
    return model.merge_and_unload().eval(), names
