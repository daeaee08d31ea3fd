"""Frozen weights stay as they are: what is known to write into them is refused at start-up, and what is not known is noticed.

LoRA, adapters and prefixes train next to weights that nobody updates, so nobody would see that something else in a run changes
them. Their checksums are taken before the first update, and compared before each checkpoint is written.
"""

import logging
import os
from typing import Any, Callable, Dict, List, Optional

import torch
from fairseq import quantization_utils
from torch import Tensor, nn

from sharp_plugins.host.patching import wrap
from sharp_plugins.networks.bottleneck import Bottleneck
from sharp_plugins.networks.low_rank import LoRALinear
from sharp_plugins.networks.prefix import Prefix

logger = logging.getLogger(__name__)

# Words of 64 bits that are summed at a time: their products fit a CPU's cache.
CHUNK = 2**17


# ---------------------------------------------------------------------- checksums


def checksums(tensors: List[Tensor]) -> Tensor:
    """(len(tensors),) int64, on the device of the first: for each tensor a sum over its bits in words of 64, weighted by position,
    modulo 2^64.

    The weights are odd, so that one word that has changed changes its chunk's sum. Moves nothing to the host.
    """
    positions: Dict[torch.device, Tensor] = {}
    sums = []
    for tensor in tensors:
        given = tensor.detach().reshape(-1)
        if given.storage_offset():
            given = given.clone()  # words begin where memory does
        bits = given.view(torch.uint8)
        whole = len(bits) // 8 * 8
        if bits.device not in positions:
            positions[bits.device] = torch.arange(1, 2 * CHUNK, 2, device=bits.device)
        total = (bits[whole:] * positions[bits.device][: len(bits) - whole]).sum()
        for chunk in bits[:whole].view(torch.int64).split(CHUNK):
            total = 31 * total + (chunk * positions[bits.device][: len(chunk)]).sum()
        sums.append(total.to(tensors[0].device))
    return torch.stack(sums)


class FrozenWeights:
    """The weights of a model that do not train, as they are now.

    Example::

        >>> model = nn.Linear(2, 1).requires_grad_(False)
        >>> frozen = FrozenWeights(model)
        >>> _ = model.weight.data.add_(1)
        >>> frozen.changed()
        ['weight']
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.names = [name for name, p in model.named_parameters() if not p.requires_grad]
        self.sums = self._sums()

    def _sums(self) -> Tensor:
        now = dict(self.model.named_parameters())  # a module may have been given another parameter under the same name
        gone = torch.zeros(0, device=next(iter(now.values())).device)
        return checksums([now.get(name, gone) for name in self.names]) if self.names else gone

    def changed(self) -> List[str]:
        """Names of those that are no longer the same, bit for bit. Waits for the device once."""
        return [name for name, differs in zip(self.names, (self._sums() != self.sums).tolist()) if differs]


# ---------------------------------------------------------------------- in a run


def trains_beside_frozen_weights(model: nn.Module) -> bool:
    """Whether *model* has LoRA's updates, adapters or a prefix."""
    return any(isinstance(module, (LoRALinear, Bottleneck, Prefix)) for module in model.modules())


def remember(trainer) -> None:
    """Before an update: remember the frozen weights, if that has not been done."""
    if not hasattr(trainer, "_sharp_frozen"):
        is_sharded = trainer.cfg.distributed_training.ddp_backend == "fully_sharded"  # no rank has whole weights then
        watched = not is_sharded and trains_beside_frozen_weights(trainer.get_model())
        trainer._sharp_frozen = FrozenWeights(trainer.get_model()) if watched else None


def forget(trainer) -> None:
    """When a checkpoint is loaded: its frozen weights are the ones to remember."""
    vars(trainer).pop("_sharp_frozen", None)


def check(trainer, filename: str) -> None:
    """Before *filename* is written: raise RuntimeError where a frozen weight is no longer what it was before the first update.

    fairseq calls it on the rank that saves; the others end as after any error there. A crash.pt is written all the same, with a
    line in the log: another error is on its way then, and it replaces no good file.
    """
    frozen: Optional[FrozenWeights] = getattr(trainer, "_sharp_frozen", None)
    changed = frozen.changed() if frozen is not None else []
    if not changed:
        return
    others = f" and {len(changed) - 1} others have" if len(changed) > 1 else " has"
    message = (
        f"the frozen weight {changed[0]}{others} changed since this training began. LoRA, adapters and prefixes leave frozen "
        "weights as they are, so something else in this run writes into them: a hook, a method of the model or the task, or "
        "another option. "
    )
    if os.path.basename(filename) == "crash.pt":
        logger.error(f"{message}{filename} holds the changed weights.")
    else:
        raise RuntimeError(f"{message}{filename} is not written, and the checkpoints that were written before stay.")


# ---------------------------------------------------------------------- at start-up

_WHY = "writes into the model's weights, also into the frozen ones: leave it out"


def check_flags(get: Callable[[str], Any], arch: str) -> None:
    """Raise ValueError where a flag asks for quantization while *arch*, "lora" for one, trains beside frozen weights.

    Args:
        get: gives the value of a flag by its fairseq name, None where there is none.
    """
    for name in ("quant_noise_pq", "quant_noise_scalar", "quantization_config_path"):
        if get(name):
            raise ValueError(f"--arch {arch} does not work with --{name.replace('_', '-')} {get(name)}, which {_WHY}")


def check_writers(arch: str, cfg, model: nn.Module) -> None:
    """`check_flags` for a whole config and the model that was built from it, which shows it however it was asked for."""
    check_flags(cfg.common.get, arch)
    for name, module in model.named_modules():
        hooks = module._forward_pre_hooks.values()
        if any(getattr(hook, "__module__", None) == "fairseq.modules.quant_noise" for hook in hooks):
            raise ValueError(f"--arch {arch} does not work with --quant-noise-pq (here in {name}), which {_WHY}")


def _wrap_quantize_scalar(quantize):
    """Tasks call it when they have built the model, with the model's config. It knows no LoRA layers."""

    def quantize_model_scalar(model, model_cfg):
        if trains_beside_frozen_weights(model) and getattr(model_cfg, "quant_noise_scalar", 0):
            raise ValueError(f"--arch prefix, lora and adapter do not work with --quant-noise-scalar, which {_WHY}")
        return quantize(model, model_cfg)

    return quantize_model_scalar


def install() -> None:
    wrap(quantization_utils, "quantize_model_scalar", _wrap_quantize_scalar)
