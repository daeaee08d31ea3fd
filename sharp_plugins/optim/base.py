"""An optimizer around any registered fairseq optimizer, with that optimizer's own flags.

fairseq knows two kinds of optimizers: those with a dataclass config (adam, nag, composite, ...) and legacy ones whose flags
come from ``add_args`` and whose config is an ``argparse.Namespace`` (sgd, adafactor, adagrad, ...). Both can be wrapped:

* on the command line, ``--base-optimizer NAME`` adds NAME's own flags (see `sharp_plugins.host.flags`);
* in a hydra config, ``optimizer.base_optimizer: NAME`` and NAME's own settings below ``optimizer.base``.
"""

import argparse
import json
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from fairseq import optim
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.optim import FairseqOptimizer
from omegaconf import II, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

# Key of what a wrapper adds to its base optimizer's state in a checkpoint.
STATE_KEY = "sharp_plugins"


@dataclass
class BaseOptimizerConfig(FairseqDataclass):
    base_optimizer: str = field(
        default="adam",
        metadata={
            "help": "optimizer that makes the update once the gradient is there: any registered one, with its own flags "
            "(default: ours; the papers fine-tune with Adam or AdamW)"
        },
    )
    # A mapping, or its JSON. Not Dict[str, Any]: hydra lets a new key into an untyped field only.
    base: Any = field(
        default=None, metadata={"help": "settings of the base optimizer (hydra); on the command line its own flags fill this"}
    )
    lr: List[float] = II("optimization.lr")


def wrapping_optimizer(name: Optional[str]) -> Optional[type]:
    """The class of ``--optimizer`` *name* if it wraps another optimizer, as the plugin's do; else None."""
    cls = optim.OPTIMIZER_REGISTRY.get(name)
    return cls if isinstance(cls, type) and issubclass(cls, WrappingOptimizer) else None


def available_base_optimizers() -> List[str]:
    """Names that ``--base-optimizer`` takes: every registered optimizer that is not itself a wrapper."""
    return sorted(name for name in optim.OPTIMIZER_REGISTRY if wrapping_optimizer(name) is None)


def check_base_optimizer(name: str) -> None:
    """Raises ValueError unless *name* can be wrapped."""
    if name in optim.OPTIMIZER_REGISTRY and name not in available_base_optimizers():
        raise ValueError(
            f"--base-optimizer {name}: {name} itself wraps a base optimizer, and inside another optimizer it would have no "
            f"effect; choose one of {', '.join(available_base_optimizers())}"
        )
    if name not in available_base_optimizers():
        raise ValueError(
            f"--base-optimizer {name}: there is no such base optimizer; choose one of " + ", ".join(available_base_optimizers())
        )


def legacy_settings(name: str) -> Dict[str, Any]:
    """The flags of a legacy optimizer and their defaults."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    add_args = getattr(optim.OPTIMIZER_REGISTRY[name], "add_args", None)
    if add_args is not None:
        add_args(parser)
    return vars(parser.parse_args([]))


def _settings(base: Any) -> Dict[str, Any]:
    """The base optimizer's settings, of a hydra config or of what the flags became."""
    try:
        return dict(json.loads(base) if isinstance(base, str) else base or {})
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer.base={base}: should be settings by name, such as optimizer.base.weight_decay=0.01") from error


def build_base_optimizer(cfg: DictConfig, params) -> FairseqOptimizer:
    """Build the optimizer that *cfg* names, over *params*.

    Raises:
        ValueError: the name is unknown, or ``cfg.base`` holds a setting that this optimizer does not have, or no settings at all.
    """
    name = cfg.base_optimizer
    check_base_optimizer(name)
    settings = _settings(cfg.base)
    if name in optim.OPTIMIZER_DATACLASS_REGISTRY:
        if "lr" in optim.OPTIMIZER_DATACLASS_REGISTRY[name].__dataclass_fields__:
            settings.setdefault("lr", list(cfg.lr))
        base_cfg = OmegaConf.create({**settings, "_name": name})
        # Its interpolations (${common.tpu}) are relative to the whole config.
        base_cfg.__dict__["_parent"] = cfg.__dict__["_parent"]
        try:
            return optim._build_optimizer(base_cfg, params)
        except OmegaConfBaseException as error:
            raise ValueError(f"optimizer.base does not fit --base-optimizer {name}: {error}") from error
    defaults = legacy_settings(name)
    unknown = sorted(set(settings) - set(defaults) - {"lr"})
    if unknown:
        raise ValueError(
            f"optimizer.base has {', '.join(unknown)}, which --base-optimizer {name} does not know; "
            f"it knows {', '.join(sorted(defaults)) or 'no settings'}"
        )
    namespace = argparse.Namespace(**{**defaults, "lr": list(cfg.lr), **settings, "optimizer": name})
    return optim._build_optimizer(namespace, params)


class WrappingOptimizer(FairseqOptimizer):
    """Is the base optimizer in all that fairseq asks of it; subclasses add what happens around the update.

    Example::

        >>> import torch
        >>> class Twice(WrappingOptimizer):
        ...     def step(self, closure=None, scale=1.0, groups=None):
        ...         super().step(closure, scale, groups)
        ...         super().step(closure, scale, groups)
        >>> w = torch.nn.Parameter(torch.ones(1))
        >>> optimizer = Twice(OmegaConf.structured(BaseOptimizerConfig(base_optimizer="sgd", lr=[0.25])), [w])
        >>> optimizer.backward(w.sum())
        >>> optimizer.step()
        >>> w.item()
        0.5
    """

    # Called with the parser that gets the flags; the host, which knows how fairseq parses, puts a function here.
    on_flags = staticmethod(lambda parser: None)

    def __init__(self, cfg: DictConfig, params):
        super().__init__(cfg)
        self.base = build_base_optimizer(cfg, list(params))
        self.buffers = None  # of the model and the criterion; set by the host

    @classmethod
    def add_args(cls, parser):
        """Add the flags of the config, without ``base``: the base optimizer's own flags fill that."""

        class WithoutBase:
            def add_argument(self, *names, **kwargs):
                if "--base" not in names:
                    parser.add_argument(*names, **kwargs)

        gen_parser_from_dataclass(WithoutBase(), getattr(cls, "__dataclass")())
        cls.on_flags(parser)

    @classmethod
    def check(cls, cfg) -> None:
        """Raise ValueError, naming the flag, where a setting of *cfg* (a config or parsed flags) is out of range."""
        check_base_optimizer(cfg.base_optimizer)

    @classmethod
    def check_run(cls, criterion, task, model) -> None:
        """Raise ValueError where the method cannot train this model on this task with this criterion."""

    def return_to_w(self) -> None:
        """Come back to the weights that the base optimizer updates, wherever the method has gone. Does nothing there."""

    # ------------------------------------------------------------------ the torch optimizer and its properties

    @property
    def _optimizer(self):
        return self.base._optimizer

    @property
    def optimizer(self):
        return self.base.optimizer

    @optimizer.setter
    def optimizer(self, optimizer):
        self.base.optimizer = optimizer

    @property
    def optimizer_config(self):
        return self.base.optimizer_config

    @property
    def param_groups(self):
        groups = self.base.param_groups
        return groups if isinstance(groups, list) else list(groups)  # the composite optimizer's is a generator

    @property
    def lr_scheduler(self):
        # The composite optimizer brings its own schedulers, which the pass_through scheduler asks for.
        return getattr(self.base, "lr_scheduler", None)

    @property
    def supports_memory_efficient_fp16(self):
        if self.base.supports_memory_efficient_fp16:
            return True
        raise ValueError(
            f"--base-optimizer {self.cfg.base_optimizer} does not work with --memory-efficient-fp16 or "
            "--memory-efficient-bf16: use --base-optimizer adam, or --fp16 or --bf16 instead"
        )

    @property
    def supports_flat_params(self):
        if self.base.supports_flat_params:
            return True
        raise ValueError(
            f"--base-optimizer {self.cfg.base_optimizer} cannot take the flattened parameters of --fp16: "
            "add --fp16-no-flatten-grads"
        )

    @property
    def supports_step_with_scale(self):
        return self.base.supports_step_with_scale

    @property
    def supports_groups(self):
        return self.base.supports_groups

    # ------------------------------------------------------------------ what fairseq calls

    def get_lr(self):
        return self.base.get_lr()

    def set_lr(self, lr):
        self.base.set_lr(lr)

    def backward(self, loss):
        self.base.backward(loss)

    def all_reduce_grads(self, module):
        self.base.all_reduce_grads(module)

    def multiply_grads(self, c):
        self.base.multiply_grads(c)

    def clip_grad_norm(self, max_norm, aggregate_norm_fn=None):
        return self.base.clip_grad_norm(max_norm, aggregate_norm_fn)

    def step(self, closure=None, scale=1.0, groups=None):
        self.base.step(closure, scale=scale, groups=groups)

    def zero_grad(self):
        self.base.zero_grad()

    def average_params(self):
        self.base.average_params()

    def state_dict(self):
        """The base optimizer's state, and which optimizers it belongs to."""
        own = {"optimizer": self.cfg._name, "base_optimizer": self.cfg.base_optimizer}
        return {**self.base.state_dict(), STATE_KEY: own}

    def load_state_dict(self, state_dict, optimizer_overrides=None):
        """Load what `state_dict` returned.

        Raises:
            ValueError: the state is another optimizer's. fairseq itself only compares the names of the outermost classes,
                which are the same for all optimizers under mixed precision.
        """
        own = state_dict.get(STATE_KEY, {"optimizer": "an optimizer of fairseq's own"})
        here = {"optimizer": self.cfg._name, "base_optimizer": self.cfg.base_optimizer}
        for key, flag in (("optimizer", "--optimizer"), ("base_optimizer", "--base-optimizer")):
            if own.get(key) != here[key]:
                raise ValueError(
                    f"the checkpoint's optimizer state is of {flag} {own.get(key)}, and this run has {flag} {here[key]}: "
                    "use the same, or start a new optimizer with --reset-optimizer"
                )
        self.restored_state = own
        base_state = {key: value for key, value in state_dict.items() if key != STATE_KEY}
        self.base.load_state_dict(base_state, optimizer_overrides)

    def broadcast_global_state_dict(self, state_dict):
        return self.base.broadcast_global_state_dict(state_dict)
