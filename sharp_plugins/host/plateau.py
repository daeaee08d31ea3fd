"""``--lr-scheduler reduce_lr_on_plateau`` in a run that goes on.

fairseq saves the best value so far, and not how many epochs have had no better one (``--lr-patience``). It also saves at the end
of an epoch before the scheduler learns of that epoch's validation, so that a run which goes on from there leaves it out. Here
the number is saved, and the scheduler learns of the validation when the checkpoint is loaded.
"""

from fairseq.optim.lr_scheduler.reduce_lr_on_plateau import ReduceLROnPlateauLRSchedule

from sharp_plugins.host.patching import wrap

BAD_EPOCHS = "num_bad_epochs"


def _wrap_state_dict(state_dict):
    def state_dict_with_bad_epochs(self):
        return {**state_dict(self), BAD_EPOCHS: self.lr_scheduler.num_bad_epochs}

    return state_dict_with_bad_epochs


def _wrap_load_state_dict(load_state_dict):
    def load_state_dict_with_bad_epochs(self, state):
        load_state_dict(self, state)
        self.lr_scheduler.num_bad_epochs = state.get(BAD_EPOCHS, 0)
        self._sharp_goes_on = True

    return load_state_dict_with_bad_epochs


def look_at_the_last_validation(trainer, extra_state) -> None:
    """Once *trainer* has loaded a checkpoint: where it was saved at the end of an epoch, do what fairseq does after saving."""
    scheduler = trainer.lr_scheduler
    if not (isinstance(scheduler, ReduceLROnPlateauLRSchedule) and vars(scheduler).pop("_sharp_goes_on", False)):
        return
    place, value = extra_state["train_iterator"], extra_state.get("val_loss")
    if place.get("iterations_in_epoch") == 0 and value is not None:
        trainer.lr_step(place["epoch"] - 1, value)


def install() -> None:
    wrap(ReduceLROnPlateauLRSchedule, "state_dict", _wrap_state_dict)
    wrap(ReduceLROnPlateauLRSchedule, "load_state_dict", _wrap_load_state_dict)
