"""The rows of a task's files: tables, JSON lines, and SQuAD's and ReCoRD's own forms; each row with its file and line.

A table's texts lose their outer white space, as some published ones end in a space. Files whose names end in .gz are read too.
"""

from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from sharp_plugins.fewshot.task import Task
from sharp_plugins.files.rows import read_rows
from sharp_plugins.files.text import byte_lines, decode, parse_json, text_lines

ENDINGS = (".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".json", ".json.gz")


class Row(NamedTuple):
    """A row.

    Attributes:
        where: its file and line, which messages begin with.
        values: of the task's fields and words, by their names in templates; lists are of texts.
        label: of the task's labels; None where the task has none.
    """

    where: str
    values: Dict[str, Any]
    label: Optional[str]


def find_file(places: Sequence[Path], names: Sequence[str]) -> Optional[Path]:
    """The first file of one of the names, with one of `ENDINGS`: the first name that is anywhere, in the first of the places."""
    candidates = (place / f"{name}{ending}" for name in names for place in places for ending in ENDINGS)
    return next((path for path in candidates if path.is_file()), None)


def read(path: Path, task: Task) -> List[Row]:
    """All rows of a task's file, but those with a label that the task leaves out.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is empty or cut off, a row has not a field of the task, or a label or value that the task does not know; it
            names file and line.
    """
    read_form = {"rows": _rows, "squad": _squad, "record": _record}[task.form]
    rows = [_row(where, fields, task) for where, fields in read_form(Path(path)) if not _is_skipped(where, fields, task)]
    if not rows:
        raise ValueError(f"{path}: it has no rows")
    return rows


# ---------------------------------------------------------------------- the forms of files


def _rows(path: Path) -> Iterator[tuple]:
    if ".tsv" in path.suffixes:
        yield from read_rows(path, _by_column).rows
        return
    for number, line in text_lines(path):
        if line.strip():
            where = f"{path}:{number}"
            fields = parse_json(line, where)
            if not isinstance(fields, dict):
                raise ValueError(f"{where}: an object with a row's fields is expected")
            yield where, fields


def _by_column(names: Sequence[str]):
    return lambda texts, number, where: (where, {name: text.strip() for name, text in zip(names, texts)})


def _squad(path: Path) -> Iterator[tuple]:
    """Questions of a file of SQuAD 1.1, in its order; or of lines with title, context, question and answers."""
    if ".jsonl" in path.suffixes or ".tsv" in path.suffixes:
        yield from _rows(path)
        return
    whole = parse_json("".join(decode(line, str(path)) for _, line in byte_lines(path)), str(path))
    try:
        for article in whole["data"]:
            for paragraph in article["paragraphs"]:
                for one in paragraph["qas"]:
                    answers = [answer["text"] for answer in one["answers"]]
                    fields = {"title": article["title"], "context": paragraph["context"], "question": one["question"]}
                    yield f"{path}: question {one['id']}", {**fields, "answers": answers}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: no file of SQuAD 1.1: {type(error).__name__}: {error}") from None


def _record(path: Path) -> Iterator[tuple]:
    """Queries of a file of ReCoRD as SuperGLUE publishes it, or one in a line with texts as entities and answers.

    Entities are the distinct texts of a passage. They and the right ones are sorted, as Hugging Face's data have them.
    """
    for where, fields in _rows(path):
        if not isinstance(fields.get("passage"), dict):
            yield where, fields
            continue
        try:
            text = fields["passage"]["text"]
            entities = sorted({text[one["start"] : one["end"] + 1] for one in fields["passage"]["entities"]})
            for one in fields["qas"]:
                answers = sorted({answer["text"] for answer in one["answers"]})
                yield where, {"passage": text, "query": one["query"], "entities": entities, "answers": answers}
        except (KeyError, TypeError) as error:
            raise ValueError(f"{where}: no passage of ReCoRD: {type(error).__name__}: {error}") from None


# ---------------------------------------------------------------------- a row of the task


def _is_skipped(where: str, fields: Dict[str, Any], task: Task) -> bool:
    return bool(task.skip) and _field(where, fields, task.label, False).strip() in task.skip


def _row(where: str, fields: Dict[str, Any], task: Task) -> Row:
    values = {name: _field(where, fields, names, name in (task.each, task.answers)) for name, names in task.fields.items()}
    for name, (other, texts) in task.words.items():
        if values[other] not in texts:
            raise ValueError(f"{where}: {other} is {values[other]!r}, and should be one of {', '.join(texts)}")
        values[name] = texts[values[other]]
    if not task.label:
        return Row(where, values, None)
    text = _field(where, fields, task.label, False)
    label = task.label_of(text)
    if label is None:
        spelled = ", ".join(" or ".join(spellings) for spellings in task.labels.values())
        raise ValueError(f"{where}: the label is {text!r}, and should be one of {spelled}")
    return Row(where, values, label)


def _field(where: str, fields: Dict[str, Any], names: Sequence[str], is_list: bool):
    name = next((name for name in names if name in fields), None)
    if name is None:
        raise ValueError(f"{where}: no field {' or '.join(names)}; there are {', '.join(map(str, fields))}")
    value = fields[name]
    if is_list:
        if not (isinstance(value, list) and value and all(isinstance(one, str) and one.strip() for one in value)):
            raise ValueError(f"{where}: {name} is a list of texts, and not {str(value)[:80]!r}")
        return list(dict.fromkeys(value))
    if isinstance(value, bool):
        return str(value).lower()  # as JSON spells it
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # 1.0, as tables with gaps are saved
    if not isinstance(value, (str, int)):
        raise ValueError(f"{where}: {name} is a text, a whole number, true or false, and not {str(value)[:80]!r}")
    return str(value)
