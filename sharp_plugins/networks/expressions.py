"""Regular expressions that choose layers, from files too: refused where they are none, or could take for ever.

Python tries all ways to divide a name among the parts of an expression: ``(.*.*)*x`` has more of them than anyone can wait for.
What chooses layers has few parts that repeat, and none inside another.
"""

import importlib
import re
import sys
from math import log2
from typing import Any, Iterator, Sequence

parser: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")

LONGEST = 2000
# Four parts such as .* after each other, and some choices: about log2 of the ways. A .* counts for 6, and a ? for `CHOICE`.
MOST = 26.0
CHOICE = 1.5
LOOKS = {parser.ASSERT, parser.ASSERT_NOT}
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


def _cost(parsed: Any, looks: bool = True) -> float:
    """About log2 of the ways in which it can match a name; infinite for repeats of what itself can match in several ways.

    Args:
        looks: whether what looks ahead or back counts. It takes its time wherever it is tried, but it is tried in one way alone.
    """
    total = 0.0
    for kind, argument in parsed:
        inside = [_cost(part, looks) for part in _parts(argument)]
        if kind in LOOKS:
            total += sum(inside) if looks or float("inf") in inside else 0.0
        elif kind in REPEATS:
            least, most = int(argument[0]), int(argument[1])
            count = CHOICE * log2(1 + max(least - 1, min(most - least, 15)))
            repeats_ways = most > 1 and any(_cost(part, looks=False) for part in _parts(argument))
            total += float("inf") if repeats_ways else count + sum(inside)
        elif kind == parser.BRANCH:
            total += max(inside) + CHOICE * log2(_that_match_together(argument[1]))
        else:
            total += sum(inside)
    return total


def _parts(argument: Any) -> Iterator:
    if isinstance(argument, parser.SubPattern):
        yield argument
    elif isinstance(argument, (list, tuple)):
        for part in argument:
            yield from _parts(part)


def _that_match_together(alternatives: Sequence[Any]) -> int:
    """How many of them may match in one place: of names those that others begin with, in either case, as ``(?i)`` may stand before;
    of anything else all. In a repeat two are too many: ``(a|aa)*x`` can divide a name in more ways than anyone can wait for."""
    names = ["".join(chr(value) for _, value in part).lower() for part in alternatives if _is_plain_text(part)]
    if len(names) < len(alternatives):
        return len(alternatives)
    return max(sum(one.startswith(other) for other in names) for one in names)


def _is_plain_text(part: Any) -> bool:
    """In ASCII: beyond it, two letters may be one for ``(?i)``."""
    return all(kind == parser.LITERAL and value < 128 for kind, value in part)
