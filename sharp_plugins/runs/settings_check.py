"""Whether fairseq knows the settings of a config: looked at before any training starts."""

from argparse import ArgumentParser, Namespace
from copy import deepcopy
from dataclasses import is_dataclass
from typing import Dict, Set

from fairseq.criterions import CRITERION_REGISTRY
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.initialize import add_defaults
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.optim import OPTIMIZER_REGISTRY
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

import sharp_plugins


def has_criterion(config: Dict) -> bool:
    """Whether there is a criterion of the config's name: FreeLB, for one, is for classification alone."""
    sharp_plugins.register()
    return config["criterion"]["_name"] in CRITERION_REGISTRY


def check_config(config: Dict, name: str, trains: bool = True) -> None:
    """Raise ValueError where fairseq would refuse a setting when the run starts.

    Args:
        name: the run's, for the message.
        trains: whether there will be such a run. Of others the optimizer's values are not looked at, as they may lack what a
            run brings.
    """
    sharp_plugins.register()  # fairseq knows the parts then
    parts = OmegaConf.create(deepcopy(config))
    try:
        for part, section in parts.items():
            known = getattr(FairseqConfig(), part, None)
            if is_dataclass(known):
                parts[part] = OmegaConf.merge(OmegaConf.structured(known), section)
        for part in ("optimization", "common"):  # an optimizer may look at them
            parts.setdefault(part, OmegaConf.structured(getattr(FairseqConfig(), part)))
        add_defaults(parts)
    except ValidationError as error:
        what = str(error).splitlines()[0]
        raise ValueError(f"{name}: a setting cannot have this value: {what}; see --set and --configs") from None
    except OmegaConfBaseException as error:
        unknown = str(error).splitlines()[0]
    else:
        unknown = ", ".join(f"model.{key}" for key in sorted(config["model"].keys() - _model_settings(config["model"])))
    if unknown:
        raise ValueError(f"{name}: fairseq does not know such a setting: {unknown}; see --set and --configs")
    optimizer = OPTIMIZER_REGISTRY.get(config["optimizer"]["_name"])
    if trains and hasattr(optimizer, "check"):
        try:
            optimizer.check(parts.optimizer)
        except ValueError as error:
            words = "the engine takes --a-flag as --set optimizer.a_flag= or --set optimization.a_flag="
            raise ValueError(f"{name}: {error}; {words}") from None
    if config["criterion"]["_name"] not in CRITERION_REGISTRY:
        raise ValueError(f"{name}: --methods: there is no criterion {config['criterion']['_name']}; choose another method")


def _model_settings(model: Dict) -> Set[str]:
    """The settings of an architecture. Those of fairseq's Transformers are flags yet, which it does not check in a config."""
    parser = ArgumentParser(conflict_handler="resolve")
    for arch in (model["_name"], model.get("base_arch")):
        if arch in ARCH_MODEL_REGISTRY:
            ARCH_MODEL_REGISTRY[arch].add_args(parser)
    args = Namespace(_name=model["_name"], base_arch=model.get("base_arch"))
    ARCH_CONFIG_REGISTRY[model["_name"]](args)  # what the flags do not show
    return {action.dest for action in parser._actions} | vars(args).keys()
