"""A part of a training set, and noise on its labels: which rows are trained on, which choose the epoch, and which labels are wrong.

Every function is given labels or numbers, and returns numbers of rows or labels. It reads and prints nothing.
"""

from collections import Counter
from typing import Dict, List, NamedTuple, Sequence

import numpy

# Changed with how samples are drawn.
VERSION = 1
# Streams of random numbers, so that none moves where another draws more.
SELECTION, TRAINING, WRONG, LABEL = range(4)


class Sample(NamedTuple):
    """Which part of a training set, drawn with *seed*.

    Attributes:
        rows: to train on; 0 for all that are left.
        noise: the share of the training labels that is made wrong.
        selection: rows that choose the epoch, and are not trained on; 0: the development set chooses, as in the papers.
        selection_noise: whether the same share of their labels is made wrong.
    """

    seed: int
    rows: int = 0
    noise: float = 0.0
    selection: int = 0
    selection_noise: bool = False


class Drawn(NamedTuple):
    """Numbers of rows of the training file, from 0, in its order; those that --skip-malformed leaves out have none.

    Attributes:
        wrong: row -> its label, of the rows of both whose label is made wrong.
    """

    train: List[int]
    selection: List[int]
    wrong: Dict[int, str]


def draw(labels: Sequence[str], classes: Sequence[str], sample: Sample) -> Drawn:
    """Draw a sample.

    The rows that choose are drawn first, so they are the same for each number of training rows. Fewer training rows are a part of
    more of them, and labels that are wrong stay so with more noise.

    Args:
        labels: of all rows.
        classes: all there are; none where labels are numbers, which are drawn as one class.

    Raises:
        ValueError: there are not so many rows, a class would have none to train on, no label would be wrong where some should be,
            or the labels are numbers and noise is wanted.

    >>> labels = ["a", "b", "a", "a", "b", "a", "a", "a", "b"]
    >>> drawn = draw(labels, ["a", "b"], Sample(seed=1, rows=3, noise=0.34, selection=3))
    >>> [labels[row] for row in drawn.train], drawn.selection, drawn.wrong
    (['a', 'b', 'a'], [0, 1, 5], {3: 'b'})
    """
    if sample.noise and not classes:
        raise ValueError("--label-noise flips classes, and these labels are numbers")
    kinds = labels if classes else ["" for _ in labels]
    everything = list(range(len(labels)))
    selection = stratified(kinds, everything, sample.selection, sample.seed, SELECTION, "--selection-rows")
    chosen = set(selection)
    left = [row for row in everything if row not in chosen]
    if not left:
        raise ValueError(f"--selection-rows {sample.selection}: there are {len(labels)} rows, and none is left to train on")
    train = stratified(kinds, left, sample.rows, sample.seed, TRAINING, "--train-rows") if sample.rows else left
    none = sorted(set(kinds) - {kinds[row] for row in train})
    if none:  # the rows that choose have all of its rows
        raise ValueError(f"--selection-rows {sample.selection}: none of the class {none[0]} is left to train on; give fewer")
    wrong = flipped(train, labels, classes, sample.noise, sample.seed, "training rows (--train-rows)")
    if sample.selection_noise:
        wrong.update(flipped(selection, labels, classes, sample.noise, sample.seed, "--selection-rows"))
    return Drawn(train, selection, wrong)


def stratified(kinds: Sequence[str], rows: Sequence[int], count: int, seed: int, stream: int, flag: str) -> List[int]:
    """*count* of *rows*, each class with its share, rounded (Webster's method, in which a larger sample holds the smaller one).

    Args:
        kinds: the class of each row of the file.
        flag: for the message.

    Raises:
        ValueError: there are fewer, or one of the classes would have none.

    >>> stratified(["a", "a", "a", "b"], [0, 1, 2, 3], 2, seed=1, stream=TRAINING, flag="--train-rows")
    [1, 3]
    """
    if count > len(rows):
        raise ValueError(f"{flag} {count}: the training set has {len(rows)} rows for it")
    place = numpy.random.default_rng([stream, seed]).permutation(len(kinds))
    sizes, seen, order = Counter(kinds[row] for row in rows), Counter(), {}
    for row in sorted(rows, key=lambda row: place[row]):
        kind = kinds[row]
        # A class's n-th row has its place where it makes the class's share; of equal places the rarer class goes first.
        order[row] = (seen[kind] + 0.5) / sizes[kind], sizes[kind]
        seen[kind] += 1
    found = sorted(sorted(order, key=lambda row: order[row])[:count])
    none = sorted(sizes.keys() - {kinds[row] for row in found})
    if count and none:
        raise ValueError(f"{flag} {count}: so few rows have none of the class {none[0]}; give more")
    return found


def flipped(
    rows: Sequence[int], labels: Sequence[str], classes: Sequence[str], share: float, seed: int, what: str = "rows"
) -> Dict[int, str]:
    """Row -> another label than its own, of a share of *rows*: those that come first in a random order of all rows.

    Args:
        what: the rows are, for the message.

    Raises:
        ValueError: the share, rounded, is no row.

    >>> flipped([0, 2, 3], ["a", "b", "a", "b"], ["a", "b"], share=0.7, seed=1)
    {0: 'b', 2: 'b'}
    """
    count = round(share * len(rows))
    if share and not count:
        raise ValueError(f"--label-noise {share:g}: of {len(rows)} {what} none would be wrong; give more rows or a larger share")
    place = numpy.random.default_rng([WRONG, seed]).permutation(len(labels))
    # One number for each row of the file, so that a row's wrong label does not depend on the others'.
    step = numpy.random.default_rng([LABEL, seed]).integers(1, max(len(classes), 2), size=len(labels))
    first = sorted(rows, key=lambda row: place[row])[:count]
    return {row: classes[(classes.index(labels[row]) + int(step[row])) % len(classes)] for row in sorted(first)}
