"""Parameters of which a process holds a part only: recognised, and refused by name.

A perturbation of them would be wrong without a word: its norm would be that of the part, and the model computes with
weights that the sharding gathers from memory of its own, which a climb does not reach.
"""

from typing import Optional, Sequence

import torch

_DEMAND = (
    "Perturbation needs parameters that are whole in each process, as under DistributedDataParallel: the norm of a part is not the "
    "norm of the gradient, and the sharding reads weights from its own memory, where a perturbation does not reach"
)


def kind_of_sharding(p: torch.Tensor) -> Optional[str]:
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


def refuse_sharded(params: Sequence[torch.Tensor]) -> None:
    """Raise ValueError where one of *params* is sharded."""
    for index, p in enumerate(params):
        kind = kind_of_sharding(p)
        if kind is not None:
            raise ValueError(f"parameter {index} of {len(params)}, of shape {tuple(p.shape)}, is {kind}. {_DEMAND}")
