"""Where a run stands among those of its task and method: its axes as a key, and the order of such keys."""

from typing import Collection, Dict, Iterable, List, Tuple

from sharp_plugins.runs.record import Record, Value

# (name, value) of each axis, by name: unlike a dictionary, a key.
Coordinates = Tuple[Tuple[str, Value], ...]


def coordinates(record: Record, without: Collection[str] = ()) -> Coordinates:
    """The axes of a run, but for those named in *without*.

    >>> coordinates(Record("glue", "RTE", "sam", 1, {"noise": 0.1, "examples": 16}), without=["noise"])
    (('examples', 16),)
    """
    return tuple(sorted((name, value) for name, value in record.axes.items() if name not in without))


def is_part(part: Coordinates, whole: Coordinates) -> bool:
    """Whether all of *part* is in *whole*. A method without an axis, such as base without ρ, stands beside each value of it."""
    return set(part) <= set(whole)


def is_comparable(part: Coordinates, whole: Coordinates) -> bool:
    """Whether *part* is in *whole*, and lacks settings alone, which have a dot in their names: other axes are of the data.

    >>> whole = (("examples", 16), ("optimizer.sam_rho", 0.1))
    >>> is_comparable(whole[:1], whole), is_comparable(whole[1:], whole)
    (True, False)
    """
    return is_part(part, whole) and all("." in name for name, _ in set(whole) - set(part))


def in_order(found: Iterable[Coordinates]) -> List[Coordinates]:
    """Each key once: those without an axis first, then its numbers as they ascend, then other values as they were found.

    >>> in_order([(("examples", 32),), (("examples", 16),), ()])
    [(), (('examples', 16),), (('examples', 32),)]
    """
    keys = list(dict.fromkeys(found))
    values: Dict[str, List[Value]] = {}
    for name, value in (pair for key in keys for pair in key):
        if value not in values.setdefault(name, []):
            values[name].append(value)
    for several in values.values():
        several.sort(key=lambda value: (is_text(value), 0 if is_text(value) else value))

    def place(key: Coordinates) -> List[int]:
        own = dict(key)
        return [values[name].index(own[name]) if name in own else -1 for name in values]

    return sorted(keys, key=place)


def is_text(value: Value) -> bool:
    return isinstance(value, str)


def label(value: Value) -> str:
    """As it would be typed.

    >>> label(0.05), label(16), label("uniform")
    ('0.05', '16', 'uniform')
    """
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe(key: Coordinates) -> str:
    """In a line.

    >>> describe((("examples", 16), ("noise", 0.1)))
    'examples 16, noise 0.1'
    """
    return ", ".join(f"{name} {label(value)}" for name, value in key)
