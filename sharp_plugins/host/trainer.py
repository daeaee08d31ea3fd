"""The wrapper around `Trainer.train_step` in which SAM and its relatives find a place, and BAR learns of the update.

    1. the method's extra passes over the same samples (`passes.Passes`), and the climb to w + ε
    2. fairseq's own train_step there: gradients, all-reduce, clipping, loss scaling, logging
    3. the registered optimizer's step returns to w before it updates; however the update ends, w is back

What the method measured travels in fairseq's own logging outputs, so that workers share it at no extra communication.
"""

import argparse
import logging
import os
from typing import Dict

import fairseq.trainer
import torch
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics
from fairseq.optim import AMPOptimizer, FP16Optimizer
from fairseq.trainer import Trainer
from torch import Tensor

from sharp_plugins.core.perturbation import Perturbation
from sharp_plugins.host import effective, flags, frozen, mends, refusals
from sharp_plugins.host.balancing import balancedness_due, log_balancedness, prepare_balancing
from sharp_plugins.host.passes import LostToMemory, Passes
from sharp_plugins.host.patching import wrap
from sharp_plugins.host.statistics import as_if_not_begun
from sharp_plugins.host.weights import master_copies, registered_optimizer
from sharp_plugins.models.base_arch import wrapper_of
from sharp_plugins.optim.bar import BAR
from sharp_plugins.optim.base import STATE_KEY, WrappingOptimizer, wrapping_optimizer
from sharp_plugins.optim.sam import SAM

logger = logging.getLogger(__name__)

_PREFIX = "_sharp_plugins_"  # of what travels in the logging outputs


# ---------------------------------------------------------------------- the weights and their master copies


def build_perturbation(trainer, method: SAM) -> Perturbation:
    """The perturbation of the tensors that the forward reads, whatever the precision."""
    optimizer, cfg = trainer.optimizer, method.cfg
    params, masters = list(method.params), None
    if isinstance(optimizer, FP16Optimizer):
        params, masters = optimizer.fp16_params, master_copies(optimizer)
        rounded = all(torch.equal(m.to(p.dtype), p) for p, m in zip(params, masters))
        if not rounded:  # never seen; the next update would overwrite the half-precision weights in any case
            optimizer._sync_fp32_params_to_fp16()
    return Perturbation(params, cfg.sam_rho, masters, str(cfg.sam_rounding), adaptive=cfg.sam_adaptive, eta=cfg.sam_eta)


# ---------------------------------------------------------------------- one update


def _wrap_train_step(train_step):
    train_step = as_if_not_begun(_with_ascent(mend_overflow_on_cpu(train_step)))

    def train_step_with_method(self, samples, raise_oom=False):
        method, updates = registered_optimizer(self), self.get_num_updates()
        frozen.remember(self)
        if isinstance(method, BAR):
            prepare_balancing(self, method)
        if getattr(self.get_criterion(), "ema_flag", None):
            # fairseq makes its copy on first use: here it is one of w, and not of w + ε.
            self.get_criterion().ema_model = self.ema.get_model
        due = balancedness_due(self)
        logging_output = train_step(self, samples, raise_oom)
        if due and self.get_num_updates() > updates:
            log_balancedness(self)
        return logging_output

    return train_step_with_method


def _with_ascent(train_step):
    def train_step_with_ascent(self, samples, raise_oom=False):
        method = registered_optimizer(self)
        if not isinstance(method, SAM):
            return train_step(self, samples, raise_oom)
        if method.perturbation is None:
            method.perturbation = build_perturbation(self, method)
        # AMP repeats an overflowed update by calling train_step from within itself, at w + ε.
        method.perturbation.descend()
        try:
            if method.is_due(self.get_num_updates()):
                passes = Passes(self, samples, method.is_global, raise_oom)
                try:
                    self._sharp_stats = climb(self, method, passes)
                except LostToMemory:
                    logger.warning("ran out of memory in the ascent: this update is skipped")
                    return None
                except RuntimeError:
                    raise
                except Exception:  # as fairseq does around its own passes
                    method.perturbation.descend()
                    self.consolidate_optimizer()
                    self.save_checkpoint(os.path.join(self.cfg.checkpoint.save_dir, "crash.pt"), {})
                    raise
                samples = passes.samples
                self._sharp_beginning.restore()  # the descent draws, and counts, what the base optimizer's update would have
            return train_step(self, samples, raise_oom)
        finally:
            method.perturbation.descend()
            self._sharp_stats = None

    return train_step_with_ascent


def climb(trainer, method: SAM, passes: Passes) -> Dict[str, Tensor]:
    """Make the method's passes, go to w + ε, and return what was measured on this worker."""
    stats = dict(method.ascend(passes))
    # Measuring is one more sweep over the weights; done for the updates that are logged.
    interval = trainer.cfg.common.log_interval or 1
    measure = (trainer.get_num_updates() + method.cfg.sam_interval) % max(interval, 1) < method.cfg.sam_interval
    ascent = method.perturbation.climb(passes.seed, measure=measure).ascent
    # With global scope .grad is the mean over the workers, each with its share of the sum.
    shares = passes.world_size if method.is_global else 1
    stats["sam_grad_norm"] = ascent.grad_norm * stats.pop("sam_shrink", 1.0) * shares / loss_scale(trainer)
    stats["sam_skipped"] = ascent.skipped
    if measure:
        stats["sam_radius"], stats["sam_projection"] = ascent.radius, ascent.projection
    # Workers with an empty shard do not count.
    weight = 0.0 if all(passes.is_dummy) else 1.0
    stats = {key: value.float() * weight for key, value in stats.items()}
    return {**stats, "workers": weight}


def loss_scale(trainer):
    """What the loss was multiplied with before the backward; a tensor under AMP, whose scale is on the device."""
    if isinstance(trainer.optimizer, AMPOptimizer):
        return trainer.optimizer.scaler.scale(torch.ones((), device=trainer.device))
    scaler = getattr(trainer.optimizer, "scaler", None)
    return 1.0 if scaler is None else scaler.loss_scale


# ---------------------------------------------------------------------- metrics


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
            log_stats(stats, logging_outputs, sample_size, registered_optimizer(self).is_global)
        return reduce_and_log(self, logging_outputs, sample_size, grad_norm)

    return reduce_and_log_stats


def log_stats(stats: Dict[str, Tensor], logging_outputs, sample_size, is_global: bool) -> None:
    """Log what the ascents of all workers measured; *stats* are sums over the workers."""
    stats = dict(stats)
    workers, loss = stats.pop("workers"), stats.pop("sam_loss")
    workers = workers if torch.is_tensor(workers) else max(workers, 1.0)
    perturbed = [log["loss"] for log in logging_outputs if "loss" in log]
    if perturbed:
        metrics.log_scalar("sam_gap", (sum(perturbed) - loss) / sample_size, priority=600, round=5)
    # In the units of gnorm, the norm of the gradient of the mean loss: one gradient of all samples with global scope, else
    # the mean over workers of gradients that are each of about sample_size / workers samples.
    grad_norm = stats.pop("sam_grad_norm") / (workers if is_global else 1)
    metrics.log_scalar("sam_grad_norm", grad_norm / sample_size, priority=601, round=3)
    counts = {"sam_skipped", "dsam_negative", "dsam_nonfinite"}
    for priority, (key, value) in enumerate(stats.items(), start=602):
        if key in counts:
            metrics.log_scalar_sum(key, value, priority=priority, round=0)
        else:
            metrics.log_scalar(key, value / workers, priority=priority, round=5)


# ---------------------------------------------------------------------- checkpoints


def _wrap_save(save):
    def save_checkpoint(self, filename, extra_state):
        # fairseq saves crash.pt from within a failing train_step: no file may hold w + ε, or what a failed pass has counted.
        method = registered_optimizer(self)
        if isinstance(method, SAM) and method.perturbation is not None:
            method.perturbation.descend()
        if getattr(self, "_sharp_beginning", None) is not None:
            self._sharp_beginning.restore()
        frozen.check(self, filename)
        return save(self, filename, extra_state)

    return save_checkpoint


def _wrap_state_dict(state_dict):
    def state_dict_with_precision(self):
        """fairseq saves half-precision weights without their master copy, and a loss scale without its history:
        resuming is then not the same as never having stopped. With the plugin's optimizers it is."""
        state = state_dict(self)
        own = (state.get("last_optimizer_state") or {}).get(STATE_KEY)
        if own is not None:
            if isinstance(self.optimizer, FP16Optimizer):
                own["fp32_params"] = master_copies(self.optimizer)
            if isinstance(self.optimizer, AMPOptimizer):
                own["scaler"] = self.optimizer.scaler.state_dict()
            elif getattr(self.optimizer, "scaler", None) is not None:
                own["scaler"] = dict(vars(self.optimizer.scaler))
        return state

    return state_dict_with_precision


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
    load = mends.start_averages_from_a_plain_checkpoint(load)

    def load_checkpoint(self, *args, **kwargs):
        is_wrapped = wrapper_of(self.cfg.model) is not None
        frozen.forget(self)
        try:
            extra_state = load(self, *args, **kwargs)
        except ValueError as error:
            if is_wrapped and "parameter group" in str(error):
                raise ValueError(OTHER_WEIGHTS) from error
            raise
        if is_wrapped and self._optimizer is not None and not _state_fits(self._optimizer):
            raise ValueError(OTHER_WEIGHTS)
        method = registered_optimizer(self)
        own = getattr(method, "restored_state", None) if isinstance(method, WrappingOptimizer) else None
        if own:
            if "fp32_params" in own and isinstance(self.optimizer, FP16Optimizer):
                with torch.no_grad():
                    torch._foreach_copy_(master_copies(self.optimizer), [m.to(self.device) for m in own["fp32_params"]])
            if "scaler" in own and isinstance(self.optimizer, AMPOptimizer):
                if own["scaler"]:  # empty where it was saved on a CPU
                    self.optimizer.scaler.load_state_dict(own["scaler"])
            elif "scaler" in own and getattr(self.optimizer, "scaler", None) is not None:
                # The window and the limits are this run's flags, the history is the checkpoint's.
                history = ("_iter", "_last_overflow_iter", "_last_rescale_iter", "_overflows_since_rescale")
                vars(self.optimizer.scaler).update({key: own["scaler"][key] for key in history})
            method.restored_state = None
        return extra_state

    return load_checkpoint


def _wrap_amp_state_dict(state_dict):
    """`AMPOptimizer` saves and loads the torch optimizer, past the optimizer that it wraps: with the plugin's, that one."""

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


# ---------------------------------------------------------------------- start-up, and a mend


def _wrap_init(init):
    def __init__(self, cfg, task, model, criterion, quantizer=None):
        if isinstance(cfg, argparse.Namespace):
            cfg = convert_namespace_to_omegaconf(cfg)
        flags.take_back_tpu(cfg)
        effective.check_config(cfg)
        effective.check_criterion(criterion)
        wrapper = wrapper_of(cfg.model)
        if wrapper is not None:
            wrapper.finish(model, cfg.model)
            wrapper.foresee(cfg)
        if frozen.trains_beside_frozen_weights(model):
            frozen.check_writers(cfg.model._name, cfg, model)
        name = getattr(cfg.optimizer, "_name", None)
        method = wrapping_optimizer(name)
        if method is not None:
            method.check(cfg.optimizer)
            refusals.check_config(cfg, name)
            method.check_run(criterion, task, model)
        refusals.check_ema(cfg, criterion)
        init(self, cfg, task, model, criterion, quantizer)

    return __init__


def _wrap_get_module_by_path(get):
    """fairseq looks up a parameter that modules share, to share it again: of a LoRA layer it wants W, not W + s B A."""

    def get_parameter(module, path):
        owner, _, name = path.rpartition(".")
        parameter = module.get_submodule(owner)._parameters.get(name)
        return get(module, path) if parameter is None else parameter

    return get_parameter


def _wrap_build_optimizer(build):
    def build_optimizer(self):
        build(self)
        effective.check_optimizer(self)

    return build_optimizer


def mend_overflow_on_cpu(train_step):
    """fairseq's branch for an overflow under --fp16 calls ``torch.tensor(0.0).cuda()``, which fails without a GPU.

    The rest of that branch is done here instead: the update is skipped and training goes on. For every optimizer.
    """

    def mended(self, samples, raise_oom=False):
        try:
            return train_step(self, samples, raise_oom)
        except (AssertionError, RuntimeError) as error:
            if self.cuda or not isinstance(error.__context__, OverflowError):
                raise
        self.zero_grad()
        with metrics.aggregate("train"):
            metrics.log_scalar("loss_scale", self.optimizer.scaler.loss_scale, priority=700, round=4, weight=0)
            metrics.log_stop_time("train_wall")
        return None

    return mended


def install() -> None:
    wrap(fairseq.trainer, "_get_module_by_path", _wrap_get_module_by_path)
    wrap(Trainer, "__init__", _wrap_init)
    wrap(Trainer, "_build_optimizer", _wrap_build_optimizer)
    wrap(Trainer, "train_step", _wrap_train_step)
    wrap(Trainer, "_aggregate_logging_outputs", _wrap_aggregate)
    wrap(Trainer, "_reduce_and_log_stats", _wrap_reduce)
    wrap(Trainer, "save_checkpoint", _wrap_save)
    wrap(Trainer, "state_dict", _wrap_state_dict)
    wrap(Trainer, "load_checkpoint", _wrap_load)
    wrap(AMPOptimizer, "state_dict", _wrap_amp_state_dict)
    wrap(AMPOptimizer, "load_state_dict", _wrap_amp_load_state_dict)
