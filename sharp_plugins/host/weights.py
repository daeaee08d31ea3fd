"""Which tensors are what under each precision: what the model's forward reads, what the base optimizer updates, in which units.

fp32, --amp                       both are the parameters
--fp16, --bf16                    the forward reads half-precision parameters; the base optimizer updates fp32 master copies
                                  of them, with --fp16 by default slices of one flat tensor
--memory-efficient-fp16, -bf16    both are the half-precision parameters
"""

from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from fairseq.optim import AMPOptimizer, FP16Optimizer
from torch import Tensor, nn


def registered_optimizer(trainer):
    """The optimizer that ``--optimizer`` names, without fairseq's mixed-precision wrapper around it."""
    optimizer = trainer.optimizer
    for attribute in ("fp32_optimizer", "wrapped_optimizer"):
        optimizer = getattr(optimizer, attribute, optimizer)
    return optimizer


# ---------------------------------------------------------------------- what the forward reads


def read_by_the_forward(trainer) -> Tuple[Sequence[nn.Parameter], Optional[List[Tensor]]]:
    """The parameters that train, and their fp32 master copies where there are such."""
    optimizer = trainer.optimizer
    if not isinstance(optimizer, FP16Optimizer):
        return list(registered_optimizer(trainer).params), None
    params, masters = optimizer.fp16_params, master_copies(optimizer)
    rounded = all(torch.equal(m.to(p.dtype), p) for p, m in zip(params, masters))
    if not rounded:  # never seen; the next update would overwrite the half-precision weights in any case
        optimizer._sync_fp32_params_to_fp16()
    return params, masters


# ---------------------------------------------------------------------- what the base optimizer updates


class Updated(NamedTuple):
    """What the base optimizer updates.

    index: where the tensor of a parameter is in `weights`, by the parameter's id.
    groups: index of the base optimizer's parameter group for each weight.
    gradients: returns those of the weights.
    """

    index: Dict[int, int]
    weights: List[Tensor]
    groups: List[int]
    gradients: Callable[[], List[Optional[Tensor]]]


def updated_by_the_base(trainer) -> Updated:
    """The tensors that the base optimizer updates, one for each parameter that trains."""
    optimizer = trainer.optimizer
    if isinstance(optimizer, FP16Optimizer):
        params, weights = optimizer.fp16_params, master_copies(optimizer)

        def gradients():
            return master_gradients(optimizer)
    else:  # the wrappers of mixed precision find no parameters of a composite optimizer's
        params = weights = list(registered_optimizer(trainer).params)

        def gradients():
            return [p.grad for p in params]

    return Updated({id(p): i for i, p in enumerate(params)}, weights, _groups(trainer, weights), gradients)


def _groups(trainer, weights: Sequence[Tensor]) -> List[int]:
    groups = list(registered_optimizer(trainer).param_groups)  # the composite optimizer's is a generator
    if len(groups) == 1:
        return [0] * len(weights)
    by_memory = {p.data_ptr(): index for index, group in enumerate(groups) for p in group["params"]}
    return [by_memory[w.data_ptr()] for w in weights]


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


# ---------------------------------------------------------------------- the units of gradients


def loss_scale(trainer) -> Union[float, Tensor]:
    """What the loss was multiplied with before the backward; a tensor under AMP, whose scale is on the device."""
    if isinstance(trainer.optimizer, AMPOptimizer):
        return trainer.optimizer.scaler.scale(torch.ones((), device=trainer.device))
    scaler = getattr(trainer.optimizer, "scaler", None)
    return 1.0 if scaler is None else scaler.loss_scale
