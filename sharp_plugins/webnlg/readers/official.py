"""What WebNLG's two published forms have in common: the same records, with the same names, in XML and in JSON."""

from collections import Counter
from dataclasses import replace
from typing import List, NamedTuple, Optional, Sequence

from sharp_plugins.webnlg.entry import CorpusError, Entry, Triple, one_line

ENGLISH = "en"
# Files in one language leave out a text's language, or leave it empty. The Russian ones mark their English and Russian texts.
UNMARKED = (None, "")


class Text(NamedTuple):
    """A ``lex``: its words, and what its makers said of it, or None.

    >>> Text("Bacon is in it.", "toFix", "en").is_good
    False
    """

    words: str
    comment: Optional[str]
    language: Optional[str]

    @property
    def is_good(self) -> bool:
        """Test sets have no comments. Other than ``good`` are ``toFix`` and, once, ``bad``."""
        return self.comment in (None, "", "good")


def entry_of(id: str, category, triples: Sequence[Triple], texts: Sequence[Text], language: str, where: str) -> Entry:
    """An entry, checked. White space in texts is collapsed.

    Args:
        language: whose texts are taken; those without a language are taken for English.
        where: file and entry, which errors begin with.

    Raises:
        CorpusError: something is missing or empty.
    """
    if not isinstance(category, str) or not category.strip():
        raise CorpusError(f"{where}: it has no category")
    if not triples:
        raise CorpusError(f"{where}: it has no modified triple")
    for number, triple in enumerate(triples, start=1):
        if not all(isinstance(part, str) and part.strip() for part in triple):
            raise CorpusError(f"{where}: triple {number} should have a subject, a property and an object, got {triple!r}")
    if not texts:
        raise CorpusError(f"{where}: it has no text; of a test set take the file with references")
    for number, text in enumerate(texts, start=1):
        if not (text.language is None or isinstance(text.language, str)):
            raise CorpusError(f"{where}: text {number}: its language should be a word such as {language!r}, got {text.language!r}")
    taken = [text for text in texts if text.language == language or (language == ENGLISH and text.language in UNMARKED)]
    if not taken:
        others = ", ".join(sorted({text.language or "without a language" for text in texts}))
        raise CorpusError(f"{where}: it has no text in the language {language!r}; its texts are: {others}")
    for number, text in enumerate(taken, start=1):
        if not isinstance(text.words, str) or not text.words.strip():
            raise CorpusError(f"{where}: text {number} is empty")
    refs, good = tuple(one_line(text.words) for text in taken), tuple(text.is_good for text in taken)
    return Entry(id, category, None, tuple(map(tuple, triples)), refs, good)


def with_unique_ids(entries: Sequence[Entry]) -> List[Entry]:
    """The entries, each with an id of its own.

    Published ids are unique in a test set. Each file of a release numbers its entries from ``Id1``: if an id occurs twice, all
    become SIZE-CATEGORY-ID. Where that does not suffice (release_v2_constrained), what occurs again gets a number too.

    >>> one = Entry("Id1", "Food", None, (("Bacon", "partOf", "BLT"),), ("It has bacon.",))
    >>> [entry.id for entry in with_unique_ids([one, replace(one, category="City"), one])]
    ['1-Food-Id1', '1-City-Id1', '1-Food-Id1-2']
    """
    if len({entry.id for entry in entries}) == len(entries):
        return list(entries)
    named = [replace(entry, id=f"{len(entry.triples)}-{entry.category}-{entry.id}") for entry in entries]
    seen: Counter = Counter()
    result = []
    for entry in named:
        seen[entry.id] += 1
        result.append(entry if seen[entry.id] == 1 else replace(entry, id=f"{entry.id}-{seen[entry.id]}"))
    return result
