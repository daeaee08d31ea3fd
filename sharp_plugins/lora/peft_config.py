"""adapter_config.json of Hugging Face PEFT, from and to LoRA's settings."""

import json
from typing import Any, Collection, Dict, List

from sharp_plugins.networks.expressions import check_expression
from sharp_plugins.networks.lora import LoRASettings

Config = Dict[str, Any]

CONFIG = "adapter_config.json"

# Settings that are read, and those that say where the update came from and not what it is, or choose its layers, which
# its tensors do too. Any other that is set changes what the update computes.
READ = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "lora_dropout", "bias", "init_lora_weights"),
    *("target_modules", "modules_to_save", "rank_pattern", "alpha_pattern"),
}
IGNORED = {
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"),
    *("exclude_modules", "layers_to_transform", "layers_pattern"),
    *("runtime_config", "megatron_core", "qalora_group_size", "eva_config", "loftq_config"),
}
# How A and B began. PEFT's other ways change W too, and the update is then none of the plain model's.
INITS = {**dict.fromkeys((True, False, None, "eva", "orthogonal"), "kaiming"), "gaussian": "gaussian"}


def _is_names(value) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) and part for part in value)


def _is_number(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# What the settings must be that choose layers and modules, where they are set.
CHOOSING = ("a list of names, or one regular expression", lambda value: isinstance(value, str) or _is_names(value))
KINDS = {
    "target_modules": CHOOSING,
    "exclude_modules": CHOOSING,
    "modules_to_save": ("a list of names", _is_names),
    "layers_pattern": ("a name, or a list of names", lambda value: isinstance(value, str) or _is_names(value)),
    "layers_to_transform": (
        "a number, or a list of numbers",
        lambda value: _is_number(value) or (isinstance(value, list) and all(map(_is_number, value))),
    ),
    "task_type": ("a name", lambda value: isinstance(value, str)),
    "auto_mapping": ("names of classes by their settings", lambda value: isinstance(value, dict)),
}


def to_config(settings: LoRASettings, layers: List[str], modules: List[str]) -> Config:
    """The config of an update of *layers*, with *modules* that were trained as a whole."""
    alpha = settings.alpha
    return {
        "peft_type": "LORA",
        "r": settings.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": settings.dropout,
        "target_modules": sorted(layers),
        "bias": settings.bias,
        "modules_to_save": modules or None,
        "init_lora_weights": "gaussian" if settings.init == "gaussian" else True,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "task_type": None,
        "base_model_name_or_path": None,
    }


def is_of_transformers(config: Config) -> bool:
    """Whether PEFT says that it made the adapter for one of transformers' models."""
    library = (config.get("auto_mapping") or {}).get("parent_library")
    return bool(config.get("task_type")) or str(library).startswith("transformers.")


def check_kind(config: Config, harmless: Collection[str] = ()) -> None:
    """Raise ValueError, naming the setting, if the update is not W + s B A or the config is not PEFT's.

    Args:
        harmless: settings that change nothing for this model.
    """
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{CONFIG}: peft_type is {config.get('peft_type')!r}; only LORA and PREFIX_TUNING are read")
    for name, value in config.items():
        if value and name not in (*IGNORED, *READ, *harmless):
            raise ValueError(f"{CONFIG}: {name} is {json.dumps(value)[:200]}, and LoRA here has no such thing")
    for name, (kind, is_right) in KINDS.items():
        value = config.get(name)
        if value is not None and not is_right(value):
            raise ValueError(f"{CONFIG}: {name} must be {kind}, and is {json.dumps(value)[:200]}")
    for name in ("target_modules", "exclude_modules"):
        if isinstance(config.get(name), str):
            try:
                check_expression(config[name])
            except ValueError as error:
                raise ValueError(f"{CONFIG}: {name} {error}") from None
    init = config.get("init_lora_weights")
    if not isinstance(init, (bool, str, type(None))) or init not in INITS:
        raise ValueError(f"{CONFIG}: init_lora_weights is {init!r}, and LoRA here does not begin so")


def from_config(config: Config, target: str, also_train: str) -> LoRASettings:
    """LoRA's settings, with the names of layers and modules that the tensors tell; ValueError: one is out of range."""
    try:
        rank, alpha, dropout = int(config["r"]), float(config["lora_alpha"]), float(config.get("lora_dropout") or 0)
        if config.get("use_rslora") and rank > 0:  # others are refused below
            alpha *= rank**0.5  # PEFT's scale is then alpha/√r
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{CONFIG}: r, lora_alpha and lora_dropout must be there and be numbers ({error})") from error
    init, bias = INITS[config.get("init_lora_weights")], config.get("bias") or "none"
    settings = LoRASettings(rank, alpha, dropout, target, init, bias, also_train or None)
    settings.check()
    return settings
