"""fairseq trainers on the benchmark model and on samples from memory, with no data set on the disk.

Everything that is timed or compared goes through fairseq's own command line, `Trainer` and ``sentence_prediction``
criterion; only the model (`encoder.Classifier`) and the task, which has no data, are defined here.
"""

import sys
from pathlib import Path
from typing import Dict, Optional, Sequence

import torch
from fairseq import options, tasks
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import BaseFairseqModel, register_model, register_model_architecture
from fairseq.tasks import LegacyFairseqTask, register_task
from fairseq.trainer import Trainer
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from encoder import SIZES, Classifier, Size, load_minilm

import sharp_plugins

sharp_plugins.register()

PLUGIN = str(HERE.parents[1] / "sharp_plugins")
HEAD = "sentence_classification_head"
PRECISIONS: Dict[str, Sequence[str]] = {
    "fp32": (),
    "fp16": ("--fp16",),
    "bf16": ("--bf16",),
    "amp": ("--amp",),
    "memory-efficient-fp16": ("--fp16", "--memory-efficient-fp16"),
    "memory-efficient-bf16": ("--bf16", "--memory-efficient-bf16"),
}
# LoRA on the query and value projections; the head is trained as a whole, as on GLUE.
LORA = ("lora", "--base-arch", "benchmark_encoder", "--lora-target", "query,value", "--lora-also-train", "head,dense")


@register_task("samples_from_memory")
class SamplesFromMemory(LegacyFairseqTask):
    """A classification task that is handed its samples."""

    source_dictionary = target_dictionary = None
    label_dictionary = Dictionary()

    @classmethod
    def setup_task(cls, args, **kwargs):
        return cls(args)


@register_model("benchmark_encoder")
class BenchmarkEncoder(BaseFairseqModel):
    """`encoder.Classifier` with the interface that fairseq's ``sentence_prediction`` criterion asks for."""

    @staticmethod
    def add_args(parser):
        parser.add_argument("--size", help="name in encoder.SIZES, six numbers with commas, or pretrained-minilm")
        parser.add_argument("--dropout", type=float, help="dropout probability, everywhere")

    @classmethod
    def build_model(cls, args, task):
        return cls(args.size, args.dropout)

    def __init__(self, size: str, dropout: float):
        super().__init__()
        if size == "pretrained-minilm":
            self.classifier = load_minilm(dropout=dropout)
        else:
            shape = SIZES[size] if size in SIZES else Size(*map(int, size.split(",")))
            self.classifier = Classifier(shape, dropout=dropout)
        self.classification_heads = {HEAD: self.classifier.head}

    def forward(self, src_tokens: Tensor, types: Optional[Tensor] = None, real: Optional[Tensor] = None, **_):
        """(B, T) tokens to (B, classes) logits, and None where fairseq's models have extras."""
        return self.classifier(src_tokens, types, real), None

    def get_targets(self, sample, net_output):
        return sample["target"]


@register_model_architecture("benchmark_encoder", "benchmark_encoder")
def _architecture(args):
    pass  # both flags are always given


def make_sample(tokens: Tensor, target: Tensor, **net_input: Tensor) -> dict:
    """A fairseq sample of *tokens* (B, T) with the classes *target* (B,)."""
    return {
        "net_input": {"src_tokens": tokens, **net_input},
        "target": target,
        "ntokens": tokens.numel(),
        "nsentences": tokens.size(0),
    }


def random_sample(size: str, batch: int, length: int, seed: int = 0, device: str = "cpu") -> dict:
    """*batch* rows of *length* random tokens in two random classes; the same on every *device*."""
    vocabulary = SIZES["minilm" if size == "pretrained-minilm" else size].vocabulary
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, vocabulary, (batch, length), generator=generator)
    target = torch.randint(0, 2, (batch,), generator=generator)
    return make_sample(tokens.to(device), target.to(device))


def build_trainer(
    size: str, *flags, precision: str = "fp32", dropout: float = 0.1, device: str = "cpu", arch: Sequence = ("benchmark_encoder",)
) -> Trainer:
    """A trainer as ``fairseq-train`` makes it.

    Args:
        size: as ``--size``.
        flags: any more of fairseq-train's flags; ``--optimizer`` and ``--lr`` among them.
        precision: a key of `PRECISIONS`.
        dropout: its probability.
        device: "cpu" or "cuda".
        arch: the architecture, and flags of its own: `LORA`, for example.
    """
    line = ["--user-dir", PLUGIN, "--task", "samples_from_memory", "--criterion", "sentence_prediction"]
    line += ["--arch", *arch, "--size", size, "--dropout", dropout, "--update-freq", 1, "--seed", 1]
    line += [*PRECISIONS[precision], *(["--cpu"] if device == "cpu" else []), *flags]
    if device == "cpu" and precision in ("fp16", "bf16"):
        line += ["--fp16-no-flatten-grads"]
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, [str(part) for part in line])
    cfg = convert_namespace_to_omegaconf(args)
    torch.manual_seed(cfg.common.seed)
    task = tasks.setup_task(cfg.task)
    with torch.device(device):  # a CPU takes seconds to draw the weights of a large model
        model = task.build_model(cfg.model)
    return Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
