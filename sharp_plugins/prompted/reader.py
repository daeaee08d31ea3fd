"""Prompts with their texts from files: JSON lines, or two parallel files of plain text. Errors name file and line."""

from itertools import zip_longest
from pathlib import Path
from typing import Iterator, NamedTuple, Optional, Sequence, Tuple

from sharp_plugins.files.text import parse_json, text_lines

# Names under which a line of JSON may hold its text or texts, the first that is there.
TEXT_FIELDS = ("text", "texts", "references")


class Pair(NamedTuple):
    """A prompt and what may be written for it.

    Attributes:
        where: file and line.
        texts: one or more.
    """

    where: str
    prompt: str
    texts: Tuple[str, ...]


def read_pairs(files: Sequence[Path], prompt_field: str = "prompt", text_field: Optional[str] = None) -> Iterator[Pair]:
    """The pairs of one file of JSON lines, or of a file of prompts and a parallel one of texts; empty lines of JSON are left out.

    Args:
        prompt_field: the name of the prompt in a line of JSON.
        text_field: that of its text, or list of texts (default: the first of `TEXT_FIELDS` that the line has).

    Raises:
        OSError: a file cannot be opened.
        ValueError: a file is no text in UTF-8, a line is none of these, a prompt or text is empty, or one file has more lines.

    Example::

        for where, prompt, texts in read_pairs([Path("train.jsonl")]):
            print(where, prompt, len(texts))
    """
    if len(files) == 2:
        yield from _parallel(*files)
        return
    (path,) = files
    for number, line in text_lines(path):
        if line.strip():
            yield _of_json(line, f"{path}:{number}", prompt_field, text_field)


def _parallel(prompts: Path, texts: Path) -> Iterator[Pair]:
    ended = (None, None)
    for (number, prompt), (at, text) in zip_longest(
        text_lines(prompts, is_free=True), text_lines(texts, is_free=True), fillvalue=ended
    ):
        if number is None or at is None:
            short, long = (prompts, texts) if number is None else (texts, prompts)
            raise ValueError(f"{long}:{number or at}: {short} has no such line; the two must be parallel")
        yield Pair(
            f"{prompts}:{number}", _full(prompt, f"{prompts}:{number}", "prompt"), (_full(text, f"{texts}:{number}", "text"),)
        )


def _of_json(line: str, where: str, prompt_field: str, text_field: Optional[str]) -> Pair:
    row = parse_json(line, where)
    if not isinstance(row, dict):
        raise ValueError(f"{where}: not a JSON object but a {type(row).__name__}")
    names = [text_field] if text_field else TEXT_FIELDS
    name = next((name for name in names if name in row), None)
    if prompt_field not in row or name is None:
        flag, missing = ("--prompt-field", prompt_field) if prompt_field not in row else ("--text-field", " or ".join(names))
        raise ValueError(f"{where}: no field {missing} ({flag}); there are {', '.join(map(str, row)) or 'none'}")
    texts = row[name] if isinstance(row[name], list) else [row[name]]
    if not texts:
        raise ValueError(f"{where}: the list {name} is empty")
    return Pair(where, _full(row[prompt_field], where, prompt_field), tuple(_full(text, where, name) for text in texts))


def _full(text, where: str, name: str) -> str:
    if not isinstance(text, str):
        raise ValueError(f"{where}: {name} is no text but a {type(text).__name__}")
    if not text.strip():
        raise ValueError(f"{where}: {name} is empty")
    return text
