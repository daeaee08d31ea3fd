"""The YAML files of tasks: read, and looked at before any data are."""

from dataclasses import fields
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from sharp_plugins.cloze.layout import Layout, find_layout, layout_of, named_layouts
from sharp_plugins.fewshot.reader import ENDINGS
from sharp_plugins.fewshot.task import CLOZE, DECODER, FORMS, KINDS, ROWS, TRAININGS, USES, Names, Task
from sharp_plugins.fewshot.task_checks import check_task
from sharp_plugins.fewshot.templates import Template, read_template
from sharp_plugins.files.yaml import read_yaml

DIRECTORY = Path(__file__).parent / "tasks"
# Which settings a kind of task has use for, beside those of all kinds.
COMMON = set("kind about files stand_ins columns label_is_last form fields label labels skip words rows".split())
OWN = {CLOZE: {"sentences", "layout"}, DECODER: {"prompt", "candidates", "each", "candidate", "answers", "training"}}
NEEDED = {CLOZE: {"files", "fields", "label", "labels", "sentences", "layout"}, DECODER: {"files", "fields", "prompt"}}


def named_tasks(kind: str) -> List[str]:
    """The tasks of a kind that come with the plugin, in the papers' order.

    >>> named_tasks("decoder")
    ['SST-2', 'CB', 'RTE', 'COPA', 'ReCoRD', 'SQuAD']
    """
    order = ["SST-2", "SST-5", "SNLI", "MNLI", "CB", "RTE", "TREC", "COPA", "ReCoRD", "SQuAD"]
    return sorted((path.stem for path in (DIRECTORY / kind).glob("*.yaml")), key=order.index)


def find_task(name: str, kind: str) -> Task:
    """The named task, or the one in a YAML file.

    Args:
        kind: of the backbone, "cloze" or "decoder".

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is neither, its settings make no task, or it is of the other kind.

    Example::

        find_task("RTE", "decoder").candidates["entailment"]
    """
    if name in named_tasks(kind):
        return read_task(DIRECTORY / kind / f"{name}.yaml")
    model = {CLOZE: "an encoder", DECODER: "a decoder"}[kind]
    if not name.endswith((".yaml", ".yml")):
        raise ValueError(
            f"--tasks {name}: there is no such task for {model}; choose from {', '.join(named_tasks(kind))}, or name a YAML file"
        )
    if not Path(name).is_file():
        raise FileNotFoundError(f"--tasks {name}: there is no such file")
    task = read_task(Path(name))
    if task.kind != kind:
        raise ValueError(f"--tasks {name}: it is of kind {task.kind}, and --backbone is {model}, which wants kind {kind}")
    return task


def read_task(path: Path) -> Task:
    """A task of a YAML file.

    Raises:
        OSError: the file cannot be opened.
        ValueError: a setting is missing, unknown or of another type, or a template names a field that is not among the fields.
    """
    return task_of(read_yaml(path), path.stem, str(path), path.parent)


def task_of(settings: Dict[str, Any], name: str, where: str, place: Path = Path()) -> Task:
    """A task of a file's settings.

    Args:
        where: what errors begin with.
        place: the directory in which a layout's file is looked for.
    """
    kind = settings.get("kind")
    if kind not in KINDS:
        raise ValueError(f"{where}: kind is one of {', '.join(KINDS)}, and not {kind!r}")
    unknown = sorted(map(str, settings.keys() - COMMON - OWN[kind]))
    missing = sorted(NEEDED[kind] - settings.keys())
    if unknown or missing:
        words = f"has no {', '.join(unknown)}; its settings are {', '.join(sorted(COMMON | OWN[kind]))}"
        raise ValueError(f"{where}: a task of kind {kind} {words if unknown else 'needs ' + ', '.join(missing)}")
    try:
        layout = {"layout": _layout(settings["layout"], place)} if "layout" in settings else {}
        task = Task(name=name, **{one: _read(one, value) for one, value in settings.items() if one != "layout"}, **layout)
        if kind == CLOZE and settings.get("rows", {}).keys() - {"test"}:
            raise ValueError("rows: of the kind cloze they are of test alone; --k says how many rows of a class are trained on")
        check_task(task)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return task


# ---------------------------------------------------------------------- one setting each


def _read(name: str, value: Any) -> Any:
    try:
        return _READ[name](value)
    except ValueError as error:
        words = str(error)
        raise ValueError(words if words.startswith(name) else f"{name}: {words}") from None


def _one_of(known: Sequence, what: str):
    def read(value: Any):
        if value not in known:
            raise ValueError(f"{what} is one of {', '.join(map(str, known))}, and not {value!r}")
        return value

    return read


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"a text is expected, and not {value!r}")
    return value


def _label(value: Any) -> str:
    if type(value) not in (str, int):  # in YAML a bare yes is true
        raise ValueError(f"a label or a value is {value!r}, and no text; write it in quotes")
    return str(value)


def _names(value: Any) -> Names:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(one, str) and one for one in listed):
        raise ValueError(f"a name or a list of names is expected, and not {value!r}")
    return tuple(listed)


def _by_name(value: Any, what: str) -> Dict:
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{what} are settings by name, and not {value!r}")
    return value


def _files(value: Any) -> Dict[str, Names]:
    files = _by_name(value, "files")
    if not set(files) <= set(USES):
        raise ValueError(f"files are for {', '.join(USES)}, and not for {', '.join(sorted(set(files) - set(USES)))}")
    for name in (name for names in map(_names, files.values()) for name in names):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"files: {name} is no name below --data")
        if name.endswith(ENDINGS):
            raise ValueError(f"files: {name}: names stand without their endings, which may be any of {', '.join(ENDINGS)}")
    return {use: _names(names) for use, names in files.items()}


def _labels(value: Any) -> Dict[str, Names]:
    found: Dict[str, Names] = {}
    for label, spellings in _by_name(value, "labels").items():
        listed = spellings if isinstance(spellings, list) else [] if spellings is None else [spellings]
        found[_label(label)] = tuple(dict.fromkeys([_label(label), *map(_label, listed)]))
    every = [spelling for spellings in found.values() for spelling in spellings]
    twice = sorted({spelling for spelling in every if every.count(spelling) > 1})
    if len(found) < 2 or twice:
        raise ValueError(f"labels: {', '.join(twice)} is of two labels" if twice else "labels: two or more are expected")
    return found


def _skip(value: Any) -> Names:
    listed = value if isinstance(value, list) else [value]
    return tuple(map(_label, listed))


def _words(value: Any) -> Dict[str, Tuple[str, Dict[str, str]]]:
    found = {}
    for name, one in _by_name(value, "words").items():
        if not (isinstance(one, dict) and one.keys() == {"field", "texts"}):
            raise ValueError(f"words: {name} has a field and texts by its values, and not {one!r}")
        texts = _by_name(one["texts"], f"words: {name}: texts")
        found[name] = _text(one["field"]), {_label(when): _text(text) for when, text in texts.items()}
    return found


def _sentences(value: Any) -> Tuple[Template, ...]:
    if not (isinstance(value, list) and 1 <= len(value) <= 2):
        raise ValueError(f"sentences is a list of one or two templates, and not {value!r}")
    return tuple(read_template(_text(one)) for one in value)


def _layout(value: Any, place: Path) -> Layout:
    """
    Raises:
        ValueError: there is none of that name, or its settings make none.
    """
    if isinstance(value, dict):
        return layout_of(value, "layout")
    if not isinstance(value, str):
        raise ValueError(f"layout is the name of one of python -m sharp_plugins.cloze, or its settings, and not {value!r}")
    if value in named_layouts():
        return find_layout(value)
    path = place / value
    if not value.endswith((".yaml", ".yml")):
        raise ValueError(f"layout {value}: choose one of {', '.join(named_layouts())}, or a file that ends in .yaml")
    if not path.is_file():
        raise ValueError(f"layout {value}: there is no file {path}; it is looked for beside the task's file")
    return layout_of(read_yaml(path), f"layout {path}")


def _rows(value: Any) -> Dict[str, int]:
    rows = _by_name(value, "rows")
    if not set(rows) <= set(ROWS) or not all(type(count) is int and count > 0 for count in rows.values()):
        raise ValueError(f"rows are numbers from 1 for {', '.join(ROWS)}, and not {value!r}")
    return {**ROWS, **rows}


_READ = {
    "kind": _text,
    "about": _text,
    "files": _files,
    "stand_ins": _names,
    "columns": _names,
    "label_is_last": _one_of((False, True), "label_is_last"),
    "form": _one_of(FORMS, "form"),
    "fields": lambda value: {name: _names(names) for name, names in _by_name(value, "fields").items()},
    "label": _names,
    "labels": _labels,
    "skip": _skip,
    "words": _words,
    "sentences": _sentences,
    "prompt": lambda value: read_template(_text(value)),
    "candidates": lambda value: {_label(k): read_template(_text(v)) for k, v in _by_name(value, "candidates").items()},
    "each": _text,
    "candidate": lambda value: read_template(_text(value)),
    "answers": _text,
    "training": _one_of(TRAININGS, "training"),
    "rows": _rows,
}
assert _READ.keys() | {"name", "layout"} == {one.name for one in fields(Task)}
