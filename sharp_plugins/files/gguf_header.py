"""The settings in a GGUF file's header, each of the type that its reader wants: a header may hold anything under any name."""

from typing import Any, Dict, List, Optional, Tuple

# What messages call a type -> Python's types of it.
TYPES: Dict[str, Tuple[type, ...]] = {
    "a text": (str,),
    "a whole number": (int,),
    "a number": (int, float),
    "true or false": (bool,),
}


class Header:
    """A header's settings whose names begin in one way.

    Args:
        settings: those of `sharp_plugins.files.gguf.GGUF`.
        front: what stands before each name.

    >>> header = Header({"llama.block_count": 30, "llama.rope.scaling.type": ["none"]}, "llama.")
    >>> header.get("block_count", "a whole number"), header.get("vocab_size", "a whole number")
    (30, None)
    >>> header.get("rope.scaling.type", "a text")
    Traceback (most recent call last):
    ...
    ValueError: llama.rope.scaling.type must be a text, and is ['none']
    """

    def __init__(self, settings: Dict[str, Any], front: str = ""):
        self.settings, self.front = settings, front

    def get(self, name: str, kind: str, usual: Any = None) -> Any:
        """A value; *usual* where there is none.

        Args:
            kind: a key of `TYPES`.

        Raises:
            ValueError: it is of another type.
        """
        value = self.settings.get(self.front + name)
        if value is None:
            return usual
        if not _is(value, kind):
            raise ValueError(f"{self.front}{name} must be {kind}, and is {_shown(value)}")
        return value

    def list(self, name: str, kind: str) -> Optional[List[Any]]:
        """A list of values; None where there is none.

        Raises:
            ValueError: it is no list, or one with a value of another type than *kind*.
        """
        values = self.settings.get(self.front + name)
        if values is None:
            return None
        strange = [values] if not isinstance(values, list) else [value for value in values if not _is(value, kind)][:1]
        if strange:
            raise ValueError(f"{self.front}{name} must be a list, of which each part is {kind}; it has {_shown(strange[0])}")
        return values


def _is(value: Any, kind: str) -> bool:
    return type(value) in TYPES[kind]  # and no bool for a number


def _shown(value: Any) -> str:
    words = repr(value[:3] if isinstance(value, (list, str)) else value)
    return words if len(words) <= 80 else words[:79] + "…"
