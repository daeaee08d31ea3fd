"""The prompts of a validation or test set with all their texts, beside its data: ``SPLIT.references.jsonl``.

A line has a prompt, its texts, and the number of its first sample, "row", from 0. In a test set each line is one sample, and its
place is its number.
"""

import json
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from sharp_plugins.files.text import parse_json, text_lines

WITH_REFERENCES = ("valid", "test")


class Reference(NamedTuple):
    """A prompt of a set.

    Attributes:
        row: its first sample.
        texts: all of them, from all lines with this prompt.
    """

    row: int
    prompt: str
    texts: Tuple[str, ...]


def reference_file(split: str) -> str:
    """The file's name.

    >>> reference_file("valid")
    'valid.references.jsonl'
    """
    return f"{split}.references.jsonl"


def reference_line(prompt: str, texts: Sequence[str], row: Optional[int]) -> str:
    """A line of the file; without "row" where *row* is None.

    >>> reference_line("A : b : C", ["A b C.", "C is it."], 4)
    '{"prompt": "A : b : C", "texts": ["A b C.", "C is it."], "row": 4}\\n'
    """
    fields = {"prompt": prompt, "texts": list(texts), **({} if row is None else {"row": row})}
    return json.dumps(fields, ensure_ascii=False) + "\n"


def read_references(path: Path, samples: int) -> List[Reference]:
    """The distinct prompts of a set, in the file's order. Lines with one prompt are taken together.

    Args:
        samples: how many samples the set has.

    Raises:
        OSError: the file cannot be opened.
        ValueError: a line is none of `reference_line`, or of a sample that is not there.

    Example::

        for row, prompt, texts in read_references(Path("DATA/valid.references.jsonl"), samples=4928):
            print(prompt, len(texts))
    """
    found: Dict[str, Reference] = {}
    for number, line in text_lines(path):
        fields = parse_json(line, f"{path}:{number}")
        prompt, texts, row = (fields.get(name) for name in ("prompt", "texts", "row")) if isinstance(fields, dict) else (None,) * 3
        row = number - 1 if row is None else row
        are_texts = isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
        if not (isinstance(prompt, str) and are_texts and type(row) is int and 0 <= row < samples):
            raise ValueError(f"{path}:{number}: not a prompt with its texts and one of {samples} samples; prepare the data again")
        first = found.get(prompt, Reference(row, prompt, ()))
        found[prompt] = first._replace(texts=(*first.texts, *texts))
    return list(found.values())
