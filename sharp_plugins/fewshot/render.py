"""A task's rows as lines for `sharp_plugins.cloze`, `sharp_plugins.candidates` and `sharp_plugins.prompted`.

A prompt loses the white space before it and the spaces after it, and a candidate the spaces after it: so does MeZO's code before it
counts a candidate's tokens.
"""

from typing import Any, Dict, List

from sharp_plugins.fewshot.reader import Row
from sharp_plugins.fewshot.task import Task
from sharp_plugins.fewshot.templates import PLACEHOLDER, fill


def cloze_line(row: Row, task: Task) -> Dict[str, Any]:
    """
    Example, of RTE::

        cloze_line(row, find_task("RTE", "cloze"))  # {"sentences": ["It rained.", "It was wet."], "label": "entailment"}
    """
    return {"sentences": [template.render(row.values) for template in task.sentences], "label": row.label}


def prompt_of(row: Row, task: Task) -> str:
    """The text before a candidate or an answer.

    Raises:
        ValueError: it is empty.
    """
    prompt = task.prompt.render(row.values).lstrip().rstrip(" ")
    if not prompt:
        raise ValueError(f"{row.where}: the prompt is empty")
    return prompt


def candidates_line(row: Row, task: Task) -> Dict[str, Any]:
    """
    Raises:
        ValueError: a candidate is empty, or two are the same, or none of a row's own is right.

    Example, of SST-2::

        candidates_line(row, find_task("SST-2", "decoder"))
        # {"prompt": "a feast of wit. It was", "candidates": [" terrible", " great"], "answers": [1]}
    """
    if task.each:
        elements, sentence = row.values[task.each], task.candidate.render(row.values)
        if PLACEHOLDER not in sentence:
            raise ValueError(f"{row.where}: {sentence!r} has no {PLACEHOLDER} for an element of {task.each}")
        texts = [fill(sentence, element) for element in elements]
        answers = [elements.index(answer) for answer in row.values[task.answers] if answer in elements]
        if not answers:
            raise ValueError(f"{row.where}: none of {task.answers} is one of {task.each}")
    else:
        texts = [template.render(row.values) for template in task.candidates.values()]
        answers = [list(task.candidates).index(row.label)]
    texts = [text.rstrip(" ") for text in texts]
    for text in texts:
        if not text.strip():
            raise ValueError(f"{row.where}: a candidate is empty")
    return {"prompt": prompt_of(row, task), "candidates": texts, "answers": answers}


def text_line(row: Row, task: Task) -> Dict[str, Any]:
    """A prompt and what is to be written after it: the right candidate, the first of several, or all right answers."""
    if task.candidates or task.each:
        line = candidates_line(row, task)
        return {"prompt": line["prompt"], "text": line["candidates"][line["answers"][0]]}
    answers: List[str] = row.values[task.answers]
    return {"prompt": prompt_of(row, task), "texts": answers}
