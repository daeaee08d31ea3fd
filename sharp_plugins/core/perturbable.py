"""Which parameters can be perturbed. Others are refused by name.

Of a sharded parameter a process holds a part only. A perturbation of it would be wrong without a word: its norm would be that of
the part, and the model computes with weights that the sharding gathers from memory of its own, which a climb does not reach.
"""

from typing import Optional, Sequence

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DEMAND = (
    "Perturbation needs parameters that are whole in each process, as under DistributedDataParallel: the norm of a part is not the "
    "norm of the gradient, and the sharding reads weights from its own memory, where a perturbation does not reach"
)


def kind_of_sharding(p: Tensor) -> Optional[str]:
    """Words for the sharding of *p*, or None where it is whole.

    By the names of classes and by the marks that the libraries leave, so that none of them has to be imported.
    """
    classes = {cls.__name__ for cls in type(p).__mro__}
    if "DTensor" in classes:
        return "a DTensor (torch's fully_shard, or tensor parallelism)"
    # torch's FSDP gives its flat parameters a mark, and the parameters that it keeps with use_orig_params=True another;
    # fairscale's FSDP has a class of its own.
    if "FlatParameter" in classes or getattr(p, "_is_flat_param", False) or getattr(p, "_fsdp_flattened", False):
        return "a parameter of FullyShardedDataParallel"
    if hasattr(p, "ds_id"):
        return "a parameter of DeepSpeed's ZeRO-3"
    if getattr(p, "tensor_model_parallel", False):
        return "a parameter of Megatron's tensor parallelism"
    return None


def refuse_sharded(params: Sequence[Tensor]) -> None:
    """Raise ValueError where one of *params* is sharded."""
    for index, p in enumerate(params):
        kind = kind_of_sharding(p)
        if kind is not None:
            raise ValueError(f"parameter {index} of {len(params)}, of shape {tuple(p.shape)}, is {kind}. {_DEMAND}")


def check_params(params: Sequence[Tensor]) -> None:
    """Raise ValueError where there are no *params*, or one of them cannot be perturbed."""
    if not params:
        raise ValueError("there is no parameter with requires_grad=True to perturb")
    refuse_sharded(params)
    others = sorted({str(p.dtype) for p in params} - {str(dtype) for dtype in DTYPES})
    if others:
        raise ValueError(f"params must be of {', '.join(map(str, DTYPES))}, and some are of {', '.join(others)}")


def check_masters(masters: Sequence[Tensor], params: Sequence[Tensor]) -> None:
    """Raise ValueError unless *masters* can be the fp32 master copies of *params*."""
    if [m.shape for m in masters] != [p.shape for p in params]:
        raise ValueError("masters must have the shapes of the trainable params, in their order")
    if any(m.dtype != torch.float32 for m in masters):
        raise ValueError("masters must be fp32 tensors")
    if any(m.numel() and m.data_ptr() == p.data_ptr() for m, p in zip(masters, params)):
        raise ValueError("masters must have memory of their own: fp32 params are their own master copy, and need none")
