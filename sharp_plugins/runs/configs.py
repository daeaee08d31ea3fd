"""A method's fairseq config, from a task's settings.

A task's settings are those of a whole δ-SAM run. The other methods' are derived from them: each takes what it has use for. What a
method needs beyond them are the plugin's defaults, and what `Settings` says of LoRA, BAR, adapters and prefixes.
"""

from copy import deepcopy
from dataclasses import fields
from typing import Callable, Dict, NamedTuple, Optional, Sequence, Set

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import sharp_plugins
from sharp_plugins.runs.methods import Method, has_use

# Settings that tell where things are: they differ from machine to machine, and two runs that differ in them alone are the same.
PLACES = (
    "common.user_dir",
    "task.data",
    "task.text",
    "checkpoint.save_dir",
    "checkpoint.finetune_from_model",
    "bpe._name",
    "bpe.bpe_tokenizer",
)
# fairseq's names of what chooses a run's best checkpoint.
METRIC, MAXIMISE = "best_checkpoint_metric", "maximize_best_checkpoint_metric"
# fairseq's lists by epoch.
LISTS = ("optimization.lr", "optimization.update_freq")
# Settings that each run makes itself, and that --set leaves alone.
OWN = (*PLACES, "common.seed", "model._name", "optimizer._name", "optimizer.bar_variant", "criterion._name")
# What is short in a network's settings, for the settings that most networks have of their own; and BAR's.
LR, DECAY, BAR = "lr", "weight_decay", "bar_"
# Parts of a config that need not be settings by name, and those that may be null.
PLAIN, NULL = ("_name", "scoring"), ("bpe", "tokenizer")
# Settings without which there is no run.
NEEDED = (
    "task._name",
    "criterion._name",
    "model._name",
    "optimizer.sam_rho",
    "optimizer.dsam_beta",
    "optimizer.base_optimizer",
    "optimization.lr",
    "common.log_format",
)


class Settings(NamedTuple):
    """The settings of one task.

    Attributes:
        task: fairseq's config of a whole ``dsam`` run, part by part, as a YAML file for ``fairseq-hydra-train`` holds it.
        lora, adapter, prefix: what methods with LoRA, with adapters and with a prefix change in it: any part of a config. ``lr``,
            ``weight_decay`` and ``bar_...`` are short for the settings that most networks have of their own. None: the benchmark
            has no settings for such methods, and they are refused.

    >>> Settings({}, {"lr": 0.01, "optimization": {"max_epoch": 5}}).of("lora")
    {'optimization': {'lr': [0.01], 'max_epoch': 5}}
    """

    task: Dict
    lora: Optional[Dict] = {}
    adapter: Optional[Dict] = {}
    prefix: Optional[Dict] = None

    def of(self, network: Optional[str]) -> Dict:
        """What a method with that network changes in the task's own, by parts of a config.

        Raises:
            ValueError: there are no settings for it.
        """
        own = {None: {}, "lora": self.lora, "prefix": self.prefix}.get(network, self.adapter)
        if own is None:
            raise ValueError(
                f"--methods: there are no settings for methods with {network}; choose others, or settings that have a part for it"
            )
        return _in_parts(own)


def _in_parts(own: Dict) -> Dict:
    result: Dict = {}
    for name, value in own.items():
        if name == LR:
            part = {"optimization": {"lr": [value]}}
        elif name == DECAY:
            part = {"optimizer": {"base": {"weight_decay": value}}}
        elif name.startswith(BAR):
            part = {"optimizer": {name: value}}
        else:
            part = {name: value}
        result = merged(result, part)
    return result


def merged(config: Dict, changes: Dict) -> Dict:
    """A copy of *config* with *changes* in it, dict by dict.

    >>> merged({"optimizer": {"base": {"adam_eps": 1e-8}}}, {"optimizer": {"base": {"weight_decay": 0.1}}})
    {'optimizer': {'base': {'adam_eps': 1e-08, 'weight_decay': 0.1}}}
    """
    result = dict(config)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(name), dict)
        result[name] = merged(result[name], value) if both else deepcopy(value)
    return result


def check_settings(task: Dict, where: object, needed: Sequence[str] = NEEDED) -> None:
    """Raise ValueError where a task's settings are not those of a whole δ-SAM run; *where* is their file, for the message."""
    check_parts(task, where)
    missing = [key for key in needed if key not in flat(task)]
    if missing:
        raise ValueError(f"{where}: has no {', '.join(missing)}; a task's settings are those of a whole dsam run")


def check_parts(settings: Dict, where: object) -> None:
    """Raise ValueError where a part of a task's or a network's settings holds no settings by name.

    Args:
        where: their file, for the message.

    >>> check_parts({"lr": 0.1, "lr_scheduler": "polynomial_decay"}, "lora.yaml")
    Traceback (most recent call last):
    ValueError: lora.yaml: lr_scheduler: settings by name are expected
    """
    for name, value in settings.items():
        is_short = name in (LR, DECAY, *PLAIN) or str(name).startswith(BAR)
        if not (isinstance(value, dict) or is_short or (value is None and name in NULL)):
            raise ValueError(f"{where}: {name}: settings by name are expected")


def configure(
    settings: Settings,
    method: Method,
    changes: Sequence[str] = (),
    cpu: bool = False,
    adapt: Callable[[Dict], None] = lambda config: None,
    own: Sequence[str] = (),
) -> Dict:
    """A method's config, for ``fairseq-hydra-train``, but for the places of a run.

    Args:
        changes: ``part.name=value``, as on hydra's command line.
        cpu: train on a CPU: in fp32, or in bf16 where a change asks for it. fp16 is for GPUs, and so is AMP.
        adapt: changes the config in place before *changes* are made, as a benchmark wants it; ``model._name`` is the
            architecture that a network is put into.
        own: further settings that *changes* must leave alone.

    Raises:
        ValueError: a change is not of that form, or is of a setting that the run makes itself.
    """
    # The optimizer's settings are changed before a method's are derived: each takes of a change what it has use for.
    around = [change for change in changes if change.startswith("optimizer.")]
    rest = [change for change in changes if change not in around and has_use(method, change)]
    _refuse(changes, own)
    result = change_settings(merged(settings.task, settings.of(method.network)), around)
    result["optimizer"] = _optimizer(result["optimizer"], method)
    if method.criterion:
        result["criterion"]["_name"] = f"{method.criterion}_{result['criterion']['_name']}"
    if method.criterion == "smart":
        # Both parts of SMART, as in its paper.
        result["criterion"]["smart_mu"] = 1.0
        result["ema"] = {"store_ema": True, "ema_decay": 0.999, "ema_fp32": True, **result.get("ema", {})}
    adapt(result)
    result["model"] = {**result["model"], **_arch(method.network, result["model"]["_name"])}
    if cpu:
        common = result.setdefault("common", {})
        common.update(cpu=True, fp16=False)
        common.pop("amp", None)
    return _with_direction(change_settings(result, rest), changes)


def _with_direction(config: Dict, changes: Sequence[str]) -> Dict:
    """Let a checkpoint metric that ``--set`` names be maximised or minimised as it should be, unless ``--set`` says that too.

    >>> _with_direction({"checkpoint": {}}, ["checkpoint.best_checkpoint_metric=accuracy"])
    {'checkpoint': {}}
    >>> _with_direction({"checkpoint": {METRIC: "loss", MAXIMISE: True}}, ["checkpoint.best_checkpoint_metric=loss"])
    {'checkpoint': {'best_checkpoint_metric': 'loss', 'maximize_best_checkpoint_metric': False}}
    """
    named = {change.partition("=")[0] for change in changes}
    metric = config.get("checkpoint", {}).get(METRIC)
    if not isinstance(metric, (str, type(None))):
        raise ValueError(f"checkpoint.{METRIC} is {metric}, and should be the name of a metric, which is a text; see --set")
    if metric is None or f"checkpoint.{METRIC}" not in named or f"checkpoint.{MAXIMISE}" in named:
        return config
    return {**config, "checkpoint": {**config["checkpoint"], MAXIMISE: not is_lower_better(metric)}}


def is_lower_better(metric: str) -> bool:
    """Of those that fairseq's and the plugin's criterions log.

    >>> is_lower_better("nll_loss"), is_lower_better("accuracy")
    (True, False)
    """
    return metric.endswith("loss") or metric in ("ppl", "ter")


def _arch(network: Optional[str], arch: str) -> Dict:
    """The architecture's settings of a method."""
    if network is None:
        return {"_name": arch}
    own = {"_name": network} if network in ("lora", "prefix") else {"_name": "adapter", "adapter_placement": network}
    return {**own, "base_arch": arch}


def _optimizer(dsam: Dict, method: Method) -> Dict:
    """The optimizer's settings of a method, from δ-SAM's and BAR's and what a new one has of its own."""
    base = dsam.get("base") or {}
    if not isinstance(base, dict):
        raise ValueError(f"optimizer.base is {base}, and settings by name are expected")
    if method.optimizer is None:
        return {"_name": dsam["base_optimizer"], **base}
    is_bar = method.optimizer in ("obar", "nbar")
    name = "bar" if is_bar else method.optimizer
    others = _others_own(name)
    kept = {key: value for key, value in dsam.items() if key not in others}
    variant = {"bar_variant": method.optimizer} if is_bar else {}
    return {**kept, **variant, "_name": name, "base_optimizer": dsam["base_optimizer"], "base": base}


def _others_own(name: str) -> Set[str]:
    """Settings of the plugin's optimizers that the registered optimizer *name* has not. It leaves out these alone, so what no
    optimizer knows is refused by its name; and so is an optimizer that is not registered, of which nothing is known."""
    from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY  # here, so that --help imports no fairseq

    sharp_plugins.register()
    known = {one: {field.name for field in fields(config)} for one, config in OPTIMIZER_DATACLASS_REGISTRY.items()}
    around = [settings for settings in known.values() if "base_optimizer" in settings]
    return set().union(*around) - known.get(name, set())


def _refuse(changes: Sequence[str], own: Sequence[str]) -> None:
    for change in changes:
        key, equals, _ = change.partition("=")
        if not (equals and "." in key):
            raise ValueError(f"--set {change}: should be part.name=value, such as optimization.max_update=100")
        if key in OWN or key in own:
            raise ValueError(f"--set {change}: each run has a {key} of its own")


def change_settings(config: Dict, changes: Sequence[str]) -> Dict:
    """A copy of *config* with the changes made, ``part.name=value`` each. A number in the place of a list of one stands for such a
    list: fairseq's learning rate and --update-freq, say, which are lists by epoch.

    >>> change_settings({"optimization": {"lr": [0.1]}}, ["optimization.lr=0.01"])
    {'optimization': {'lr': [0.01]}}

    Raises:
        ValueError: a change cannot be made.
    """
    try:
        before = OmegaConf.create(deepcopy(config))
        made = OmegaConf.from_dotlist(list(changes))
        for name in (change.partition("=")[0] for change in changes):
            old, new = OmegaConf.select(before, name), OmegaConf.select(made, name)
            is_list = name in LISTS or (OmegaConf.is_list(old) and len(old) == 1)
            if is_list and isinstance(new, (int, float)):
                OmegaConf.update(made, name, [new])
        return OmegaConf.to_container(OmegaConf.merge(before, made))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ValueError(f"--set: {error}") from error


def differences(one: Dict, other: Dict) -> Sequence[str]:
    """Names of the settings in which two configs differ, but for those that tell where things are."""
    one, other = flat(one), flat(other)
    keys = sorted((one.keys() | other.keys()) - set(PLACES) - {"common.tensorboard_logdir"})
    return [key for key in keys if one.get(key) != other.get(key)]


def flat(config: Dict, before: str = "") -> Dict:
    """A config's settings by their whole names.

    >>> flat({"optimization": {"lr": [0.1]}})
    {'optimization.lr': [0.1]}
    """
    result = {}
    for key, value in config.items():
        result.update(flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value})
    return result
