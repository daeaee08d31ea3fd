"""δ-SAM's claim on real batches: is its update closer than SAM's to the one with a perturbation for each instance (Eq. 2)?

`per_instance.py` has the question, the reference and the columns; this is MiniLM on GLUE's CoLA and RTE, at the start, in
the middle and at the end of a short fine-tuning with AdamW, and more ways to weigh the instances when the one perturbation for
the batch is looked for:

    SAM                   all alike
    δ-SAM, β              Eq. 3-6, from one random direction
      K directions        |a_j| is the mean over K of them; all have one sign, so it is without signs, too
      forward mode        a_j = ρ ⟨∇l_j, ε̂⟩, to first order, by one forward-mode pass; of an ε̂ of its own
      without signs       Eq. 5 with |a_j| in the place of a_j: r does not shrink where changes of both signs cancel
      norms               a_j = ‖∇l_j‖₂, which |a_j| is a noisy measure of: all passes of Eq. 2's first half; without signs, too
    ours, inverse         smaller for the instances whose loss changes more: weights ∝ 1 / (|a_j| + mean |a|)
      K directions, norms   the same with such |a_j|

Why smaller: Σ_j ∇l_j(w + ε_j) is, to first order, Σ_j ∇l_j + ρ Σ_j H_j ∇l_j/‖∇l_j‖. An instance with a large gradient has its own
perturbation as short as the others', so where the H_j are alike, one direction for all should lie along the sum of *normalised*
gradients.

The second table has what may explain it: the sign of ā, r, the share of negative weights (β = 3), and Spearman's correlation of
|a_j| with ‖∇l_j‖₂ without dropout, with one dropout mask for both passes, and with a mask of its own for each pass.

    python examples/benchmarks/per_instance_minilm.py --data GLUE --tasks CoLA RTE      # about an hour on one core
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import glue_rows
import machine
import per_instance
from encoder import Classifier, load_minilm, load_tokenizer
from per_instance import Moved, cosine, gradient, minus, random_changes, shared, to_radius

from sharp_plugins.core.guardedness import instance_weights, inverse_weights, sums, weights

Values = Dict[str, float]
SEVERAL = 4  # random directions


# ---------------------------------------------------------------------- losses


def losses_of(model: nn.Module, batch: glue_rows.Batch) -> Tensor:
    """(N,)"""
    return F.cross_entropy(model(batch.tokens, batch.types, batch.real), batch.target, reduction="none")


def one_of(batch: glue_rows.Batch, row: int) -> glue_rows.Batch:
    length = int(batch.real[row].sum())
    return glue_rows.Batch(*(part[row : row + 1, :length] for part in batch[:3]), batch.target[row : row + 1])


def forward_mode(model: Classifier, batch: glue_rows.Batch, rho: float, generator: torch.Generator) -> Tensor:
    """(N,) ρ ⟨∇l_j, ε̂⟩/‖ε̂‖₂."""
    names = [name for name, _ in model.named_parameters()]
    values = tuple(p.detach() for p in model.parameters())
    noise = to_radius([torch.empty_like(p).normal_(generator=generator) for p in values], rho)

    def losses(*params):
        scores = torch.func.functional_call(model, dict(zip(names, params)), batch[:3])
        return F.cross_entropy(scores, batch.target, reduction="none")

    # The fused attention has no forward mode.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return torch.func.jvp(losses, values, tuple(noise))[1].detach()


def ranks_agree(a: Tensor, b: Tensor) -> float:
    """Spearman's correlation."""
    ranks = torch.stack([x.argsort().argsort().double() for x in (a, b)])
    return torch.corrcoef(ranks)[0, 1].item()


def inverse(a: Tensor) -> Tensor:
    """(N,) weights ∝ 1 / (|a_j| + mean |a|), which sum to 1: of ``--dsam-weights inverse``."""
    found = inverse_weights(a, sums(a)).to(a.dtype)
    return found / found.sum()


# ---------------------------------------------------------------------- one batch


def compare(model: Classifier, batch: glue_rows.Batch, args, seed: int) -> Tuple[Dict[str, Values], Values]:
    """{way: {column: value}}, means over the draws of ε̂, and what may explain it."""
    model.eval()
    params, rho = list(model.parameters()), args.rho

    def losses() -> Tensor:
        return losses_of(model, batch)

    def alone(row: int) -> Tensor:
        return losses_of(model, one_of(batch, row))[0]

    count = len(batch.target)
    plain = gradient(losses().mean(), params)
    reference, own_rises, norms = per_instance.per_instance(alone, count, params, rho)
    beyond = minus(reference, plain)

    def look(given: Tensor) -> Values:
        update, rises = shared(losses, params, rho, given.float())
        return {
            "cos": cosine(update, reference),
            "beyond": cosine(minus(update, plain), beyond),
            "sharpness": (rises.mean() / own_rises.mean()).item(),
        }

    generator = torch.Generator().manual_seed(seed)
    drawn: Dict[str, List[Tensor]] = {}

    def add(name: str, given: Tensor) -> None:
        drawn.setdefault(name, []).append(given)

    about: Dict[str, List[float]] = {}
    for _ in range(args.draws):
        directions = [random_changes(losses, params, rho, generator) for _ in range(SEVERAL)]
        a, several = directions[0], torch.stack(directions).abs().mean(0)
        for beta in args.beta:
            add(f"δ-SAM, β = {beta:g}", instance_weights(a, beta))
        add(f"δ-SAM, β = 3, {SEVERAL} directions", instance_weights(several * a.mean().sign(), 3))
        add("δ-SAM, β = 3, forward mode", instance_weights(forward_mode(model, batch, rho, generator), 3))
        add("δ-SAM, β = 3, without signs", instance_weights(a.abs(), 3))
        add("ours, inverse", inverse(a))
        add(f"ours, inverse, {SEVERAL} directions", inverse(several))
        of = weights(a, sums(a), 3)
        for name, value in (("ā > 0", a.mean() > 0), ("r", of.r), ("negative", (of.g_prime < 0).double().mean())):
            about.setdefault(name, []).append(float(value))
        for name, agreement in agreements(model, batch, rho, generator, norms).items():
            about.setdefault(name, []).append(agreement)
    found = {"plain gradient": {"cos": cosine(plain, reference)}, "SAM": look(torch.full((count,), 1 / count))}
    drawn["δ-SAM, β = 3, norms"] = [instance_weights(norms, 3)]
    drawn["ours, inverse, norms"] = [inverse(norms)]
    for name, every in drawn.items():
        looks = [look(given) for given in every]
        found[name] = {key: statistics.mean(one[key] for one in looks) for key in looks[0]}
        found[name]["closer"] = statistics.mean(float(one["cos"] > found["SAM"]["cos"]) for one in looks)
    return found, {name: statistics.mean(values) for name, values in about.items()}


@torch.no_grad()
def agreements(model: Classifier, batch: glue_rows.Batch, rho: float, generator: torch.Generator, norms: Tensor) -> Values:
    """How the order of |a_j| agrees with that of ‖∇l_j‖₂, by what dropout does in the two passes."""
    params = list(model.parameters())
    noise = to_radius([torch.empty_like(p).normal_(generator=generator) for p in params], rho)
    found = {}
    for name, training, second in (("no dropout", False, 0), ("one mask", True, 0), ("two masks", True, 1)):
        model.train(training)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            clean = losses_of(model, batch)
            torch.manual_seed(second)
            with Moved(params, noise):
                changes = losses_of(model, batch) - clean
        found[f"agreement, {name}"] = ranks_agree(changes.abs(), norms)
    model.eval()
    return found


# ---------------------------------------------------------------------- training, and the tables


def run(task: str, seed: int, args, tell: Callable[[str], None]) -> Tuple[Dict, Dict]:
    rows, tokenizer = glue_rows.read(args.data, task), load_tokenizer(args.longest)
    generator = torch.Generator().manual_seed(seed)

    def draw() -> glue_rows.Batch:
        return glue_rows.encode(tokenizer, [rows[i] for i in torch.randperm(len(rows), generator=generator)[: args.batch]])

    torch.manual_seed(seed)
    model = load_minilm(seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.0)
    found: Dict[Tuple[str, int, str], List[Values]] = {}
    explained: Dict[Tuple[str, int], List[Values]] = {}
    for update in range(max(args.at) + 1):
        if update in args.at:
            for number in range(args.batches):
                ways, about = compare(model, draw(), args, 1000 * seed + number)
                for name, values in ways.items():
                    found.setdefault((task, update, name), []).append(values)
                explained.setdefault((task, update), []).append(about)
            tell(f"{task}, seed {seed}: {update} updates")
        model.train()
        optimizer.zero_grad()
        losses_of(model, draw()).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return found, explained


def tables(found: Dict, explained: Dict) -> str:
    columns = ("cos", "beyond", "sharpness")
    rows = []
    for (task, update, name), values in found.items():
        cells = [machine.quartiles([one[column] for one in values]) if column in values[0] else "" for column in columns]
        closer = [one["closer"] for one in values if "closer" in one]
        rows.append((task, update, name, *cells, f"{statistics.mean(closer):.0%}" if closer else ""))
    head = ("task", "updates", "weights", "cos", "beyond the plain gradient", "sharpness", "closer than SAM")
    more = []
    for (task, update), values in explained.items():
        more.append((task, update, *(machine.quartiles([one[name] for one in values]) for name in values[0])))
    names = next(iter(explained.values()))[0]
    return f"{machine.table(head, rows)}\n\n{machine.table(('task', 'updates', *names), more)}"


def main(given=None) -> Tuple[Dict, Dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="GLUE", help="GLUE's directory")
    parser.add_argument("--tasks", nargs="+", default=["CoLA", "RTE"], help="of two classes (default: CoLA RTE)")
    parser.add_argument("--rho", type=float, default=0.05)
    parser.add_argument("--beta", type=float, nargs="+", default=[1.0, 3.0, 10.0])
    parser.add_argument("--batch", type=int, default=16, help="instances in a batch (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=4, help="batches at each point (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=2, help="draws of ε̂ for each batch (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--at", type=int, nargs="+", default=[0, 100, 300], help="updates before a comparison")
    parser.add_argument("--lr", type=float, default=5e-5, help="of AdamW (default: %(default)s)")
    parser.add_argument("--longest", type=int, default=96, help="tokens of an input at most (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="", help="append the tables to this file")
    args = parser.parse_args(given)
    torch.set_num_threads(args.threads)
    found: Dict = {}
    explained: Dict = {}
    for task in args.tasks:
        for seed in range(1, args.seeds + 1):
            ways, about = run(task, seed, args, lambda line: print(line, file=sys.stderr, flush=True))
            for into, one in ((found, ways), (explained, about)):
                for key, values in one.items():
                    into.setdefault(key, []).extend(values)
    title = f"Per-instance perturbation, MiniLM: ρ = {args.rho}, {args.seeds} seeds x {args.batches} batches of {args.batch}"
    machine.report(title, tables(found, explained), out=args.out)
    return found, explained


if __name__ == "__main__":
    main()
