"""Samples as data for fairseq: their lines in prompts, and what the cloze, the candidates' and the prompted task make of them.

    OUT/lines/{train,valid,test}.jsonl   the rows in prompts, as the commands of those tasks take them
    OUT/data/                            what is trained on, and the test set; in teacher forcing without it
    OUT/choices/                         in teacher forcing: candidates of the development and the test set
    OUT/zero-shot.json                   what the backbone scores on the test set, once it was asked
    OUT/prepared.json                    what all this was made of

A directory of a test set alone is for an untrained model, which needs no more.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from sharp_plugins.fewshot import sampling
from sharp_plugins.fewshot.reader import Row
from sharp_plugins.fewshot.render import candidates_line, cloze_line, text_line
from sharp_plugins.fewshot.samples import Sampler
from sharp_plugins.fewshot.task import CANDIDATES, CLOZE, GENERATION, TEACHER_FORCING, Task
from sharp_plugins.files.text import read_json
from sharp_plugins.files.writing import write_text
from sharp_plugins.prompted.formats import END, TEXT, Format
from sharp_plugins.runs.data import STAMP, make_once

# Changed with what is written, so that data of an earlier version are refused.
FORMAT = 3
LINES, DATA, CHOICES, ZERO_SHOT = "lines", "data", "choices", "zero-shot.json"
# The most symbols of an answer, its end among them (MeZO's max_new_tokens).
ANSWER = 50
# What other commands advise, in the words of this one's flags.
WORDS = {
    "--max-length": "--max-positions",
    ", and --too-long skip leaves such rows out": "",
    "positions (--room)": "positions, which an answer may need",
    ", and --too-long cut would leave nothing of the prompt; --too-long skip leaves it out": (
        ", and nothing of the prompt would be left; give a larger --max-positions where the model has more"
    ),
}
Tell = Callable[[str], None]


def quiet(line: str) -> None:
    """Tells nothing."""


@dataclass(frozen=True)
class Maker:
    """Makes the data of a task for a backbone.

    Attributes:
        backbone: an encoder's or a decoder's directory, as `sharp_plugins.text` reads it.
        checksums: of its dictionary and tokenizer.
        start: the symbol before a decoder's prompt, ``auto`` or ``none``.
        max_positions: the most symbols of a sequence; None: the layout's, or as many as a decoder has.
        strict: refuse what else is a warning: a class with fewer rows than k in the training or the development set, or with none.

    Example::

        Maker(task, Sampler(task, [Path("GLUE")]), backbone, checksums).make(Path("OUT/k16-seed13"), size=16, seed=13)
    """

    task: Task
    sampler: Sampler
    backbone: Any
    checksums: Dict[str, str]
    start: str = "auto"
    max_positions: Optional[int] = None
    strict: bool = False

    def make(self, out: Path, size: Optional[int], seed: int, tell: Tell = quiet) -> Path:
        """Make the data of a sample in the directory *out*, unless they are there.

        Args:
            size: of the sample, see `Sampler.training`; None for the test set alone.

        Raises:
            OSError: a file is not there or cannot be read.
            ValueError: a file or a row cannot be used, or *out* holds data of something else, which runs may have been made of.
        """
        source = self._source(size, seed)
        if (out / STAMP).is_file() and read_json(out / STAMP).get("source") != source:
            raise ValueError(
                f"{out}: holds data of other files or settings, of which runs may be made; choose another --out, or delete it, and "
                "those runs too"
            )
        made = make_once(out, source, (LINES, DATA, CHOICES, ZERO_SHOT), lambda new: self._write(new, size, seed, tell))
        stamp = read_json(out / STAMP)
        self._warn(stamp["warnings"], tell)
        for remark in stamp["remarks"]:
            tell(f"warning: {remark}")
        tell(f"{out}: {'written' if made else 'nothing to do, all was there'}")
        return out

    def _warn(self, warnings: List[str], tell: Tell) -> None:
        if warnings and self.strict:
            raise ValueError(f"--strict: {'; '.join(warnings)}; without --strict such samples are taken")
        for warning in warnings:
            tell(f"warning: {warning}")

    def _source(self, size: Optional[int], seed: int) -> Dict:
        found = {
            **settings_of(self.task),
            "files": self.sampler.checksums(size, seed),
            "size": size,
            # A test set that is taken whole is the same for all seeds.
            "seed": None if size is None and not self.sampler.is_sampled() else seed,
            "backbone": self.checksums,
            "start": self.start,
            "max_positions": self.max_positions,
        }
        return json.loads(json.dumps(found))  # tuples as JSON has them

    def _write(self, new: Path, size: Optional[int], seed: int, tell: Tell) -> Dict:
        samples = [*([] if size is None else [self.sampler.training(size, seed)]), self.sampler.test(seed)]
        rows = {split: of for sample in samples for split, of in sample.rows.items()}
        warnings = [warning for sample in samples for warning in sample.warnings]
        remarks = [remark for sample in samples for remark in sample.remarks]
        self._warn(warnings, quiet)  # before anything is written
        make = {CANDIDATES: self._candidates, TEACHER_FORCING: self._forced, GENERATION: self._answers}

        files = {split: path for sample in samples for split, path in sample.files.items()}

        def tell_more(line: str) -> None:
            if not line.startswith(str(new)):  # that part of it is written
                tell(f"  {self._of_the_task(line, new, rows, files)}")

        try:
            (self._cloze if self.task.kind == CLOZE else make[self.task.training])(new, rows, tell_more)
        except ValueError as error:
            raise ValueError(self._of_the_task(str(error), new, rows, files)) from error
        return {"rows": {split: len(of) for split, of in rows.items()}, "warnings": warnings, "remarks": remarks}

    def _of_the_task(self, text: str, new: Path, rows: Dict[str, List[Row]], files: Dict[str, Path]) -> str:
        """What another command says, in this one's words: a line that was written for it is a row of a file, and a flag another."""

        def where(match) -> str:
            split, number = match[1], match[2]
            return rows[split][int(number) - 1].where if number else str(files[split])

        text = re.sub(rf"{re.escape(str(new / LINES))}/(\w+)(?:\.text)?\.jsonl(?::(\d+))?", where, text)
        for theirs, ours in WORDS.items():
            text = text.replace(theirs, ours)
        return re.sub("^--layout: ", f"--tasks {self.task.name}: layout: ", text)

    # ------------------------------------------------------------------ one task of fairseq's each

    def _cloze(self, new: Path, rows: Dict[str, List[Row]], tell: Tell) -> None:
        from sharp_plugins.cloze.prepare import prepare  # here and below, so that --help imports no fairseq

        lines = {split: write_lines(new, split, [cloze_line(row, self.task) for row in of]) for split, of in rows.items()}
        prepare(lines, self.backbone, self.task.layout, new / DATA, tell=tell, max_length=self.max_positions)

    def _candidates(self, new: Path, rows: Dict[str, List[Row]], tell: Tell, part: str = DATA) -> None:
        from sharp_plugins.candidates.prepare import prepare

        lines = {split: write_lines(new, split, [candidates_line(row, self.task) for row in of]) for split, of in rows.items()}
        prepare(lines, self.backbone, new / part, self.start, self.max_positions, tell)

    def _forced(self, new: Path, rows: Dict[str, List[Row]], tell: Tell) -> None:
        """The right candidate as a text after the prompt, and all of them to choose from."""
        self._candidates(new, {split: of for split, of in rows.items() if split != "train"}, tell, CHOICES)
        texts = {split: [text_line(row, self.task) for row in of] for split, of in rows.items() if split != "test"}
        if texts:
            self._texts(new, texts, Format(start=self.start, text=TEXT), 1, tell)

    def _answers(self, new: Path, rows: Dict[str, List[Row]], tell: Tell) -> None:
        """The first answer and a new line as a text after the prompt; of the test set all answers, and room for one."""
        texts = {split: [text_line(row, self.task) for row in of] for split, of in rows.items()}
        for line in (line for split, of in texts.items() if split != "test" for line in of):
            line["texts"] = line["texts"][:1]
        self._texts(new, texts, Format(start=self.start, end="\n", stop=(END,)), ANSWER, tell)

    def _texts(self, new: Path, texts: Dict[str, List[Dict]], format: Format, room: int, tell: Tell) -> None:
        from sharp_plugins.prompted.prepare import Inputs, Limits, prepare

        name = {split: f"{split}.text" if (new / LINES / f"{split}.jsonl").exists() else split for split in texts}
        files = {split: [write_lines(new, name[split], of)] for split, of in texts.items()}
        positions = self.backbone.max_positions if self.max_positions is None else self.max_positions
        if 2 <= positions <= room:
            flag = "--backbone: the model has" if self.max_positions is None else "--max-positions: there are"
            raise ValueError(f"{flag} {positions} positions, and {room} of them are for an answer: none is left for its prompt")
        prepare(Inputs(files), self.backbone, format.check(), new / DATA, Limits(positions, room, "cut"), tell)


def settings_of(task: Task) -> Dict:
    """What decides how a task's data are drawn and put into prompts, beside the files."""
    layout = task.layout and task.layout.as_dict()  # and not the name of a file, which may change
    deciding = {name: value for name, value in asdict(task).items() if name not in ("about", "stand_ins")}  # which are for people
    return {"format": FORMAT, "sampling": sampling.VERSION, "task": {**deciding, "layout": layout}}


def write_lines(directory: Path, name: str, lines: List[Dict]) -> Path:
    """Write JSON lines into the directory of lines, and return the file's path."""
    path = directory / LINES / f"{name}.jsonl"
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def evaluated_in(task: Task) -> str:
    """The part of a sample's directory that a checkpoint is measured on."""
    return CHOICES if task.kind != CLOZE and task.training == TEACHER_FORCING else DATA
