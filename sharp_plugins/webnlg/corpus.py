"""Read a data-to-text corpus in WebNLG's shape, and write it as the parallel text files fairseq trains on.

A corpus is a directory with ``train``, ``dev`` and ``test``, each as ``.jsonl`` or ``.jsonl.gz``: one JSON object a
line with the fields

    id        a string, unique in its file
    category  a string
    seen      true or false (does the category occur in training?), or null where that is not asked
    triples   a list of [subject, predicate, object], at least one
    refs      a list of reference texts, at least one
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

from sharp_plugins.files.text import TextError, parse_json, text_lines

SPLITS = ("train", "dev", "test")

# What separates the parts of a linearised triple. In sentencepiece they should be user-defined symbols.
SUBJECT, PREDICATE, OBJECT = "<S>", "<P>", "<O>"


class CorpusError(ValueError):
    """The corpus cannot be used; the message names the file and the line."""


@dataclass(frozen=True)
class Entry:
    """One input (a set of triples) with all its reference texts.

    >>> line = '{"id": "1", "category": "Food", "triples": [["Bacon", "partOf", "Sandwich"]], "refs": ["It has bacon."]}'
    >>> parse_line(line, "train.jsonl:1").triples
    (('Bacon', 'partOf', 'Sandwich'),)
    """

    id: str
    category: str
    seen: Optional[bool]
    triples: Tuple[Tuple[str, str, str], ...]
    refs: Tuple[str, ...]


def read_corpus(directory) -> Dict[str, List[Entry]]:
    """Return ``{"train": [...], "dev": [...], "test": [...]}``, each in the file's order."""
    directory = Path(directory)
    if not directory.is_dir():
        raise CorpusError(f"{directory}: no such directory")
    # Look for all three before reading any, so that a missing test file does not show only after a long read.
    paths = {split: find_split(directory, split) for split in SPLITS}
    return {split: read_split(path) for split, path in paths.items()}


def find_split(directory, split: str) -> Path:
    """Return the path of one split's file, compressed or not."""
    candidates = [Path(directory) / f"{split}.jsonl", Path(directory) / f"{split}.jsonl.gz"]
    for path in candidates:
        if path.is_file():
            return path
    raise CorpusError(f"{directory}: neither {candidates[0].name} nor {candidates[1].name} is there")


def read_split(path) -> List[Entry]:
    """Read and check one ``.jsonl`` or ``.jsonl.gz`` file."""
    path = Path(path)
    entries, line_of_id = [], {}
    try:
        for number, line in text_lines(path):
            entry = parse_line(line, f"{path}:{number}")
            if entry.id in line_of_id:
                raise CorpusError(f"{path}:{number}: id {entry.id!r} is already on line {line_of_id[entry.id]}")
            line_of_id[entry.id] = number
            entries.append(entry)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error}") from error
    except TextError as error:
        raise CorpusError(str(error)) from error
    if not entries:
        raise CorpusError(f"{path}: the file is empty")
    return entries


def parse_line(line: str, where: str) -> Entry:
    """Turn one line into an :class:`Entry`; ``where`` (``file:line``) begins every error message."""
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
    return Entry(
        id=record["id"],
        category=record["category"],
        seen=seen,
        triples=_parse_triples(record["triples"], where),
        refs=_parse_refs(record["refs"], where),
    )


def _parse_triples(triples, where: str) -> Tuple[Tuple[str, str, str], ...]:
    if not isinstance(triples, list) or not triples:
        raise CorpusError(f"{where}: field 'triples' must be a list with at least one triple")
    for number, triple in enumerate(triples, start=1):
        if not isinstance(triple, list) or len(triple) != 3 or not all(_is_text(part) for part in triple):
            raise CorpusError(f"{where}: triple {number} must be [subject, predicate, object], got {triple!r}")
    return tuple(tuple(triple) for triple in triples)


def _parse_refs(refs, where: str) -> Tuple[str, ...]:
    if not isinstance(refs, list) or not refs:
        raise CorpusError(f"{where}: field 'refs' must be a list with at least one reference text")
    for number, ref in enumerate(refs, start=1):
        if not _is_text(ref):
            raise CorpusError(f"{where}: reference {number} must be a text that is not empty, got {ref!r}")
    return tuple(refs)


def _is_text(value) -> bool:
    return isinstance(value, str) and bool(value.strip())


def readable_entity(name: str) -> str:
    """``Aarhus_Airport`` -> ``Aarhus Airport``; the quotation marks around a literal are dropped."""
    if len(name) >= 2 and name.startswith('"') and name.endswith('"'):
        name = name[1:-1]
    return " ".join(name.replace("_", " ").split())


def readable_predicate(name: str) -> str:
    """``leaderName`` -> ``leader name``: camelCase is split, its words become lower case, abbreviations stay.

    Words of a predicate then share their pieces with the same words in the texts.
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " ")).split()
    return " ".join(word if re.search(r"[A-Z]{2}", word) else word.lower() for word in words)


def linearise(triples) -> str:
    """Write triples on one line: ``<S> Aarhus <P> leader name <O> Jacob Bundsgaard <S> ...``, in their order."""
    parts = []
    for subject, predicate, obj in triples:
        parts += [SUBJECT, readable_entity(subject)]
        parts += [PREDICATE, readable_predicate(predicate)]
        parts += [OBJECT, readable_entity(obj)]
    return " ".join(parts)


def training_pairs(entries: List[Entry]) -> Iterator[Tuple[str, str]]:
    """Yield (source line, target line), one pair for each reference of each input."""
    for entry in entries:
        source = linearise(entry.triples)
        for ref in entry.refs:
            yield source, one_line(ref)


def evaluation_pairs(entries: List[Entry]) -> Iterator[Tuple[str, str]]:
    """Yield one pair for each input, with its first reference; scores use all references, from the entries."""
    for entry in entries:
        yield linearise(entry.triples), one_line(entry.refs[0])


def one_line(text: str) -> str:
    """Collapse white space, so that a text is one line of a parallel file."""
    return " ".join(text.split())


def write_parallel(corpus: Dict[str, List[Entry]], directory) -> Dict[str, int]:
    """Write ``{train,dev,test}.{src,tgt}`` and return the number of lines of each split."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    counts = {}
    for split, entries in corpus.items():
        pairs = list(training_pairs(entries) if split == "train" else evaluation_pairs(entries))
        for side, name in enumerate(("src", "tgt")):
            text = "".join(pair[side] + "\n" for pair in pairs)
            (directory / f"{split}.{name}").write_text(text, encoding="utf-8", newline="\n")
        counts[split] = len(pairs)
    return counts


def main(argv=None) -> int:
    """Command line: check a corpus and write its parallel text files."""
    parser = argparse.ArgumentParser(prog="python -m sharp_plugins.webnlg.corpus", description=main.__doc__)
    parser.add_argument("--data", required=True, help="directory with train, dev and test .jsonl[.gz]")
    parser.add_argument("--out", required=True, help="directory to write {train,dev,test}.{src,tgt} to")
    args = parser.parse_args(argv)
    try:
        corpus = read_corpus(args.data)
    except CorpusError as error:
        print(f"--data: {error}", file=sys.stderr)
        return 1
    for split, count in write_parallel(corpus, args.out).items():
        print(f"{split}: {len(corpus[split])} inputs, {count} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
