"""A tiny encoder and texts for the tests of sentence vectors."""

from pathlib import Path

import published
import torch
import toy

from sharp_plugins.convert.conversion import convert

TEXTS = [f"the cat sat on the mat, and the dog runs {word} times" for word in ("one", "two", "three", "four", "five", "six", "ten")]
TEXTS += ["the dog", "a cat on the mat", "the mat sat on the dog while the cat was running on"]


def write_backbone(directory: Path, kind: str = "bert") -> Path:
    """A converted encoder with random weights, and ``texts.txt`` beside its files."""
    write = published.write_bert if kind == "bert" else published.write_roberta
    convert(write(directory / "published"), directory / "converted")
    (directory / "converted" / "texts.txt").write_text("".join(text + "\n" for text in TEXTS))
    return directory / "converted"


def arch(kind: str = "bert"):
    name = "sharp_bert_base" if kind == "bert" else "roberta_base"
    return f"--arch {name} --encoder-layers 2 --encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --encoder-attention-heads 2".split()


def flags(backbone: Path, *more):
    return ["--text", backbone / "texts.txt", "--finetune-from-model", backbone / "model.pt", "--max-length", "20", *more]


def config(backbone: Path, *more, criterion="contrastive", kind="bert"):
    """The fairseq config of a training."""
    parts = dict(model=arch(kind), criterion=["--criterion", criterion], task="contrastive_sentences")
    return toy.config(backbone, *flags(backbone, *more), **parts)


def trainer(backbone: Path, *more, criterion="contrastive", kind="bert"):
    """A fairseq trainer with the backbone's weights."""
    cfg = config(backbone, "--batch-size", "4", *toy.SGD, "--optimizer", "sgd", *more, criterion=criterion, kind=kind)
    made = toy.trainer_from(cfg)
    made.get_model().load_state_dict(torch.load(backbone / "model.pt", weights_only=True)["model"], strict=False)
    return made


def sample(trainer, count: int = 4):
    """Of the last texts, which differ in length."""
    dataset = trainer.task.dataset("train")
    return dataset.collater([dataset[number] for number in range(len(dataset) - count, len(dataset))])
