"""F1 and exact match of generated answers, as of SQuAD 1.1 (Rajpurkar et al. 2016): its official script's rules.

An answer is compared with each gold answer after lower-casing, without punctuation and the words a, an and the, and with one space
between words. The best gold counts; the mean is over the questions.
"""

import re
import string
from collections import Counter
from pathlib import Path
from typing import Dict, List, Sequence

from sharp_plugins.files.text import parse_json, text_lines
from sharp_plugins.prompted.prepared import read_prepared
from sharp_plugins.runs.generated import read_generated

REFERENCES = "test.references.jsonl"
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(answer: str) -> str:
    """
    >>> normalized("The  Denver Broncos!"), normalized("a.m."), normalized("an U.S.-based")
    ('denver broncos', 'am', 'usbased')
    """
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", answer.lower().translate(PUNCTUATION)).split())


def f1(answer: str, gold: str) -> float:
    """The harmonic mean of precision and recall of the words, from 0 to 1; 0 where one of the two has none.

    >>> f1("the Denver Broncos", "Broncos")  # precision 1/2, recall 1
    0.6666666666666666
    """
    ours, theirs = normalized(answer).split(), normalized(gold).split()
    same = sum((Counter(ours) & Counter(theirs)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(ours), same / len(theirs)
    return 2 * precision * recall / (precision + recall)


def scores(answers: Sequence[str], golds: Sequence[Sequence[str]]) -> Dict[str, float]:
    """Mean "f1" and "em" in percent, and how many "questions".

    Args:
        golds: of each question, one or more.

    Raises:
        ValueError: they are not equally many, or none.

    >>> scores(["Broncos", "1990"], [["Denver Broncos", "The Broncos"], ["1991"]])
    {'f1': 50.0, 'em': 50.0, 'questions': 2}
    """
    if len(answers) != len(golds) or not answers:
        raise ValueError(f"{len(answers)} answers to {len(golds)} questions")
    pairs = list(zip(answers, golds))
    best = sum(max(f1(answer, gold) for gold in each) for answer, each in pairs)
    exact = sum(any(normalized(answer) == normalized(gold) for gold in each) for answer, each in pairs)
    return {"f1": 100 * best / len(pairs), "em": 100 * exact / len(pairs), "questions": len(pairs)}


def score_generated(generated: Path, data: Path) -> Dict[str, float]:
    """`scores` of the output of ``fairseq-generate`` on the test set of prepared data.

    Args:
        generated: the output.
        data: directory that ``python -m sharp_plugins.prompted prepare`` wrote.

    Raises:
        OSError: a file is not there.
        ValueError: the directory has no test set, or the output is not of it.
    """
    read_prepared(data)
    path = Path(data) / REFERENCES
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there: the data have no test set")
    golds: List[List[str]] = [parse_json(line, f"{path}:{number}")["texts"] for number, line in text_lines(path)]
    return scores([answer.strip() for answer in read_generated(generated, len(golds))], golds)
