"""Samples as data for fairseq: their lines, and what the cloze, the candidates' and the prompted task make of them.

    OUT/lines/{train,valid,test}.jsonl   the rows in prompts, as `sharp_plugins.cloze` or `.candidates` takes them
    OUT/data/                            what is trained on; of tasks with candidates or a cloze it has the test set too
    OUT/choices/                         of teacher forcing: candidates of the development and the test set
    OUT/prepared.json                    what all this was made of

A directory of a test set alone has the test set's lines and data, as an untrained model needs no more.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Union

from sharp_plugins.cloze.layout import Layout, find_layout, layout_of
from sharp_plugins.convert.decoder_backbone import DecoderBackbone
from sharp_plugins.files.text import read_json
from sharp_plugins.files.writing import sha256, write_text
from sharp_plugins.fewshot import sampling
from sharp_plugins.fewshot.render import candidates_line, cloze_line, text_line
from sharp_plugins.fewshot.samples import Sample
from sharp_plugins.fewshot.task import CANDIDATES, CLOZE, GENERATION, TEACHER_FORCING, Task
from sharp_plugins.prompted.formats import END, PROMPT, TEXT, Format
from sharp_plugins.runs.data import STAMP, make_once
from sharp_plugins.text.decoder_directory import DecoderDirectory
from sharp_plugins.text.encoder_directory import Backbone

# Changed with what is written, so that data of an earlier version are refused.
FORMAT = 1
LINES, DATA, CHOICES = "lines", "data", "choices"
# What an answer may take, in symbols: MeZO's max_new_tokens. Its last one is the end, a new line.
ANSWER = 50


class Model(NamedTuple):
    """The backbone, as far as data are made for it.

    Attributes:
        backbone: an encoder's or a decoder's directory.
        checksums: of its dictionary and tokenizer.
        start: the symbol before a decoder's prompt, ``auto`` or ``none``.
        max_positions: the most symbols of a sequence; None: a layout's, or as many as a decoder has.
    """

    backbone: Union[Backbone, DecoderDirectory]
    checksums: Dict[str, str]
    start: str = "auto"
    max_positions: Optional[int] = None


class Made(NamedTuple):
    """Where a sample's data are."""

    directory: Path
    facts: Dict

    @property
    def data(self) -> Path:
        return self.directory / DATA


def evaluated_in(task: Task) -> str:
    """The part of a sample's directory that a checkpoint is measured on."""
    return CHOICES if task.training == TEACHER_FORCING and task.kind != CLOZE else DATA


def layout_for(task: Task, where: str) -> Layout:
    """The layout of a task of the kind cloze.

    Raises:
        ValueError: there is none of that name, its settings make none, or its classes or sentences are not the task's.
    """
    layout = find_layout(task.layout) if isinstance(task.layout, str) else layout_of(task.layout or {}, f"{where}: layout")
    if layout.sentences != len(task.sentences):
        raise ValueError(f"{where}: its layout has {layout.sentences} sentences, and the task {len(task.sentences)}")
    if set(layout.classes) != set(task.labels):
        raise ValueError(
            f"{where}: its layout has words for {', '.join(layout.classes)}, and labels are {', '.join(task.labels)}"
        )
    return layout
