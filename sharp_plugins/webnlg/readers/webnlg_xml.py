"""WebNLG as XML (the 2017 challenge, releases v1 to v3.0): ``benchmark/entries/entry``, a file or a tree of files.

An ``entry`` has ``category`` and ``eid``, ``modifiedtripleset/mtriple`` with "subject | property | object", and several ``lex``
with ``comment`` (``good`` or ``toFix``; test sets have none) and, in some releases, ``lang``. All else is left. The enriched
WebNLG (Castro Ferreira et al. 2018) has several parts in a ``lex``, of which ``text`` is the text.
"""

from pathlib import Path
from typing import Iterator, List
from xml.etree.ElementTree import Element

from sharp_plugins.files.xml import read_xml
from sharp_plugins.webnlg.entry import CorpusError, Entry
from sharp_plugins.webnlg.readers.official import ENGLISH, Text, entry_of, with_unique_ids

ENDINGS = (".xml", ".xml.gz")


def read_webnlg_xml(path: Path, language: str = ENGLISH) -> List[Entry]:
    """The entries of a file, or of all files below a directory, in the order of their paths.

    Args:
        language: of the texts.

    Raises:
        OSError: a file cannot be opened.
        TextError: a file is not XML or has a document type declaration.
        CorpusError: an entry is malformed; names file and entry.

    Example::

        entries = read_webnlg_xml(Path("webnlg_challenge_2017/train"))
    """
    return with_unique_ids([entry for file in xml_files(path) for entry in _entries(file, language)])


def xml_files(path: Path) -> List[Path]:
    """The XML files that *path* stands for: itself, or those below it."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.name.endswith(ENDINGS) and not file.name.startswith("."))


def _entries(file: Path, language: str) -> Iterator[Entry]:
    for number, element in enumerate(read_xml(file, "benchmark").iterfind("entries/entry"), start=1):
        id = element.get("eid")
        if not id:
            raise CorpusError(f"{file}: entry {number} has no eid")
        where = f"{file}: entry {id}"
        triples = [_triple(one, where) for one in element.iterfind("modifiedtripleset/mtriple")]
        texts = [Text(_text(lex, where), lex.get("comment"), lex.get("lang")) for lex in element.iterfind("lex")]
        yield entry_of(id, element.get("category"), triples, texts, language, where)


def _text(lex: Element, where: str) -> str:
    if not len(lex):
        return lex.text or ""
    parts = lex.findall("text")
    if len(parts) != 1 or len(parts[0]):
        names = ", ".join(dict.fromkeys(part.tag for part in lex))
        raise CorpusError(f"{where}: a lex has parts ({names}); one of them should be <text>, without parts of its own")
    return parts[0].text or ""


def _triple(element: Element, where: str):
    text = "".join(element.itertext())
    parts = [part.strip() for part in text.split(" | ")]
    if len(parts) != 3:
        raise CorpusError(f"{where}: a triple should be 'subject | property | object', got {text!r}")
    return tuple(parts)
