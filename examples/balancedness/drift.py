"""Why 2|B| moves as it does in figure 3: the BAR paper's Theorem 2 on the real encoder, and what Adam makes of it.

    python examples/balancedness/drift.py --data GLUE      # needs what fine_tuning.py needs

While LoRA is fine-tuned with Adam, at some updates and without dropout, the rate at which B = ½ (‖X‖² − ‖Y‖²) of a pair
would change is computed from the gradients at w and at w + ε of one batch:

    SGD at w          ⟨Y, g_Y⟩ − ⟨X, g_X⟩: 0, as the loss depends on X Yᵀ alone
    SGD at w + ε      the same with the gradients there: SAM
    Theorem 2         ρ (‖g_X‖² − ‖g_Y‖²) / ‖g‖ with the gradient at w, to first order in ρ the same
    Adam at w, w + ε  what one update of the run's Adam with these gradients changes, over η: with its second moments
                      and without momentum, which would spread each gradient over ten updates

B is negative here (‖Y‖ = ‖A‖ is the larger one), so that a positive rate balances.
"""

import copy
import logging
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import fine_tuning
import machine
import torch
from fairseq.trainer import Trainer
from fairseq_side import LORA, build_trainer
from torch import Tensor

from sharp_plugins.core.balancedness import balancedness, squared_norms
from sharp_plugins.core.pairs import Pair, scale_invariant_pairs
from sharp_plugins.core.perturbation import Perturbation
from sharp_plugins.host.logs import monitored
from sharp_plugins.runs.table import markdown_table

COLUMNS = ("SGD at w", "SGD at w + ε (SAM)", "Theorem 2", "Adam at w", "Adam at w + ε (SAM)")


def balances(pairs: Sequence[Pair]) -> Tensor:
    """B of each pair, whose sides are one parameter each."""
    x, y = [pair.x[0].detach() for pair in pairs], [pair.y[0].detach() for pair in pairs]
    return balancedness(squared_norms(x), squared_norms(y))


def sgd_rate(pair: Pair) -> float:
    """dB/dt where dX/dt = −g_X and dY/dt = −g_Y."""
    (x,), (y,) = pair.x, pair.y
    return ((y * y.grad).sum() - (x * x.grad).sum()).item()


def update_rates(trainer: Trainer, pairs: Sequence[Pair]) -> List[float]:
    """How much the trainer's Adam would change each B in an update with the present gradients alone, over η.

    The weights and the optimizer's state are put back.
    """
    optimizer, model = trainer.optimizer.optimizer, trainer.get_model()
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    before = balances(pairs)
    for group in optimizer.param_groups:
        group["betas"] = (0.0, group["betas"][1])
    trainer.optimizer.step()
    rates = (balances(pairs) - before) / trainer.get_lr()
    model.load_state_dict(weights)
    optimizer.load_state_dict(state)
    return rates.tolist()


def rates(trainer: Trainer, sample: dict, rho: float) -> Dict[str, Dict[str, float]]:
    """The rates of the columns, for the first, middle and last query layer's pair."""
    model, pairs = trainer.get_model(), scale_invariant_pairs(trainer.get_model())
    pairs = [pairs[i] for i in monitored([pair.name for pair in pairs], "ends")]
    model.eval()

    def backward():
        trainer.zero_grad()
        loss, size, _ = trainer.criterion(model, sample)
        (loss / size).backward()

    backward()
    norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]))
    squares = [(pair.x[0].grad.square().sum(), pair.y[0].grad.square().sum()) for pair in pairs]
    found = {
        "SGD at w": [sgd_rate(pair) for pair in pairs],
        "Theorem 2": [(rho * (gx - gy) / norm).item() for gx, gy in squares],
        "Adam at w": update_rates(trainer, pairs),
    }
    ball = Perturbation(model.parameters(), rho)
    backward()
    with ball.climb():
        backward()
    found["SGD at w + ε (SAM)"] = [sgd_rate(pair) for pair in pairs]
    found["Adam at w + ε (SAM)"] = update_rates(trainer, pairs)
    trainer.zero_grad()
    return {pair.name: {column: found[column][i] for column in COLUMNS} for i, pair in enumerate(pairs)}


def main(given: Optional[Sequence[str]] = None) -> Dict[int, Dict[str, Dict[str, float]]]:
    parser = fine_tuning.arguments(__doc__, picture=False)
    at_help = "after so many updates (default: %(default)s)"
    parser.add_argument("--at", type=int, nargs="+", default=[30, 60, 90, 120], help=at_help)
    args = parser.parse_args(given)
    torch.set_num_threads(args.threads)
    logging.getLogger().setLevel(logging.WARNING)
    args.updates = max(args.at) + 1
    try:
        train, _ = fine_tuning.read_samples(args)
    except FileNotFoundError as error:
        parser.error(str(error))
    trainer = build_trainer(args.size, "--optimizer", "adam", "--lr", args.lr, "--seed", args.seed, arch=LORA)
    found = {}
    for updates, sample in enumerate(train):
        if updates in args.at:
            found[updates] = rates(trainer, sample, args.rho)
        trainer.train_step([sample])
    rows = [
        [str(updates), name.replace("classifier.", ""), *(f"{values[column]:.2e}" for column in COLUMNS)]
        for updates, layers in found.items()
        for name, values in layers.items()
    ]
    machine.report(f"Rates of B: SST-2, ρ = {args.rho:g}", markdown_table(["updates", "layer", *COLUMNS], rows))
    return found


if __name__ == "__main__":
    main()
