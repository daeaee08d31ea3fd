"""The registered optimizer inside fairseq's mixed-precision wrappers, and the fp32 master copies that they keep."""

from typing import List

from fairseq.optim import FP16Optimizer
from torch import Tensor


def registered_optimizer(trainer):
    """The optimizer that ``--optimizer`` names, without fairseq's mixed-precision wrapper around it."""
    optimizer = trainer.optimizer
    for attribute in ("fp32_optimizer", "wrapped_optimizer"):
        optimizer = getattr(optimizer, attribute, optimizer)
    return optimizer


def master_copies(optimizer: FP16Optimizer) -> List[Tensor]:
    """The fp32 master copy of each half-precision parameter: views where fairseq has flattened them into one tensor."""
    if not optimizer.has_flat_params:
        return [p.data for p in optimizer.fp32_params]
    return _slices(optimizer, {device: flat.data for device, flat in optimizer.fp32_params.items()})


def master_gradients(optimizer: FP16Optimizer) -> List[Tensor]:
    """The gradient of each master copy, as `FP16Optimizer.step` has put it there: scaled, summed over the workers."""
    if not optimizer.has_flat_params:
        return [p.grad for p in optimizer.fp32_params]
    return _slices(optimizer, {device: flat.grad for device, flat in optimizer.fp32_params.items()})


def _slices(optimizer: FP16Optimizer, flat) -> List[Tensor]:
    """The part of each half-precision parameter in *flat*, one tensor per device."""
    parts, offsets = [], {}
    for p in optimizer.fp16_params:
        offset = offsets.get(p.device.index, 0)
        parts.append(flat[p.device.index][offset : offset + p.numel()].view_as(p))
        offsets[p.device.index] = offset + p.numel()
    return parts
