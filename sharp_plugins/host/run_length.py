"""How long a run will be, which is known once its training data are, and what never happens in it."""

import logging
import math

from fairseq.data.iterators import EpochBatchIterator
from fairseq.dataclass.configs import OptimizationConfig
from fairseq.trainer import Trainer

from sharp_plugins.host.patching import wrap
from sharp_plugins.host.weights import registered_optimizer
from sharp_plugins.optim.sam import SAM

logger = logging.getLogger(__name__)


def last_update(cfg: OptimizationConfig, made: int, epoch: int, left: int, batches: int) -> float:
    """The number of updates at which a run ends by ``--max-update`` or ``--max-epoch``; ∞ where neither ends it.

    Args:
        made: updates so far, as of the checkpoint that the run goes on from.
        epoch: the one that it goes on in, from 1.
        left: the batches that are left of that epoch.
        batches: of an epoch.

    >>> last_update(OptimizationConfig(max_epoch=3, update_freq=[2, 4]), made=0, epoch=1, left=10, batches=10)
    11
    >>> last_update(OptimizationConfig(max_epoch=3), made=14, epoch=2, left=6, batches=10)
    30
    """
    most = cfg.max_update or math.inf
    if not cfg.max_epoch or math.isinf(cfg.max_epoch):
        return most
    whole, by_epoch = math.floor if cfg.skip_remainder_batch else math.ceil, cfg.update_freq
    made += whole(left / by_epoch[min(epoch, len(by_epoch)) - 1])
    made += sum(whole(batches / k) for k in by_epoch[epoch : cfg.max_epoch])  # the last one stays
    return min(most, made + (cfg.max_epoch - max(epoch, min(len(by_epoch), cfg.max_epoch))) * whole(batches / by_epoch[-1]))


def warn_of_a_late_start(method: SAM, cfg: OptimizationConfig, last: float) -> None:
    """Warn where the run ends, at *last* updates, before *method* climbs for the first time: all are the base optimizer's then."""
    if method.first_climb >= last:
        end = f"--max-update {cfg.max_update}" if last == cfg.max_update else f"--max-epoch {cfg.max_epoch}"
        logger.warning(
            f"--sam-start {method.cfg.sam_start:g}: all updates will be plain ones, without {method.cfg._name}'s climb. The first "
            f"climb would be after {method.first_climb} updates, and {end} ends the run after {last}"
        )


def _wrap_get_train_iterator(get):
    def get_train_iterator(self, epoch, *args, **kwargs):
        # The seed of the batches grows with the epoch here; `mends.keep_batches_when_resuming` wants that of the first.
        self.task._sharp_added_to_seed = epoch - 1 if self.cfg.dataset.update_ordered_indices_seed else 0
        try:
            self._sharp_iterator = get(self, epoch, *args, **kwargs)
        finally:
            self.task._sharp_added_to_seed = 0
        return self._sharp_iterator

    return get_train_iterator


def _wrap_begin_epoch(begin):
    """Only here a run knows where in its data a checkpoint lets it go on."""

    def begin_epoch(self, epoch):
        begin(self, epoch)
        # Once, though there is a new iterator for each epoch. Streams do not know their length, nor shards that of the others.
        method, data = registered_optimizer(self), vars(self).pop("_sharp_iterator", None)
        is_first = "_sharp_has_begun" not in vars(self)
        self._sharp_has_begun = True
        if not (is_first and isinstance(method, SAM) and isinstance(data, EpochBatchIterator)):
            return
        cfg, made, left = self.cfg.optimization, self.get_num_updates(), len(data) - data.iterations_in_epoch
        if made <= method.first_climb and not self.task.has_sharded_data("train"):
            warn_of_a_late_start(method, cfg, last_update(cfg, made, epoch, left, len(data)))

    return begin_epoch


def install() -> None:
    wrap(Trainer, "get_train_iterator", _wrap_get_train_iterator)
    wrap(Trainer, "begin_epoch", _wrap_begin_epoch)
