"""One input of a data-to-text corpus with its reference texts, whatever form it was published in."""

from dataclasses import dataclass
from typing import Optional, Tuple

Triple = Tuple[str, str, str]


class CorpusError(ValueError):
    """The corpus cannot be used; the message names the file, and the line or the entry."""


class NoSplit(CorpusError):
    """A corpus has no such split."""


@dataclass(frozen=True)
class Entry:
    """One input (a set of triples) with all its reference texts.

    Attributes:
        id: unique in its split.
        category: such as ``Airport``.
        seen: whether the category occurs in training; None where the data do not say it (`sharp_plugins.webnlg.seen`).
        triples: (subject, property, object), at least one, in the published order. A slot of E2E NLG has an empty subject.
        refs: texts, at least one.
        good: of each text, whether its makers called it good. They call the others ``toFix``. All are good where nothing is said.

    >>> Entry("1", "Food", None, (("Bacon", "partOf", "Sandwich"),), ("It has bacon.", "Bacon is in it.")).good
    (True, True)
    """

    id: str
    category: str
    seen: Optional[bool]
    triples: Tuple[Triple, ...]
    refs: Tuple[str, ...]
    good: Tuple[bool, ...] = ()

    def __post_init__(self):
        if not self.good:
            object.__setattr__(self, "good", (True,) * len(self.refs))
        if len(self.good) != len(self.refs):
            raise ValueError(f"entry {self.id}: good has {len(self.good)} values, and there are {len(self.refs)} texts")


def one_line(text: str) -> str:
    """Collapse white space, so that a text is one line of a file."""
    return " ".join(text.split())
