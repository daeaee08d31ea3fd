"""Prompts with their candidates from a file of JSON lines. Errors name file and line."""

from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple, Tuple

from sharp_plugins.files.text import parse_json, text_lines


class Example(NamedTuple):
    """A prompt and what may follow it.

    Attributes:
        where: file and line.
        candidates: two or more different texts, none of them empty.
        answers: the right ones, as indices of *candidates*; the first is the one to learn.

    Example::

        >>> example_of({"prompt": "It was", "candidates": [" bad", " good"], "answers": [1]}, "train.jsonl:1").answers
        (1,)
    """

    where: str
    prompt: str
    candidates: Tuple[str, ...]
    answers: Tuple[int, ...]


def read_examples(path: Path) -> Iterator[Example]:
    """The examples of a file; empty lines are left out.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no text in UTF-8, or a line is no example.
    """
    for number, line in text_lines(path):
        if line.strip():
            where = f"{path}:{number}"
            row = parse_json(line, where)
            if not isinstance(row, dict):
                raise ValueError(f"{where}: not a JSON object but a {type(row).__name__}")
            yield example_of(row, where)


def example_of(row: Dict[str, Any], where: str) -> Example:
    """The example in the fields "prompt", "candidates" and "answers"; others are not looked at.

    Raises:
        ValueError: a field is missing or of another kind, a text is empty, a candidate or an answer comes twice, or an answer is
            none of the candidates.
    """
    missing = [name for name in ("prompt", "candidates", "answers") if name not in row]
    if missing:
        raise ValueError(f"{where}: no field {missing[0]}; there are {', '.join(map(str, row)) or 'none'}")
    prompt, candidates, answers = row["prompt"], row["candidates"], row["answers"]
    if not isinstance(prompt, str):
        raise ValueError(f"{where}: prompt is no text but a {type(prompt).__name__}")
    if not prompt.strip():
        raise ValueError(f"{where}: prompt is empty")
    if not isinstance(candidates, list) or not all(isinstance(candidate, str) for candidate in candidates):
        raise ValueError(f"{where}: candidates is no list of texts")
    if len(candidates) < 2:
        raise ValueError(f"{where}: {len(candidates)} candidates, and a choice needs two or more")
    for index, candidate in enumerate(candidates):
        if not candidate.strip():
            raise ValueError(f"{where}: candidate {index} is empty: {candidate!r}")
        if candidate in candidates[:index]:
            raise ValueError(f"{where}: candidates {candidates.index(candidate)} and {index} are the same: {candidate!r}")
    if not isinstance(answers, list) or not all(isinstance(answer, int) and not isinstance(answer, bool) for answer in answers):
        raise ValueError(f"{where}: answers is no list of indices of candidates, which count from 0")
    if not answers:
        raise ValueError(f"{where}: answers is empty: one candidate or more must be right")
    outside = [answer for answer in answers if not 0 <= answer < len(candidates)]
    if outside:
        raise ValueError(f"{where}: answer {outside[0]} is none of the candidates, 0 to {len(candidates) - 1}")
    if len(set(answers)) < len(answers):
        raise ValueError(f"{where}: an answer comes twice: {answers}")
    return Example(where, prompt, tuple(candidates), tuple(answers))
