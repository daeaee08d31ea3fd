"""The flags of parts that another part names, on the command line, and ``--bf16`` without a TPU.

fairseq parses twice: first the names of the parts, then the flags that the named parts add. A part that is named by another
part's flag (``--base-optimizer``, ``--base-arch``) fits in only by looking at the command line before the second time, which
is done here.

What looks is the parser itself (`adopt`). It is adopted where fairseq begins to parse, if the plugin is loaded by then. In

    options.parse_args_and_arch(options.get_training_parser(), [..., "--user-dir", "sharp_plugins"])

Python has looked the function up before it runs, and it is what loads the plugin: there the parser is adopted where it gets
the flags of the optimizer or the architecture that wraps another one.
"""

import argparse
import importlib.util
import json
import sys
from typing import List, Optional

from fairseq import optim, options
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import ARCH_MODEL_REGISTRY
from omegaconf import DictConfig

from sharp_plugins.host import frozen, refusals
from sharp_plugins.host.patching import wrap
from sharp_plugins.models.base_arch import WrappingModel, wrapper_of
from sharp_plugins.optim.base import (
    BaseOptimizerConfig,
    WrappingOptimizer,
    check_base_optimizer,
    legacy_settings,
    wrapping_optimizer,
)

# What the flags of wrapping architectures begin with. --prefix-size is fairseq's own.
WRAPPERS_FLAGS = {
    "lora": ("--lora-", "--base-arch"),
    "adapter": ("--adapter-",),
    "prefix": ("--prefix-length", "--prefix-hidden", "--prefix-dropout"),
}


def _names(arguments: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--optimizer")
    parser.add_argument("--base-optimizer", default=BaseOptimizerConfig.base_optimizer)
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


def _add_named_flags(parser: argparse.ArgumentParser, arguments: List[str]) -> None:
    """Add the flags of the base optimizer and of the base architecture that *arguments* name; once for each parser.

    Raises:
        ValueError: there is no such part, or a flag of a wrapping architecture's comes without it.
    """
    names, added = _names(arguments), parser._sharp_plugins_added
    if wrapping_optimizer(names.optimizer) is not None:
        check_base_optimizer(names.base_optimizer)
        if "optimizer" not in added:
            added.add("optimizer")
            _add_base_flags(parser, names.base_optimizer)
    if "--arch" in parser._option_string_actions:
        wrapper = wrapper_of(names)
        wanted = {flag: arch for arch, flags in WRAPPERS_FLAGS.items() for flag in flags}
        stray = next((part for part in arguments if part.startswith(tuple(wanted))), None)
        if wrapper is not None:
            wrapper.check_base_arch(names)
            if "arch" not in added:
                added.add("arch")
                _add_base_arch_flags(parser, names.base_arch)
        elif stray and names.arch:
            instead = next(arch for flag, arch in wanted.items() if stray.startswith(flag))
            raise ValueError(f"{stray} needs --arch {instead} --base-arch {names.arch} in the place of --arch {names.arch}")


def _check_parsed(args: argparse.Namespace) -> None:
    """Check the flags of what wraps another part, and gather the base optimizer's own; nothing where they are not parsed yet.

    Raises:
        ValueError: a setting is out of range, or the parts cannot be combined.
    """
    wrapper, optimizer = wrapper_of(args), wrapping_optimizer(getattr(args, "optimizer", None))
    if wrapper is not None and hasattr(args, "base_arch"):
        wrapper.check(args)
        frozen.check_flags(vars(args).get, args.arch)
    if optimizer is not None and hasattr(args, "base_optimizer"):
        args.base = _collect_base_settings(args, args.base_optimizer)
        optimizer.check(args)
        refusals.check_settings(vars(args).get, args.optimizer)


def adopt(parser: argparse.ArgumentParser) -> None:
    """Let *parser* add the flags of the parts that its command line names before it parses, and check them after; once for
    each parser. Errors are `parser.error`."""
    if "_sharp_plugins_added" in vars(parser):
        return
    parser._sharp_plugins_added = set()
    parse = parser.parse_known_args

    def parse_known_args(args=None, namespace=None):
        try:
            _add_named_flags(parser, sys.argv[1:] if args is None else list(args))
        except ValueError as error:
            parser.error(str(error))
        parsed, rest = parse(args, namespace)
        try:
            _check_parsed(parsed)
        except ValueError as error:
            parser.error(str(error))
        return parsed, rest

    parser.parse_known_args = parse_known_args  # parse_args calls it too


def _adopt_from_flags(added_to) -> None:
    """`adopt` the parser to which, or to a group of which, fairseq is adding the flags of one of the plugin's parts."""
    if not isinstance(added_to, argparse.ArgumentParser):
        # argparse's groups do not know their parser. fairseq's function that is running does.
        frame = sys._getframe()
        while frame and not (frame.f_code.co_name == "parse_args_and_arch" and frame.f_globals is vars(options)):
            frame = frame.f_back
        added_to = frame and frame.f_locals.get("parser")
    if isinstance(added_to, argparse.ArgumentParser):
        adopt(added_to)


def _wrap_parsing(parse):
    def parse_args_and_arch(
        parser, input_args: Optional[List[str]] = None, parse_known=False, suppress_defaults=False, modify_parser=None
    ):
        if isinstance(parser, argparse.ArgumentParser):
            adopt(parser)
        result = parse(
            parser, input_args=input_args, parse_known=parse_known, suppress_defaults=suppress_defaults, modify_parser=modify_parser
        )
        args = result[0] if parse_known else result
        if suppress_defaults:  # parsed by a parser that fairseq has made of this one
            try:
                _check_parsed(args)
            except ValueError as error:
                parser.error(str(error))
        if getattr(args, "bf16", False) and not _names(sys.argv[1:] if input_args is None else input_args).tpu:
            args.tpu = args.tpu and _has_xla()
        return result

    return parse_args_and_arch


def _has_xla() -> bool:
    return importlib.util.find_spec("torch_xla") is not None


def take_back_tpu(cfg: FairseqConfig) -> None:
    """fairseq's flags take ``--bf16`` for a TPU run, which dies on a missing torch_xla; GPUs and CPUs have bf16 too. For configs
    from flags that were parsed before the plugin was loaded."""
    if cfg.common.bf16 and cfg.common.tpu and not _has_xla():
        for name in cfg:
            section = cfg[name]
            if isinstance(section, (argparse.Namespace, DictConfig)) and getattr(section, "tpu", False):
                section.tpu = False


def install() -> None:
    wrap(options, "parse_args_and_arch", _wrap_parsing)
    WrappingOptimizer.on_flags = WrappingModel.on_flags = staticmethod(_adopt_from_flags)
