"""Sharpness-aware training for fairseq: ``fairseq-train --user-dir sharp_plugins --optimizer dsam ...``.

Importing the package imports nothing else and changes nothing. It is put into fairseq

* by fairseq, where it loads the package as its ``--user-dir`` (in a hydra config ``common.user_dir``, in its hub ``user_dir``);
* by `register`, in a program that uses fairseq's functions, and in a user dir of one's own that is loaded beside it.

The public names below are imported when they are used. All but `register` need torch and NumPy alone. Example::

    from sharp_plugins import Perturbation

    ball = Perturbation(model.parameters(), rho=0.05)
"""

from importlib import import_module
from typing import TYPE_CHECKING

from sharp_plugins.user_dir import PackagePath, register, register_for_namesake

if TYPE_CHECKING:  # for editors and type checkers, which do not run __getattr__
    from sharp_plugins.core.balancedness import balancedness, squared_norms
    from sharp_plugins.core.guardedness import instance_weights
    from sharp_plugins.core.pairs import declare_pair, scale_invariant_pairs
    from sharp_plugins.core.perturbation import Perturbation
    from sharp_plugins.networks.lora import LoRASettings, add_lora, lora_layers, mark_only_lora_as_trainable

__version__ = "0.1.0"

# Public name -> the module that it is from.
_HOMES = {
    "Perturbation": "core.perturbation",
    "instance_weights": "core.guardedness",
    "balancedness": "core.balancedness",
    "squared_norms": "core.balancedness",
    "declare_pair": "core.pairs",
    "scale_invariant_pairs": "core.pairs",
    "LoRASettings": "networks.lora",
    "add_lora": "networks.lora",
    "lora_layers": "networks.lora",
    "mark_only_lora_as_trainable": "networks.lora",
}

__all__ = [
    "LoRASettings",
    "Perturbation",
    "add_lora",
    "balancedness",
    "declare_pair",
    "instance_weights",
    "lora_layers",
    "mark_only_lora_as_trainable",
    "register",
    "scale_invariant_pairs",
    "squared_norms",
]
__path__ = PackagePath(__path__)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__():
    return sorted({*globals(), *__all__})


register_for_namesake()
