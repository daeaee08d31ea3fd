"""Which texts count: the good ones or all, and all of one input together."""

from dataclasses import replace
from typing import Dict, List, Sequence, Tuple

from sharp_plugins.webnlg.entry import Entry, Triple

GOOD, ALL = TEXTS = "good", "all"


def choose_texts(corpus: Dict[str, List[Entry]], texts: str) -> Dict[str, List[Entry]]:
    """A corpus with the texts that training and development use; the test set keeps all its references.

    Published work on GPT-2 trains on the good texts of WebNLG 2017: 18,025 of 18,102.

    Args:
        corpus: entries by split.
        texts: `GOOD` or `ALL`.

    Raises:
        ValueError: *texts* is neither, or no text of a split is good.
    """
    if texts not in TEXTS:
        raise ValueError(f"texts {texts!r}: should be {' or '.join(TEXTS)}")
    chosen = {split: good_texts(entries) if texts == GOOD and split != "test" else entries for split, entries in corpus.items()}
    for split, entries in chosen.items():
        if corpus[split] and not entries:
            raise ValueError(f"{split}: none of its texts is marked as good; --texts {ALL} takes all")
    return chosen


def good_texts(entries: Sequence[Entry]) -> List[Entry]:
    """The entries with their good texts alone; those that have none are left out.

    >>> entry = Entry("1", "Food", None, (("Bacon", "partOf", "BLT"),), ("It has bacon.", "bacon it"), (True, False))
    >>> [one.refs for one in good_texts([entry, replace(entry, good=(False, False))])]
    [('It has bacon.',)]
    """
    chosen = []
    for entry in entries:
        refs = tuple(ref for ref, is_good in zip(entry.refs, entry.good) if is_good)
        if refs:
            chosen.append(entry if len(refs) == len(entry.refs) else replace(entry, refs=refs, good=(True,) * len(refs)))
    return chosen


def group_by_input(entries: Sequence[Entry]) -> List[Entry]:
    """One entry for each input (the same triples in the same order), where the first of its entries stood, with the texts of all.

    LoRA's code (microsoft/LoRA, examples/NLG/src/gpt2_decode.py) groups its references so before it scores. What else an entry
    has is the first one's.

    >>> entry = Entry("1", "Food", None, (("Bacon", "partOf", "BLT"),), ("It has bacon.",))
    >>> [(one.id, one.refs) for one in group_by_input([entry, replace(entry, id="2", refs=("Bacon is in it.",))])]
    [('1', ('It has bacon.', 'Bacon is in it.'))]
    """
    groups: Dict[Tuple[Triple, ...], List[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.triples, []).append(entry)
    return [
        replace(first, refs=tuple(ref for one in group for ref in one.refs), good=tuple(good for one in group for good in one.good))
        for group in groups.values()
        for first in group[:1]
    ]
