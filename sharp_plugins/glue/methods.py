"""A method's fairseq config, from a task's settings and a backbone.

A task's YAML is δ-SAM's. A method's name joins up to three parts with hyphens, in this order:

    lora, houlsby, pfeiffer    low-rank updates, or adapters, alone are trained
    sam, dsam, obar, nbar      around the base optimizer; obar and nbar are BAR's, and need lora
    r3f, rdrop, freelb, smart  instead of the stock loss

or is ``base``, with none of them. What a part needs beyond the task's settings are the plugin's defaults, and for LoRA
and BAR the family's ``lora.yaml``, for adapters its ``adapter.yaml``.
"""

from argparse import ArgumentParser, Namespace
from copy import deepcopy
from dataclasses import is_dataclass
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Set

from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.initialize import add_defaults
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import sharp_plugins
from sharp_plugins.files.yaml import read_yaml
from sharp_plugins.glue.backbone import Backbone
from sharp_plugins.glue.binarize import Prepared
from sharp_plugins.glue.tasks import TASKS, Task

NETWORKS = ("lora", "houlsby", "pfeiffer")
OPTIMIZERS = ("sam", "dsam", "obar", "nbar")
CRITERIONS = ("r3f", "rdrop", "freelb", "smart")
BASE = "base"

# Settings that differ from run to run or machine to machine, and not with --set.
PLACES = ("common.user_dir", "task.data", "checkpoint.save_dir", "checkpoint.finetune_from_model", "bpe._name", "bpe.bpe_tokenizer")
# Without these there is no run.
NEEDED = (
    "task._name",
    "criterion._name",
    "dataset.batch_size",
    "optimizer.sam_rho",
    "optimizer.dsam_beta",
    "optimizer.base_optimizer",
    "optimization.lr",
    "optimization.max_update",
    "checkpoint.best_checkpoint_metric",
    "common.log_format",
)
# Settings that are a part's own, by how their names begin: a change to them is for the methods with one of these parts.
PARTS_OWN = {"model.lora_": ("lora",), "model.adapter_": ("houlsby", "pfeiffer")}
PARTS_OWN.update({f"criterion.{name}_": (name,) for name in CRITERIONS})
# Between them they have use for every setting.
ALL_PARTS = ("dsam", "lora-obar", "houlsby", *CRITERIONS)
OWN = (*PLACES, "common.seed", "dataset.valid_subset", "model._name", "optimizer._name", "criterion._name")


class Method(NamedTuple):
    """A method.

    network: what is put into the backbone and trained instead of it; None for the backbone itself.
    optimizer, criterion: None for the task's base optimizer and the stock loss.
    """

    name: str
    network: Optional[str]
    optimizer: Optional[str]
    criterion: Optional[str]


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: there is none.
    """
    parts = [] if name == BASE else name.split("-")
    chosen = [[part for part in parts if part in group] for group in (NETWORKS, OPTIMIZERS, CRITERIONS)]
    # Each part is known, in order, and of a group of its own.
    if any(len(group) > 1 for group in chosen) or [part for group in chosen for part in group] != parts or not name:
        raise ValueError(
            f"--methods {name}: there is no such method; it is {BASE}, or one or more of: one of "
            f"{', '.join(NETWORKS)}; one of {', '.join(OPTIMIZERS)}; and one of {', '.join(CRITERIONS)}; in this order "
            "with hyphens between them"
        )
    network, optimizer, criterion = (group[0] if group else None for group in chosen)
    if optimizer in ("obar", "nbar") and network != "lora":
        rest = "-".join(part for part in parts if part != network)
        raise ValueError(f"--methods {name}: BAR balances LoRA's updates; use lora-{rest}")
    return Method(name, network, optimizer, criterion)


class Settings(NamedTuple):
    """A family's settings of one task: the task's YAML, and its entries in ``lora.yaml`` and ``adapter.yaml``."""

    task: Dict
    lora: Dict
    adapter: Dict

    def of(self, network: Optional[str]) -> Dict:
        """What a method with that network changes in the task's own."""
        return {None: {}, "lora": self.lora}.get(network, self.adapter)


def read_settings(configs, family: str, task: Task) -> Settings:
    """Read ``TASK.yaml``, ``lora.yaml`` and ``adapter.yaml`` of ``CONFIGS/FAMILY``.

    Raises:
        FileNotFoundError: one is not there.
        ValueError: it cannot be read, or does not have what a δ-SAM run needs.
    """
    directory = Path(configs) / family
    path = directory / f"{task.name}.yaml"
    own = _load(path)
    missing = [key for key in NEEDED if key not in _flat(own)]
    if missing:
        raise ValueError(f"{path}: has no {', '.join(missing)}; a task's settings are those of a whole dsam run")
    return Settings(own, *(_entry(directory / name, task) for name in ("lora.yaml", "adapter.yaml")))


def _entry(path: Path, task: Task) -> Dict:
    entry = _load(path).get(task.name)
    if not isinstance(entry, dict) or "lr" not in entry:
        raise ValueError(f"{path}: no lr for {task.name}")
    return entry


def _load(path: Path) -> Dict:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there; --configs wants a directory with one such file for each task")
    return read_yaml(path)


def config(
    settings: Settings,
    method: Method,
    backbone: Backbone,
    prepared: Prepared,
    seed: int,
    directory: Path,
    changes: Sequence[str] = (),
    cpu: bool = False,
) -> Dict:
    """The whole config of a run, for ``fairseq-hydra-train``.

    Args:
        directory: of the run; checkpoints go there.
        changes: ``key.of.setting=value``, as on hydra's command line.
        cpu: train on a CPU, in fp32.

    Raises:
        ValueError: a change is not of that form, or is of a setting that the run makes itself.
    """
    # The optimizer's settings are changed before a method's are derived: each takes of a change what it has use for.
    bar = [change for change in changes if change.startswith("optimizer.bar_")]
    around = [change for change in changes if change.startswith("optimizer.") and change not in bar]
    rest = [change for change in changes if change not in bar + around and _has_use(method, change)]
    result = _change(settings.task, around)
    changed = {change.partition("=")[0] for change in changes}
    network = settings.of(method.network)
    network = {name: value for name, value in network.items() if f"optimizer.base.{name}" not in changed}
    network.update(_change({"optimizer": {}}, bar)["optimizer"])
    result["optimizer"] = _optimizer(result["optimizer"], method, network)
    if method.network:
        result["optimization"]["lr"] = [network["lr"]]
    if method.criterion:
        result["criterion"]["_name"] = f"{method.criterion}_sentence_prediction"
        # The task's settings refer to these two, before hydra knows the plugin's criterions and their defaults.
        result["criterion"].setdefault("regression_target", False)
        result["criterion"].setdefault("classification_head_name", "sentence_classification_head")
    if method.criterion == "smart":
        # Both parts of SMART, as in its paper.
        result["criterion"]["smart_mu"] = 1.0
        result["ema"] = {"store_ema": True, "ema_decay": 0.999, "ema_fp32": True, **result.get("ema", {})}
    result["model"] = {**result.get("model", {}), **backbone.sizes, **_arch(method.network, backbone.arch)}
    result["task"].update(max_positions=backbone.max_positions, init_token=backbone.init_token)
    # The tokenizer's, whatever the family.
    result["task"].pop("separator_token", None)
    if backbone.separator_token is not None:
        result["task"]["separator_token"] = backbone.separator_token
    _fit_to_stand_in(result, prepared)
    if cpu:
        result["common"].update(cpu=True, fp16=False)

    result = _change(result, rest)
    result["common"].update(user_dir=str(Path(sharp_plugins.__file__).resolve().parent), seed=seed)
    result["task"]["data"] = str(prepared.directory.resolve())
    result["bpe"] = {"_name": "sharp_tokenizer", "bpe_tokenizer": str(backbone.directory.resolve())}  # for text in fairseq's hub
    result["dataset"]["valid_subset"] = ",".join(split for split in prepared.rows if split.startswith("valid"))
    checkpoint = {"save_dir": directory.resolve(), "finetune_from_model": (backbone.directory / "model.pt").resolve()}
    result["checkpoint"].update({name: str(path) for name, path in checkpoint.items()})
    return result


def _has_use(method: Method, change: str) -> bool:
    parts = (method.network, method.criterion)
    return all(any(part in parts for part in owners) for own, owners in PARTS_OWN.items() if change.startswith(own))


def _arch(network: Optional[str], arch: str) -> Dict:
    """The architecture's settings of a method."""
    if network is None:
        return {"_name": arch}
    own = {"_name": "lora"} if network == "lora" else {"_name": "adapter", "adapter_placement": network}
    return {**own, "base_arch": arch}


def _optimizer(dsam: Dict, method: Method, network: Dict) -> Dict:
    """The optimizer's settings of a method, from δ-SAM's."""
    base = dict(dsam.get("base") or {})
    if "weight_decay" in network:
        base["weight_decay"] = network["weight_decay"]
    if method.optimizer is None:
        return {"_name": dsam["base_optimizer"], **base}
    around = {"base_optimizer": dsam["base_optimizer"], "base": base}
    if method.optimizer in ("obar", "nbar"):
        bar = {name: value for name, value in network.items() if name.startswith("bar_")}
        return {"_name": "bar", "bar_variant": method.optimizer, **bar, **around}
    kept = {name: value for name, value in dsam.items() if not (name.startswith("dsam_") and method.optimizer == "sam")}
    return {**kept, "_name": method.optimizer, **around}


def _fit_to_stand_in(result: Dict, prepared: Prepared) -> None:
    """As many passes over a sample of the training set as the settings make over the published one (ours)."""
    if "train" in prepared.stand_ins:
        share = prepared.rows["train"] / TASKS[prepared.task].splits["train"].rows
        for part, name in (("optimization", "max_update"), ("lr_scheduler", "warmup_updates")):
            if name in result.get(part, {}):
                result[part][name] = max(1, round(result[part][name] * share))


def _change(result: Dict, changes: Sequence[str]) -> Dict:
    for change in changes:
        key, equals, _ = change.partition("=")
        if not (equals and "." in key):
            raise ValueError(f"--set {change}: should be part.name=value, such as optimization.max_update=100")
        if key in OWN:
            raise ValueError(f"--set {change}: each run has a {key} of its own")
    try:
        return OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(result), OmegaConf.from_dotlist(list(changes))))
    except OmegaConfBaseException as error:
        raise ValueError(f"--set: {error}") from error


def check_config(config: Dict, name: str) -> None:
    """Raise ValueError where fairseq would refuse a setting when the run starts; *name* is the run's, for the message."""
    sharp_plugins.register()  # fairseq knows the parts then
    parts = OmegaConf.create(deepcopy(config))
    try:
        for part, section in parts.items():
            known = getattr(FairseqConfig(), part, None)
            if is_dataclass(known):
                OmegaConf.merge(OmegaConf.structured(known), section)
        add_defaults(parts)
    except OmegaConfBaseException as error:
        unknown = str(error).splitlines()[0]
    else:
        unknown = ", ".join(f"model.{key}" for key in sorted(config["model"].keys() - _model_settings(config["model"])))
    if unknown:
        raise ValueError(f"{name}: fairseq does not know such a setting: {unknown}; see --set and --configs")


def _model_settings(model: Dict) -> Set[str]:
    """The settings of an architecture. Those of fairseq's Transformers are flags yet, which it does not check in a config."""
    parser = ArgumentParser(conflict_handler="resolve")
    for arch in (model["_name"], model.get("base_arch")):
        if arch in ARCH_MODEL_REGISTRY:
            ARCH_MODEL_REGISTRY[arch].add_args(parser)
    args = Namespace(_name=model["_name"], base_arch=model.get("base_arch"))
    ARCH_CONFIG_REGISTRY[model["_name"]](args)  # what the flags do not show
    return {action.dest for action in parser._actions} | vars(args).keys()


def differences(one: Dict, other: Dict) -> List[str]:
    """Names of the settings in which two configs differ, but for those that tell where things are."""
    one, other = _flat(one), _flat(other)
    keys = sorted((one.keys() | other.keys()) - set(PLACES))
    return [key for key in keys if one.get(key) != other.get(key)]


def _flat(config: Dict, before: str = "") -> Dict:
    result = {}
    for key, value in config.items():
        result.update(_flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value})
    return result
