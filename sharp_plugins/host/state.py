"""What a checkpoint holds besides fairseq's own, and that it never holds w + ε. `sharp_plugins.host.saving` writes the files.

fairseq saves half-precision weights without their master copy, a loss scale without its history, under ``--amp`` the state of
the torch optimizer, past the optimizer that it wraps, the averages of ``--store-ema`` without what ``--ema-update-freq`` has
counted, and nothing of the numbers that some models draw from NumPy (layer drop in wav2vec 2.0). Resuming is then not the same as
never having stopped. With the plugin's optimizers it is.
"""

import torch
from fairseq.optim import AMPOptimizer, FP16Optimizer
from fairseq.trainer import Trainer
from torch import Tensor

from sharp_plugins.host import frozen, patience
from sharp_plugins.host.mends import start_averages_from_a_plain_checkpoint
from sharp_plugins.host.patching import wrap
from sharp_plugins.host.randomness import numpy_state, restore_numpy_state
from sharp_plugins.host.undo import undo
from sharp_plugins.host.weights import master_copies, registered_optimizer
from sharp_plugins.models.base_arch import wrapper_of
from sharp_plugins.optim.base import STATE_KEY, WrappingOptimizer


def _wrap_save(save):
    def save_checkpoint(self, filename, extra_state):
        # fairseq saves crash.pt from within a failing train_step: no file may hold w + ε, or what a failed pass has counted.
        undo(self)
        frozen.check(self, filename)
        return save(self, filename, {**extra_state, **patience.counted(self.cfg.checkpoint.patience)})

    return save_checkpoint


# ---------------------------------------------------------------------- what is saved

# In fairseq's extra_state, beside the averages: how many updates they have seen since they last moved. The number of all updates
# does not tell it: --reset-optimizer counts these anew, and averages may start in the middle of a run.
EMA_COUNTER = "ema_update_freq_counter"


def _wrap_state_dict(state_dict):
    def state_dict_with_precision(self):
        state = state_dict(self)
        if self.cfg.ema.store_ema:
            state["extra_state"][EMA_COUNTER] = self.ema.update_freq_counter
        own = (state.get("last_optimizer_state") or {}).get(STATE_KEY)
        if own is not None:
            if isinstance(self.optimizer, FP16Optimizer):
                own["fp32_params"] = master_copies(self.optimizer)
            if isinstance(self.optimizer, AMPOptimizer):
                own["scaler"] = self.optimizer.scaler.state_dict()
            elif getattr(self.optimizer, "scaler", None) is not None:
                own["scaler"] = dict(vars(self.optimizer.scaler))
            numbers = numpy_state(self.cfg)
            if numbers is not None:
                own["numpy_random"] = numbers
        return state

    return state_dict_with_precision


def _restore_precision(trainer, own) -> None:
    """The reverse: *own* is what `state_dict_with_precision` has added."""
    optimizer = trainer.optimizer
    if "fp32_params" in own and isinstance(optimizer, FP16Optimizer):
        with torch.no_grad():
            torch._foreach_copy_(master_copies(optimizer), [m.to(trainer.device) for m in own["fp32_params"]])
    if "scaler" in own and isinstance(optimizer, AMPOptimizer):
        if own["scaler"]:  # empty where it was saved on a CPU
            optimizer.scaler.load_state_dict(own["scaler"])
    elif "scaler" in own and getattr(optimizer, "scaler", None) is not None:
        # The window and the limits are this run's flags, the history is the checkpoint's.
        history = ("_iter", "_last_overflow_iter", "_last_rescale_iter", "_overflows_since_rescale")
        vars(optimizer.scaler).update({key: own["scaler"][key] for key in history})
    trainer._sharp_numpy_random = own.get("numpy_random")


def restore_numbers(trainer) -> None:
    """Before an update: if it is the first one after a checkpoint was loaded, let NumPy go on from there. Not when it is loaded:
    the data, which are loaded next, may draw from it too."""
    numbers = vars(trainer).pop("_sharp_numpy_random", None)
    if numbers is not None:
        restore_numpy_state(trainer.cfg, numbers)


def _wrap_amp_state_dict(state_dict):
    def state_dict_of_wrapped(self):
        is_own = isinstance(self.fp32_optimizer, WrappingOptimizer)
        return self.fp32_optimizer.state_dict() if is_own else state_dict(self)

    return state_dict_of_wrapped


def _wrap_amp_load_state_dict(load_state_dict):
    def load_state_dict_of_wrapped(self, state, optimizer_overrides=None):
        if isinstance(self.fp32_optimizer, WrappingOptimizer):
            self.fp32_optimizer.load_state_dict(state, optimizer_overrides)
        else:
            load_state_dict(self, state, optimizer_overrides)

    return load_state_dict_of_wrapped


# ---------------------------------------------------------------------- what is loaded


OTHER_WEIGHTS = (
    "the checkpoint's optimizer state is not one of this model's trained weights: to start from a pretrained checkpoint use "
    "--finetune-from-model, or --restore-file with --reset-optimizer, --reset-dataloader and --reset-meters"
)


def _state_fits(optimizer) -> bool:
    """Whether the state of flattened weights, which torch takes for one parameter, has their length."""
    return all(
        value.shape == p.shape
        for p, state in getattr(optimizer.optimizer, "state", {}).items()
        for value in state.values()
        if p.dim() == 1 and isinstance(value, Tensor) and value.dim() == 1
    )


def _wrap_load(load):
    load = start_averages_from_a_plain_checkpoint(load)

    def load_checkpoint(
        self, filename, reset_optimizer=False, reset_lr_scheduler=False, optimizer_overrides=None, reset_meters=False
    ):
        is_wrapped = wrapper_of(self.cfg.model) is not None
        frozen.forget(self)
        try:
            extra_state = load(self, filename, reset_optimizer, reset_lr_scheduler, optimizer_overrides, reset_meters)
        except ValueError as error:
            if is_wrapped and "parameter group" in str(error):
                raise ValueError(OTHER_WEIGHTS) from error
            raise
        if is_wrapped and self._optimizer is not None and not _state_fits(self._optimizer):
            raise ValueError(OTHER_WEIGHTS)
        method = registered_optimizer(self)
        own = getattr(method, "restored_state", None) if isinstance(method, WrappingOptimizer) else None
        if own:
            _restore_precision(self, own)
            method.restored_state = None
        # fairseq's own rule for the best value so far.
        patience.restore(self.cfg.checkpoint.patience, None if reset_optimizer or reset_meters else extra_state)
        if extra_state is not None and not (reset_optimizer or reset_lr_scheduler):
            patience.look_at_the_last_validation(self, extra_state)
        if self.cfg.ema.store_ema and EMA_COUNTER in (extra_state or {}):
            self.ema.update_freq_counter = extra_state[EMA_COUNTER]
        return extra_state

    return load_checkpoint


def install() -> None:
    wrap(Trainer, "save_checkpoint", _wrap_save)
    wrap(Trainer, "state_dict", _wrap_state_dict)
    wrap(Trainer, "load_checkpoint", _wrap_load)
    wrap(AMPOptimizer, "state_dict", _wrap_amp_state_dict)
    wrap(AMPOptimizer, "load_state_dict", _wrap_amp_load_state_dict)
