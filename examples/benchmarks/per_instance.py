"""How close SAM and δ-SAM come to what δ-SAM approximates: a perturbation for every instance (Eq. 2 of its paper).

    Eq. 2      ε_i = ρ ∇l_i(w)/‖∇l_i(w)‖₂ for each instance, update (1/N) Σ_i ∇l_i(w + ε_i)     2N passes: the reference here
    SAM        one ε along Σ_i ∇l_i(w)
    δ-SAM      one ε along Σ_i g'_i ∇l_i(w), with the weights g' of Eq. 3-6

A small transformer learns a synthetic task, some of whose labels are wrong; at several points of training, for
several batches and seeds, the table gives

    cos        the cosine of SAM's and δ-SAM's update with the reference's
    beyond     the same after the plain gradient, which all updates share, has been subtracted from each
    sharpness  mean_i [l_i(w + ε) - l_i(w)], as a share of the mean rise that the instances' own ε_i reach
    closer     in how many cases δ-SAM's cosine is larger than SAM's

    python examples/benchmarks/per_instance.py --beta 3 10        # a few minutes on one core

Plain torch and plain loops: it uses the plugin's `guardedness` for g', and none of its code for the perturbations.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import machine
from encoder import Classifier, Size

from sharp_plugins.core.guardedness import instance_weights

# () -> (N,) losses of the instances at the parameters' present values, with a graph.
Losses = Callable[[], Tensor]
# i -> () the loss of one of them alone, the same.
Loss = Callable[[int], Tensor]
Vector = List[Tensor]  # one tensor for each parameter


# ---------------------------------------------------------------------- vectors in the space of the weights


def gradient(loss: Tensor, params: Sequence[Tensor], keep: bool = False) -> Vector:
    grads = torch.autograd.grad(loss, params, retain_graph=keep, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(params, grads)]


def dot(a: Vector, b: Vector) -> float:
    return sum((x * y).sum().item() for x, y in zip(a, b))


def scaled(a: Vector, factor: float) -> Vector:
    return [x * factor for x in a]


def minus(a: Vector, b: Vector) -> Vector:
    return [x - y for x, y in zip(a, b)]


def cosine(a: Vector, b: Vector) -> float:
    return dot(a, b) / max(dot(a, a) * dot(b, b), 1e-60) ** 0.5


def to_radius(a: Vector, rho: float) -> Vector:
    """ρ a/‖a‖₂; zeros where a is zero."""
    norm = dot(a, a) ** 0.5
    return scaled(a, rho / norm if norm > 0 else 0.0)


class Moved:
    """The parameters at w + ε inside a ``with``, and at w again after it."""

    def __init__(self, params: Sequence[Tensor], epsilon: Vector):
        self.params, self.epsilon = params, epsilon

    def __enter__(self):
        self.home = [p.data for p in self.params]
        for p, e in zip(self.params, self.epsilon):
            p.data = p.data + e

    def __exit__(self, *exc):
        for p, w in zip(self.params, self.home):
            p.data = w


# ---------------------------------------------------------------------- the three updates


def per_instance(loss: Loss, count: int, params: Sequence[Tensor], rho: float) -> Tuple[Vector, Tensor, Tensor]:
    """Eq. 2 of *count* instances, in two passes of each.

    Returns:
        the update (1/N) Σ_i ∇l_i(w + ε_i), the (N,) rises l_i(w + ε_i) - l_i(w), and the (N,) norms ‖∇l_i(w)‖₂.
    """
    total = [torch.zeros_like(p) for p in params]
    rises, norms = torch.zeros(count), torch.zeros(count)
    for i in range(count):
        clean = loss(i)
        own = gradient(clean, params)
        norms[i] = dot(own, own) ** 0.5
        with Moved(params, to_radius(own, rho)):
            perturbed = loss(i)
            torch._foreach_add_(total, gradient(perturbed, params), alpha=1 / count)
        rises[i] = (perturbed - clean).item()
    return total, rises, norms


def shared(losses: Losses, params: Sequence[Tensor], rho: float, weights: Tensor) -> Tuple[Vector, Tensor]:
    """One ε for the batch, along Σ_i weights_i ∇l_i(w); SAM with equal *weights* (N,), δ-SAM with g'.

    Returns:
        the update (1/N) Σ_i ∇l_i(w + ε), and the (N,) rises l_i(w + ε) - l_i(w).
    """
    clean = losses()
    epsilon = to_radius(gradient((weights.to(clean) * clean).sum(), params), rho)
    with Moved(params, epsilon):
        perturbed = losses()
        return gradient(perturbed.mean(), params), (perturbed - clean).detach()


@torch.no_grad()
def random_changes(losses: Losses, params: Sequence[Tensor], rho: float, generator: torch.Generator) -> Tensor:
    """(N,) a_i of Eq. 3."""
    noise = [torch.empty_like(p).normal_(generator=generator) for p in params]
    clean = losses()
    with Moved(params, to_radius(noise, rho)):
        return losses() - clean


# ---------------------------------------------------------------------- the comparison


def compare(losses: Losses, params, rho: float, betas: Sequence[float], draws: int, seed: int) -> Dict[str, Dict[str, float]]:
    """What the docstring above describes, for one batch: {method: {column: value}}; δ-SAM's are means over *draws* of ε̂."""
    plain = gradient(losses().mean(), params)
    count = losses().numel()
    reference, own_rises, _ = per_instance(lambda i: losses()[i], count, params, rho)
    beyond = minus(reference, plain)

    def look(weights: Tensor) -> Dict[str, float]:
        update, rises = shared(losses, params, rho, weights)
        return {
            "cos": cosine(update, reference),
            "beyond": cosine(minus(update, plain), beyond),
            "sharpness": (rises.mean() / own_rises.mean()).item(),
        }

    found = {"plain gradient": {"cos": cosine(plain, reference)}, "SAM": look(torch.full((count,), 1 / count))}
    generator = torch.Generator().manual_seed(seed)
    for beta in betas:
        looks = []
        for _ in range(draws):
            weights = instance_weights(random_changes(losses, params, rho, generator), beta)
            looks.append(look(weights))
        mean = {key: statistics.mean(one[key] for one in looks) for key in looks[0]}
        mean["closer"] = statistics.mean(float(one["cos"] > found["SAM"]["cos"]) for one in looks)
        found[f"δ-SAM, β = {beta:g}"] = mean
    return found


def make_task(seed: int, count: int = 512, length: int = 12, vocabulary: int = 40, wrong: float = 0.1) -> Tuple[Tensor, Tensor]:
    """(count, length) tokens and (count,) classes: whether tokens of the lower half are in the majority; some labels wrong."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, vocabulary, (count, length), generator=generator)
    classes = ((tokens < vocabulary // 2).sum(1) * 2 > length).long()
    flip = torch.rand(count, generator=generator) < wrong
    return tokens, torch.where(flip, 1 - classes, classes)


def run(seed: int, args) -> Dict[Tuple[int, str], List[Dict[str, float]]]:
    """Train one model and compare on ``args.batches`` batches at each of ``args.at`` numbers of updates."""
    torch.manual_seed(seed)
    tokens, classes = make_task(seed)
    model: nn.Module = Classifier(Size(2, 32, 4, 64, 40, 16), dropout=0.0)
    params = list(model.parameters())
    optimizer = torch.optim.Adam(params, lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    found: Dict[Tuple[int, str], List[Dict[str, float]]] = {}
    for update in range(max(args.at) + 1):
        if update in args.at:
            for number in range(args.batches):
                rows = torch.randperm(len(tokens), generator=generator)[: args.batch]

                def losses(rows=rows):
                    return F.cross_entropy(model(tokens[rows]), classes[rows], reduction="none")

                for name, values in compare(losses, params, args.rho, args.beta, args.draws, seed + number).items():
                    found.setdefault((update, name), []).append(values)
        rows = torch.randperm(len(tokens), generator=generator)[: args.batch]
        optimizer.zero_grad()
        F.cross_entropy(model(tokens[rows]), classes[rows]).backward()
        optimizer.step()
    return found


def main(given=None) -> Dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rho", type=float, default=0.05)
    parser.add_argument("--beta", type=float, nargs="+", default=[3.0, 10.0])
    parser.add_argument("--batch", type=int, default=16, help="instances in a batch (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=4, help="batches at each point (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=4, help="draws of ε̂ for each batch (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--at", type=int, nargs="+", default=[0, 30, 100, 300], help="updates before a comparison")
    parser.add_argument("--out", default="", help="append the table to this file")
    args = parser.parse_args(given)
    torch.set_num_threads(1)
    found: Dict[Tuple[int, str], List[Dict[str, float]]] = {}
    for seed in range(args.seeds):
        for key, values in run(seed, args).items():
            found.setdefault(key, []).extend(values)
    columns = ("cos", "beyond", "sharpness")
    rows = []
    for (update, name), values in sorted(found.items(), key=lambda item: item[0][0]):
        cells = [machine.quartiles([one[column] for one in values]) if column in values[0] else "" for column in columns]
        closer = [one["closer"] for one in values if "closer" in one]
        rows.append((update, name, *cells, f"{statistics.mean(closer):.0%}" if closer else ""))
    head = ("updates", "method", "cos", "beyond the plain gradient", "sharpness", "closer than SAM")
    title = f"Per-instance perturbation: ρ = {args.rho}, {args.seeds} seeds x {args.batches} batches of {args.batch}"
    machine.report(title, machine.table(head, rows), out=args.out)
    return found


if __name__ == "__main__":
    main()
