"""Scale-invariant pairs as a trainer's optimizer sees them.

The pairs are parameters that the model's forward reads. What the base optimizer updates is another tensor under fp16 and
bf16: an fp32 master copy, and by default a slice of one flat tensor that holds all of them.
"""

from typing import Dict, List, Tuple

import torch

from sharp_plugins.core.balancing import Gradients, PairStack, SideStack
from sharp_plugins.core.pairs import Pair, scale_invariant_pairs
from sharp_plugins.host.weights import Updated, updated_by_the_base
from sharp_plugins.optim.bar import BAR


def optimized_pairs(trainer) -> List[PairStack]:
    """The model's pairs that are trained, those of the same parameter groups together."""
    updated = updated_by_the_base(trainer)
    together: Dict[Tuple[int, int], List[Pair]] = {}
    for pair in scale_invariant_pairs(trainer.get_model()):
        if not all(id(p) in updated.index for p in (*pair.x, *pair.y)):
            continue
        x, y = (updated.groups[updated.index[id(side[0])]] for side in (pair.x, pair.y))
        together.setdefault((x, y), []).append(pair)
    return [_stack(pairs, groups, updated, trainer.device) for groups, pairs in together.items()]


def _stack(pairs: List[Pair], groups: Tuple[int, int], updated: Updated, device: torch.device) -> PairStack:
    places = [[updated.index[id(p)] for pair in pairs for p in getattr(pair, side)] for side in ("x", "y")]
    counts = [[len(getattr(pair, side)) for pair in pairs] for side in ("x", "y")]
    x, y = (
        SideStack([updated.weights[i] for i in where], None if set(count) == {1} else torch.tensor(count, device=device), group)
        for where, count, group in zip(places, counts, groups)
    )

    def gradients() -> Tuple[Gradients, Gradients]:
        every = updated.gradients()
        gx, gy = ([every[i] for i in where] for where in places)
        return gx, gy

    return PairStack([pair.name for pair in pairs], x, y, gradients)


def prepare_balancing(trainer, method: BAR, measure: bool) -> None:
    """Tell *method* what it needs to know of the update that is about to be made."""
    if not method.pairs:  # not before the first update: resuming rebuilds the optimizer
        method.pairs = optimized_pairs(trainer)
    method.num_updates, method.seed, method.measure = trainer.get_num_updates(), trainer.cfg.common.seed, measure
