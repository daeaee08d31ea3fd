"""SAM and δ-SAM on LoRA in half precision: the same runs in fp32 and in fp16, drawn together.

    python examples/balancedness/half_precision.py --data GLUE --out DIR     # needs what fine_tuning.py needs
    python examples/balancedness/half_precision.py --data GLUE --out DIR --guardedness --precision fp32 fp16 bf16

The BAR paper's SAM runs needed fp32, because "applying FP16 directly with SAM leads to underflow". This writes
half_precision.png to DIR (training loss at w and 2|B|, a row for each method) and prints how far the runs are apart.
Both precisions have the same batches, starting weights and seeds. The second command asks instead what half precision
leaves of a_j, the change of each sentence's loss at a random point, from which δ-SAM computes its weights (its Eq. 3).
"""

import logging
import statistics
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import fine_tuning
import machine
import torch
from fairseq.trainer import Trainer
from fairseq_side import LORA, PRECISIONS, build_trainer
from figures import panel, save
from fine_tuning import Run
from torch import Tensor

from sharp_plugins.core.perturbation import Perturbation
from sharp_plugins.criterions import sentence_losses_of
from sharp_plugins.runs.table import markdown_table

Runs = Dict[Tuple[str, str], Run]  # (method, precision) -> run
STYLES = (("-", 2.6, 0.45), ("-", 0.9, 1.0), (":", 1.3, 1.0))  # line, width, opacity; of each precision


def smooth(values: Sequence[float], width: int) -> List[float]:
    """Means over the last *width* values, or over as many as there are."""
    return [statistics.fmean(values[max(0, i + 1 - width) : i + 1]) for i in range(len(values))]


def draw(runs: Runs, path: Path, width: int = 10) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    from matplotlib import pyplot

    methods = list(dict.fromkeys(method for method, _ in runs))
    figure, axes = pyplot.subplots(len(methods), 2, figsize=(9.5, 3.2 * len(methods)), squeeze=False)
    for (method, precision), run in runs.items():
        left, right = axes[methods.index(method)]
        number = [other for name, other in runs if name == method].index(precision)
        line, lw, alpha = STYLES[number % len(STYLES)]
        curves = [(left, "loss at w", smooth(run.losses, width), "k")]
        for i, (layer, values) in enumerate(run.layers.items()):
            curves.append((right, layer.replace("classifier.", ""), values, f"C{i}"))
        for axis, what, values, colour in curves:
            updates = range(1, len(values) + 1)
            axis.plot(updates, values, line, color=colour, lw=lw, alpha=alpha, label=f"{what}, {precision}")
        panel(left, f"{method}: loss at w, mean of {width} batches", "nats per sentence")
        panel(right, f"{method}: balancedness", r"$2|B|$")
    for axis in axes.flat:
        axis.legend(fontsize=7.5)
    for axis in axes[-1]:
        axis.set_xlabel("update")
    figure.tight_layout()
    save(figure, path)


def table(runs: Runs) -> str:
    """How far each run is from the one of the first precision, and what the ascents and the loss scale did."""
    rows = []
    for (method, precision), run in runs.items():
        exact = next(other for (name, _), other in runs.items() if name == method)
        apart = [abs(a - b) for a, b in zip(run.losses, exact.losses)]
        balance = max(abs(a - b) for layer in run.layers for a, b in zip(run.layers[layer], exact.layers[layer]))
        projections = run.logged["sam_projection"]
        scales = run.logged.get("loss_scale", [])
        overflows = f"{len(run.overflows)}" + (f", the last at update {run.overflows[-1]}" if run.overflows else "")
        rows.append(
            [
                f"{method}, {precision}",
                "" if run is exact else f"{max(apart):.4f} ({statistics.fmean(apart):.4f})",
                "" if run is exact else f"{balance:.4f}",
                f"{run.loss:.3f}, {100 * run.accuracy:.1f} %",
                f"{min(projections):.4f} ({statistics.fmean(projections):.4f})",
                f"{run.logged['sam_skipped'][-1]:.0f}",
                overflows if scales else "",
                f"{scales[-1]:g}" if scales else "",
            ]
        )
    heads = ["run", "loss curve apart, largest (mean)", "2|B| apart, largest", "held out"]
    heads += ["sam_projection, least (mean)", "sam_skipped", "overflows", "loss scale, end"]
    return markdown_table(heads, rows)


def loss_changes(trainer: Trainer, sample: dict, rho: float) -> Tensor:
    """a_j of δ-SAM's Eq. 3, (B,) fp32, without dropout; the noise is the same in every precision, up to rounding."""
    model = trainer.get_model().eval()
    losses = sentence_losses_of(trainer.get_criterion())
    with torch.no_grad():
        at_w = losses(model, sample)
        with Perturbation(model.parameters(), rho).perturb_randomly(seed=1):
            return losses(model, sample) - at_w


def guardedness_table(args, train: Sequence[dict], last: int = 5) -> str:
    """a_j in each precision beside the first one's: at the starting weights, and where fine-tuning ends.

    The first precision is trained with Adam, on all but the *last* batches, which a_j is computed for.
    """
    flags = ["--optimizer", "adam", "--lr", args.lr, "--seed", args.seed]
    trainers = {one: build_trainer(args.size, *flags, arch=LORA, precision=one) for one in args.precision}
    exact, rows = trainers[args.precision[0]], []
    for updates in (0, len(train) - last):
        for sample in train[:updates]:
            exact.train_step([sample])
        for precision, trainer in trainers.items():
            trainer.get_model().load_state_dict(exact.get_model().state_dict())
            pairs = [[loss_changes(one, sample, args.rho) for one in (trainer, exact)] for sample in train[-last:]]
            rms = [one.square().mean().sqrt().item() for _, one in pairs]
            errors = [(one - other).square().mean().sqrt().item() for one, other in pairs]
            cosines = [torch.cosine_similarity(one, other, 0).item() for one, other in pairs]
            spread = f"{statistics.fmean(cosines):.2f} ({min(cosines):.2f} to {max(cosines):.2f})"
            means = [f"{statistics.fmean(values):.1e}" for values in (rms, errors)]
            rows.append([str(updates), precision, *means, spread])
    first = args.precision[0]
    return markdown_table(["updates", "precision", f"a_j, {first}, rms", "error, rms", f"cosine with {first}"], rows)


def main(given: Optional[Sequence[str]] = None) -> Runs:
    parser = fine_tuning.arguments(__doc__)
    parser.add_argument("--updates", type=int, default=100)
    precisions = {"choices": PRECISIONS, "default": ["fp32", "fp16"]}
    parser.add_argument("--precision", nargs="+", **precisions, help="the first is the reference")
    scale_help = "the loss scale at first (default: that of torch's GradScaler; fairseq's is 128)"
    parser.add_argument("--fp16-init-scale", type=int, default=2**16, help=scale_help)
    parser.add_argument("--guardedness", action="store_true", help="look at δ-SAM's a_j instead")
    args = parser.parse_args(given)
    torch.set_num_threads(args.threads)
    logging.getLogger().setLevel(logging.WARNING)
    try:
        train, valid = fine_tuning.read_samples(args)
    except FileNotFoundError as error:
        parser.error(str(error))
    runs: Runs = {}
    if args.guardedness:
        machine.report(f"a_j in half precision: SST-2, ρ = {args.rho:g}", guardedness_table(args, train))
        return runs
    for method, optimizer in (("LoRA-SAM", "sam"), ("LoRA-δ-SAM", "dsam")):
        for precision in args.precision:
            flags = ["--optimizer", optimizer, "--sam-rho", args.rho, "--fp16-init-scale", args.fp16_init_scale]
            runs[method, precision] = fine_tuning.fine_tune(flags, train, valid, args, precision)
            print(f"{method}, {precision}: done", file=sys.stderr, flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    draw(runs, args.out / "half_precision.png")
    machine.report(f"Half precision: SST-2, {args.updates} updates, ρ = {args.rho:g}", table(runs))
    return runs


if __name__ == "__main__":
    main()
