"""A task's files as data for fairseq's own ``sentence_prediction`` task.

    OUT/input0/{train,valid,test}.{bin,idx}, dict.txt     the first sentence of each row
    OUT/input1/...                                        the second, where there is one
    OUT/label/...                                         its class; in STS-B train.label and so on, numbers from 0 to 1
    OUT/index/{test,test1}.txt                            the rows' numbers in the test files
    OUT/prepared.json                                     what all this was made of

    OUT/sample.json                                       which rows of the training file they are, and which labels are wrong

The last is there where a part of the training set was asked for, see `sharp_plugins.glue.sample`. Where rows of it choose the epoch
they are fairseq's "valid", and the development set is "dev".

A pair that is too long loses words from the end of whichever sentence is longer, one at a time, as in BERT's own code.
"""

import json
import shutil
from pathlib import Path
from typing import Dict, NamedTuple, Optional, Sequence

import numpy
from fairseq.data import Dictionary, indexed_dataset

from sharp_plugins.files.writing import sha256, write_text
from sharp_plugins.glue import sample as sampling
from sharp_plugins.glue.reader import Row, find_files, is_stand_in, read
from sharp_plugins.glue.sample import Sample
from sharp_plugins.glue.tasks import MOST, REPORTED, TASKS, Task
from sharp_plugins.glue.typos import with_typos
from sharp_plugins.runs import prepared
from sharp_plugins.runs.prepared import Prepared, make_once
from sharp_plugins.text.binarized import indices_of, save, shorten
from sharp_plugins.text.encoder_directory import Backbone

# Changed with what is written, so that data of an earlier version are made anew.
FORMAT = 2
# The same typos for every model that is compared.
TYPOS_SEED = 1
# What may be in the directory beside the stamp.
OWN = ("input0", "input1", "label", "index", "sample.json")
SPLITS = {name: {*task.splits, *REPORTED.values()} for name, task in TASKS.items()}


def prepare(
    data,
    backbone: Backbone,
    task: Task,
    out,
    max_positions: int = 512,
    skip_malformed: bool = False,
    sample: Optional[Sample] = None,
    typos: float = 0.0,
    replaces: bool = True,
) -> Prepared:
    """Write *task*'s data for *backbone* into the directory *out*, which appears when all of it is there.

    Where *out* already holds the data of the same files and settings, nothing is done.

    Args:
        data: directory with GLUE's files.
        max_positions: longest input, with special symbols; longer ones are shortened.
        skip_malformed: leave out rows that cannot be read.
        sample: the part of the training set that is taken; all of it by default.
        typos: the share of the words of all other sets that get one, see `sharp_plugins.glue.typos`.
        replaces: whether data of other files or settings in *out* are replaced.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file cannot be read, *max_positions* or *sample* does not fit, or *out* holds something else, or data
            that are not replaced.
    """
    source, paths = source_of(data, backbone, task, max_positions, skip_malformed), find_files(data, task)
    if sample is not None:
        source["sample"] = {**sample._asdict(), "version": sampling.VERSION}
    if typos:
        source["typos"] = typos
    before = prepared.read_stamp(Path(out), SPLITS)
    if before and before["source"].get("typos", 0) != typos:
        has = "with typing errors" if before["source"].get("typos") else "without typing errors"
        raise ValueError(f"{out}: holds the sets {has}, which would be replaced (--typos); choose another --out")

    def write(directory: Path) -> Dict:
        return _write(directory, paths, backbone, task, max_positions, skip_malformed, sample, typos)

    return make_once(Path(out), source, write, OWN, SPLITS, replaces)


def source_of(data, backbone: Backbone, task: Task, max_positions: int = 512, skip_malformed: bool = False) -> Dict:
    """What a task's data are made of: checksums of all files, and the settings; as `prepare`, which it is a part of.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: *max_positions* does not fit.
    """
    sentences = len(task.sentences)
    least = backbone.special_symbols(sentences) + sentences
    if not least <= max_positions <= backbone.max_positions:
        raise ValueError(
            f"--max-positions must be from {least} to {backbone.max_positions}, where the backbone's positions end, "
            f"and is {max_positions}"
        )
    return {
        "format": FORMAT,
        "task": task.name,
        "max_positions": max_positions,
        "skip_malformed": skip_malformed,
        "data": {split: sha256(path) for split, path in find_files(data, task).items()},
        "backbone": {name: backbone.checksums[name] for name in ("dict.txt", "tokenizer.json")},
    }


def read_prepared(directory) -> Prepared:
    """What `prepare` returned when it wrote *directory*.

    Raises:
        FileNotFoundError: it did not.
        ValueError: it is of an earlier version.
    """
    return prepared.read_prepared(directory, SPLITS, FORMAT, "python -m sharp_plugins.glue prepare")


def longest_input(prepared: Prepared) -> int:
    """No input of the training set has more symbols, special ones among them."""
    paths = [prepared.directory / f"input{n}" / "train" for n in range(len(TASKS[prepared.task].sentences))]
    sides = [indexed_dataset.MMapIndexedDataset(str(path)) for path in paths]  # which are unmapped with the last name for them
    sizes = sum(side.sizes for side in sides)
    # Beside the end of each sentence, fairseq puts a symbol before the first one and, for some encoders, one between them.
    return int(sizes.max()) + len(sides)


class _Part(NamedTuple):
    """The rows of one of fairseq's splits, and the file's split that they are of."""

    rows: Sequence[Row]
    path: Path
    of: str


def _write(
    directory: Path,
    paths,
    backbone: Backbone,
    task: Task,
    max_positions: int,
    skip_malformed: bool,
    sample: Optional[Sample],
    typos: float,
) -> Dict:
    """Write everything but the stamp; returns what it says."""
    facts: Dict = {"rows": {}, "files": {}, "stand_ins": [], "shortened": {}, "warnings": []}
    sides = [f"input{n}" for n in range(len(task.sentences))]
    for side in (*sides, "label"):
        (directory / side).mkdir()
    for side in sides:
        shutil.copyfile(backbone.directory / "dict.txt", directory / side / "dict.txt")
    labels = Dictionary()
    for label in task.classes:
        labels.add_symbol(label)
    if task.classes:
        labels.save(str(directory / "label" / "dict.txt"))

    if typos:
        said = f"{100 * typos:g} % of the words of four letters or more have a typing error, in all sets but the training set"
        facts["warnings"].append(said)
    parts: Dict[str, _Part] = {}
    for split, path in paths.items():
        rows, warnings = read(path, task, split, skip_malformed)
        if typos and split != "train":
            random = numpy.random.default_rng(TYPOS_SEED)
            rows = [row._replace(sentences=tuple(with_typos(text, typos, random) for text in row.sentences)) for row in rows]
        parts[split] = _Part(rows, path, split)
        facts["warnings"] += warnings
    if sample is not None:
        parts = _sampled(parts, task, sample, directory / "sample.json")
    room = max_positions - backbone.special_symbols(len(sides))
    for split, (rows, path, of) in parts.items():
        texts = [[row.sentences[n] for row in rows] for n in range(len(sides))]
        tokens = [indices_of(side, backbone.tokenizer, backbone.dictionary) for side in texts]
        facts["shortened"][split] = sum(shorten(inputs, room) for inputs in zip(*tokens))
        for side, inputs in zip(sides, tokens):
            save(directory / side / split, inputs, backbone.dictionary)
        _save_labels(directory / "label" / split, rows, task, labels)
        if split.startswith("test"):
            write_text(directory / "index" / f"{split}.txt", "".join(f"{row.index}\n" for row in rows))
        facts["rows"][split], facts["files"][split] = len(rows), path.name
        facts["stand_ins"] += [split] if is_stand_in(path, task, of) else []
    return facts


def _sampled(parts: Dict[str, _Part], task: Task, sample: Sample, file: Path) -> Dict[str, _Part]:
    """The sets of a sample; *file* is told which rows they are."""
    rows, path, _ = parts["train"]
    try:
        drawn = sampling.draw([row.label for row in rows], task.classes, sample)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    write_text(file, json.dumps(drawn._asdict(), indent=1) + "\n")
    relabelled = [row._replace(label=drawn.wrong.get(number, row.label)) for number, row in enumerate(rows)]
    found = {"train": _Part([relabelled[number] for number in drawn.train], path, "train")}
    if drawn.selection:
        found["valid"] = _Part([relabelled[number] for number in drawn.selection], path, "train")
    for split, part in parts.items():
        if split in REPORTED:  # not the test sets, which are large, and would be written for each sample
            found[REPORTED[split] if drawn.selection else split] = part
    return found


def _save_labels(path: Path, rows: Sequence[Row], task: Task, labels: Dictionary) -> None:
    if rows[0].label is None:
        return
    if task.is_regression:
        write_text(path.with_name(f"{path.name}.label"), "".join(f"{float(row.label) / MOST:.6g}\n" for row in rows))
    else:
        save(path, [[labels.index(row.label)] for row in rows], labels)
