"""A task's files as data for fairseq's own ``sentence_prediction`` task.

    OUT/input0/{train,valid,test}.{bin,idx}, dict.txt     the first sentence of each row
    OUT/input1/...                                        the second, where there is one
    OUT/label/...                                         its class; in STS-B train.label and so on, numbers from 0 to 1
    OUT/index/{test,test1}.txt                            the rows' numbers in the test files
    OUT/prepared.json                                     what all this was made of

A pair that is too long loses words from the end of whichever sentence is longer, one at a time, as in BERT's own code.
"""

import json
import shutil
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

import torch
from fairseq.data import Dictionary, indexed_dataset

from sharp_plugins.files.text import read_json
from sharp_plugins.files.writing import sha256, unfinished_in, write_text
from sharp_plugins.glue.backbone import Backbone
from sharp_plugins.glue.reader import Row, find_files, is_stand_in, read
from sharp_plugins.glue.tasks import MOST, TASKS, Task

STAMP = "prepared.json"
# Changed with what is written, so that data of an earlier version are made anew.
FORMAT = 2
# What may be in the directory.
OWN = {"input0", "input1", "label", "index", STAMP}


class Prepared(NamedTuple):
    """A directory with a task's data.

    source: checksums of all that they were made of, and with which settings.
    rows: of each split.
    files: names of the files that they came from.
    stand_ins: the splits whose file only stands for the published one.
    shortened: how many rows of each split were too long.
    warnings: what a user should know of the files.
    done_before: whether it had all been there already.
    """

    directory: Path
    task: str
    source: Dict
    rows: Dict[str, int]
    files: Dict[str, str]
    stand_ins: List[str]
    shortened: Dict[str, int]
    warnings: List[str]
    done_before: bool = False


def prepare(data, backbone: Backbone, task: Task, out, max_positions: int = 512, skip_malformed: bool = False) -> Prepared:
    """Write *task*'s data for *backbone* into the directory *out*, which appears when all of it is there.

    Where *out* already holds the data of the same files and settings, nothing is done.

    Args:
        data: directory with GLUE's files.
        max_positions: longest input, with special symbols; longer ones are shortened.
        skip_malformed: leave out rows that cannot be read.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file cannot be read, *max_positions* does not fit, or *out* holds something else.
    """
    out = Path(out)
    source, paths = source_of(data, backbone, task, max_positions, skip_malformed), find_files(data, task)
    stamp = _stamp(out)
    if stamp.get("source") == source:
        return _prepared(out, stamp)._replace(done_before=True)
    others = sorted({path.name for path in out.iterdir()} - OWN) if out.exists() else []
    if others:
        raise ValueError(
            f"{out}: holds other data, which would be replaced, and with them {', '.join(others)}, which is none of "
            "them; choose another place"
        )

    with unfinished_in(out.parent) as unfinished:
        new = unfinished / "new"
        stamp = {"source": source, **_write(new, paths, backbone, task, max_positions, skip_malformed)}
        write_text(new / STAMP, json.dumps(stamp, indent=2) + "\n")
        if out.exists():
            shutil.move(str(out), str(unfinished / "old"))
        new.rename(out)
    return _prepared(out, stamp)


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
    stamp = _stamp(Path(directory))
    if not stamp:
        raise FileNotFoundError(f"{directory}: not there, or not written by `python -m sharp_plugins.glue prepare`")
    if stamp["source"].get("format") != FORMAT:
        raise ValueError(f"{directory}: written by another version; make it again with `python -m sharp_plugins.glue prepare`")
    return _prepared(Path(directory), stamp)


def _stamp(directory: Path) -> Dict:
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return {}
    try:
        stamp = read_json(directory / STAMP)
    except (OSError, ValueError) as error:
        raise ValueError(f"{directory}: holds something else than a task's data ({error}); choose another place") from error
    return stamp if _is_stamp(stamp) else {}


def _is_stamp(stamp: Dict) -> bool:
    """Whether it is what `prepare` writes. Names of splits become names of files: only the task's own are taken."""
    try:
        splits = TASKS[stamp["source"]["task"]].splits.keys()
        named = [stamp[name] for name in ("rows", "files", "shortened", "stand_ins")]
        fields = {*Prepared._fields} - {"directory", "task", "done_before"}
        kinds = {"rows": int, "files": str, "shortened": int}
        are_right = [isinstance(stamp[name], dict) and _all(kind, stamp[name].values()) for name, kind in kinds.items()]
        are_right += [isinstance(stamp[name], list) and _all(str, stamp[name]) for name in ("stand_ins", "warnings")]
        return stamp.keys() == fields and all(are_right) and all(splits >= set(part) for part in named)
    except (KeyError, TypeError):
        return False


def _all(kind: type, values) -> bool:
    return all(isinstance(value, kind) for value in values)


def _prepared(directory: Path, stamp: Dict) -> Prepared:
    return Prepared(directory, stamp["source"]["task"], **stamp)


def _write(directory: Path, paths, backbone: Backbone, task: Task, max_positions: int, skip_malformed: bool) -> Dict:
    """Write everything but the stamp; returns what it says."""
    facts = {"rows": {}, "files": {}, "stand_ins": [], "shortened": {}, "warnings": []}
    sides = [f"input{n}" for n in range(len(task.sentences))]
    for side in (*sides, "label"):
        (directory / side).mkdir(parents=True)
    for side in sides:
        shutil.copyfile(backbone.directory / "dict.txt", directory / side / "dict.txt")
    labels = Dictionary()
    for label in task.classes:
        labels.add_symbol(label)
    if task.classes:
        labels.save(str(directory / "label" / "dict.txt"))

    room = max_positions - backbone.special_symbols(len(sides))
    for split, path in paths.items():
        table = read(path, task, split, skip_malformed)
        tokens = [_indices(backbone, [row.sentences[n] for row in table.rows]) for n in range(len(sides))]
        shortened = sum(_shorten(inputs, room) for inputs in zip(*tokens))
        for side, inputs in zip(sides, tokens):
            _save(directory / side / split, inputs, backbone.dictionary)
        _save_labels(directory / "label" / split, table.rows, task, labels)
        if split.startswith("test"):
            write_text(directory / "index" / f"{split}.txt", "".join(f"{row.index}\n" for row in table.rows))
        facts["rows"][split], facts["files"][split], facts["shortened"][split] = len(table.rows), path.name, shortened
        facts["warnings"] += table.warnings
        if is_stand_in(path, task, split):
            facts["stand_ins"].append(split)
    return facts


def _indices(backbone: Backbone, texts: Sequence[str]) -> List[List[int]]:
    return [[backbone.dictionary.index(symbol) for symbol in line] for line in backbone.tokenizer.encode_many(texts)]


def _shorten(inputs: Sequence[List[int]], room: int) -> bool:
    """Take from the ends until the inputs of one row have no more than *room* symbols; whether that was needed."""
    too_long = sum(map(len, inputs)) > room
    while sum(map(len, inputs)) > room:
        # Of two equally long ones the second, as in BERT's code.
        max(reversed(inputs), key=len).pop()
    return too_long


def _save(path: Path, lines: Sequence[List[int]], dictionary: Dictionary) -> None:
    builder = indexed_dataset.make_builder(f"{path}.bin", impl="mmap", vocab_size=len(dictionary))
    for line in lines:
        builder.add_item(torch.tensor([*line, dictionary.eos()], dtype=torch.long))
    builder.finalize(f"{path}.idx")


def _save_labels(path: Path, rows: Sequence[Row], task: Task, labels: Dictionary) -> None:
    if rows[0].label is None:
        return
    if task.is_regression:
        write_text(path.with_name(f"{path.name}.label"), "".join(f"{float(row.label) / MOST:.6g}\n" for row in rows))
    else:
        _save(path, [[labels.index(row.label)] for row in rows], labels)
