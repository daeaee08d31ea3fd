"""A list of texts that are not good, ``tofix.tsv``, beside JSON lines without the field ``good``: a row for each with the columns
``split``, ``id`` and ``ref`` (the text's position in ``refs``, from 0)."""

from dataclasses import replace
from pathlib import Path
from typing import List, Sequence

from sharp_plugins.files.rows import read_rows
from sharp_plugins.webnlg.entry import CorpusError, Entry

NAME = "tofix.tsv"
COLUMNS = ("split", "id", "ref")


def list_beside(path: Path) -> Path:
    """Where the list of a file's texts would be."""
    return path.parent / NAME


def marked(entries: Sequence[Entry], path: Path) -> List[Entry]:
    """The entries of a file, with the texts that the list beside it names marked as not good; without a list as they are.

    Args:
        path: the file; the rows of the split that it is named after count (``train.jsonl.gz``: train).

    Raises:
        OSError: the list cannot be opened.
        CorpusError: a row is malformed, or names a text that there is not; names file and line.

    Example::

        entries = marked(read_json_lines(path), path)
    """
    beside = list_beside(path)
    if not beside.is_file():
        return list(entries)
    split, by_id = path.name.split(".")[0], {entry.id: entry for entry in entries}

    def understand(names):
        missing = [name for name in COLUMNS if name not in names]
        if missing:
            raise CorpusError(f"{beside}:1: no column {', '.join(missing)}; there are {', '.join(names)}")
        return lambda fields, number, where: (where, *(fields[names.index(name)] for name in COLUMNS))

    try:
        rows = read_rows(beside, understand).rows
    except ValueError as error:
        raise CorpusError(str(error)) from None
    bad = {}
    for where, row_split, id, ref in rows:
        if row_split != split:
            continue
        if id not in by_id:
            raise CorpusError(f"{where}: {path.name} has no entry {id!r}")
        if not (ref.isascii() and ref.isdigit() and int(ref) < len(by_id[id].refs)):
            raise CorpusError(
                f"{where}: entry {id!r} of {path.name} has {len(by_id[id].refs)} texts, numbered from 0, and no text {ref}"
            )
        bad.setdefault(id, set()).add(int(ref))
    return [
        replace(entry, good=tuple(good and number not in bad[entry.id] for number, good in enumerate(entry.good)))
        if entry.id in bad
        else entry
        for entry in entries
    ]
