"""Scale-invariant pairs as a trainer's optimizer sees them, and their balancedness in the logs.

The pairs are parameters that the model's forward reads. What the base optimizer updates is another tensor under fp16 and
bf16: an fp32 master copy, and by default a slice of one flat tensor that holds all of them.
"""

from typing import Callable, Dict, List, Sequence, Tuple

import torch
from fairseq.logging import metrics
from fairseq.optim import FP16Optimizer
from torch import Tensor

from sharp_plugins.core.balancedness import balancedness, squared_norms
from sharp_plugins.core.balancing import PairStack, SideStack
from sharp_plugins.core.pairs import Pair, scale_invariant_pairs
from sharp_plugins.host.weights import master_copies, master_gradients, registered_optimizer
from sharp_plugins.models.base_arch import wrapper_of
from sharp_plugins.models.lora import LoRA, LoRAConfig, monitor_of
from sharp_plugins.networks.lora import lora_layers
from sharp_plugins.optim.bar import BAR


def _what_is_updated(trainer) -> Tuple[Dict[int, int], List[Tensor], Callable[[], List]]:
    """Index by id(parameter), the tensors that the base optimizer updates, and a function that returns their gradients."""
    optimizer = trainer.optimizer
    if isinstance(optimizer, FP16Optimizer):
        params, weights = optimizer.fp16_params, master_copies(optimizer)
        return {id(p): i for i, p in enumerate(params)}, weights, lambda: master_gradients(optimizer)
    params = list(registered_optimizer(trainer).params)  # the wrappers of mixed precision find none of a composite optimizer's
    return {id(p): i for i, p in enumerate(params)}, params, lambda: [p.grad for p in params]


def _groups(trainer, weights: Sequence[Tensor]) -> List[int]:
    """Index of the base optimizer's parameter group for each weight."""
    groups = list(registered_optimizer(trainer).param_groups)  # the composite optimizer's is a generator
    if len(groups) == 1:
        return [0] * len(weights)
    by_memory = {p.data_ptr(): index for index, group in enumerate(groups) for p in group["params"]}
    return [by_memory[w.data_ptr()] for w in weights]


def optimized_pairs(trainer) -> List[PairStack]:
    """The model's pairs that are trained, those of the same parameter groups together."""
    index, weights, gradients = _what_is_updated(trainer)
    groups = _groups(trainer, weights)
    together: Dict[Tuple[int, int], List[Pair]] = {}
    for pair in scale_invariant_pairs(trainer.get_model()):
        if not all(id(p) in index for p in (*pair.x, *pair.y)):
            continue
        key = tuple(groups[index[id(side[0])]] for side in (pair.x, pair.y))
        together.setdefault(key, []).append(pair)
    return [_make(pairs, key, index, weights, gradients, trainer.device) for key, pairs in together.items()]


def _make(pairs: List[Pair], key, index, weights, gradients, device) -> PairStack:
    places = [[index[id(p)] for pair in pairs for p in getattr(pair, side)] for side in ("x", "y")]
    counts = [[len(getattr(pair, side)) for pair in pairs] for side in ("x", "y")]
    x, y = (
        SideStack([weights[i] for i in where], None if set(count) == {1} else torch.tensor(count, device=device), group)
        for where, count, group in zip(places, counts, key)
    )

    def side_gradients():
        every = gradients()
        return tuple([every[i] for i in where] for where in places)

    return PairStack([pair.name for pair in pairs], x, y, side_gradients)


# ---------------------------------------------------------------------- what is logged


def monitored(names: Sequence[str], which: str) -> List[int]:
    """Indices of the pairs to log: all, none, or the first, the middle and the last one of a kind.

    The kind is the end of the name: that of the query projections where they are pairs, as in the BAR paper's Figure 3, else
    that of the first pair.
    """
    if which == "none" or not names:
        return []
    if which == "all":
        return list(range(len(names)))
    kinds = [name.rsplit(".", 1)[-1] for name in names]
    kind = next((kind for kind in kinds if kind in ("q_proj", "query")), kinds[0])
    of_kind = [index for index, other in enumerate(kinds) if other == kind]
    return sorted({of_kind[0], of_kind[(len(of_kind) - 1) // 2], of_kind[-1]})


def _monitor(trainer) -> str:
    """Which pairs are logged with a stock optimizer or SAM: what ``--lora-monitor`` says, and the default for LoRA layers that the
    model of another architecture has inside, as one that starts from a pretrained LoRA model."""
    if not hasattr(trainer, "_sharp_monitor"):
        inside = lora_layers(trainer.get_model()) and wrapper_of(trainer.cfg.model) is not LoRA
        trainer._sharp_monitor = LoRAConfig.lora_monitor if inside else monitor_of(trainer.cfg.model)
    return trainer._sharp_monitor


def balancedness_due(trainer) -> bool:
    """Whether the update that is about to be made is one of those that fairseq logs, or the first of all."""
    updates = trainer.get_num_updates()
    return updates == 0 or (updates + 1) % max(trainer.cfg.common.log_interval or 1, 1) == 0


def prepare_balancing(trainer, method: BAR) -> None:
    """Tell *method* what it needs to know of the update that is about to be made."""
    if not method.pairs:  # not before the first update: resuming rebuilds the optimizer
        method.pairs = optimized_pairs(trainer)
    method.num_updates, method.seed = trainer.get_num_updates(), trainer.cfg.common.seed
    method.measure = balancedness_due(trainer)


@torch.no_grad()
def log_balancedness(trainer) -> None:
    """Log 2|B| of the pairs that are to be watched, and what BAR decided in this update. Moves nothing to the host."""
    method = registered_optimizer(trainer)
    is_bar = isinstance(method, BAR)
    if is_bar:
        which, pairs = str(method.cfg.bar_monitor), method.pairs
    else:
        which = _monitor(trainer)
        pairs = () if which == "none" else optimized_pairs(trainer)
    with metrics.aggregate("train"):
        if is_bar:
            metrics.log_scalar("bar_alpha", method.alpha, priority=640, round=5)
            if method.signs is not None:
                metrics.log_scalar("bar_shrinks_x", (method.signs > 0).float().mean(), priority=641, round=3)
                metrics.log_scalar("bar_as_norms", method.as_norms, priority=642, round=3)
        names = [name for part in pairs for name in part.names]
        watched = monitored(names, which)
        if not watched:
            return
        squares = [tuple(squared_norms(side.weights, side.lengths) for side in (part.x, part.y)) for part in pairs]
        values = torch.cat([2 * balancedness(x, y).abs() for x, y in squares])
        for index in watched:
            metrics.log_scalar(f"balancedness_{names[index]}", values[index], priority=650, round=5)
