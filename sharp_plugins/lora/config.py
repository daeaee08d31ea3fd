"""The config in a fairseq checkpoint, from LoRA's to the base architecture's and back.

``cfg["model"]`` has the base architecture's settings, with ``arch`` or ``_name`` "lora", ``base_arch`` and ``lora_...``
beside them: an argparse.Namespace of all flags from the command line, a dict from hydra.
"""

import argparse
from dataclasses import fields
from typing import Any, Dict, Optional, Tuple

from sharp_plugins.networks.lora import LoRASettings

Config = Dict[str, Any]
OWN_TASKS = ("candidates", "cloze", "contrastive_sentences", "prompted_generation")


def flags_of(settings: LoRASettings) -> Config:
    """The settings by the names that they have among fairseq's."""
    return {f"lora_{name}": value for name, value in vars(settings).items()}


def model_settings(cfg: Config) -> Config:
    """A copy of the model's settings, with the name of its architecture as ``_name``; ValueError if there is none."""
    model = cfg.get("model")
    model = vars(model) if isinstance(model, argparse.Namespace) else model
    if not isinstance(model, dict) or not (model.get("_name") or model.get("arch")):
        raise ValueError("its config names no architecture")
    return {**model, "_name": model.get("_name") or model["arch"]}


def lora_settings(cfg: Config) -> Tuple[str, LoRASettings]:
    """The base architecture's name and LoRA's settings; ValueError if it is no config of ``--arch lora``."""
    model = model_settings(cfg)
    if model["_name"] != "lora" or not model.get("base_arch"):
        raise ValueError(f"it has LoRA updates, but its architecture is {model['_name']}: lora_alpha is not known")
    given = {name: model.get(f"lora_{name}") for name in LoRASettings.__dataclass_fields__}
    settings = LoRASettings(**{name: value for name, value in given.items() if value is not None})
    settings.check()
    return model["base_arch"], settings


def lora_config(cfg: Config, settings: LoRASettings) -> Config:
    """A plain checkpoint's config as one of ``--arch lora``."""
    return wrapped_config(cfg, "lora", flags_of(settings))


def wrapped_config(cfg: Config, arch: str, own: Config) -> Config:
    """A plain checkpoint's config as one of *arch*, which changes the plain architecture by its *own* settings."""
    model = model_settings(cfg)
    if not isinstance(cfg["model"], argparse.Namespace):
        model = _known_to(model["_name"], model)
    model.update(own, base_arch=model["_name"], _name=arch)
    if "arch" in model:
        model["arch"] = arch
    return {**cfg, "model": argparse.Namespace(**model) if isinstance(cfg["model"], argparse.Namespace) else model}


def _known_to(arch: str, model: Config) -> Config:
    """The settings that *arch* has. A dict may hold others, as where all flags were in it, or of another version: fairseq leaves
    them out of a plain model of a checkpoint, and refuses them of one that is inside another."""
    try:
        from fairseq.models import MODEL_DATACLASS_REGISTRY

        import sharp_plugins.models.decoder  # noqa: F401  # registers its own
    except Exception:  # a broken fairseq raises what it likes
        return model
    if arch not in MODEL_DATACLASS_REGISTRY:
        return model
    known = {field.name for field in fields(MODEL_DATACLASS_REGISTRY[arch])}
    return {name: value for name, value in model.items() if name in known or name == "_name"}


def plain_config(cfg: Config, base_arch: str) -> Config:
    """A LoRA checkpoint's config as one of the base architecture.

    Namespaces become dicts: with torch 2.6 and later, fairseq's loader refuses a Namespace unless a plugin allows it.
    The model's own stays one where a dict may not be enough (see `takes_a_dict`).
    """
    plain = _plain(cfg, base_arch)
    if isinstance(cfg["model"], argparse.Namespace) and not takes_a_dict(base_arch):
        plain["model"] = argparse.Namespace(**plain["model"])
    return plain


def _plain(value: Any, base_arch: str) -> Any:
    if isinstance(value, list):
        return [_plain(part, base_arch) for part in value]
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if not isinstance(value, dict):
        return value
    # Parts without a config class of their own (a legacy task, for one) have a copy of all flags.
    kept = {key: part for key, part in value.items() if key != "base_arch" and not str(key).startswith("lora_")}
    kept.update({key: base_arch for key in ("arch", "_name") if kept.get(key) == "lora"})
    return {key: _plain(part, base_arch) for key, part in kept.items()}


def takes_a_dict(arch: str) -> bool:
    """Whether the model of *arch* is known to find all its flags in a dict.

    Models that build on fairseq's TransformerConfig get flags beyond its fields from a Namespace alone. Without them a
    BART does not load, and others might compute something else. Where there is no fairseq that can be asked, nothing is known.
    """
    try:
        from fairseq.models import ARCH_MODEL_REGISTRY, roberta, transformer, transformer_lm
    except Exception:  # a broken fairseq raises what it likes
        return False
    known = (transformer.TransformerModel, transformer_lm.TransformerLanguageModel, roberta.RobertaModel)
    return ARCH_MODEL_REGISTRY.get(arch) in known or _is_decoder(arch)


def is_fairseqs(arch: str) -> bool:
    """Whether a checkpoint of *arch* can be loaded without this package. Its own architectures are named ``sharp_...``."""
    return not arch.startswith("sharp_")


def own_task(cfg: Config) -> Optional[str]:
    """The task of a checkpoint, where it is one of this package: fairseq finds no model in such a file without it.

    >>> own_task({"task": {"_name": "cloze"}}), own_task({"task": {"_name": "translation"}})
    ('cloze', None)
    """
    task = cfg.get("task")
    task = vars(task) if isinstance(task, argparse.Namespace) else task
    name = (task.get("_name") or task.get("task")) if isinstance(task, dict) else None
    return name if name in OWN_TASKS else None


def _is_decoder(arch: str) -> bool:
    """Whether *arch* is a decoder of this package; without fairseq it is not known, and False."""
    try:
        from fairseq.models import ARCH_MODEL_REGISTRY

        from sharp_plugins.models.decoder import DecoderModel
    except Exception:  # a broken fairseq raises what it likes
        return False
    return ARCH_MODEL_REGISTRY.get(arch) is DecoderModel


def decoder_settings(model: Config) -> Config:
    """A model's settings, as `model_settings` gives them; complete where it is a decoder of this package, whose defaults a config
    need not have. Without fairseq they are as they were."""
    if "decoder_positions" not in model:
        arch = model.get("base_arch") or model["_name"]
        if not _is_decoder(arch):
            return model
        from fairseq.models import ARCH_CONFIG_REGISTRY

        from sharp_plugins.models.decoder_config import DEFAULTS

        args = argparse.Namespace(**model)
        if arch in ARCH_CONFIG_REGISTRY:
            ARCH_CONFIG_REGISTRY[arch](args)
        model = {**DEFAULTS, **{name: value for name, value in vars(args).items() if value is not None}}
    return {**model, "max_target_positions": model.get("max_target_positions") or model.get("tokens_per_sample")}
