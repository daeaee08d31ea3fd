"""A corpus as data for fairseq's ``translation`` task, by three commands that a user can type too.

OUT/text/{train,dev,test}.{src,tgt}      parallel text
OUT/pieces/{train,dev,test}.{src,tgt}    as sentencepiece's pieces, with the model
OUT/bin/                                 binarized, with a joined dictionary: what ``fairseq-train`` takes
OUT/STEP.log                             what each command printed
OUT/prepared.json                        what all this was made of
"""

from pathlib import Path
from typing import Callable, Dict, List

from sharp_plugins.files.writing import sha256
from sharp_plugins.runs.data import do_steps, make_once
from sharp_plugins.webnlg.corpus import SPLITS, CorpusError, files_of, find_split
from sharp_plugins.webnlg.linearise import OBJECT, PREDICATE, SUBJECT

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
        files = [file for split in SPLITS for file in files_of(find_split(data, split))]
    except CorpusError as error:
        raise ValueError(f"--data: {error}") from error
    return {"format": FORMAT, "corpus": {str(path.relative_to(data)): sha256(path) for path in files}, "vocabulary": vocab_size}


def steps_of(data: Path, vocab_size: int) -> Dict[str, List[str]]:
    """The commands by name, in their order; they are run in OUT."""
    module = ["python", "-m"]
    binarize = "fairseq-preprocess --source-lang src --target-lang tgt --joined-dictionary --destdir bin "
    binarize += "--trainpref pieces/train --validpref pieces/dev --testpref pieces/test"
    pieces = f"--text text --out pieces --vocab-size {vocab_size} --marks {SUBJECT} {PREDICATE} {OBJECT}"
    return {
        "text": [*module, "sharp_plugins.webnlg.parallel", "--data", str(data.resolve()), "--out", "text"],
        "pieces": [*module, "sharp_plugins.text.pieces", *pieces.split()],
        "bin": binarize.split(),
    }


def prepare(data: Path, out: Path, vocab_size: int, tell: Callable[[str], None] = print, replaces: bool = True) -> None:
    """Make a corpus's data in *out*, as `make_once` does.

    Args:
        data: directory with the corpus.
        tell: is given each command, as a line for a shell.
        replaces: whether data of another corpus or vocabulary are replaced.

    Raises:
        ValueError: a command fails, by the corpus, say, or *out* holds something else.
    """
    steps = steps_of(data, vocab_size)
    own = [*steps, *(f"{name}.log" for name in steps)]
    if not make_once(out, source_of(data, vocab_size), own, lambda new: do_steps(steps, new, out, tell), replaces=replaces):
        tell(f"{out}: all data were there")
