"""Regular expressions that choose layers, from files too: refused where they are none, or could take for ever.

Python tries all ways to divide a name among the parts of an expression: ``(.*.*)*x`` has more of them than anyone can wait for.
What chooses layers has few parts that repeat, and none inside another.
"""

import importlib
import re
import sys
from math import log2
from typing import Any, Iterator, Sequence, Tuple

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
        cost, _ = _costs(parser.parse(text))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is no regular expression: {error}: {text[:100]!r}") from None
    if cost > MOST:
        raise ValueError(
            f"repeats in too many ways, and to match it could take very long: {text[:100]!r}; write fewer of *, + and ?, and "
            "none around another, or a list of names"
        )


def _costs(parsed: Any) -> Tuple[float, float]:
    """About log2 of the time to match a name, and of the ways to match it: infinite for repeats of what itself can match in several
    ways. What looks ahead or back takes its time wherever it is tried, but is tried in one way alone."""
    total = ways = 0.0
    for kind, argument in parsed:
        inside = [_costs(part) for part in _parts(argument)] or [(0.0, 0.0)]
        costs, choices = (list(numbers) for numbers in zip(*inside))
        if kind == parser.BRANCH:
            more, costs, choices = CHOICE * log2(_that_match_together(argument[1])), [max(costs)], [max(choices)]
        elif kind in REPEATS:
            least, most = int(argument[0]), int(argument[1])
            more = float("inf") if most > 1 and any(choices) else CHOICE * log2(1 + max(least - 1, min(most - least, 15)))
        else:
            more = 0.0
        total += more + sum(costs)
        ways += 0.0 if kind in LOOKS else more + sum(choices)
    return total, ways


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
