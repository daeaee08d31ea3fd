"""A system's texts, one for each input of a split, from a file in one of three forms.

``fairseq``  what ``fairseq-generate`` printed: lines that begin with ``H-17`` or ``D-17``, in any order
``text``     one line for each input, in the inputs' order
``json``     JSON lines, or one array: strings, or objects with the text in one of the fields `FIELDS`; an ``id`` says which input
             it is of
"""

import re
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Tuple

from sharp_plugins.files.text import TextError, parse_json, text_lines
from sharp_plugins.runs.generated import GeneratedError, read_generated
from sharp_plugins.webnlg.corpus import Entry

FORMS = ("fairseq", "text", "json")
FIELDS = ("text", "hypothesis", "prediction", "generated", "generated_text", "output")
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
    if Path(path).is_dir() or not Path(path).exists():
        what = "is a directory" if Path(path).is_dir() else "not there"
        raise HypothesesError(f"{path}: {what}; HYPOTHESES, and what --against names, are files of texts")
    try:
        lines = list(text_lines(path, is_free=True))
    except TextError as error:
        raise HypothesesError(str(error)) from error
    told, form = not form, form or form_of(path, lines)
    if form == "fairseq":
        if not Path(path).is_file():
            raise HypothesesError(
                f"{path}: what fairseq-generate printed is read twice, and a pipe only once; write it to a file first"
            )
        try:
            return read_generated(path, len(entries))
        except GeneratedError as error:
            raise HypothesesError(str(error)) from error
    if form == "text":
        return _one_a_line(path, lines, entries)
    try:
        return _json_texts(path, lines, entries)
    except HypothesesError as error:
        if not told:
            raise
        raise HypothesesError(f"{error} (taken for JSON by its name or content; --format text reads plain lines)") from error


def form_of(path, lines: Lines) -> str:
    """Which of `FORMS` a file has: JSON by the end of its name, or where each line holds an object or a string, or the whole an
    array of them; fairseq's where a line is of its form.

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
    if filled and filled[0][1].startswith("[") and filled[-1][1].endswith("]"):
        try:
            values = parse_json("\n".join(line for _, line in lines), str(path))
        except TextError:
            return "text"
        return "json" if values and all(isinstance(value, (str, dict)) for value in values) else "text"
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
    records = [(where, *_record(value, where)) for where, value in _json_values(path, lines)]
    named = [where for where, _, name in records if name is not None]
    if not named:
        if len(records) != len(entries):
            raise HypothesesError(f"{path}: {_miscounted(len(records), len(entries))}")
        return [text for _, text, _ in records]
    if len(named) != len(records):
        where = next(where for where, _, name in records if name is None)
        raise HypothesesError(f"{where}: it has no id, and others have one; give it to all or to none")
    places = places_of([name for _, _, name in records], entries, path)
    found: Dict[int, Tuple[str, str]] = {}
    for where, text, name in records:
        place = places.get(name)
        if place is None:
            raise HypothesesError(f"{where}: no input has the id {name!r}")
        if place in found:
            line = found[place][0].removeprefix(f"{path}:").strip()
            raise HypothesesError(f"{where}: the id {name!r} is already on line {line}")
        found[place] = where, text
    if len(found) != len(entries):
        missing = next(entry.id for place, entry in enumerate(entries) if place not in found)
        raise HypothesesError(f"{path}: {_miscounted(len(found), len(entries))}; none has the id {missing!r}")
    return [found[place][1] for place in range(len(entries))]


def places_of(names: Sequence, entries: Sequence[Entry], path) -> Dict:
    """The input's place for each id that is one's. Whole numbers are inputs' ids if all of them are, and else count from 0.

    Raises:
        HypothesesError: the numbers are both, and not of the same inputs.

    >>> entries = [Entry(name, "Food", None, (("a", "b", "c"),), ("text",)) for name in ("1", "2")]
    >>> places_of([2, 1], entries, "a.jsonl")[2], places_of([0, 1], entries, "a.jsonl")[1]
    (1, 1)
    """
    places: Dict = {entry.id: place for place, entry in enumerate(entries)}
    numbers = [name for name in names if isinstance(name, int)]
    are_ids = all(str(number) in places for number in numbers)
    for number in numbers:
        if not are_ids and 0 <= number < len(entries):
            places[number] = number
        elif are_ids:
            places[number] = places[str(number)]
    if are_ids and all(0 <= number < len(entries) for number in numbers):
        other = next((number for number in numbers if places[number] != number), None)
        if other is not None:
            words = f"the id {other} is an input's id, and the number, counted from 0, of another input; write ids as strings"
            raise HypothesesError(f"{path}: {words}")
    return places


def _json_values(path, lines: Lines) -> Iterator[Tuple[str, object]]:
    """(where it stands, value) of each line, or of each element where the file is one array."""
    filled = [(number, line) for number, line in lines if line.strip()]
    if filled and filled[0][1].lstrip().startswith("["):
        for number, value in enumerate(_parsed("\n".join(line for _, line in lines), str(path)), start=1):
            yield f"{path}: element {number}", value
        return
    for number, line in filled:
        yield f"{path}:{number}", _parsed(line, f"{path}:{number}")


def _parsed(text: str, where: str):
    try:
        return parse_json(text, where)
    except TextError as error:
        raise HypothesesError(f"{error}; JSON lines are expected, one for each input, or one array of all texts") from error


def _record(value, where: str) -> Tuple[str, object]:
    """A line's text, and its id or None: an input's id, or its number from 0 as fairseq counts."""
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
