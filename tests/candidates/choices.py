"""Prompts with candidates, and plain computations of what is made of them."""

import json
from pathlib import Path

import prompts
import torch
import toy

NAMES = ["Ann", "Bob", "Cara", "Dan", "Eve"]
WORDS = [" lives", " the", " in"]  # one symbol each
CRITERION = ["--criterion", "candidates"]


def rows(count: int, start: int = 0):
    """Candidates of one symbol, and candidates of several; the right one can be learnt from the prompt."""
    found = []
    for i in range(start, start + count):
        name = NAMES[i % 5] * (1 + i % 3)
        if i % 2:
            found.append((f"{name} is", WORDS, [i % 3]))
        else:
            found.append((f"{name} goes\n", [f"in {name}", " the lives"], [0, 1][: 1 + i % 4 // 2]))
    return found


def write_lines(path: Path, found) -> Path:
    names = ("prompt", "candidates", "answers")
    path.write_text("".join(json.dumps(dict(zip(names, row))) + "\n" for row in found), encoding="utf-8")
    return path


def run(*arguments) -> int:
    from sharp_plugins.candidates.__main__ import main

    return main(list(map(str, arguments)))


def prepare(backbone: Path, out: Path, *flags) -> Path:
    assert run("prepare", "--backbone", backbone, "--out", out, *flags) == 0
    return out


def prepare_all(backbone: Path, directory: Path) -> Path:
    flags = []
    for split, count in (("train", 24), ("valid", 8), ("test", 7)):
        flags += [f"--{split}", write_lines(directory / f"{split}.jsonl", rows(count, count))]
    return prepare(backbone, directory / "data", *flags)


def trainer(data: Path, *flags, model=prompts.MODEL, dropout="0", subset="train"):
    """A fairseq trainer on prepared data."""
    flags = list(flags) if "--optimizer" in flags else ["--optimizer", "sgd", *toy.SGD, *flags]
    drop = ["--dropout", dropout, "--attention-dropout", dropout]
    parts = {"model": model, "criterion": CRITERION, "task": "candidates"}
    return toy.build_trainer(data, *flags, *drop, "--num-workers", "0", "--train-subset", subset, **parts)


def shaken(model, by=0.2):
    """*model* in training mode, with weights that are large enough to matter; none is frozen."""
    torch.manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.requires_grad_().add_(by * torch.randn_like(p))
    return model.train()


def plain_score(logits_of, sequence, count):
    """The mean of log p of the last *count* symbols of *sequence*, one after the other; *logits_of* (1, T) is (1, T, symbols)."""
    logits = logits_of(sequence[None, :-1])[0]
    total = 0.0
    for place in range(len(sequence) - count, len(sequence)):
        total = total + logits[place - 1].log_softmax(-1)[sequence[place]]
    return total / count


def plain_losses(logits_of, examples):
    """(B,), and whether each choice is right."""
    losses, right = [], []
    for example in examples:
        scores = torch.stack([plain_score(logits_of, *pair) for pair in zip(example["sequences"], example["counted"])])
        losses.append(scores.logsumexp(0) - scores[example["answers"][0]])
        right.append(int(scores.argmax()) in example["answers"])
    return torch.stack(losses), right
