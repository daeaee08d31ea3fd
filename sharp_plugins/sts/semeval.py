"""A year of SemEval's similarity task as it is published: each subset has a file of pairs and a file of their scores.

    STS12-en-test/STS.input.MSRpar.txt   two sentences a line, with a tab between them; 2016's have their sources behind them
    STS12-en-test/STS.gs.MSRpar.txt      a score in the same line; an empty one where nobody scored the pair, which is left out

2016's own files are called STS2016.input… and STS2016.gs…. SentEval's copies have these names too, and tokenised text. Each file
may be gzip-compressed, with .gz behind its name.
"""

import hashlib
import re
from itertools import zip_longest
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

from sharp_plugins.files.text import text_lines
from sharp_plugins.files.writing import sha256

NAME = re.compile(r"STS(?:20\d\d)?\.(input|gs)\.(.+)\.txt(?:\.gz)?")
WHOLE = "ALL"  # 2012's scores of all subsets once more


class Line(NamedTuple):
    """A pair that has a score, all of it as text."""

    where: str  # file and line
    subset: str
    sentences: Tuple[str, str]
    score: str
    scored: str  # file and line of the score


def files_of(directory: Path) -> Dict[str, Tuple[Path, Path]]:
    """The files of pairs and of scores by subset, in the order of their names.

    Raises:
        ValueError: there is none, one of a subset's two files is missing, or one is there twice.
    """
    found: Dict[str, Dict[str, Path]] = {}
    for path in sorted(directory.iterdir()):
        match = NAME.fullmatch(path.name)
        if match and match[2] != WHOLE:
            other = found.setdefault(match[2], {}).setdefault(match[1], path)
            if other != path:
                raise ValueError(f"{other} and {path} are of the same subset; take one of them away")
    if not found:
        raise ValueError(f"{directory}: no STS.input.SUBSET.txt in it, with pairs, and no STS.gs.SUBSET.txt, with their scores")
    for subset, two in found.items():
        if len(two) < 2:
            [there] = two.values()
            other = "STS.gs" if "input" in two else "STS.input"
            raise ValueError(f"{there}: there is no {other}.{subset}.txt beside it; take both, or this one away")
    return {subset: (two["input"], two["gs"]) for subset, two in sorted(found.items())}


def checksum(directory: Path) -> str:
    """Of all files that are read."""
    sums = [f"{sha256(path)} {path.name}\n" for two in files_of(directory).values() for path in two]
    return hashlib.sha256("".join(sums).encode()).hexdigest()


def read_lines(directory: Path) -> List[Line]:
    """The pairs that have a score, subset by subset.

    Raises:
        ValueError: a file is missing, or a line cannot be read; names file and line.
    """
    lines = []
    for subset, (pairs, scores) in files_of(directory).items():
        both = zip_longest(*([text for _, text in text_lines(path, is_free=True)] for path in (pairs, scores)))
        for number, (pair, score) in enumerate(both, 1):
            where, scored = f"{pairs}:{number}", f"{scores}:{number}"
            if pair is None and score.strip():
                raise ValueError(f"{scored}: {pairs} has no such line; the two must be parallel")
            if score is None and pair.strip():
                raise ValueError(f"{where}: {scores} has no such line; the two must be parallel")
            if not (score or "").strip():
                continue
            fields = pair.split("\t")
            if len(fields) < 2:
                raise ValueError(f"{where}: {len(fields)} sentences, and should have two with a tab between them")
            lines.append(Line(where, subset, (fields[0], fields[1]), score, scored))
    return lines
