"""Which rounding to train with: the same small model trained from start to end with SAM in every precision.

A two-layer encoder learns SST-2's sentiment from scratch through fairseq's Trainer, several seeds in each precision and
rounding. The table compares the loss and accuracy on held-out sentences, and the means over the run of what SAM logs: the
rise of the loss along ε (``sam_gap``, also as a share of fp32's), and the realised perturbation's projection on ε and norm.

    python examples/benchmarks/rounding_runs.py --data GLUE    # GLUE/SST-2/{train,dev}.tsv[.gz]; about 20 minutes on one core
"""

import argparse
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Tuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import machine

machine.quiet()

import torch
import torch.nn.functional as F
from fairseq.logging import metrics
from fairseq_side import build_trainer, make_sample

from sharp_plugins.glue import reader
from sharp_plugins.glue.tasks import TASKS

VOCABULARY, LONGEST = 8000, 32
PADDING, UNKNOWN, START = 0, 1, 2
CASES = [("fp32", "nearest")] + [  # fp32 needs no rounding
    (precision, rounding)
    for precision in ("bf16", "fp16", "memory-efficient-bf16", "memory-efficient-fp16")
    for rounding in ("nearest", "stochastic")
]


class Run(NamedTuple):
    """One training run; the last three are means over its updates."""

    loss: float  # mean held-out loss per sentence, nats
    accuracy: float  # held-out, 0 to 1
    gap: float  # l(w + ε) - l(w), nats per sentence
    projection: float
    radius: float


def read_sst2(directory, split: str) -> List[Tuple[List[str], int]]:
    """(words, class) of each sentence in DIRECTORY/SST-2/SPLIT.tsv or .tsv.gz."""
    folder = Path(directory) / "SST-2"
    for path in (folder / f"{split}{ending}" for ending in reader.ENDINGS):
        if path.exists():
            rows = reader.read(path, TASKS["SST-2"], {"dev": "valid"}.get(split, split)).rows
            return [(row.sentences[0].split(), int(row.label)) for row in rows]
    raise FileNotFoundError(f"{folder}/{split}.tsv is not there: --data wants a directory with GLUE's SST-2")


def as_sample(sentences, index: Dict[str, int]) -> dict:
    """A fairseq sample of (words, class) pairs, padded to the longest."""
    rows = [[START, *(index.get(word, UNKNOWN) for word in words[: LONGEST - 1])] for words, _ in sentences]
    tokens = torch.full((len(rows), max(map(len, rows))), PADDING)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
    return make_sample(tokens, torch.tensor([label for _, label in sentences]), real=tokens.ne(PADDING))


def batches(train, index, size: int, updates: int, seed: int) -> Iterator[dict]:
    """Samples in an order that *seed* decides."""
    order: List[int] = []
    generator = torch.Generator().manual_seed(seed)
    for _ in range(updates):
        if len(order) < size:
            order = torch.randperm(len(train), generator=generator).tolist()
        yield as_sample([train[order.pop()] for _ in range(size)], index)


@torch.no_grad()
def evaluate(model, samples: List[dict]) -> Tuple[float, float]:
    """Mean loss per sentence and accuracy, in the model's own precision."""
    model.eval()
    loss = correct = count = 0
    for sample in samples:
        logits = model(**sample["net_input"])[0].float()
        loss += F.cross_entropy(logits, sample["target"], reduction="sum").item()
        correct += (logits.argmax(1) == sample["target"]).sum().item()
        count += sample["nsentences"]
    return loss / count, correct / count


def run(precision: str, rounding: str, seed: int, train, valid: List[dict], index, args) -> Run:
    """Train one model and look at it."""
    metrics.reset()
    flags = ["--optimizer", "sam", "--sam-rho", args.rho, "--sam-rounding", rounding, "--lr", args.lr, "--seed", seed]
    flags += ["--log-interval", "1", "--clip-norm", "1.0"]
    size = f"{args.layers},{args.width},4,{2 * args.width},{VOCABULARY},{LONGEST}"
    trainer = build_trainer(size, *flags, precision=precision)
    for sample in batches(train, index, args.batch, args.updates, seed):
        trainer.train_step([sample])
    logged = metrics.get_meters("train")
    loss, accuracy = evaluate(trainer.get_model(), valid)
    means = (logged[key].avg for key in ("sam_gap", "sam_projection", "sam_radius"))
    return Run(loss, accuracy, *(float(mean) for mean in means))


def spread(values: List[float], digits: int = 3) -> str:
    text = f"{statistics.mean(values):.{digits}f}"
    return f"{text} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def main(given=None) -> Dict[Tuple[str, str], List[Run]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="directory with SST-2/train.tsv and dev.tsv, GLUE's layout")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=300, help="length of a run (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rho", type=float, default=0.05)
    parser.add_argument("--lr", type=float, default=2e-3, help="Adam's, constant")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--only", nargs="+", default=[], help="precisions to run (default: all); fp32 is always there")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="", help="append the table to this file")
    args = parser.parse_args(given)
    torch.set_num_threads(args.threads)
    train, held_out = read_sst2(args.data, "train"), read_sst2(args.data, "dev")
    counts = Counter(word for words, _ in train for word in words)
    index = {word: 3 + i for i, (word, _) in enumerate(counts.most_common(VOCABULARY - 3))}
    valid = [as_sample(held_out[i : i + 64], index) for i in range(0, len(held_out), 64)]
    found: Dict[Tuple[str, str], List[Run]] = {}
    for seed in range(1, args.seeds + 1):
        for case in CASES:
            if case[0] == "fp32" or not args.only or case[0] in args.only:
                found.setdefault(case, []).append(run(*case, seed, train, valid, index, args))
                print(seed, *case, *(f"{value:.4f}" for value in found[case][-1]), file=sys.stderr, flush=True)
    exact = [one.gap for one in found[CASES[0]]]
    rows = [
        (
            precision,
            "" if precision == "fp32" else rounding,
            spread([one.loss for one in runs]),
            spread([100 * one.accuracy for one in runs], 1),
            spread([one.gap for one in runs], 4),
            spread([100 * one.gap / gap for one, gap in zip(runs, exact)], 1),
            spread([one.projection for one in runs]),
            spread([one.radius / args.rho for one in runs], 2),
        )
        for (precision, rounding), runs in found.items()
    ]
    head = ("precision", "rounding", "held-out loss", "accuracy, %", "sam_gap", "of fp32's, %", "projection", "radius / ρ")
    machine.report(
        f"Whole runs: {args.updates} updates, {args.seeds} seeds, ρ = {args.rho}", machine.table(head, rows), out=args.out
    )
    return found


if __name__ == "__main__":
    main()
