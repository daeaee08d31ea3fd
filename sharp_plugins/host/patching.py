"""Replacing a function of fairseq once, however often the plugin is imported."""

import functools
from typing import Callable


def wrap(owner, name: str, make: Callable) -> None:
    """Replace ``owner.name`` by ``make(original)``, with the original's name and docstring; once only."""
    original = getattr(owner, name)
    if getattr(original, "_sharp_plugins", False):
        return
    wrapped = functools.wraps(original)(make(original))
    wrapped._sharp_plugins = True
    setattr(owner, name, wrapped)
