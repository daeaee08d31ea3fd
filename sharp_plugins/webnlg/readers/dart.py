"""DART's JSON: an array of objects with ``tripleset`` and ``annotations`` (objects with ``text`` and ``source``).

Properties are read in lower case, as by LoRA's and prefix tuning's code (microsoft/LoRA,
examples/NLG/src/format_converting_dart.py). The category is the source of the first text, such as ``WikiSQL_lily`` or ``webnlg``.
The published test set has an empty text; empty texts are left out, and so is an input that has no other.
"""

from pathlib import Path
from typing import Dict, List

from sharp_plugins.webnlg.entry import CorpusError, Entry, one_line


def dart_entries(records: List, path: Path) -> List[Entry]:
    """The entries of a file's value. Their ids are ``Id1``, ``Id2`` and so on: the file has none.

    Args:
        path: the file, which errors begin with.

    Raises:
        CorpusError: a record has another form; names file and entry.

    >>> record = {"tripleset": [["Bacon", "PART_OF", "BLT"]], "annotations": [{"source": "WikiSQL_lily", "text": "It has bacon."}]}
    >>> dart_entries([record], Path("dev.json"))[0].triples
    (('Bacon', 'part_of', 'BLT'),)
    """
    entries = (_entry(record, f"Id{number}", f"{path}: entry {number}") for number, record in enumerate(records, start=1))
    return [entry for entry in entries if entry.refs]


def _entry(record: Dict, id: str, where: str) -> Entry:
    for field in ("tripleset", "annotations"):
        if not isinstance(record, dict) or not isinstance(record.get(field), list) or not record[field]:
            raise CorpusError(f"{where}: it should be an object with a field {field!r}, an array that is not empty")
    triples = []
    for number, triple in enumerate(record["tripleset"], start=1):
        is_triple = isinstance(triple, list) and len(triple) == 3
        if not is_triple or not all(isinstance(part, str) and part.strip() for part in triple):
            raise CorpusError(f"{where}: triple {number} should be [subject, property, object], got {triple!r}")
        triples.append((triple[0], triple[1].lower(), triple[2]))
    texts = []
    for number, annotation in enumerate(record["annotations"], start=1):
        text = annotation.get("text") if isinstance(annotation, dict) else None
        if not isinstance(text, str):
            raise CorpusError(f"{where}: annotation {number} should be an object with a text")
        texts += [one_line(text)] if text.strip() else []
    source = record["annotations"][0].get("source")
    return Entry(id, source if isinstance(source, str) and source.strip() else "DART", None, tuple(triples), tuple(texts))
