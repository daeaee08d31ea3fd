"""Whether an entry's category is one that training has: what the data say, else a published list, or what is in training."""

from dataclasses import replace
from typing import Callable, Iterable, List, Optional, Sequence, Tuple

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
# The others of all releases.
OTHERS = ("Artist", "Athlete", "CelestialBody", "Company", "Film", "MeanOfTransportation", "MusicalWork", "Politician", "Scientist")
PUBLISHED, TRAINING = "published", "training"
RULES = (PUBLISHED, TRAINING)
WORDS = {
    PUBLISHED: "by the ten categories of the 2017 challenge's training data",
    TRAINING: "by the categories of the training set",
    "data": "as the data say",
}


def is_webnlg(entries: Iterable[Entry]) -> bool:
    """Whether one of the categories is WebNLG's. To another corpus the published list says nothing."""
    return any(entry.category in SEEN_2017 + OTHERS for entry in entries)


def tell_seen(
    entries: Sequence[Entry], how: Optional[str], training: Callable[[], Optional[Sequence[Entry]]]
) -> Tuple[List[Entry], str]:
    """The entries with ``seen``, and in words how it was told.

    Args:
        how: one of `RULES`, which then goes before what the data say. None: as the data say; where they do not, by the training
            set if there is one, else by the published list. A corpus that is not WebNLG's is then left as it is.
        training: reads the training set; returns None where there is none.

    Raises:
        ValueError: there is no training set to go by.

    >>> entry = Entry("1", "Film", None, (("Bacon", "starring", "Lee"),), ("Lee is in Bacon.",))
    >>> found, words = tell_seen([entry], None, lambda: [entry])
    >>> found[0].seen, words
    (True, 'by the categories of the training set')
    """
    if how is not None:
        entries = [replace(entry, seen=None) for entry in entries]
    unsaid = sum(entry.seen is None for entry in entries)
    if not unsaid:
        return list(entries), WORDS["data"]
    if how is None and not is_webnlg(entries):
        return list(entries), "by nothing: the data do not say it, and have none of WebNLG's categories"
    train = () if how == PUBLISHED else training() or ()
    rule = how or (TRAINING if train else PUBLISHED)
    words = WORDS[rule] if unsaid == len(entries) else f"{WORDS['data']}; where they do not, {WORDS[rule]}"
    return with_seen(entries, rule, train), words


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
    if how not in RULES:
        raise ValueError(f"seen by {how!r}: should be {' or '.join(RULES)}")
    seen = set(SEEN_2017) if how == PUBLISHED else {entry.category for entry in training}
    if not seen:
        raise ValueError(f"--seen {TRAINING}: there are no training data to go by")
    return [entry if entry.seen is not None else replace(entry, seen=entry.category in seen) for entry in entries]
