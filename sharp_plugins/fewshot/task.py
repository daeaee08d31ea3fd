"""A few-shot task: one YAML file that says where rows are read from, what a prompt is made of them, and how it is trained.

Tasks for masked language models are of the kind ``cloze``, and those for language models of the kind ``decoder``.
"""

from dataclasses import dataclass, field
from typing import Dict, Optional, Tuple

from sharp_plugins.cloze.layout import Layout
from sharp_plugins.fewshot.templates import Template
from sharp_plugins.files.text import read_class

CLOZE, DECODER = "cloze", "decoder"
KINDS = (CLOZE, DECODER)
FORMS = ("rows", "squad", "record")
# How a decoder is trained: to choose among the candidates, to write the right one, or to write an answer.
CANDIDATES, TEACHER_FORCING, GENERATION = "candidates", "teacher-forcing", "generation"
TRAININGS = (CANDIDATES, TEACHER_FORCING, GENERATION)
USES = ("published", "train", "test")
ROWS = {"train": 1000, "valid": 500, "test": 1000}

Names = Tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A task, as `sharp_plugins.fewshot.task_files` reads it.

    Attributes:
        name: the file's name without its ending.
        kind: "cloze" or "decoder".
        about: a line for people, such as the data's source.
        files: names below ``--data``, in order of preference and without their endings: "published", directories with samples in
            KxSEED's directories; "train" and "test", the files that samples are drawn from.
        stand_ins: those of the names whose files are not the whole published ones; a table says which were used.
        columns: the columns' names of a .csv file, which then has no line of names.
        label_is_last: a table's rows may have more or fewer columns before the label than its first line names, as SNLI's have.
        form: what such a file holds: "rows" (a table, or an object a line), "squad" or "record" (as published).
        fields: name in templates -> the names that the field may have in the files.
        label: the names that the label may have in the files; empty where the right candidates are a row's own.
        labels: label -> all its spellings in the files, itself the first.
        skip: labels in the files whose rows are left out, such as "-" in SNLI.
        words: further fields that another field's value decides: name -> (the other field, value -> text).
        sentences: of the kind cloze, the one or two texts that the layout is about.
        layout: of the kind cloze, what stands around the sentences, and each label's word.
        prompt: of the kind decoder, the text before a candidate.
        candidates: label -> candidate.
        each: the field whose elements are the candidates; they stand in `candidate` where it has "@placeholder".
        candidate: see `each`.
        answers: the field with all right elements of `each`, or with all right answers.
        training: one of `TRAININGS`, of the kind decoder.
        rows: how many rows a sample has at most, by split; of "train" where --examples says nothing. Of the kind cloze "test" alone
            is read.

    Example::

        >>> Task("SST-2", DECODER, rows={**ROWS, "valid": 100}).metric
        'accuracy'
    """

    name: str
    kind: str
    about: str = ""
    files: Dict[str, Names] = field(default_factory=dict)
    stand_ins: Names = ()
    columns: Names = ()
    label_is_last: bool = False
    form: str = "rows"
    fields: Dict[str, Names] = field(default_factory=dict)
    label: Names = ()
    labels: Dict[str, Names] = field(default_factory=dict)
    skip: Names = ()
    words: Dict[str, Tuple[str, Dict[str, str]]] = field(default_factory=dict)
    sentences: Tuple[Template, ...] = ()
    layout: Optional[Layout] = None
    prompt: Optional[Template] = None
    candidates: Dict[str, Template] = field(default_factory=dict)
    each: str = ""
    candidate: Optional[Template] = None
    answers: str = ""
    training: str = CANDIDATES
    rows: Dict[str, int] = field(default_factory=lambda: dict(ROWS))

    @property
    def metric(self) -> str:
        """What is reported: the share of right rows, or SQuAD's F1."""
        return "f1" if self.training == GENERATION else "accuracy"

    def label_of(self, text: str) -> Optional[str]:
        """The label that a file spells so; None where there is none."""
        spelled = read_class(text, [spelling for spellings in self.labels.values() for spelling in spellings])
        return next((label for label, spellings in self.labels.items() if spelled in spellings), None)
