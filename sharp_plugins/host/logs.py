"""What the methods measured, in fairseq's logs.

What an ascent measured travels in fairseq's own logging outputs, so that workers share it at no extra communication.
"""

from contextlib import contextmanager
from typing import Dict, Iterator, List, Sequence

import torch
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from torch import Tensor

from sharp_plugins.core.balancedness import balancedness, squared_norms
from sharp_plugins.host.balancing import optimized_pairs
from sharp_plugins.host.patching import wrap
from sharp_plugins.host.weights import registered_optimizer
from sharp_plugins.models.base_arch import wrapper_of
from sharp_plugins.models.lora import LoRA, LoRAConfig, monitor_of
from sharp_plugins.networks.lora import lora_layers
from sharp_plugins.optim.bar import BAR
from sharp_plugins.optim.sam import SAM

_PREFIX = "_sharp_plugins_"  # of what travels in the logging outputs


# ---------------------------------------------------------------------- when


def radius_due(trainer, sam_interval: int) -> bool:
    """Whether the ascent that is about to be made is to be measured, which is one more sweep over the weights: that of the next
    update that fairseq logs, where only every *sam_interval*-th one climbs."""
    return (trainer.get_num_updates() + sam_interval) % _log_interval(trainer) < sam_interval


def balancedness_due(trainer) -> bool:
    """Whether the update that is about to be made is one of those that fairseq logs, or the first of all."""
    updates = trainer.get_num_updates()
    return updates == 0 or (updates + 1) % _log_interval(trainer) == 0


def _log_interval(trainer) -> int:
    return max(trainer.cfg.common.log_interval or 1, 1)


# ---------------------------------------------------------------------- ascents


@contextmanager
def sent_along(trainer, measured: Dict[str, Tensor], has_data: bool) -> Iterator[None]:
    """Inside, what this worker's ascent *measured* goes along with fairseq's logging outputs.

    Args:
        has_data: whether the worker had any samples; one with an empty shard does not count.
    """
    weight = float(has_data)
    trainer._sharp_stats = {**{key: value.float() * weight for key, value in measured.items()}, "workers": weight}
    try:
        yield
    finally:
        trainer._sharp_stats = None


def _wrap_aggregate(aggregate):
    def aggregate_logging_outputs(self, logging_outputs, *extra_stats_to_sum, ignore=False):
        stats = getattr(self, "_sharp_stats", None)
        if stats and logging_outputs:
            first = {**logging_outputs[0], **{_PREFIX + key: value for key, value in stats.items()}}
            logging_outputs = [first, *logging_outputs[1:]]
        return aggregate(self, logging_outputs, *extra_stats_to_sum, ignore=ignore)

    return aggregate_logging_outputs


def _wrap_reduce(reduce_and_log):
    def reduce_and_log_stats(self, logging_outputs, sample_size, grad_norm=None):
        stats = getattr(self, "_sharp_stats", None)
        if stats and logging_outputs:
            if self._sync_stats():
                keys = list(stats)
                stats = {key: sum(log.get(_PREFIX + key, 0.0) for log in logging_outputs) for key in keys}
                logging_outputs = [
                    {key: value for key, value in log.items() if not key.startswith(_PREFIX)} for log in logging_outputs
                ]
            log_stats(stats, logging_outputs, sample_size, registered_optimizer(self))
        return reduce_and_log(self, logging_outputs, sample_size, grad_norm)

    return reduce_and_log_stats


def log_stats(stats: Dict[str, Tensor], logging_outputs, sample_size, method: SAM) -> None:
    """Log what the ascents of all workers measured; *stats* are sums over the workers."""
    stats = dict(stats)
    workers, loss = stats.pop("workers"), stats.pop("sam_loss")
    workers = workers if torch.is_tensor(workers) else max(workers, 1.0)
    perturbed = [log["loss"] for log in logging_outputs if "loss" in log]
    if perturbed:
        metrics.log_scalar("sam_gap", (sum(perturbed) - loss) / sample_size, priority=600, round=5)
    # In the units of gnorm, the norm of the gradient of the mean loss: one gradient of all samples with global scope, else
    # the mean over workers of gradients that are each of about sample_size / workers samples.
    grad_norm = stats.pop("sam_grad_norm") / (workers if method.is_global else 1)
    metrics.log_scalar("sam_grad_norm", grad_norm / sample_size, priority=601, round=3)
    for priority, (key, value) in enumerate(stats.items(), start=602):
        if key in method.COUNTS:
            metrics.log_scalar_sum(key, value, priority=priority, round=0)
        else:
            metrics.log_scalar(key, value / workers, priority=priority, round=5)


# ---------------------------------------------------------------------- balancedness


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


def install() -> None:
    wrap(Trainer, "_aggregate_logging_outputs", _wrap_aggregate)
    wrap(Trainer, "_reduce_and_log_stats", _wrap_reduce)
