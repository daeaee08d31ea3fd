"""One update: the wrapper around `Trainer.train_step` in which SAM and its relatives find a place, and BAR learns of the update.

1. fairseq calls train_step with the update's samples; without one of the plugin's optimizers they go on to its own
2. the method's extra passes over the same samples, and the climb to w + ε          `SAM.ascend`
3. what these drew and counted is put back, so that the descent sees what the base optimizer's only pass would have
4. fairseq's own train_step at w + ε: gradients, all-reduce, clipping, loss scaling, logging
5. its last act is the registered optimizer's step, which returns to w before it updates
6. however the update ends, w is back; and if it was not made, all else is as it was too
"""

import logging
import os
from contextlib import contextmanager
from typing import Dict, Iterator, Optional

from fairseq.logging import metrics
from fairseq.trainer import Trainer
from torch import Tensor

from sharp_plugins.host import frozen
from sharp_plugins.host.balancing import prepare_balancing
from sharp_plugins.host.logs import balancedness_due, log_balancedness, radius_due, sent_along
from sharp_plugins.host.mends import mend_overflow_on_cpu
from sharp_plugins.host.nan_detector import advised_of_the_radius
from sharp_plugins.host.passes import LostToMemory, Passes
from sharp_plugins.host.patching import wrap
from sharp_plugins.host.state import restore_numbers
from sharp_plugins.host.undo import undone_unless_made
from sharp_plugins.host.weights import registered_optimizer
from sharp_plugins.optim.bar import BAR
from sharp_plugins.optim.base import WrappingOptimizer
from sharp_plugins.optim.sam import SAM

logger = logging.getLogger(__name__)


def _wrap_train_step(train_step):
    fairseqs_own = mend_overflow_on_cpu(train_step)

    def train_step_with_method(self, samples, raise_oom=False):
        method, updates, is_logged = registered_optimizer(self), self.get_num_updates(), balancedness_due(self)
        frozen.remember(self)
        restore_numbers(self)
        if getattr(self.get_criterion(), "ema_flag", None):
            # fairseq makes its copy on first use: here it is one of w, and not of w + ε.
            self.get_criterion().ema_model = self.ema.get_model
        if isinstance(method, BAR):
            prepare_balancing(self, method, measure=is_logged)
        if isinstance(method, WrappingOptimizer):
            logging_output = _update(self, method, samples, raise_oom, fairseqs_own)
        else:
            logging_output = fairseqs_own(self, samples, raise_oom)
        if is_logged and self.get_num_updates() > updates:
            log_balancedness(self)
        return logging_output

    return train_step_with_method


def _update(trainer, method: WrappingOptimizer, samples, raise_oom: bool, fairseqs_own):
    if not (isinstance(method, SAM) and method.is_due(trainer.get_num_updates())):
        with undone_unless_made(trainer, method):
            return fairseqs_own(trainer, samples, raise_oom)
    method.perturbation  # noqa: B018  # is made here at first, and refuses what cannot be perturbed before any pass
    with _told_at_w(trainer, samples), undone_unless_made(trainer, method) as beginning:
        with _on_the_clock():
            passes = Passes(trainer, samples, method.is_global, raise_oom)
            measured = _try_to_ascend(trainer, method, passes)
        if measured is None:
            return None
        beginning.restore()
        is_alone = method.is_global or passes.world_size == 1
        with sent_along(trainer, measured, passes.has_data), advised_of_the_radius(measured, is_alone):
            return fairseqs_own(trainer, passes.samples, raise_oom)


def _tell_nothing(model, num_updates):
    pass


@contextmanager
def _told_at_w(trainer, samples) -> Iterator[None]:
    """Before each batch's pass fairseq tells the model the number of updates. Some models move something then, as data2vec does its
    teacher towards its own weights. Here they are told at w, as often as in a plain update, and not before the method's passes."""
    model = trainer.get_model()
    kind = type(model)  # not the model itself: a copy made meanwhile, as of --store-ema, would never be told again
    if kind.set_num_updates is _tell_nothing:  # AMP repeats an update from within itself
        yield
        return
    trainer.model.train()  # as a plain update's pass does before: some models stand still while they evaluate
    for _ in samples:
        model.set_num_updates(trainer.get_num_updates())
    own = vars(kind).get("set_num_updates")
    kind.set_num_updates = _tell_nothing
    try:
        yield
    finally:
        if own is None:
            del kind.set_num_updates
        else:
            kind.set_num_updates = own


@contextmanager
def _on_the_clock() -> Iterator[None]:
    """``train_wall`` is what fairseq's own train_step takes. Here the ascent counts too, however it ends."""
    with metrics.aggregate("train"):
        metrics.log_start_time("train_wall", priority=800, round=0)
    try:
        yield
    finally:
        with metrics.aggregate("train"):
            metrics.log_stop_time("train_wall")


def _try_to_ascend(trainer, method: SAM, passes: Passes) -> Optional[Dict[str, Tensor]]:
    """Make the method's passes, go to w + ε, and return what was measured; None where the update is given up for want of memory."""
    try:
        return method.ascend(passes, measure=radius_due(trainer, method.cfg.sam_interval))
    except LostToMemory:
        logger.warning("ran out of memory in the ascent: this update is skipped")
        return None
    except RuntimeError:
        raise
    except Exception:  # as fairseq does around its own passes
        trainer.consolidate_optimizer()
        trainer.save_checkpoint(os.path.join(trainer.cfg.checkpoint.save_dir, "crash.pt"), {})
        raise


def install() -> None:
    wrap(Trainer, "train_step", _wrap_train_step)
