"""Whether an entry's category is one that training has: what the data say, else a published list, or what is in training."""

from dataclasses import replace
from typing import Iterable, List, Sequence

from sharp_plugins.webnlg.entry import Entry

# The ten categories of the 2017 challenge's training data, as in LoRA's code (microsoft/LoRA,
# examples/NLG/src/format_converting_webnlg.py). Release v3.0 (2020) has more of them: there ask what is in training.
SEEN_2017 = (
    "Airport",
    "Astronaut",
    "Building",
    "City",
    "ComicsCharacter",
    "Food",
    "Monument",
    "SportsTeam",
    "University",
    "WrittenWork",
)
PUBLISHED, TRAINING = "published", "training"


def with_seen(entries: Sequence[Entry], how: str = PUBLISHED, training: Iterable[Entry] = ()) -> List[Entry]:
    """The entries, each with ``seen`` true or false; what the data say stays.

    Args:
        how: `PUBLISHED`, by `SEEN_2017`, or `TRAINING`, by the categories of *training*.

    Raises:
        ValueError: *how* is neither, or there is no training set to go by.

    >>> entry = Entry("1", "Politician", None, (("Bacon", "office", "Lord"),), ("Bacon was a lord.",))
    >>> [with_seen([entry])[0].seen, with_seen([entry], TRAINING, [entry])[0].seen]
    [False, True]
    """
    if how not in (PUBLISHED, TRAINING):
        raise ValueError(f"seen by {how!r}: should be {PUBLISHED} or {TRAINING}")
    seen = set(SEEN_2017) if how == PUBLISHED else {entry.category for entry in training}
    if not seen:
        raise ValueError(f"seen by {TRAINING}: there are no training data to go by")
    return [entry if entry.seen is not None else replace(entry, seen=entry.category in seen) for entry in entries]
