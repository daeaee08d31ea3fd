"""A part of many inputs: always the same ones."""

from typing import Any, List, Optional, Sequence


def evenly(inputs: Sequence[Any], most: Optional[int]) -> List[Any]:
    """At most so many of them, at even distances and from the first on, in their order.

    Args:
        most: how many; None for all.

    >>> evenly("abcdefgh", 3)
    ['a', 'c', 'f']
    """
    count = len(inputs)
    return list(inputs) if most is None or most >= count else [inputs[number * count // most] for number in range(most)]
