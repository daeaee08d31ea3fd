"""Which rows are trained on, which choose the checkpoint, and which are tested: as MeZO's code draws them.

Every function here is given how many rows there are, or their labels, and returns numbers of rows. It reads and prints nothing.

Sources: MeZO (github.com/princeton-nlp/MeZO), ``medium_models/tools/generate_k_shot_data.py`` and
``large_models/tasks.py`` (``sample_subset``), ``large_models/run.py``.
"""

from typing import Dict, List, NamedTuple, Sequence

import numpy as np

# The published samples' seeds.
SEEDS = (13, 21, 42, 87, 100)
# Of the rows that a masked language model is held_out on, whatever the sample's seed.
TEST_SEED = 42
# Changed with how samples are drawn.
VERSION = 1


class Split(NamedTuple):
    """Numbers of rows of the training file.

    Attributes:
        train, valid: in the order in which they are written.
    """

    train: List[int]
    valid: List[int]


def permutation(count: int, seed: int) -> List[int]:
    """The numbers 0 to *count* - 1, shuffled: ``numpy.random.shuffle`` after ``numpy.random.seed(seed)``, of a list or an array.

    >>> permutation(5, seed=13)
    [1, 3, 4, 0, 2]
    """
    return np.random.RandomState(seed).permutation(count).tolist()


def k_per_class(labels: Sequence[str], k: int, seed: int) -> Split:
    """k rows of each class to train on, and the next k of each as the development set, of the shuffled rows.

    The classes follow each other in the order in which they first appear among the shuffled rows. Of a class with fewer than 2k
    rows the training set has what is there, up to k, and the development set what is left.

    >>> k_per_class(["a", "b", "a", "b", "a", "a"], k=1, seed=1)
    Split(train=[2, 1], valid=[4, 3])
    """
    by_class: Dict[str, List[int]] = {}
    for number in permutation(len(labels), seed):
        by_class.setdefault(labels[number], []).append(number)
    train = [number for rows in by_class.values() for number in rows[:k]]
    return Split(train, [number for rows in by_class.values() for number in rows[k : 2 * k]])


def first_of_all(count: int, train: int, valid: int, seed: int) -> Split:
    """The first rows of the shuffled ones: *train* of them to train on, and the next *valid* as the development set.

    Where there are fewer, the development set is whole and the training set has the rest: 150 of CB's 250 rows.

    >>> split = first_of_all(250, train=1000, valid=100, seed=13)
    >>> len(split.train), len(split.valid)
    (150, 100)
    """
    chosen = permutation(count, seed)[: train + valid]
    cut = max(0, len(chosen) - valid)
    return Split(chosen[:cut], chosen[cut:])


def held_out(count: int, most: int, seed: int) -> List[int]:
    """The rows of a test set: all of them in their order, or *most* of the shuffled ones where there are more.

    >>> held_out(3, 1000, seed=42), held_out(5, 2, seed=42)
    ([0, 1, 2], [1, 4])
    """
    return list(range(count)) if count <= most else permutation(count, seed)[:most]
