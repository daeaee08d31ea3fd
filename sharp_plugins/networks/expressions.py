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

LONGEST = 10_000
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
        time = choice = 0.0
        if kind == parser.BRANCH:
            time = choice = CHOICE * log2(_that_match_together(argument[1]))
            costs, choices = [max(costs)], [max(choices)]
        elif kind in REPEATS:
            least, most = int(argument[0]), int(argument[1])
            choice = CHOICE * log2(1 + min(most - least, 15))
            is_divided = most > 1 and any(choices) and not _has_a_mark(argument[2])
            time = float("inf") if is_divided else max(choice, CHOICE * log2(max(least, 1)))
        total += time + sum(costs)
        ways += 0.0 if kind in LOOKS else choice + sum(choices)
    return total, ways


def _parts(argument: Any) -> Iterator:
    if isinstance(argument, parser.SubPattern):
        yield argument
    elif isinstance(argument, (list, tuple)):
        for part in argument:
            yield from _parts(part)


def _has_a_mark(body: Any) -> bool:
    """Whether each round of a repeat begins or ends with a character that nothing else in it matches, as in ``(\\.\\w+)*``: then a
    name is divided among the rounds in one way alone."""
    items = list(body)
    while len(items) == 1 and items[0][0] == parser.SUBPATTERN:
        items = list(items[0][1][-1])
    for mark, rest in ((items[:1], items[1:]), (items[-1:], items[:-1])):
        if len(rest) == 1 and mark[0][0] == parser.LITERAL and rest[0][0] in REPEATS:
            inner = list(rest[0][1][2])
            if len(inner) == 1 and _never_matches(inner[0], mark[0][1]):
                return True
    return False


def _never_matches(item: Any, code: int) -> bool:
    """Whether a single character's class is known not to match the one of *code*, in either case."""
    kind, argument = item
    codes = {ord(case) for case in (chr(code).lower(), chr(code).upper()) if len(case) == 1}
    if kind == parser.NOT_LITERAL:
        return argument == code
    if kind != parser.IN or code >= 128:
        return False
    if argument[0][0] == parser.NEGATE:
        return (parser.LITERAL, code) in argument
    word = chr(code).isalnum() or code == ord("_")
    for part, value in argument:
        if part == parser.CATEGORY:
            fits = word if value == parser.CATEGORY_WORD else chr(code).isdigit() if value == parser.CATEGORY_DIGIT else True
        elif part == parser.RANGE:
            fits = value[1] >= 128 or any(value[0] <= one <= value[1] for one in codes)
        else:
            fits = part != parser.LITERAL or value in codes or value >= 128
        if fits:
            return False
    return True


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
