"""Sentences with their classes from a file of JSON lines. Errors name file and line."""

from pathlib import Path
from typing import Iterator, NamedTuple, Optional, Tuple

from sharp_plugins.cloze.layout import Layout
from sharp_plugins.files.text import parse_json, text_lines

FIELDS = ("sentences", "label")


class Row(NamedTuple):
    """One line.

    Attributes:
        where: file and line.
        label: the number of its class in the layout.
    """

    where: str
    sentences: Tuple[str, ...]
    label: int


def read_rows(path: Path, layout: Layout) -> Iterator[Row]:
    """The rows of a file of lines ``{"sentences": ["...", "..."], "label": "..."}``; empty lines are left out.

    Raises:
        OSError: the file cannot be opened.
        ValueError: a line is none of these, has not the layout's sentences, or not one of its classes.

    Example::

        for where, sentences, label in read_rows(Path("train.jsonl"), find_layout("rte")):
            print(where, sentences, label)
    """
    classes = {name: number for number, name in enumerate(layout.classes)}
    for number, line in text_lines(path):
        if line.strip():
            where = f"{path}:{number}"
            row = parse_json(line, where)
            if not isinstance(row, dict):
                raise ValueError(f"{where}: not a JSON object but a {type(row).__name__}")
            missing = [name for name in FIELDS if name not in row]
            if missing:
                raise ValueError(f"{where}: no field {' and no '.join(missing)}; there are {', '.join(row) or 'none'}")
            label = _class(row["label"])
            if label not in classes:
                raise ValueError(f"{where}: the label is {row['label']!r}, and the layout's classes are {', '.join(classes)}")
            yield Row(where, _sentences(row["sentences"], layout.sentences, where), classes[label])


def _class(label) -> Optional[str]:
    """The class as a text; data may have numbers."""
    return str(label) if type(label) in (str, int) else None


def _sentences(given, count: int, where: str) -> Tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise ValueError(f"{where}: sentences is a list of texts, and not {given!r:.80}")
    if len(given) != count:
        raise ValueError(f"{where}: {len(given)} sentences, and the layout has {count}")
    for number, text in enumerate(given, 1):
        if not text.strip():
            raise ValueError(f"{where}: sentence {number} is empty")
    return tuple(given)
