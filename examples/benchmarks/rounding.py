"""What rounding leaves of SAM's ascent: MiniLM's published weights, a real gradient, and w + ε in half precision.

For batches of RTE pairs (evaluation mode, untrained head): the loss rises from w to w + ε by some amount in fp32; by what
share of it does it rise where w + ε is rounded to fp16 or bf16? `sharp_plugins.core.perturbation.Perturbation` does the rounding
and measures the realised radius and the projection on ε. Three situations:

    on the grid    the fp32 master copy is exactly the half-precision weights: the first update with --fp16 or --bf16, and
                   every update with --memory-efficient-fp16 and -bf16, which have no master copy
    off the grid   the master copy has fp32 weights and the model reads them rounded: any later update with a master copy
    autocast       --amp: fp32 weights, rounded in each matrix product, the others' operations in half precision too

    python examples/benchmarks/rounding.py --data GLUE          # GLUE/RTE/train.tsv; about ten minutes on one core

The losses are computed in fp32 arithmetic with the rounded weights, so that nothing but the weights differs; with
``--arithmetic half`` the passes are made in half precision as well, whose own errors are then in the numbers. ``autocast``
always computes as it says.
"""

import argparse
import copy
import statistics
import sys
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import glue_rows
import machine
from encoder import load_minilm, load_tokenizer

from sharp_plugins.core.perturbation import ROUNDINGS, Perturbation

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# fairseq's first loss scale: keeps the gradient out of fp16's subnormal range.
SCALE = 128.0


class Climb(NamedTuple):
    """One rounded ascent."""

    rise: float  # l(w + ε) - l(w), rounded, over the same in fp32
    projection: float  # of the realised perturbation on ε: 1 where nothing of it is lost
    radius: float  # norm of the realised perturbation, in units of ρ


def loss_of(model: nn.Module, batch: glue_rows.Batch) -> Tensor:
    """Mean loss in evaluation mode, 0-dimensional."""
    return F.cross_entropy(model(batch.tokens, batch.types, batch.real).float(), batch.target)


def gradient(model: nn.Module, batch: glue_rows.Batch) -> List[Tensor]:
    return list(torch.autograd.grad(loss_of(model, batch), list(model.parameters())))


@torch.no_grad()
def loss_at(model: nn.Module, weights: List[Tensor], batch: glue_rows.Batch) -> float:
    """Mean loss of *model*, in its own arithmetic, with other *weights*."""
    home = [p.data for p in model.parameters()]
    for p, w in zip(model.parameters(), weights):
        p.data = w.to(p.dtype)
    try:
        return loss_of(model, batch).item()
    finally:
        for p, w in zip(model.parameters(), home):
            p.data = w


def climb(weights, grads, rho: float, dtype, masters=None, rounding: str = "nearest", seed: int = 0):
    """Go from *weights* (read as *dtype*) to w + ε with `Perturbation`.

    Returns:
        the weights there, and the `Ascent` with the radius and the projection.
    """
    params = [nn.Parameter(w.to(dtype, copy=True)) for w in weights]
    for p, g in zip(params, grads):
        p.grad = (g * SCALE).to(dtype)
    ball = Perturbation(params, rho, masters, rounding)
    ball.climb(seed, measure=True)
    return [p.data for p in params], ball.ascent


def climbs(
    model: nn.Module, batch: glue_rows.Batch, rho: float, seed: int, precisions: List[str], half_arithmetic: bool = False
) -> Iterator[Tuple[Tuple[str, str, str], Climb]]:
    """((situation, precision, rounding), what came of it) for one batch."""
    published = [p.data.clone() for p in model.parameters()]
    for precision in precisions:
        dtype = DTYPES[precision]
        rounded = [w.to(dtype).float() for w in published]
        reader = copy.deepcopy(model).to(dtype) if half_arithmetic else model
        clean = loss_at(reader, rounded, batch)
        for p, w in zip(model.parameters(), rounded):
            p.data = w
        grads = gradient(model, batch)
        for p, w in zip(model.parameters(), published):
            p.data = w
        for situation, masters in (("on the grid", rounded), ("off the grid", published)):
            exact, _ = climb(masters, grads, rho, torch.float32)
            fp32_rise = loss_at(model, exact, batch) - loss_at(model, masters, batch)
            variants = [("master copy", masters)]
            if situation == "on the grid":
                variants.append(("no master copy", None))
            for copies, given in variants:
                for rounding in ROUNDINGS:
                    # A master copy is not written to, and the parameters start as it, rounded.
                    there, ascent = climb(masters, grads, rho, dtype, given, rounding, seed)
                    rise = loss_at(reader, there, batch) - clean
                    key = (f"{situation}, {copies}", precision, rounding)
                    yield key, Climb(rise / fp32_rise, ascent.projection.item(), ascent.radius.item() / rho)


def autocast_climbs(model: nn.Module, batch: glue_rows.Batch, rho: float, precisions: List[str]):
    """As `climbs`, for autocast: the weights stay fp32, so their projection is 1 and the loss alone shows the rounding."""
    published = [p.data.clone() for p in model.parameters()]
    exact, ascent = climb(published, gradient(model, batch), rho, torch.float32)
    fp32_rise = loss_at(model, exact, batch) - loss_at(model, published, batch)
    for precision in precisions:
        if precision == "fp32":
            continue
        losses = []
        for weights in (exact, published):
            with torch.autocast("cpu", DTYPES[precision]):  # one for each: it remembers the weights that it has rounded
                losses.append(loss_at(model, weights, batch))
        rise = losses[0] - losses[1]
        yield (
            ("autocast", precision, "in each product"),
            Climb(rise / fp32_rise, ascent.projection.item(), ascent.radius.item() / rho),
        )


def spread(values: List[float], form: Callable[[float], str]) -> str:
    """Mean ± standard deviation."""
    text = form(statistics.mean(values))
    return f"{text} ± {form(statistics.stdev(values))}" if len(values) > 1 else text


def main(given=None) -> Dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="directory with RTE/train.tsv, GLUE's layout")
    parser.add_argument("--batches", type=int, default=4, help="batches to average over (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=32, help="pairs in a batch (default: %(default)s)")
    parser.add_argument("--longest", type=int, default=128, help="tokens that pairs are cut to (default: %(default)s)")
    parser.add_argument("--rho", type=float, nargs="+", default=[0.05, 0.02, 0.01])
    parser.add_argument("--precision", nargs="+", choices=DTYPES, default=["fp16", "bf16"])
    parser.add_argument("--arithmetic", choices=("fp32", "half"), default="fp32", help="of the passes")
    parser.add_argument("--no-autocast", action="store_true", help="leave these rows out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="", help="append the table to this file")
    args = parser.parse_args(given)
    torch.set_num_threads(args.threads)
    tokenizer, pairs = load_tokenizer(args.longest), glue_rows.read(args.data, "RTE")
    found: Dict[Tuple, List[Climb]] = {}
    for number in range(args.batches):
        batch = glue_rows.encode(tokenizer, pairs[number * args.pairs : (number + 1) * args.pairs])
        model = load_minilm(seed=number).eval()
        for rho in args.rho:
            results = list(climbs(model, batch, rho, number, args.precision, args.arithmetic == "half"))
            if not args.no_autocast:
                results += autocast_climbs(model, batch, rho, args.precision)
            for key, value in results:
                found.setdefault((rho, *key), []).append(value)
    order = {name: i for i, name in enumerate(DTYPES)}
    rows = []
    for key in sorted(found, key=lambda k: (k[1], order[k[2]], -k[0], k[3])):
        rho, situation, precision, rounding = key
        rise, projection, radius = (list(column) for column in zip(*found[key]))
        shares = spread([share * 100 for share in rise], "{:.1f}".format)
        decimals = "{:.3f}".format
        rows.append((situation, precision, rho, rounding, f"{shares} %", spread(projection, decimals), spread(radius, decimals)))
    head = ("situation", "precision", "ρ", "rounding", "rise of the loss, of fp32's", "projection", "radius / ρ")
    machine.report(
        f"Rounding: {args.batches} batches of {args.pairs} pairs, passes in {args.arithmetic}",
        machine.table(head, rows),
        out=args.out,
    )
    return found


if __name__ == "__main__":
    main()
