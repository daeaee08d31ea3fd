"""Whether the settings of a task's file fit each other; `sharp_plugins.fewshot.task_files` has looked at each by itself."""

from typing import Sequence, Tuple

from sharp_plugins.fewshot.task import DECODER, GENERATION, Task
from sharp_plugins.fewshot.templates import PLACEHOLDER, Template


def check_task(task: Task) -> None:
    """Raise ValueError where the settings do not fit each other."""
    known = {*task.fields, *task.words}
    for name, (other, _) in task.words.items():
        if other not in task.fields:
            raise ValueError(f"words: {name} is by {other}, which is none of the fields {', '.join(task.fields)}")
    one = {"prompt": task.prompt, "candidate": task.candidate}
    templates = [(what, template) for what, template in one.items() if template is not None]
    templates += [("sentences", template) for template in task.sentences]
    templates += [(f"candidate of {label}", template) for label, template in task.candidates.items()]
    for what, template in templates:
        for name in template.fields:
            if name not in known:
                raise ValueError(f"{what}: {{{name}}} is none of the fields; there are {', '.join(sorted(known))}")
    for what, name in (("each", task.each), ("answers", task.answers)):
        if name and name not in task.fields:
            raise ValueError(f"{what}: {name} is none of the fields; there are {', '.join(task.fields)}")
    strange = sorted(set(task.stand_ins) - {name for names in task.files.values() for name in names})
    if strange:
        raise ValueError(f"stand_ins: {', '.join(strange)} is none of the files")
    both = sorted(name for name in task.skip if task.label_of(name) is not None)
    if both or (task.skip and not task.label):
        raise ValueError(f"skip: {', '.join(both)} is of a label" if both else "skip: rows have no label here")
    if not task.files.get("test") and not task.files.get("published"):
        raise ValueError("files: none to test on; name them under test")
    if task.kind == DECODER:
        _check_decoder(task)
        _check_lists(task, templates)
    elif task.layout.sentences != len(task.sentences):
        raise ValueError(f"layout has {task.layout.sentences} sentences, and the task {len(task.sentences)}")
    elif set(task.layout.classes) != set(task.labels):
        raise ValueError(f"layout has words for {', '.join(task.layout.classes)}, and labels are {', '.join(task.labels)}")
    for what, template in templates:
        if what in ("prompt", "sentences") and not template.fields:
            raise ValueError(f"{what}: it names no field, as {{{next(iter(task.fields))}}} would be, so that all rows are alike")


def _check_lists(task: Task, templates: Sequence[Tuple[str, Template]]) -> None:
    """Raise ValueError where a list is to be a text."""
    for what, template in templates:
        for name in template.fields:
            if name in (task.each, task.answers):
                raise ValueError(f"{what}: {{{name}}} is a list, as each and answers are, and no text")
    for name, (other, _) in task.words.items():
        if other in (task.each, task.answers):
            raise ValueError(f"words: {name} is by {other}, which is a list, as each and answers are, and no text")


def _check_decoder(task: Task) -> None:
    by_label, by_row, is_generation = bool(task.candidates), bool(task.each), task.training == GENERATION
    if by_label + by_row + is_generation != 1:
        raise ValueError(
            "one of three is expected: candidates (by label), each and candidate (of a row's own list), or training: generation"
        )
    if by_label:
        if not task.label or task.candidates.keys() != task.labels.keys():
            raise ValueError(
                f"candidates are of {', '.join(task.candidates)}, and labels of {', '.join(task.labels) or 'none'}: "
                "both are needed, of the same labels, and label says in which field"
            )
        return
    if not task.answers:
        raise ValueError("answers is needed: the field with what is right")
    if by_row and task.candidate is None:
        raise ValueError(f"candidate is needed: the text in which {PLACEHOLDER} stands for an element of {task.each}")
