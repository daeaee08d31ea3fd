"""Validations without an improvement, counted across a stop: ``--patience`` and ``--lr-patience``.

fairseq keeps the one count in attributes of its function `should_stop_early`, and the other in torch's scheduler. Its checkpoints
have neither: a run that was resumed counts from zero, and trains longer or with other learning rates than one that never stopped.
"""

import sys
from typing import Any, Dict, Optional

from fairseq.optim.lr_scheduler.reduce_lr_on_plateau import ReduceLROnPlateauLRSchedule

from sharp_plugins.host.patching import wrap

# In a checkpoint's extra_state, and the attributes of the function. Plain numbers, which the safe loader reads.
KEY = "should_stop_early"
COUNTS = ("best", "num_runs")


def _functions() -> list:
    """fairseq's `should_stop_early` where it is loaded; with ``python -m fairseq_cli.train`` the program's own comes first."""
    modules = [sys.modules.get(name) for name in ("__main__", "fairseq_cli.train")]
    return [vars(module)[KEY] for module in modules if module is not None and callable(vars(module).get(KEY))]


def counted(patience: int) -> Dict[str, Any]:
    """What a checkpoint's extra_state gets: nothing without ``--patience``, or before the first validation."""
    for function in _functions() if patience > 0 else ():
        found = {name: vars(function)[name] for name in COUNTS if name in vars(function)}
        if found:
            return {KEY: found}
    return {}


def restore(patience: int, extra_state: Optional[Dict[str, Any]]) -> None:
    """Count on from a checkpoint, or from zero where there is None or it has no counts: another training of this process may
    have left its own."""
    found = (extra_state or {}).get(KEY) or {}
    for function in _functions():
        for name in COUNTS:
            vars(function).pop(name, None)
        if patience > 0:
            vars(function).update({name: found[name] for name in COUNTS if name in found})


def _wrap_scheduler_state_dict(state_dict):
    def state_dict_with_count(self):
        return {**state_dict(self), "num_bad_epochs": self.lr_scheduler.num_bad_epochs}

    return state_dict_with_count


def _wrap_scheduler_load_state_dict(load_state_dict):
    def load_state_dict_with_count(self, state):
        load_state_dict(self, state)
        self.lr_scheduler.num_bad_epochs = state.get("num_bad_epochs", self.lr_scheduler.num_bad_epochs)

    return load_state_dict_with_count


def look_at_the_last_validation(trainer, extra_state: Dict[str, Any]) -> None:
    """Once *trainer* has loaded a checkpoint. At the end of an epoch fairseq saves before the scheduler of ``--lr-patience`` learns
    of that epoch's validation, and a run that goes on from there would leave it out. Here it learns of it now."""
    place, value = extra_state["train_iterator"], extra_state.get("val_loss")
    at_an_epochs_end = place.get("iterations_in_epoch") == 0 and value is not None
    if at_an_epochs_end and isinstance(trainer.lr_scheduler, ReduceLROnPlateauLRSchedule):
        trainer.lr_step(place["epoch"] - 1, value)


def install() -> None:
    """Of ``--lr-patience``; `sharp_plugins.host.state`, which wraps what saves and loads, calls the others."""
    wrap(ReduceLROnPlateauLRSchedule, "state_dict", _wrap_scheduler_state_dict)
    wrap(ReduceLROnPlateauLRSchedule, "load_state_dict", _wrap_scheduler_load_state_dict)
