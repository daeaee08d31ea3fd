"""fairseq's config of a command line in a quarter of the time, as hundreds of tests ask for one.

Most of the time goes into hydra's composing. Two lines with the same task, criterion, optimizer, schedule and model differ in
values alone: the first is composed by hydra, and the others are made of its result. `test_quick_config.py` compares the two.
"""

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Dict, Tuple
from unittest import mock

import fairseq
from fairseq.dataclass import utils
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

_compose = utils.compose
_made: Dict[Tuple[str, ...], Tuple[DictConfig, Dict[str, str]]] = {}
_values: Dict[str, object] = {}


def convert_namespace_to_omegaconf(args):
    """As `fairseq.dataclass.utils` has it."""
    with mock.patch.object(utils, "compose", _quick), mock.patch.object(utils, "initialize", lambda **how: nullcontext()):
        return utils.convert_namespace_to_omegaconf(args)


def _quick(name, overrides, strict):
    groups = tuple(one for one in overrides if "." not in one.partition("=")[0])
    texts = dict(one.split("=", 1) for one in overrides if one not in groups)
    if groups in _made and _made[groups][1].keys() == texts.keys():
        made, before = _made[groups]
        cfg = copy.deepcopy(made)
        try:
            for key, text in texts.items():
                if text != before[key]:
                    OmegaConf.update(cfg, key, _value(text))
            return cfg
        except Exception:  # what is wrong is told in hydra's own words
            pass
    with initialize_config_dir(config_dir=str(Path(fairseq.__file__).parent / "config")):
        cfg = _compose(name, overrides=overrides, strict=strict)
    _made.setdefault(groups, (copy.deepcopy(cfg), texts))
    return cfg


def _value(text: str):
    if text not in _values:
        _values[text] = OverridesParser.create().parse_override(f"key={text}").value()
    return _values[text]
