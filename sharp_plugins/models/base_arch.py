"""An architecture that changes another one: ``--arch lora --base-arch roberta_base``, with the other's own flags.

What is built is the base architecture's own model, changed in place, so that everything that fairseq or a task asks of the
architecture (heads, beam search, checkpoints' names) it goes on to find. On the command line `sharp_plugins.host.flags` adds
the base's flags; in a hydra config they stand beside the wrapper's:
``model: {_name: lora, base_arch: roberta_base, dropout: 0.1}``.
"""

import argparse
import copy
import difflib
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Dict, Optional

import torch
from fairseq import models
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY, BaseFairseqModel
from omegaconf import OmegaConf, open_dict


@dataclass
class BaseArchConfig(FairseqDataclass):
    base_arch: Optional[str] = field(
        default=None, metadata={"help": "architecture that is changed: any registered one, with its own flags"}
    )


class WrappingModel(BaseFairseqModel):
    """Builds the model of ``--base-arch`` and changes it. Subclasses have ``config`` (a `BaseArchConfig`) and `change`.

    Example, an architecture that trains the biases alone (BitFit)::

        @register_model("bitfit")
        class BitFit(WrappingModel):
            @classmethod
            def change(cls, model, args):
                for name, p in model.named_parameters():
                    p.requires_grad_(name.endswith("bias"))

        register_model_architecture("bitfit", "bitfit")(BitFit.apply_defaults)
    """

    config = BaseArchConfig
    # Called with what gets the flags; the host, which knows how fairseq parses, puts a function here.
    on_flags = staticmethod(lambda parser: None)

    @classmethod
    def add_args(cls, parser):
        """Add the wrapper's own flags."""
        gen_parser_from_dataclass(parser, cls.config())
        cls.on_flags(parser)

    @classmethod
    def own(cls, args) -> Dict[str, Any]:
        """The wrapper's own settings in a model's config (a Namespace or a DictConfig), with defaults where there are none."""
        values = {}
        for name, declared in cls.config.__dataclass_fields__.items():
            if not name.startswith("_"):
                value = args.get(name, None) if OmegaConf.is_config(args) else getattr(args, name, None)
                values[name] = declared.default if value is None else value
        return {key: v if v is None or isinstance(v, (bool, int, float)) else str(v) for key, v in values.items()}

    @classmethod
    def check(cls, args) -> None:
        """Raise ValueError, naming the flag, where a setting is out of range whatever the model."""
        cls.check_base_arch(args)

    @classmethod
    def check_base_arch(cls, args) -> None:
        """Raise ValueError unless ``--base-arch`` is an architecture that can be changed."""
        name = cls.own(args)["base_arch"]
        if not name:
            raise ValueError("the architecture that is changed is missing: --base-arch roberta_base, for example")
        if name in ARCH_MODEL_REGISTRY and issubclass(ARCH_MODEL_REGISTRY[name], WrappingModel):
            raise ValueError(
                f"--base-arch {name}: {name} itself changes an architecture, and one change does not go around another; "
                "name the architecture that is changed, --base-arch roberta_base for example"
            )
        if name not in ARCH_MODEL_REGISTRY:
            close = difflib.get_close_matches(name, ARCH_MODEL_REGISTRY, n=5)
            raise ValueError(
                f"--base-arch {name}: there is no such architecture" + (f"; similar ones are {', '.join(close)}" if close else "")
            )

    @classmethod
    def base_config(cls, args):
        """The config of the base architecture: *args* without the wrapper's own. Takes and returns a Namespace or DictConfig."""
        own = cls.own(args)
        if isinstance(args, argparse.Namespace):
            base = argparse.Namespace(**{key: value for key, value in vars(args).items() if key not in own})
            base.arch = base._name = own["base_arch"]
            return base
        base = copy.deepcopy(args)
        base.__dict__["_parent"] = args.__dict__["_parent"]  # interpolations (${task.…}) are relative to the whole config
        OmegaConf.set_struct(base, False)  # legacy architectures write to their config
        for key in own:
            base.pop(key, None)
        base._name = own["base_arch"]
        if "arch" in base:
            base.arch = own["base_arch"]
        return base

    @classmethod
    def build_model(cls, args, task):
        """The model of ``args.base_arch``, changed.

        Raises:
            ValueError: a setting is out of range or does not fit the model.
        """
        cls.check(args)
        model = models.build_model(cls.base_config(args), task)
        cls.change(model, args)
        return model

    @classmethod
    def change(cls, model, args) -> None:
        """Change *model* in place."""
        raise NotImplementedError

    @classmethod
    def train_along(cls, args, name: str) -> None:
        """Write into *args*, before the model is built, that the module *name* trains as a whole: a task's head that is there
        already.

        Raises:
            ValueError: nothing trains beside this architecture's own.
        """
        raise ValueError(f"--arch {getattr(args, '_name', None) or args.arch}: nothing trains beside its own, {name} for one")

    @classmethod
    def finish(cls, model, args) -> None:
        """Called when training starts: a task may have added heads since the model was built."""

    @classmethod
    def foresee(cls, cfg) -> None:
        """Called with the whole config when training starts: warn of what will not be as the user may expect, or raise ValueError
        where training would be of no use."""

    @classmethod
    def apply_defaults(cls, args) -> None:
        """Apply the base architecture's defaults to *args*, as fairseq does for ``--arch``."""
        cls.check_base_arch(args)
        base_arch = cls.own(args)["base_arch"]
        if base_arch in ARCH_CONFIG_REGISTRY:
            with open_dict(args) if OmegaConf.is_config(args) else nullcontext():
                ARCH_CONFIG_REGISTRY[base_arch](args)


def train_through_checkpointed_layers(model) -> None:
    """Let what trains inside layers with ``--checkpoint-activations`` train, where all before them is frozen.

    A layer that fairseq checkpoints has a gradient only if one of its inputs asks for one. Behind frozen embeddings none
    does: a classification would train its head alone, without a word.
    """
    for module in model.modules():
        if hasattr(module, "precheckpoint_forward") and any(p.requires_grad for p in module.parameters()):
            module.register_forward_pre_hook(_ask_for_gradient, with_kwargs=True)


def _ask_for_gradient(module, args, kwargs):
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
    if args and torch.is_grad_enabled() and not any(value.requires_grad for value in tensors):
        x, *rest = args  # fairseq's layers take their input first
        return (x.detach().requires_grad_(), *rest), kwargs
    return None


def wrapper_of(args) -> Optional[type]:
    """The `WrappingModel` that a model's config (a Namespace or a DictConfig) names, or None."""
    name = getattr(args, "_name", None) or getattr(args, "arch", None)
    model = ARCH_MODEL_REGISTRY.get(name)
    return model if isinstance(model, type) and issubclass(model, WrappingModel) else None
