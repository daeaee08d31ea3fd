"""Groups of inputs that are scored by themselves: all, seen and unseen categories, each category, each number of triples."""

from typing import Callable, Dict, List, Sequence

from sharp_plugins.webnlg.entry import Entry
from sharp_plugins.webnlg.seen import SEEN_2017, is_webnlg


def groups_of(entries: Sequence[Entry]) -> Dict[str, List[int]]:
    """The inputs' numbers by ``all``, ``seen`` and ``unseen``; groups without inputs are left out.

    Whether a category occurs in training the data say, or else the list of 2017; `sharp_plugins.webnlg.seen.tell_seen` has other
    rules. To a corpus with none of WebNLG's categories the list says nothing.

    >>> one = Entry("1", "Food", None, (("a", "b", "c"),), ("text",))
    >>> groups_of([one]), groups_of([Entry("2", "Restaurant", None, one.triples, one.refs)])
    ({'all': [0], 'seen': [0]}, {'all': [0]})
    """
    groups: Dict[str, List[int]] = {"all": list(range(len(entries))), "seen": [], "unseen": []}
    has_list = is_webnlg(entries)
    for number, entry in enumerate(entries):
        if entry.seen is not None or has_list:
            is_seen = entry.category in SEEN_2017 if entry.seen is None else entry.seen
            groups["seen" if is_seen else "unseen"].append(number)
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
