"""A small RoBERTa with a byte-level BPE vocabulary of its own, sentences as JSON lines, and trainers on them.

The vocabulary: RoBERTa's four special symbols are 0 to 3, the 256 bytes are 4 to 259 (of the visible ASCII characters c is
ord(c) - 29, and the space, spelled Ġ, is 224), the words of `WORDS` with all their beginnings follow from 260 on, in their order,
and the mask is the last.
"""

import json
from pathlib import Path
from typing import Dict, List

import published
import torch
import toy
from fairseq.data.encoders.gpt2_bpe_utils import bytes_to_unicode

WORDS = "It was terrible great bad okay good Yes No Maybe Description Entity Expression Human Location Number".split()
MODEL = (
    "--arch roberta --encoder-layers 2 --encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --encoder-attention-heads 2 "
    "--max-positions 256"
).split()
LORA = ["--arch", "lora", "--base-arch", *MODEL[1:], "--lora-rank", "2"]


def beginnings() -> List[str]:
    """Ġ and the first letters of each word, from one letter on: each a merge of the one before with the next letter."""
    found = [f"Ġ{word[:length]}" for word in WORDS for length in range(1, len(word) + 1)]
    return list(dict.fromkeys(found))


def vocabulary() -> Dict[str, int]:
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *bytes_to_unicode().values(), *beginnings(), "<mask>"]
    return {token: index for index, token in enumerate(tokens)}


def write_tokenizer(directory: Path) -> None:
    """``vocab.json`` and ``merges.txt``, as RoBERTa has them."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "vocab.json").write_text(json.dumps(vocabulary()), encoding="utf-8")
    merges = "".join(f"{token[:-1]} {token[-1]}\n" for token in beginnings())
    (directory / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")


def write_published(directory: Path, lm_head: bool = True, **changes) -> Path:
    """``config.json``, random weights and the tokenizer."""
    write_tokenizer(directory)
    settings = published.config("roberta", len(vocabulary()), **changes)
    return published.write(directory, settings, published.weights(settings, lm_head))


def convert(directory: Path, out: Path) -> Path:
    from sharp_plugins.convert.conversion import convert

    convert(directory, out)
    return out


def write_lines(path: Path, rows) -> Path:
    """JSON lines of (sentences, label)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"sentences": list(sentences), "label": label}) + "\n" for sentences, label in rows)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def toy_rows(count: int, start: int = 0):
    """Sentences of letters of which the class is which of two there are more often."""
    rows = []
    for i in range(start, start + count):
        label, length = i % 2, 3 + i % 4
        letters = ("x" if label else "y") * length
        rows.append(([letters[: i % length] + "z" + letters[i % length :]], str(label)))
    return rows


def write_toy(directory: Path) -> Dict[str, Path]:
    sizes = {"train": (48, 0), "valid": (12, 50), "test": (7, 70)}
    return {split: write_lines(directory / f"{split}.jsonl", toy_rows(*size)) for split, size in sizes.items()}


def main(*arguments) -> int:
    from sharp_plugins.cloze.__main__ import main

    return main([str(argument) for argument in arguments])


def prepare(backbone: Path, out: Path, layout, *flags, **files) -> Path:
    named = [part for split, path in files.items() for part in (f"--{split}", path)]
    assert main("prepare", "--backbone", backbone, "--out", out, "--layout", layout, *named, *flags) == 0
    return out


def symbols_of(data: Path, split: str) -> List[List[int]]:
    from sharp_plugins.cloze.dataset import load_split
    from sharp_plugins.cloze.prepared import read_prepared

    prepared = read_prepared(data)
    rows = load_split(prepared, prepared.dictionary(), split)
    return [rows[i]["input"].tolist() for i in range(len(rows))]


# ---------------------------------------------------------------------- trainers


def trainer(data: Path, *flags, model=MODEL, criterion="cloze", dropout="0"):
    """A fairseq trainer on prepared data."""
    flags = list(flags) if "--optimizer" in flags else ["--optimizer", "sgd", *toy.SGD, *flags]
    drop = ["--dropout", dropout, "--attention-dropout", dropout, "--num-workers", "0"]
    return toy.build_trainer(data, *flags, *drop, model=model, criterion=["--criterion", criterion], task="cloze")


def parts(data: Path, criterion: str, *flags, rows=6, **settings):
    """The criterion, the model in training mode with weights that are large enough to matter, and one sample."""
    built = trainer(data, *flags, criterion=criterion, **settings)
    model = built.get_model().train()
    torch.manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    (sample,) = toy.batches(built, [rows])
    return built.get_criterion(), model, sample
