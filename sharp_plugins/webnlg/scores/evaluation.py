"""All scores of one system, as the dictionary that ``score --json`` writes."""

import unicodedata
from typing import Dict, Iterable, Optional, Sequence

from sharp_plugins.webnlg.corpus import Entry
from sharp_plugins.webnlg.scores.groups import groups_of, parts_of
from sharp_plugins.webnlg.scores.system import System
from sharp_plugins.webnlg.scores.ways import WAYS


class ScoringError(ValueError):
    """Hypotheses and references do not fit together; the message says where."""


def all_scores(hypotheses: Sequence[str], entries: Sequence[Entry]) -> Dict:
    """Score one text for each input, in the three ways.

    Args:
        hypotheses: the texts, in the order of *entries*; an empty one counts as an empty text.
        entries: the inputs with their references.

    Returns:
        ``{"sacrebleu" | "challenge2017" | "lora": {"all" | "seen" | "unseen": {"bleu", "chrf", "ter"}}}`` with numbers in percent
        that are not rounded, and besides ``counts`` (inputs of each group), ``breakdown`` (``{way: {"category" | "triples": {name:
        scores and count}}}``) and ``signatures`` (``{way: {measure: how it was made}}``). Groups without inputs are left out.

    Raises:
        ScoringError: the numbers of texts and inputs differ, there are none, or something that is no text stands for one.

    Example::

        entries = read_split(find_split("webnlg2017", "test"))
        print(all_scores(read_hypotheses("melbourne.txt", entries), entries)["challenge2017"]["unseen"]["bleu"])
    """
    return scores_of(systems(hypotheses, entries), entries)


def systems(hypotheses: Sequence[str], entries: Sequence[Entry]) -> Dict[str, System]:
    """A system's texts in each way. Raises as `all_scores` does."""
    check(hypotheses, entries)
    references = [entry.refs for entry in entries]
    return {name: System(way, hypotheses, references) for name, way in WAYS.items()}


def scores_of(found: Dict[str, System], entries: Sequence[Entry]) -> Dict:
    """What `all_scores` returns, of what `systems` returns."""
    groups, parts = groups_of(entries), parts_of(entries)
    result: Dict = {name: {group: system.scores(rows) for group, rows in groups.items()} for name, system in found.items()}
    result["counts"] = {group: len(rows) for group, rows in groups.items()}
    result["signatures"] = {name: system.signatures for name, system in found.items()}
    result["breakdown"] = {
        name: {
            part: {value: {**system.scores(rows), "count": len(rows)} for value, rows in of.items()} for part, of in parts.items()
        }
        for name, system in found.items()
    }
    return result


def check(hypotheses: Sequence[str], entries: Sequence[Entry]) -> None:
    """Raises `ScoringError` as `all_scores` does."""
    if len(hypotheses) != len(entries):
        raise ScoringError(f"{len(hypotheses)} hypotheses for {len(entries)} inputs")
    if not hypotheses:
        raise ScoringError("there is nothing to score")
    for number, text in enumerate(hypotheses, start=1):
        if not isinstance(text, str):
            raise ScoringError(f"hypothesis {number}: a text is expected, got {text!r}")
    for number, entry in enumerate(entries, start=1):
        # A lone string is a sequence too: of one-letter references.
        if isinstance(entry.refs, str) or not entry.refs:
            raise ScoringError(f"input {number}: a list with at least one reference is expected, got {entry.refs!r}")
        for which, text in enumerate(entry.refs, start=1):
            # One without words would count: TER divides by the references' mean length.
            if not isinstance(text, str) or not text.strip():
                raise ScoringError(f"input {number}, reference {which}: a text that is not empty is expected, got {text!r}")


def not_composed(texts: Iterable[str]) -> Optional[int]:
    """The place, from 1, of the first text that is not in Unicode's composed form (NFC): an é that is two characters there does not
    equal one that is one character. None where all are.

    >>> not_composed(["a café", "a cafe\u0301"])
    2
    """
    return next((number for number, text in enumerate(texts, start=1) if not unicodedata.is_normalized("NFC", text)), None)
