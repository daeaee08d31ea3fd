"""The rows of a task's files: tables, JSON lines, and SQuAD's and ReCoRD's own forms; each row with its file and line.

Texts are kept as they are. Many of SST-2's end in a space, which is a token of the published prompts; a task's templates strip
where those do. Files whose names end in .gz are read too.
"""

import csv
import io
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from sharp_plugins.fewshot.task import Task
from sharp_plugins.files.rows import read_rows
from sharp_plugins.files.text import byte_lines, decode, parse_json, read_json, text_lines

ENDINGS = (".tsv", ".tsv.gz", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".json", ".json.gz")


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
    skipped, rows = 0, []
    for where, fields in read_form(Path(path), task):
        if _is_skipped(where, fields, task):
            skipped += 1
        else:
            rows.append(_row(where, fields, task))
    if not rows:
        raise ValueError(
            f"{path}: " + (f"all {skipped} rows have a label of skip: {', '.join(task.skip)}" if skipped else "it has no rows")
        )
    return rows


# ---------------------------------------------------------------------- the forms of files


def _rows(path: Path, task: Task) -> Iterator[tuple]:
    if ".tsv" in path.suffixes:
        fit = {"fit": _label_last} if task.label_is_last else {}
        yield from read_rows(path, lambda names: _by_column(names, path, task), **fit).rows
        return
    if ".csv" in path.suffixes:
        yield from _by_comma(path, task)
        return
    for number, line in text_lines(path):
        if line.strip():
            where = f"{path}:{number}"
            fields = parse_json(line, where)
            if not isinstance(fields, dict):
                raise ValueError(f"{where}: an object with a row's fields is expected")
            yield where, fields


def _by_column(names: Sequence[str], path: Path, task: Task):
    used = {*task.label, *(name for names in task.fields.values() for name in names)}
    twice = sorted({name for name in names if name in used and list(names).count(name) > 1})
    if twice:
        raise ValueError(f"{path}:1: {', '.join(twice)} is the name of two columns")
    return lambda texts, number, where: (where, dict(zip(names, texts)))


def _label_last(fields: List[str], count: int) -> List[str]:
    """SNLI's rows have one to five single judgements, whatever the heading says, and the label behind them."""
    return [*fields[:-1], *[""] * (count - len(fields))][: count - 1] + fields[-1:]


def _by_comma(path: Path, task: Task) -> Iterator[tuple]:
    """Rows of fields between commas, with quotation marks around those that need them."""
    lines = csv.reader(io.StringIO("\n".join(decode(line, str(path)) for _, line in byte_lines(path)), newline=""), strict=True)
    make, width = None, 0
    try:
        for fields in lines:
            where = f"{path}:{lines.line_num}"
            if make is None:
                names = task.columns or fields
                make, width = _by_column(names, path, task), len(names)
                if not task.columns:
                    continue
            if fields:
                if len(fields) != width:
                    like = "columns of the task names" if task.columns else "the first line has"
                    raise ValueError(f"{where}: {len(fields)} fields, and {like} {width}")
                yield make(fields, 0, where)
    except csv.Error as error:
        raise ValueError(f"{path}:{lines.line_num}: {error}") from None


def _squad(path: Path, task: Task) -> Iterator[tuple]:
    """Questions of a file of SQuAD 1.1, in its order; or of lines with title, context, question and answers."""
    if {".jsonl", ".tsv", ".csv"} & set(path.suffixes):
        yield from _rows(path, task)
        return
    whole = read_json(path)
    try:
        for article in whole["data"]:
            for paragraph in article["paragraphs"]:
                for one in paragraph["qas"]:
                    answers = [answer["text"] for answer in one["answers"]]
                    fields = {"title": article["title"], "context": paragraph["context"], "question": one["question"]}
                    yield f"{path}: question {one['id']}", {**fields, "answers": answers}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: no file of SQuAD 1.1: {type(error).__name__}: {error}") from None


def _record(path: Path, task: Task) -> Iterator[tuple]:
    """Queries of a file of ReCoRD as SuperGLUE publishes it, or one in a line with texts as entities and answers.

    Entities are the distinct texts of a passage. They and the right ones are sorted, as Hugging Face's data have them.
    """
    for where, fields in _rows(path, task):
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
        value = values[other].strip()
        if value not in texts:
            raise ValueError(f"{where}: {other} is {value!r}, and should be one of {', '.join(texts)}")
        values[name] = texts[value]
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
        return str(int(value))
    if not isinstance(value, (str, int)):
        raise ValueError(f"{where}: {name} is a text, a whole number, true or false, and not {str(value)[:80]!r}")
    return str(value)
