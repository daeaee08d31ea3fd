"""A corpus as data for fairseq's ``translation`` task, by three commands that a user can type too.

OUT/text/{train,dev,test}.{src,tgt}      parallel text
OUT/pieces/{train,dev,test}.{src,tgt}    as sentencepiece's pieces, with the model
OUT/bin/                                 binarized, with a joined dictionary: what ``fairseq-train`` takes
OUT/STEP.log                             what each command printed
OUT/prepared.json                        what all this was made of
"""

import json
from pathlib import Path
from typing import Callable, Dict, List

from sharp_plugins.files.text import read_json
from sharp_plugins.files.writing import sha256, unfinished_in, write_text
from sharp_plugins.runs.processes import Stop, interpreter, run_process, shell_line
from sharp_plugins.webnlg.corpus import SPLITS, CorpusError, find_split

STAMP = "prepared.json"
# Changed with what is written, so that data of an earlier version are made anew.
FORMAT = 1


def source_of(data: Path, vocab_size: int) -> Dict:
    """What the data of a corpus are made of: checksums of its files, and the vocabulary.

    Raises:
        ValueError: the corpus is not there, or *vocab_size* is no size.
    """
    if vocab_size < 1:
        raise ValueError(f"--vocab-size {vocab_size}: should be at least 1")
    if not data.is_dir():
        raise ValueError(f"--data {data}: no such directory")
    try:
        files = [find_split(data, split) for split in SPLITS]
    except CorpusError as error:
        raise ValueError(f"--data: {error}") from error
    return {"format": FORMAT, "corpus": {path.name: sha256(path) for path in files}, "vocabulary": vocab_size}


def steps_of(data: Path, vocab_size: int) -> Dict[str, List[str]]:
    """The commands by name, in their order; they are run in OUT."""
    module = ["python", "-m"]
    binarize = "fairseq-preprocess --source-lang src --target-lang tgt --joined-dictionary --destdir bin "
    binarize += "--trainpref pieces/train --validpref pieces/dev --testpref pieces/test"
    pieces = f"--text text --out pieces --vocab-size {vocab_size}"
    return {
        "text": [*module, "sharp_plugins.webnlg.corpus", "--data", str(data.resolve()), "--out", "text"],
        "pieces": [*module, "sharp_plugins.webnlg.pieces", *pieces.split()],
        "bin": binarize.split(),
    }


def prepare(data: Path, out: Path, vocab_size: int, tell: Callable[[str], None] = print) -> None:
    """Make a corpus's data in *out*, which appears when all of it is there. Where they are already, nothing is done; those of
    another corpus or vocabulary are replaced. Two calls may make the same at once.

    Args:
        data: directory with the corpus.
        tell: is given each command, as a line for a shell.

    Raises:
        ValueError: a command fails, by the corpus, say, or *out* holds something else.
    """
    source = source_of(data, vocab_size)
    if _is_made_of(out, source):
        return tell(f"{out}: all data were there")
    steps = steps_of(data, vocab_size)
    own = {STAMP, *steps, *(f"{name}.log" for name in steps)}
    others = sorted({path.name for path in out.iterdir()} - own) if out.exists() else []
    if others:
        raise ValueError(f"--out: {out} holds {', '.join(others)}, which is none of the data; choose another place")
    with unfinished_in(out.parent) as unfinished:
        new = unfinished / "new"
        new.mkdir()
        for name, command in steps.items():
            tell(f"+ {shell_line(command, out, f'{name}.log')}")
            status = run_process(interpreter(command), new, new / f"{name}.log", Stop())
            if status != 0:
                end = "\n  ".join((new / f"{name}.log").read_text(errors="replace").splitlines()[-20:])
                raise ValueError(f"{command[0]} ended with {status}; its log ends with\n  {end}")
        write_text(new / STAMP, json.dumps(source, indent=2) + "\n")
        _put(new, out, source, unfinished / "old")


def _is_made_of(out: Path, source: Dict) -> bool:
    try:
        return read_json(out / STAMP) == source
    except (FileNotFoundError, ValueError):  # of half a stamp
        return False


def _put(new: Path, out: Path, source: Dict, old: Path) -> None:
    """Move *new* to *out*, unless another call has made the same meanwhile."""
    if out.exists() and not _is_made_of(out, source):
        out.rename(old)
    try:
        new.rename(out)
    except OSError:
        if not _is_made_of(out, source):
            raise
