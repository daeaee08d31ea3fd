"""A system's texts, one for each input of a split, from a file in one of three forms.

``fairseq``  what ``fairseq-generate`` printed: lines that begin with ``H-17`` or ``D-17``, in any order
``text``     one line for each input, in the inputs' order
``json``     JSON lines: a string, or an object with the text in one of the fields `FIELDS`; an ``id`` says which input it is of
"""

import re
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from sharp_plugins.files.text import TextError, parse_json, text_lines
from sharp_plugins.runs.generated import read_generated
from sharp_plugins.webnlg.corpus import Entry

FORMS = ("fairseq", "text", "json")
FIELDS = ("text", "hypothesis", "prediction", "generated", "output")
GENERATED = re.compile(r"[HD]-[0-9]+\t-?(?:[0-9.]|inf|nan)")

Lines = List[Tuple[int, str]]


class HypothesesError(ValueError):
    """The texts cannot be used; the message names the file, and the line where there is one."""


def read_hypotheses(path, entries: Sequence[Entry], form: str = "") -> List[str]:
    """The texts in the order of *entries*.

    Only a line feed ends a line: U+2028 or U+0085 in a text do not, and the carriage return before the line feed goes. The last
    line may lack its end. An empty line is an empty text.

    Args:
        form: one of `FORMS`; empty: told by the content (`form_of`).

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no text in UTF-8, or the texts are not one for each input.

    Example::

        texts = read_hypotheses("final_result.txt", read_split("test.jsonl"))
    """
    try:
        lines = list(text_lines(path, is_free=True))
    except TextError as error:
        raise HypothesesError(str(error)) from error
    form = form or form_of(path, lines)
    if form == "fairseq":
        return read_generated(path, len(entries))
    return _json_texts(path, lines, entries) if form == "json" else _one_a_line(path, lines, entries)


def form_of(path, lines: Lines) -> str:
    """Which of `FORMS` a file has: JSON by the end of its name or where each line holds an object or a string, fairseq's where a
    line is of its form.

    >>> form_of("a.txt", [(1, "S-0\\tBacon"), (2, "H-0\\t-0.3\\tIt has bacon .")]), form_of("a.txt", [(1, '"Alfa" is a ship.')])
    ('fairseq', 'text')
    """
    if Path(str(path).removesuffix(".gz")).suffix in (".jsonl", ".json"):
        return "json"
    if any(GENERATED.match(line) for _, line in lines):
        return "fairseq"
    filled = [(number, line.strip()) for number, line in lines if line.strip()]
    if filled and all(line[0] + line[-1] in ("{}", '""') for _, line in filled):
        try:
            for number, line in filled:
                parse_json(line, f"{path}:{number}")
        except TextError:
            return "text"
        return "json"
    return "text"


def _one_a_line(path, lines: Lines, entries: Sequence[Entry]) -> List[str]:
    texts = [line for _, line in lines]
    if len(texts) != len(entries):
        raise HypothesesError(f"{path}: {_miscounted(len(texts), len(entries))}{_hint(texts, len(entries))}")
    return texts


def _miscounted(found: int, wanted: int) -> str:
    return f"{found} texts for {wanted} inputs, {abs(found - wanted)} too {'few' if found < wanted else 'many'}"


def _hint(texts: List[str], wanted: int) -> str:
    if len(texts) > wanted and not any(text.strip() for text in texts[wanted:]):
        return "; those at the end are empty lines: delete them"
    return "; an empty text is an empty line, with its line end" if len(texts) == wanted - 1 else ""


def _json_texts(path, lines: Lines, entries: Sequence[Entry]) -> List[str]:
    records = [(number, *_record(line, f"{path}:{number}")) for number, line in lines if line.strip()]
    named = [number for number, _, name in records if name is not None]
    if not named:
        if len(records) != len(entries):
            raise HypothesesError(f"{path}: {_miscounted(len(records), len(entries))}")
        return [text for _, text, _ in records]
    if len(named) != len(records):
        number = next(number for number, _, name in records if name is None)
        raise HypothesesError(f"{path}:{number}: it has no id, and other lines have one; give it to all or to none")
    places = {entry.id: place for place, entry in enumerate(entries)}
    found: Dict[int, Tuple[int, str]] = {}
    for number, text, name in records:
        place = name if isinstance(name, int) and 0 <= name < len(entries) else places.get(name)
        if place is None:
            raise HypothesesError(f"{path}:{number}: no input has the id {name!r}")
        if place in found:
            raise HypothesesError(f"{path}:{number}: the id {name!r} is already on line {found[place][0]}")
        found[place] = number, text
    if len(found) != len(entries):
        missing = next(entry.id for place, entry in enumerate(entries) if place not in found)
        raise HypothesesError(f"{path}: {_miscounted(len(found), len(entries))}; none has the id {missing!r}")
    return [found[place][1] for place in range(len(entries))]


def _record(line: str, where: str) -> Tuple[str, object]:
    """A line's text, and its id or None: an input's id, or its number from 0 as fairseq counts."""
    try:
        value = parse_json(line, where)
    except TextError as error:
        raise HypothesesError(str(error)) from error
    if isinstance(value, str):
        return value, None
    if not isinstance(value, dict):
        raise HypothesesError(f"{where}: a string or an object is expected, not {type(value).__name__}")
    fields = [field for field in FIELDS if field in value]
    if len(fields) != 1:
        raise HypothesesError(f"{where}: one of the fields {', '.join(FIELDS)} is expected, got {', '.join(fields) or 'none'}")
    text, name = value[fields[0]], value.get("id")
    if not isinstance(text, str):
        raise HypothesesError(f"{where}: field {fields[0]!r} must be a string, an empty one for no text, got {text!r}")
    if name is not None and (isinstance(name, bool) or not isinstance(name, (str, int))):
        raise HypothesesError(f"{where}: field 'id' must be an input's id or its number from 0, got {name!r}")
    return text, name
