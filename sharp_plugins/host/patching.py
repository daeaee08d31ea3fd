"""Replacing a function of fairseq once, however often the plugin is imported, or a module as some of fairseq's see it."""

import functools
import types
from typing import Callable


def wrap(owner, name: str, make: Callable) -> None:
    """Replace ``owner.name`` by ``make(original)``, with the original's name and docstring; once only."""
    original = getattr(owner, name)
    if getattr(original, "_sharp_plugins", False):
        return
    wrapped = functools.wraps(original)(make(original))
    wrapped._sharp_plugins = True
    setattr(owner, name, wrapped)


class View(types.ModuleType):
    """A module as another one sees it: all of it, but for what is given here.

    Example::

        >>> import math
        >>> view = View(math, pi=3)
        >>> view.pi, view.e == math.e, math.pi == 3
        (3, True, False)
    """

    def __init__(self, module, **own):
        super().__init__(module.__name__, module.__doc__)
        vars(self).update(own, _module=module)

    def __getattr__(self, name):
        return getattr(vars(self)["_module"], name)
