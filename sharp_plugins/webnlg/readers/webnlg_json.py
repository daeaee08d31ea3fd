"""WebNLG as JSON, as LoRA's and prefix tuning's code read it: ``{"entries": [{"1": {...}}, {"2": {...}}, ...]}``.

A record has ``category``, ``modifiedtripleset`` (objects with subject, property, object) and ``lexicalisations`` (objects with
``lex``, ``comment``, ``lang``). All else is left. The key, ``"1"``, is the entry's id: ``xml_id`` repeats.
"""

from pathlib import Path
from typing import Dict, Iterator, List, Tuple

from sharp_plugins.webnlg.entry import CorpusError, Entry
from sharp_plugins.webnlg.readers.official import ENGLISH, Text, entry_of, with_unique_ids

TRIPLE = ("subject", "property", "object")


def webnlg_entries(value: Dict, path: Path, language: str = ENGLISH) -> List[Entry]:
    """The entries of a file's *value*.

    Args:
        path: the file, which errors begin with.
        language: of the texts.

    Raises:
        CorpusError: it has another form; names file and entry.

    >>> lex = {"comment": "good", "lang": "", "lex": "It has bacon.", "xml_id": "Id1"}
    >>> triple = {"subject": "Bacon", "property": "partOf", "object": "BLT"}
    >>> record = {"category": "Food", "modifiedtripleset": [triple], "lexicalisations": [lex]}
    >>> webnlg_entries({"entries": [{"1": record}]}, Path("train.json"))[0].triples
    (('Bacon', 'partOf', 'BLT'),)
    """
    if "entries" not in value:
        raise CorpusError(
            f"{path}: it has no field 'entries', which WebNLG's JSON has; there are {', '.join(map(repr, value)) or 'none'}"
        )
    return with_unique_ids([_entry(id, record, path, language) for id, record in _records(value["entries"], path)])


def _records(entries, path: Path) -> Iterator[Tuple[str, Dict]]:
    """(id, record) of each entry: of an object each value is one, and of an array the one value of each element."""
    if isinstance(entries, dict):
        yield from entries.items()
    elif isinstance(entries, list):
        for number, element in enumerate(entries, start=1):
            if not isinstance(element, dict) or len(element) != 1:
                raise CorpusError(
                    f'{path}: entry {number} should be an object with one field, its number, such as {{"{number}": ...}}'
                )
            yield from element.items()
    else:
        raise CorpusError(f"{path}: 'entries' should be an array, not {type(entries).__name__}")


def _entry(id: str, record: Dict, path: Path, language: str) -> Entry:
    where = f"{path}: entry {id}"
    if not isinstance(record, dict):
        raise CorpusError(f"{where}: it should be an object, not {type(record).__name__}")
    triples, texts = ([*_objects(record, field, where)] for field in ("modifiedtripleset", "lexicalisations"))
    for number, triple in enumerate(triples, start=1):
        missing = [part for part in TRIPLE if part not in triple]
        if missing:
            raise CorpusError(f"{where}: triple {number} has no {missing[0]}")
    triples = [tuple(triple[part] for part in TRIPLE) for triple in triples]
    texts = [Text(text.get("lex"), text.get("comment"), text.get("lang")) for text in texts]
    return entry_of(id, record.get("category"), triples, texts, language, where)


def _objects(record: Dict, field: str, where: str) -> List[Dict]:
    values = record.get(field)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise CorpusError(f"{where}: field {field!r} should be an array of objects")
    return values
