"""Start-up: what `Trainer` does before it trains. What cannot work is refused here, by name.

`sharp_plugins.host.flags` is before this, on the command line; `refusals` and `effective` hold the checks.
"""

import argparse
import functools
import logging

import fairseq.trainer
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed.utils import is_master
from fairseq.trainer import Trainer

from sharp_plugins.core.pairs import parameter_at
from sharp_plugins.host import effective, flags, frozen, refusals
from sharp_plugins.host.patching import wrap
from sharp_plugins.host.weights import read_by_the_forward, registered_optimizer
from sharp_plugins.models.base_arch import wrapper_of
from sharp_plugins.optim.base import wrapping_optimizer
from sharp_plugins.optim.dsam import DSAM
from sharp_plugins.optim.sam import SAM

logger = logging.getLogger(__name__)


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
            refusals.check_scope(cfg, criterion)
            if issubclass(method, SAM):
                refusals.check_quantization(model, name)
                refusals.check_experts(model, name)
            method.check_run(criterion, task, model)
            if issubclass(method, DSAM):
                _advise_on_precision(cfg, name)
        refusals.check_ema(cfg, criterion)
        init(self, cfg, task, model, criterion, quantizer)

    return __init__


def _advise_on_precision(cfg, name: str) -> None:
    """Of half precision: at a random point at distance ρ a loss changes by little (measured: examples/balancedness)."""
    half = [flag for flag in ("fp16", "bf16", "amp") if getattr(cfg.common, flag)]
    if half and is_master(cfg.distributed_training):
        logger.warning(
            f"--optimizer {name} weighs sentences by how their losses change at a distance of --sam-rho. With a small one and "
            f"--{half[0]} these changes are partly rounding, with --bf16 mostly. Train in fp32, or with --optimizer sam"
        )


def _wrap_get_module_by_path(get):
    """fairseq looks up a parameter that modules share, to share it again: of a LoRA layer it wants W, not W + s B A."""

    def get_parameter(module, path):
        parameter = parameter_at(module, path)
        return get(module, path) if parameter is None else parameter

    return get_parameter


def _wrap_build_optimizer(build):
    def build_optimizer(self):
        build(self)
        effective.check_optimizer(self)
        method = registered_optimizer(self)
        if isinstance(method, SAM):
            method.forward_tensors = functools.partial(read_by_the_forward, self)

    return build_optimizer


def install() -> None:
    wrap(fairseq.trainer, "_get_module_by_path", _wrap_get_module_by_path)
    wrap(Trainer, "__init__", _wrap_init)
    wrap(Trainer, "_build_optimizer", _wrap_build_optimizer)
