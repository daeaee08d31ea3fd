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


def updates_of_the_run(cfg: OptimizationConfig, batches: int) -> float:
    """The updates of a run over epochs of *batches* batches, which ``--max-update`` or ``--max-epoch`` ends; ∞ where neither does.

    >>> updates_of_the_run(OptimizationConfig(max_epoch=3, update_freq=[2, 4]), batches=10)
    11
    """
    most = cfg.max_update or math.inf
    epochs = cfg.max_epoch or math.inf
    if math.isinf(epochs):
        return most
    first, last = cfg.update_freq[:epochs], cfg.update_freq[-1]
    whole = math.floor if cfg.skip_remainder_batch else math.ceil
    return min(most, sum(whole(batches / k) for k in first) + (epochs - len(first)) * whole(batches / last))


def warn_of_a_late_start(method: SAM, cfg: OptimizationConfig, batches: int) -> None:
    """Warn where the run ends before *method* climbs for the first time: all of its updates are then the base optimizer's."""
    updates = updates_of_the_run(cfg, batches)
    if method.first_climb >= updates:
        end = f"--max-update {cfg.max_update}" if updates == cfg.max_update else f"--max-epoch {cfg.max_epoch}"
        logger.warning(
            f"--sam-start {method.cfg.sam_start:g}: all updates will be plain ones, without {method.cfg._name}'s climb. The first "
            f"climb would be after {method.first_climb} updates, and {end} ends the run after {updates}"
        )


def _wrap_get_train_iterator(get):
    def get_train_iterator(self, *args, **kwargs):
        iterator, method = get(self, *args, **kwargs), registered_optimizer(self)
        # Once, though fairseq asks anew for each epoch. Streams do not know their length.
        if isinstance(method, SAM) and isinstance(iterator, EpochBatchIterator) and not hasattr(self, "_sharp_knows_length"):
            self._sharp_knows_length = True
            warn_of_a_late_start(method, self.cfg.optimization, len(iterator))
        return iterator

    return get_train_iterator


def install() -> None:
    wrap(Trainer, "get_train_iterator", _wrap_get_train_iterator)
