"""Groups of inputs that are scored by themselves: all, seen and unseen categories, each category, each number of triples."""

from typing import Callable, Dict, List, Sequence

from sharp_plugins.webnlg.corpus import Entry

# The categories of the challenge's training data (2017).
SEEN = frozenset("Airport Astronaut Building City ComicsCharacter Food Monument SportsTeam University WrittenWork".split())


def is_seen(entry: Entry) -> bool:
    """Whether an input's category occurs in training: as the data say, or else by the list of 2017."""
    return entry.category in SEEN if entry.seen is None else entry.seen


def groups_of(entries: Sequence[Entry]) -> Dict[str, List[int]]:
    """The inputs' numbers by ``all``, ``seen`` and ``unseen``; groups without inputs are left out."""
    groups = {"all": list(range(len(entries))), "seen": [], "unseen": []}
    for number, entry in enumerate(entries):
        groups["seen" if is_seen(entry) else "unseen"].append(number)
    return {name: rows for name, rows in groups.items() if rows}


def parts_of(entries: Sequence[Entry]) -> Dict[str, Dict[str, List[int]]]:
    """The inputs' numbers by ``category`` and by ``triples``, how many an input has."""
    return {
        "category": _by(entries, lambda entry: entry.category),
        "triples": {str(count): rows for count, rows in _by(entries, lambda entry: len(entry.triples)).items()},
    }


def _by(entries: Sequence[Entry], what: Callable[[Entry], object]) -> Dict:
    found: Dict = {}
    for number, entry in enumerate(entries):
        found.setdefault(what(entry), []).append(number)
    return {name: found[name] for name in sorted(found)}
