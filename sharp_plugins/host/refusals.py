"""What the plugin's optimizers and criterions cannot be combined with, refused by name before anything is trained."""

from typing import Any, Callable

from fairseq.dataclass.configs import FairseqConfig
from torch import nn


def check_settings(get: Callable[[str], Any], optimizer: str) -> None:
    """Raise ValueError where a setting of the run excludes *optimizer*.

    Args:
        get: gives the value of a setting by its fairseq name, None where there is none.
        optimizer: the name of the registered optimizer, for the message.
    """
    backend = str(get("ddp_backend") or "")
    zero = str(get("zero_sharding") or "none")
    unsupported = {
        "--ddp-backend fully_sharded (FSDP)": backend == "fully_sharded",
        "--ddp-backend slowmo": backend == "slowmo",
        "--tpu": bool(get("tpu")),
        "--pipeline-model-parallel": bool(get("pipeline_model_parallel")),
        "--model-parallel-size above 1": (get("model_parallel_size") or 1) > 1,
        "--use-bmuf": bool(get("use_bmuf")),
        f"--zero-sharding {zero}": zero != "none",
    }
    found = [flag for flag, present in unsupported.items() if present]
    if found:
        raise ValueError(
            f"--optimizer {optimizer} does not work with {', '.join(found)}; it works on one or more devices with "
            "--ddp-backend pytorch_ddp (c10d) or legacy_ddp (no_c10d), in fp32, --fp16, --bf16, --amp and the "
            "memory-efficient variants"
        )
    # fairseq looks for the parameter groups of the torch optimizer, and the composite one has none: --amp would end at the first
    # update, the others in the run that goes on from a checkpoint.
    without = [name for name in ("amp", "memory_efficient_fp16", "memory_efficient_bf16") if get(name)]
    if without and get("base_optimizer") == "composite":
        raise ValueError(
            f"--base-optimizer composite does not work with --{without[0].replace('_', '-')}; it works in fp32, with --fp16 "
            "--fp16-no-flatten-grads, and with --bf16"
        )


def check_config(cfg: FairseqConfig, optimizer: str) -> None:
    """`check_settings` for a whole fairseq config."""
    # fairseq reads what is in the first; the second has copies of some.
    sections = (cfg.common, cfg.distributed_training, cfg.optimization, cfg.optimizer)

    def get(name):
        return next((section[name] for section in sections if name in section), None)

    check_settings(get, optimizer)


def check_scope(cfg: FairseqConfig, criterion) -> None:
    """Raise ValueError where each worker climbs alone, and *criterion* makes a worker's loss of all workers' samples: a worker then
    has no ε of its own. The criterion tells so by its ``couples_workers``, the flag that ends it."""
    flag = getattr(criterion, "couples_workers", None)
    alone = str(getattr(cfg.optimizer, "sam_scope", None)) == "worker"
    if flag and alone and cfg.distributed_training.distributed_world_size > 1:
        raise ValueError(
            "--sam-scope worker: a worker's loss is of all workers' samples here, so it has no ε of its own; use --sam-scope "
            f"global, or {flag}"
        )


# A flag -> where its modules or hooks are from, and what each pass in training mode does there.
_QUANTIZED = {
    "pq": ("fairseq.modules.quant_noise", "writes noise into the weights"),
    "scalar": ("fairseq.modules.quantization.scalar", "is counted, and moves the quantization's scale"),
}


def check_quantization(model: nn.Module, optimizer: str) -> None:
    """Raise ValueError where modules of *model* are quantized while they train: *optimizer* makes several passes, and each would
    find what those before it have left there."""
    for name, module in model.named_modules():
        hooks = [getattr(hook, "__module__", None) or "" for hook in module._forward_pre_hooks.values()]
        for flag, (place, what) in _QUANTIZED.items():
            if any(of.startswith(place) for of in (*hooks, type(module).__module__)):
                raise ValueError(
                    f"--optimizer {optimizer} does not work with --quant-noise-{flag} (here in {name}): each pass {what}, and "
                    "this optimizer makes several; leave it out"
                )


def check_experts(model: nn.Module, optimizer: str) -> None:
    """Raise ValueError where *model* has experts: each worker has other ones, and all workers' samples go through them, so no
    worker has a gradient of its own. In a pass without gradients, as δ-SAM's first one, BASE layers also choose other experts."""
    found = next((name for name, parameter in model.named_parameters() if hasattr(parameter, "expert")), None)
    if found is not None:
        raise ValueError(f"--optimizer {optimizer} does not work with --base-layers (experts, here {found}); leave it out")


def check_ema(cfg: FairseqConfig, criterion) -> None:
    """Raise ValueError where *criterion* needs averaged weights, which it tells by its ``ema_flag``, and there are none,
    or they would stand still: in half precision an update's share of 1 - β is less than the spacing of the weights."""
    flag = getattr(criterion, "ema_flag", None)
    if not flag:
        return
    if not cfg.ema.store_ema:
        raise ValueError(f"{flag} needs averages of the weights: add --store-ema, and say with --ema-decay how slow they are")
    half = [f"--{name}" for name in ("fp16", "bf16") if cfg.common[name]]
    if half and not cfg.ema.ema_fp32:
        raise ValueError(f"{flag} needs averages that move, and with {half[0]} rounding holds them: add --ema-fp32")
