"""Whether fairseq knows the settings of a config: looked at before any training starts."""

import functools
import math
from argparse import ArgumentParser, Namespace
from copy import deepcopy
from dataclasses import fields, is_dataclass
from typing import Any, Dict, Optional, Sequence, Set

from fairseq.criterions import CRITERION_REGISTRY
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.initialize import add_defaults
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.optim import OPTIMIZER_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_REGISTRY
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

import sharp_plugins
from sharp_plugins.runs.checkpoints import BEST, LAST
from sharp_plugins.runs.configs import LISTS

# Whole numbers that the engine computes with, and the smallest of each. fairseq takes a 0 as "none", or asserts after its start.
WHOLE = {
    "optimization.max_update": 1,
    "optimization.max_epoch": 0,
    "optimization.update_freq": 1,
    "dataset.batch_size": 1,
    "dataset.max_tokens": 0,
    "dataset.required_batch_size_multiple": 1,
    "dataset.validate_after_updates": 0,
    "dataset.validate_interval": 1,
    "checkpoint.save_interval": 1,
    "common.log_interval": 1,
    "distributed_training.distributed_world_size": 1,
    "lr_scheduler.warmup_updates": 0,
    "model.prefix_length": 1,
    "task.max_length": 1,
}
NEVER_NULL = ("dataset.required_batch_size_multiple",)  # a null of the others is as if they were not set
# Flags that leave a part of a checkpoint unread where a run goes on.
RESETS = ("reset_optimizer", "reset_lr_scheduler", "reset_meters", "reset_dataloader")
# A part of a config -> what may be its `_name`; a criterion's goes with the method.
NAMES = {
    **{part: REGISTRIES[part]["registry"] for part in ("optimizer", "lr_scheduler", "tokenizer", "bpe")},
    "model": ARCH_MODEL_REGISTRY,
    "task": TASK_REGISTRY,
}
# Parts of a config that fairseq's other commands read.
NOT_OF_TRAINING = ("generation", "eval_lm", "interactive", "common_eval")


def has_criterion(config: Dict) -> bool:
    """Whether there is a criterion of the config's name: FreeLB, for one, is for classification alone."""
    sharp_plugins.register()
    return config["criterion"]["_name"] in CRITERION_REGISTRY


def check_values(config: Dict, name: str, flag: str = "--configs", reads: Sequence[str] = ()) -> None:
    """Raise ValueError where a config has a part that fairseq does not know, or a value that cannot be computed with.

    It looks at what `Benchmark.place` may compute with, and so comes before it; `check_config` looks at the rest.

    Args:
        name, flag: see `check_config`.
        reads: `Benchmark.reads`.

    >>> check_values({"optimization": {"max_update": 0}}, "RTE base")
    Traceback (most recent call last):
    ValueError: RTE base: optimization.max_update is 0, and should be a whole number from 1; see --set and --configs
    """
    strange = sorted(config.keys() - {one.name for one in fields(FairseqConfig)})
    if strange:
        raise ValueError(f"{name}: fairseq does not know such a part of a config: {', '.join(strange)}; see --set and {flag}")
    idle = [f"{part}.{key}" for part in NOT_OF_TRAINING if part not in reads for key in config.get(part) or ()]
    if idle:
        raise ValueError(f"{name}: {', '.join(idle)} would change nothing: no part of a run reads it; see --set and {flag}")
    for key in ("lr", "update_freq"):
        if config.get("optimization", {}).get(key) == []:
            raise ValueError(f"{name}: optimization.{key} has no value; see --set and {flag}")
    for key, least in WHOLE.items():
        part, _, own = key.partition(".")
        settings = config.get(part, {})
        value = settings.get(own)
        if value is None and not (own in settings and key in NEVER_NULL):
            continue
        for one in value if key in LISTS and isinstance(value, (list, tuple)) else [value]:
            if type(one) is not int or one < least:
                raise ValueError(f"{name}: {key} is {one}, and should be a whole number from {least}; see --set and {flag}")


def check_checkpoints(config: Dict, name: str, measured: str, flag: str = "--configs", is_placed: bool = True) -> None:
    """Raise ValueError where training would leave no checkpoint to measure, or none to go on from exactly and to tell its end.

    Args:
        measured: `Benchmark.measured`.
        name, flag: see `check_config`.
        is_placed: whether `Benchmark.place` has had its say, which may change the number of updates.

    >>> check_checkpoints({"dataset": {"disable_validation": True}}, "RTE base", BEST)
    Traceback (most recent call last):
    ValueError: RTE base: dataset.disable_validation leaves no best checkpoint to measure; see --set and --configs
    """
    kept, data, updates = (config.get(part, {}) for part in ("checkpoint", "dataset", "optimization"))
    # fairseq saves where the updates end, and at an epoch's end only by this interval.
    unsaved = not updates.get("max_update") and (updates.get("max_epoch") or 0) % (kept.get("save_interval") or 1)
    late = is_placed and (data.get("validate_after_updates") or 0) > (updates.get("max_update") or math.inf)
    leaves = {
        "checkpoint.no_save leaves no checkpoint to measure": kept.get("no_save"),
        "checkpoint.no_last_checkpoints leaves no last checkpoint": kept.get("no_last_checkpoints"),
        "checkpoint.save_interval leaves no checkpoint of the last epoch to measure": measured == LAST and is_placed and unsaved,
        "checkpoint.no_save_optimizer_state leaves none that a stopped run could go on from": kept.get("no_save_optimizer_state"),
        **{f"checkpoint.{what} would begin anew in each run that goes on": kept.get(what) for what in RESETS},
        "checkpoint.restore_file is the run's own checkpoint_last.pt here": kept.get("restore_file", LAST) != LAST,
        "checkpoint.checkpoint_suffix gives checkpoints other names than the engine reads": kept.get("checkpoint_suffix"),
        "common.suppress_crashes would call a training that failed finished": config.get("common", {}).get("suppress_crashes"),
        "dataset.disable_validation leaves no best checkpoint to measure": measured == BEST and data.get("disable_validation"),
        "dataset.validate_after_updates leaves no best checkpoint to measure": measured == BEST and late,
    }
    for words in [words for words, is_so in leaves.items() if is_so]:
        raise ValueError(f"{name}: {words}; see --set and {flag}")


def check_config(config: Dict, name: str, trains: bool = True, flag: str = "--configs") -> None:
    """Raise ValueError where fairseq would refuse a setting when the run starts.

    Args:
        name: the run's, for the message.
        flag: which names the files of settings, for the message.
        trains: whether there will be such a run. Of others no part looks at its own values, as they may lack what a run brings.
    """
    sharp_plugins.register()  # fairseq knows the parts then
    for part, names in NAMES.items():
        chosen = (config.get(part) or {}).get("_name")
        if chosen is not None and chosen not in names:
            raise ValueError(f"{name}: {part}._name is {chosen}, and fairseq has none of that name; see --set and {flag}")
    parts = OmegaConf.create(deepcopy(config))
    place = ""  # of what is looked at
    try:
        for part, section in parts.items():
            place = f"{part}."
            known = _fairseqs(part)
            if known is not None:
                parts[part] = OmegaConf.merge(known, section)  # of a copy
        wrapper = getattr(ARCH_MODEL_REGISTRY.get(config["model"]["_name"]), "config", None)
        if is_dataclass(wrapper):  # LoRA and the like: to fairseq they are flags
            place, own = "model.", {one.name for one in fields(wrapper)} & config["model"].keys()
            OmegaConf.merge(OmegaConf.structured(wrapper), {key: config["model"][key] for key in sorted(own)})
        place = ""
        for part in ("optimization", "common"):  # an optimizer may look at them
            parts.setdefault(part, OmegaConf.structured(getattr(FairseqConfig(), part)))
        add_defaults(parts)
    except ValidationError as error:
        what = f"{place}{error.full_key or 'a setting'} cannot have this value: {str(error).splitlines()[0]}"
        raise ValueError(f"{name}: {what}; see --set and {flag}") from None
    except OmegaConfBaseException as error:
        unknown = str(error).splitlines()[0]
    else:
        unknown = ", ".join(f"model.{key}" for key in sorted(config["model"].keys() - _model_settings(config["model"])))
    if unknown:
        raise ValueError(f"{name}: fairseq does not know such a setting: {unknown}; see --set and {flag}")
    criterion = CRITERION_REGISTRY.get(config["criterion"]["_name"])
    if trains:
        optimizer = OPTIMIZER_REGISTRY.get(config["optimizer"]["_name"])
        _check_by_itself(optimizer, parts.optimizer, name, "optimizer", "optimization")
        # Of a run that ends before SAM begins the table would call the base optimizer SAM.
        _check_by_itself(optimizer, parts.optimizer, name, "optimizer", "optimization", check="check_length")
        _check_by_itself(ARCH_MODEL_REGISTRY.get(config["model"]["_name"]), Namespace(**config["model"]), name, "model")
        _check_by_itself(TASK_REGISTRY.get(config["task"]["_name"]), parts.task, name, "task", "dataset")
        _check_by_itself(criterion, parts.criterion, name, "criterion")
    if criterion is None:
        raise ValueError(f"{name}: --methods: there is no criterion {config['criterion']['_name']}; choose another method")


@functools.lru_cache(maxsize=None)
def _fairseqs(part: str) -> Optional[DictConfig]:
    """fairseq's own settings of a part of a config, if they are a dataclass. To make them takes the most time of a check."""
    known = getattr(FairseqConfig(), part, None)
    return OmegaConf.structured(known) if is_dataclass(known) else None


def _check_by_itself(one: Any, settings: Any, name: str, *parts: str, check: str = "check") -> None:
    """Let a part of fairseq that has a look at its own settings do so."""
    if hasattr(one, check):
        try:
            getattr(one, check)(settings)
        except (ValueError, TypeError) as error:
            ways = " or ".join(f"--set {part}.a_flag=" for part in parts)
            raise ValueError(f"{name}: {error}; the engine takes --a-flag as {ways}") from None


def _model_settings(model: Dict) -> Set[str]:
    """The settings of an architecture. Those of fairseq's Transformers are flags yet, which it does not check in a config."""
    parser = ArgumentParser(conflict_handler="resolve")
    for arch in (model["_name"], model.get("base_arch")):
        if arch in ARCH_MODEL_REGISTRY:
            ARCH_MODEL_REGISTRY[arch].add_args(parser)
    args = Namespace(_name=model["_name"], base_arch=model.get("base_arch"))
    ARCH_CONFIG_REGISTRY[model["_name"]](args)  # what the flags do not show
    return {action.dest for action in parser._actions} | vars(args).keys()
