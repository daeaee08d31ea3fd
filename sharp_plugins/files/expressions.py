"""Regular expressions from files: refused where they are none, and where to match one could take for ever.

Python tries all ways to divide a name among the parts of an expression: ``(.*.*)*x`` has more of them than anyone can wait for.
What chooses layers has few parts that repeat, and none inside another.
"""

import re
from math import log2
from typing import Any, Iterator

try:
    from re import _parser as parser
except ImportError:  # before Python 3.11
    import sre_parse as parser

LONGEST = 2000
# Four parts such as .* after each other, and some choices: about log2 of the ways. A .* counts for 6, and a ? for `CHOICE`.
MOST = 26.0
CHOICE = 1.5
REPEATS = {getattr(parser, name, None) for name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")}


def check_expression(text: str) -> None:
    """Raise ValueError, with what follows its setting's name, where *text* is no regular expression or may take very long.

    Example::

        >>> check_expression("layers.[01].(q|v)_proj")
        >>> check_expression("(.*.*)*x")
        Traceback (most recent call last):
        ValueError: repeats in too many ways, ...
    """
    if len(text) > LONGEST:
        raise ValueError(f"is a regular expression of {len(text)} characters; up to {LONGEST} are read")
    try:
        re.compile(text)
        cost = _cost(parser.parse(text))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is no regular expression: {error}: {text[:100]!r}") from None
    if cost > MOST:
        raise ValueError(
            f"repeats in too many ways, and to match it could take very long: {text[:100]!r}; write fewer of *, + and ?, and "
            "none around another, or a list of names"
        )


def _cost(parsed) -> float:
    """About log2 of the ways in which it can match a name; infinite for repeats of what itself can match in several ways."""
    total = 0.0
    for kind, argument in parsed:
        inside = [_cost(part) for part in _parts(argument)]
        if kind in REPEATS:
            least, most = int(argument[0]), int(argument[1])
            count = CHOICE * log2(1 + max(least - 1, min(most - least, 15)))
            total += float("inf") if most > 1 and any(inside) else count + sum(inside)
        elif kind == parser.BRANCH:
            total += max(inside) + (0.0 if _are_different_names(argument[1]) else CHOICE * log2(len(inside)))
        else:
            total += sum(inside)
    return total


def _parts(argument: Any) -> Iterator:
    if isinstance(argument, parser.SubPattern):
        yield argument
    elif isinstance(argument, (list, tuple)):
        for part in argument:
            yield from _parts(part)


def _are_different_names(alternatives) -> bool:
    """Whether one of them at most matches in a place, or nearly so."""
    names = [tuple(value for _, value in part) for part in alternatives if all(kind == parser.LITERAL for kind, _ in part)]
    return len(names) == len(alternatives) == len(set(names))
