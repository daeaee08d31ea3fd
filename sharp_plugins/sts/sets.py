"""The test sets of sentence similarity, as tab-separated files: pairs of sentences with a score.

    DIR/STS12.tsv … DIR/STS16.tsv   columns subset, score, sentence1, sentence2; the subsets of a year in one file
    DIR/STS-B/test.tsv, dev.tsv     columns score, sentence1, sentence2
    DIR/SICK/test.tsv               columns relatedness_score, sentence_A, sentence_B

or as they are published: DIR/STS12-en-test/ (`sharp_plugins.sts.semeval`), DIR/stsbenchmark/sts-test.csv and
DIR/SICK/SICK_test_annotated.txt.

Each file may be gzip-compressed, with .gz behind its name. Sentences are raw text.
"""

from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from sharp_plugins.files.rows import Maker, RowError, read_rows
from sharp_plugins.files.text import read_number
from sharp_plugins.files.writing import sha256
from sharp_plugins.sts import semeval


class Source(NamedTuple):
    """Where a set's file may be, the first one is taken, and how many pairs the published one has."""

    places: Tuple[str, ...]
    pairs: int


YEARS = {"STS12": 3108, "STS13": 1500, "STS14": 3750, "STS15": 3000, "STS16": 1186}  # STS13 without SMT, as everywhere
SETS: Dict[str, Source] = {
    **{year: Source((f"{year}.tsv", f"{year}-en-test"), pairs) for year, pairs in YEARS.items()},
    "STS-B": Source(("STS-B/test.tsv", "stsbenchmark/sts-test.csv", "STSBenchmark/sts-test.csv"), 1379),
    "SICK-R": Source(("SICK/test.tsv", "SICK/SICK_test_annotated.txt"), 4927),
}
DEV = "STS-B-dev"
FILES = {**SETS, DEV: Source(("STS-B/dev.tsv", "stsbenchmark/sts-dev.csv", "STSBenchmark/sts-dev.csv"), 1500)}
# Of sts-test.csv, which has no line of names; in some rows sources follow.
BENCHMARK = ("genre", "file", "year", "number", "score", "sentence1", "sentence2")
SCORE = ("score", "relatedness_score")
SENTENCES = (("sentence1", "sentence_A"), ("sentence2", "sentence_B"))
MOST = 5.0  # of all sets' scores
# How 21 to 81 % of a tokenised set's first sentences end, and at most 1 % of a raw one's.
TOKENISED = (" .", " ?", " !")


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
    """The file of a set, or the directory of a year's.

    Raises:
        ValueError: there is no set of that name.
        FileNotFoundError: the file is not there.
    """
    if name not in FILES:
        raise ValueError(f"--sets {name}: there is no such set; choose of {', '.join(FILES)}")
    places = [Path(directory) / place for place in FILES[name].places]
    for path in places:
        for candidate in (path, path.with_name(path.name + ".gz")):
            if candidate.is_file() or (candidate.is_dir() and name in YEARS):
                return candidate
    wanted = " or ".join(FILES[name].places)
    raise FileNotFoundError(f"{places[0]}: not there; for {name} --data wants a directory with {wanted}")


def checksum_of(directory, name: str) -> str:
    """Of all of a set that is read."""
    path = find_set(directory, name)
    return semeval.checksum(path) if path.is_dir() else sha256(path)


def read_set(directory, name: str) -> PairSet:
    """Read a set.

    Raises:
        FileNotFoundError: its file is not there.
        ValueError: the name is unknown, or a row cannot be read; names file and line.

    Example::

        read_set("sts", "STS-B").pairs[0].score  # 2.5
    """
    path = find_set(directory, name)
    if path.is_dir():
        lines = semeval.read_lines(path)
        rows, warnings = [_pair(*line.sentences, line.score, line.subset, line.where, line.scored) for line in lines], []
    else:
        fit = _without_sources if ".csv" in path.suffixes else lambda fields, count: fields
        rows, warnings = read_rows(path, lambda names: _maker(names, path), unnamed=_names_of_benchmark, fit=fit)
    if len(rows) < 2 or len({pair.score for pair in rows}) < 2:
        raise ValueError(f"{path}: {len(rows)} pairs, all of one score; a correlation needs two scores")
    if len(rows) != FILES[name].pairs:
        warnings.append(f"{path}: {len(rows)} pairs, and the published {name} has {FILES[name].pairs}")
    if sum(pair.first.endswith(TOKENISED) for pair in rows) > 0.1 * len(rows):
        warnings.append(f"{path}: the text seems to be tokenised, as SentEval's copies are; published numbers are of raw text")
    return PairSet(rows, warnings)


def _names_of_benchmark(fields: List[str]) -> Optional[Sequence[str]]:
    """The columns of STSbenchmark's own files, where a file begins with a row."""
    is_row = len(fields) >= len(BENCHMARK) and read_number(fields[BENCHMARK.index("score")]) is not None
    return BENCHMARK if is_row else None


def _without_sources(fields: List[str], count: int) -> List[str]:
    return fields[:count]


def _maker(names: Sequence[str], path) -> Maker:
    """What makes a `Pair`, of columns with these names."""

    def find(wanted: Sequence[str]) -> int:
        for name in wanted:
            if names.count(name) > 1:
                raise ValueError(f"{path}:1: {names.count(name)} columns are named {name}")
            if name in names:
                return names.index(name)
        raise ValueError(f"{path}:1: no column {' or '.join(wanted)}; there are {', '.join(names)}")

    score, first, second = find(SCORE), *map(find, SENTENCES)
    subset = names.index("subset") if "subset" in names else None

    def make(fields: List[str], number: int, where: str) -> Pair:
        return _pair(fields[first], fields[second], fields[score], "" if subset is None else fields[subset], where, where)

    return make


def _pair(first: str, second: str, score: str, subset: str, where: str, scored: str) -> Pair:
    """A pair of its texts; errors begin with *where* it stands, and with where its score does."""
    value = read_number(score, 0, MOST)
    if value is None:
        raise RowError(f"{scored}: the score is {score!r}, and should be a number from 0 to {MOST:g}")
    texts = first.strip(), second.strip()
    if not all(texts):
        raise RowError(f"{where}: a sentence is empty")
    return Pair(*texts, value, subset)
