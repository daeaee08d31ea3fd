"""Each part of the plugin's that a run names takes effect, or the run is refused by name before it starts.

fairseq has parts that hold other parts: the composite optimizer has an optimizer for each group of parameters, composite_loss has
a criterion. A part of the plugin's inside another one is built, but the trainer does not know of it: it makes no extra passes for
such an optimizer, and gives no sentences to such a criterion. So the config is searched for them, and then what was built.
"""

import argparse
import json
from typing import Any, Iterator, List, Tuple

import torch
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.optim import FairseqOptimizer
from omegaconf import OmegaConf
from torch import nn

from sharp_plugins.criterions.regularized import Regularized
from sharp_plugins.host.weights import registered_optimizer
from sharp_plugins.optim.base import WrappingOptimizer, wrapping_optimizer

# Where a part takes effect.
PLACES = ("optimizer", "criterion", "model")


def _refuse_optimizer(name: str, where: str) -> None:
    raise ValueError(
        f"--optimizer {name} would have no effect as {where}: it has to be the outermost optimizer. Around a composite one it is "
        f"optimizer: {{_name: {name}, base_optimizer: composite, base: {{groups: ...}}}}"
    )


def _refuse_criterion(name: str, where: str) -> None:
    raise ValueError(f"--criterion {name} would have no effect as {where}: it has to be the run's own, --criterion {name}")


def _refuse(name: Any, where: str) -> None:
    """Raise ValueError where *name* is one of the plugin's optimizers or criterions. A task or a scheduler may have that name."""
    if not isinstance(name, str):
        return
    kind = where.rpartition(".")[2]
    if kind == "optimizer" and wrapping_optimizer(name) is not None:
        _refuse_optimizer(name, where)
    criterion = CRITERION_REGISTRY.get(name)
    if kind.endswith("criterion") and isinstance(criterion, type) and issubclass(criterion, Regularized):
        _refuse_criterion(name, where)


def _inside(value: Any) -> List[Tuple[str, Any]]:
    """What is inside a part of a config, by name."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, str) and value.startswith("{"):  # a base optimizer's settings as JSON
        try:
            value = json.loads(value)
        except ValueError:
            return []
    if isinstance(value, dict):
        return [(str(key), part) for key, part in value.items()]
    return [(str(index), part) for index, part in enumerate(value)] if isinstance(value, (list, tuple)) else []


def check_config(cfg) -> None:
    """Raise ValueError where a whole fairseq config names one of the plugin's optimizers or criterions inside another part."""

    def search(value: Any, where: str) -> None:
        inside = _inside(value)
        if {"common", "optimizer"} <= {key for key, _ in inside}:
            return  # of another run: wav2vec's fine-tuning keeps the whole config of the pretraining
        for key, part in inside:
            if key == "_name" and where not in PLACES:
                _refuse(part, where)
            search(part, f"{where}.{key}" if where else key)

    for section in cfg:
        search(cfg[section], section)


def _parts(root: Any, kinds: Tuple[type, ...]) -> Iterator[Any]:
    """*root*, the objects of *kinds* in its attributes, the objects in their attributes, and so on, through lists and dicts."""
    seen, waiting = set(), [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, kinds):
            yield value
            waiting += vars(value).values()
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value


def check_optimizer(trainer) -> None:
    """Raise ValueError where one of the plugin's optimizers was built and *trainer* does not know it as its optimizer."""
    own = registered_optimizer(trainer)
    for part in _parts(trainer.optimizer, (FairseqOptimizer, torch.optim.Optimizer)):
        if isinstance(part, WrappingOptimizer) and part is not own:
            _refuse_optimizer(part.cfg._name, f"a part of {type(own).__name__}")


def check_criterion(criterion: nn.Module) -> None:
    """Raise ValueError where one of the plugin's criterions was built as a part of *criterion*."""
    names = {cls: name for name, cls in CRITERION_REGISTRY.items()}
    for part in _parts(criterion, (nn.Module,)):
        if isinstance(part, Regularized) and part is not criterion:
            _refuse_criterion(names.get(type(part), type(part).__name__), f"a part of {type(criterion).__name__.lstrip('_')}")
