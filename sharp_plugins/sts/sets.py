"""The test sets of sentence similarity, as tab-separated files: pairs of sentences with a score.

    DIR/STS12.tsv … DIR/STS16.tsv   columns subset, score, sentence1, sentence2; the subsets of a year in one file
    DIR/STS-B/test.tsv, dev.tsv     columns score, sentence1, sentence2
    DIR/SICK/test.tsv               columns relatedness_score, sentence_A, sentence_B

Each may be gzip-compressed, with .gz behind its name. Sentences are raw text.
"""

from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple

from sharp_plugins.files.rows import Maker, RowError, read_rows
from sharp_plugins.files.text import read_number

# Name -> the file, and how many pairs the published one has (STS13 without SMT, as everywhere).
SETS: Dict[str, Tuple[str, int]] = {
    "STS12": ("STS12.tsv", 3108),
    "STS13": ("STS13.tsv", 1500),
    "STS14": ("STS14.tsv", 3750),
    "STS15": ("STS15.tsv", 3000),
    "STS16": ("STS16.tsv", 1186),
    "STS-B": ("STS-B/test.tsv", 1379),
    "SICK-R": ("SICK/test.tsv", 4927),
}
DEV = "STS-B-dev"
FILES = {**SETS, DEV: ("STS-B/dev.tsv", 1500)}
SCORE = ("score", "relatedness_score")
SENTENCES = (("sentence1", "sentence_A"), ("sentence2", "sentence_B"))
MOST = 5.0  # of all sets' scores


class Pair(NamedTuple):
    """A pair of sentences. The subset is empty where a set has none."""

    first: str
    second: str
    score: float
    subset: str


class PairSet(NamedTuple):
    """A set's pairs, and what a user should know of the file."""

    pairs: List[Pair]
    warnings: List[str]


def find_set(directory, name: str) -> Path:
    """The file of a set.

    Raises:
        ValueError: there is no set of that name.
        FileNotFoundError: the file is not there.
    """
    if name not in FILES:
        raise ValueError(f"--sets {name}: there is no such set; choose of {', '.join(FILES)}")
    path = Path(directory) / FILES[name][0]
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"{path}: not there; --data wants a directory with {', '.join(file for file, _ in SETS.values())}")


def read_set(directory, name: str) -> PairSet:
    """Read a set.

    Raises:
        FileNotFoundError: its file is not there.
        ValueError: the name is unknown, or a row cannot be read; names file and line.

    Example::

        read_set("sts", "STS-B").pairs[0].score  # 2.5
    """
    path = find_set(directory, name)
    rows, warnings = read_rows(path, lambda names: _maker(names, path))
    if len(rows) < 2 or len({pair.score for pair in rows}) < 2:
        raise ValueError(f"{path}: {len(rows)} pairs, all of one score; a correlation needs two scores")
    if len(rows) != FILES[name][1]:
        warnings.append(f"{path}: {len(rows)} pairs, and the published {name} has {FILES[name][1]}")
    return PairSet(rows, warnings)


def _maker(names: Sequence[str], path) -> Maker:
    """What makes a `Pair`, of columns with these names."""

    def find(wanted: Sequence[str]) -> int:
        for name in wanted:
            if name in names:
                return names.index(name)
        raise ValueError(f"{path}:1: no column {' or '.join(wanted)}; there are {', '.join(names)}")

    score, first, second = find(SCORE), *map(find, SENTENCES)
    subset = names.index("subset") if "subset" in names else None

    def make(fields: List[str], number: int, where: str) -> Pair:
        value = read_number(fields[score], 0, MOST)
        if value is None:
            raise RowError(f"{where}: the score is {fields[score]!r}, and should be a number from 0 to {MOST:g}")
        texts = fields[first].strip(), fields[second].strip()
        if not all(texts):
            raise RowError(f"{where}: a sentence is empty")
        return Pair(*texts, value, "" if subset is None else fields[subset])

    return make
