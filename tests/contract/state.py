"""All that an update may change in a trainer."""

import copy
import random
from typing import List

import torch
import toy
from fairseq.optim import AMPOptimizer
from processes import assert_equal
from trainers import LR


def updated(trainer) -> List[torch.Tensor]:
    """What the base optimizer updates."""
    return [p.data for group in trainer.optimizer.optimizer.param_groups for p in group["params"]]


def scaler_state(trainer):
    scaler = getattr(trainer.optimizer, "scaler", None)
    if isinstance(trainer.optimizer, AMPOptimizer):
        return scaler.state_dict()
    return None if scaler is None else dict(vars(scaler))


def everything(trainer):
    """Weights and statistics, the optimizer, random numbers."""
    return copy.deepcopy(
        {
            "weights": toy.weights(trainer),
            "updated": updated(trainer),
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": scaler_state(trainer),
            "updates": trainer.get_num_updates(),
            "random": (random.getstate(), toy.numpy_state(), torch.get_rng_state()),
            "cuda": torch.cuda.get_rng_state() if toy.DEVICE == "cuda" else None,
        }
    )


def assert_alike(ours, theirs) -> None:
    """What `everything` says of two trainers that have made the same updates: bit for bit on a CPU. A GPU adds in any order, and
    Adam makes a whole step of a gradient that is rounding alone, as that of a key's bias is."""
    if toy.DEVICE == "cpu":
        assert_equal(ours, theirs)
        return
    assert ours["updates"] == theirs["updates"]
    for one, other in zip(ours["updated"], theirs["updated"]):
        torch.testing.assert_close(one, other, rtol=0, atol=5 * LR)


def distance(first, second) -> float:
    """‖first − second‖₂ over the tensors of two dicts of the same keys."""
    assert first.keys() == second.keys()
    return sum((first[name].double() - second[name].double()).square().sum() for name in first).sqrt().item()


def assert_moved_alike(start, ours, theirs, tolerance: float) -> None:
    """Two dicts of weights that were *start* agree, to a share of the way from there; and there is a way."""
    way = distance(theirs, start)
    assert way > 0 and distance(ours, theirs) <= tolerance * way, (distance(ours, theirs), way)
