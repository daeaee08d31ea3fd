"""The flags of parts that another part names, on the command line, and ``--bf16`` without a TPU.

fairseq parses twice: first the names of the parts, then the flags that the named parts add. A part that is named by another
part's flag (``--base-optimizer``, ``--base-arch``) fits in only by looking at the command line before the second time, which is done here.
"""

import argparse
import importlib.util
import json
import sys
from typing import List, Optional

from fairseq import optim, options
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import ARCH_MODEL_REGISTRY

from sharp_plugins.host import refusals
from sharp_plugins.host.patching import wrap
from sharp_plugins.models.base_arch import wrapper_of
from sharp_plugins.optim.base import WrappingOptimizer, check_base_optimizer, legacy_settings


def _names(arguments: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--optimizer")
    parser.add_argument("--base-optimizer", default="adam")
    parser.add_argument("--arch", "-a")
    parser.add_argument("--base-arch")
    parser.add_argument("--tpu", action="store_true")
    return parser.parse_known_args(arguments)[0]


def _add_base_arch_flags(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the flags of the base architecture, as fairseq does for ``--arch``."""
    group = parser.add_argument_group(f"base architecture {name}", argument_default=argparse.SUPPRESS)
    ARCH_MODEL_REGISTRY[name].add_args(group)


def _add_base_flags(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the flags of the base optimizer, which are its own ``add_args`` as for fairseq."""
    cls = optim.OPTIMIZER_REGISTRY[name]
    group = parser.add_argument_group(f"base optimizer {name}")
    if name in optim.OPTIMIZER_DATACLASS_REGISTRY:
        gen_parser_from_dataclass(group, optim.OPTIMIZER_DATACLASS_REGISTRY[name]())
    elif hasattr(cls, "add_args"):
        cls.add_args(group)


def _collect_base_settings(args: argparse.Namespace, name: str) -> str:
    """The base optimizer's own settings among the parsed flags, as JSON; those that follow another setting are left to do so.

    A string, because fairseq passes every flag through hydra's override grammar and keeps it in checkpoints.
    """
    if name not in optim.OPTIMIZER_DATACLASS_REGISTRY:
        names = list(legacy_settings(name))
    else:
        config = optim.OPTIMIZER_DATACLASS_REGISTRY[name]()
        names = [
            key
            for key in config._get_all_attributes()
            if not str(config._get_default(key)).startswith("${") and not isinstance(config._get_default(key), dict)
        ]
    return json.dumps({key: getattr(args, key) for key in names if hasattr(args, key)})


def _add_named_flags(parser: argparse.ArgumentParser, names: argparse.Namespace, wraps: bool, stray: Optional[str]) -> None:
    """Add the flags of the base optimizer and of the base architecture; once for each parser.

    Raises:
        ValueError: there is no such part, or *stray*, a flag of a wrapping architecture's, comes without it.
    """
    added = vars(parser).setdefault("_sharp_plugins_added", set())
    if wraps:
        check_base_optimizer(names.base_optimizer)
        if "optimizer" not in added:
            added.add("optimizer")
            _add_base_flags(parser, names.base_optimizer)
    if "--arch" in parser._option_string_actions:
        wrapper = wrapper_of(names)
        if wrapper is not None:
            wrapper.check_base_arch(names)
            if "arch" not in added:
                added.add("arch")
                _add_base_arch_flags(parser, names.base_arch)
        elif stray and names.arch:
            instead = "adapter" if stray.startswith("--adapter-") else "lora"
            raise ValueError(f"{stray} needs --arch {instead} --base-arch {names.arch} in the place of --arch {names.arch}")


def _wrap_parsing(parse):
    def parse_args_and_arch(
        parser, input_args: Optional[List[str]] = None, parse_known=False, suppress_defaults=False, modify_parser=None
    ):
        arguments = sys.argv[1:] if input_args is None else input_args
        names = _names(arguments)
        optimizer = optim.OPTIMIZER_REGISTRY.get(names.optimizer)
        wraps = isinstance(optimizer, type) and issubclass(optimizer, WrappingOptimizer)
        # fairseq calls itself for --suppress-defaults; the flags are there already then.
        if not suppress_defaults and isinstance(parser, argparse.ArgumentParser):
            stray = next((part for part in arguments if part.startswith(("--lora-", "--adapter-", "--base-arch"))), None)
            try:
                _add_named_flags(parser, names, wraps, stray)
            except ValueError as error:
                parser.error(str(error))
        result = parse(
            parser,
            input_args=input_args,
            parse_known=parse_known,
            suppress_defaults=suppress_defaults,
            modify_parser=modify_parser,
        )
        args = result[0] if parse_known else result
        if getattr(args, "bf16", False) and not names.tpu and importlib.util.find_spec("torch_xla") is None:
            # fairseq takes --bf16 for a TPU run and dies on a missing torch_xla; GPUs and CPUs have bf16 too.
            args.tpu = False
        try:
            wrapper = wrapper_of(args)
            if wrapper is not None:
                wrapper.check(args)
            if wraps and hasattr(args, "base_optimizer"):
                args.base = _collect_base_settings(args, args.base_optimizer)
                optimizer.check(args)
                refusals.check_settings(vars(args).get, args.optimizer)
        except ValueError as error:
            parser.error(str(error))
        return result

    return parse_args_and_arch


def install() -> None:
    wrap(options, "parse_args_and_arch", _wrap_parsing)
