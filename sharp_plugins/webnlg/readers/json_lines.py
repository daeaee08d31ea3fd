"""The project's own form: a file of JSON lines, ``.jsonl`` or ``.jsonl.gz``, an object a line with the fields

id        a string, unique in its file
category  a string
seen      true or false (does the category occur in training?), or null or missing where the data do not say it
triples   a list of [subject, property, object], at least one; the subject of an E2E NLG slot is ""
refs      a list of reference texts, at least one
good      a list of true and false, one for each text, or missing where all are good
"""

import json
from pathlib import Path
from typing import List, Tuple

from sharp_plugins.files.text import TextError, parse_json, text_lines
from sharp_plugins.webnlg.entry import CorpusError, Entry


def read_json_lines(path: Path) -> List[Entry]:
    """Read and check a file.

    Raises:
        OSError: it cannot be opened.
        TextError: it is no text.
        CorpusError: a line is no entry, or an id occurs twice.
    """
    entries, line_of_id = [], {}
    for number, line in text_lines(path):
        entry = parse_line(line, f"{path}:{number}")
        if entry.id in line_of_id:
            raise CorpusError(f"{path}:{number}: id {entry.id!r} is already on line {line_of_id[entry.id]}")
        line_of_id[entry.id] = number
        entries.append(entry)
    return entries


def parse_line(line: str, where: str) -> Entry:
    """Turn one line into an `Entry`; ``where`` (``file:line``) begins every error message.

    >>> line = '{"id": "1", "category": "Food", "triples": [["Bacon", "partOf", "Sandwich"]], "refs": ["It has bacon."]}'
    >>> parse_line(line, "train.jsonl:1").triples
    (('Bacon', 'partOf', 'Sandwich'),)
    """
    if not line.strip():
        raise CorpusError(f"{where}: the line is empty")
    try:
        record = parse_json(line, where)
    except TextError as error:
        raise CorpusError(str(error)) from error
    if not isinstance(record, dict):
        raise CorpusError(f"{where}: a JSON object is expected, not {type(record).__name__}")
    for field in ("id", "category", "triples", "refs"):
        if field not in record:
            raise CorpusError(f"{where}: field {field!r} is missing")
    for field in ("id", "category"):
        if not _is_text(record[field]):
            raise CorpusError(f"{where}: field {field!r} must be a string that is not empty")
    seen = record.get("seen")
    if seen is not None and not isinstance(seen, bool):
        raise CorpusError(f"{where}: field 'seen' must be true, false or null, not {seen!r}")
    refs = _parse_refs(record["refs"], where)
    return Entry(
        id=record["id"],
        category=record["category"],
        seen=seen,
        triples=_parse_triples(record["triples"], where),
        refs=refs,
        good=_parse_good(record.get("good"), len(refs), where),
    )


def _parse_triples(triples, where: str) -> Tuple[Tuple[str, str, str], ...]:
    if not isinstance(triples, list) or not triples:
        raise CorpusError(f"{where}: field 'triples' must be a list with at least one triple")
    for number, triple in enumerate(triples, start=1):
        is_triple = isinstance(triple, list) and len(triple) == 3 and all(_is_text(part) for part in triple[1:])
        if not is_triple or not (_is_text(triple[0]) or triple[0] == ""):
            raise CorpusError(f"{where}: triple {number} must be [subject, predicate, object], got {triple!r}")
    return tuple(tuple(triple) for triple in triples)


def _parse_refs(refs, where: str) -> Tuple[str, ...]:
    if not isinstance(refs, list) or not refs:
        raise CorpusError(f"{where}: field 'refs' must be a list with at least one reference text")
    for number, ref in enumerate(refs, start=1):
        if not _is_text(ref):
            raise CorpusError(f"{where}: reference {number} must be a text that is not empty, got {ref!r}")
    return tuple(refs)


def _parse_good(good, count: int, where: str) -> Tuple[bool, ...]:
    if good is None:
        return (True,) * count
    if not isinstance(good, list) or len(good) != count or not all(isinstance(one, bool) for one in good):
        raise CorpusError(
            f"{where}: field 'good' must be a list of true and false, one for each of the {count} texts, got {good!r}"
        )
    return tuple(good)


def _is_text(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def line_of(entry: Entry) -> str:
    """An entry as a line, without its end. `parse_line` makes the same entry of it.

    >>> entry = Entry("1", "Food", None, (("Bacon", "partOf", "BLT"),), ("It has bacon.", "bacon it"), (True, False))
    >>> parse_line(line_of(entry), "train.jsonl:1") == entry
    True
    """
    record = {
        "id": entry.id,
        "category": entry.category,
        "seen": entry.seen,
        "triples": entry.triples,
        "refs": entry.refs,
        **({} if all(entry.good) else {"good": entry.good}),
    }
    return json.dumps(record, ensure_ascii=False)
