"""The translation edit rate of the package pyter3, with which LoRA's numbers were made.

It is Snover et al. 2006 with other shifts than tercom's: from all equal runs of words that begin at different places in the two
texts, the shift that saves most edits is made, until none saves any.
"""

import math
from typing import Iterator, Sequence, Tuple

from sharp_plugins.webnlg.scores.distance import Distances, nearest_first


def least_rate(words: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The lowest `edit_rate` over some references.

    >>> least_rate(["a", "b"], [["a", "c", "d"], ["b", "a"]])
    0.5
    """
    least = math.inf
    for one in nearest_first(words, references):
        least = min(least, edit_rate(words, one, least))
    return least


def edit_rate(words: Sequence[str], reference: Sequence[str], enough: float = math.inf) -> float:
    """Edits that make *reference* of *words*, for each word of the reference. Edits are insertions, deletions and substitutions of
    words, and shifts of runs of words. An empty reference gives 1, as in the evaluation of 2020 that LoRA calls.

    Args:
        enough: where the rate is at least so high, it need not be found.

    >>> edit_rate("this week the saudis denied it".split(), "saudi arabia denied it this week".split())
    0.5
    """
    if not reference:
        return 1.0
    words, shifts = list(words), 0
    distances = Distances(reference)
    least = distances.least(words)
    while True:
        rows = distances.rows(words)
        best = distance = distances.value(len(words), rows[-1])
        # Where it is not the least there is, a further edit or shift is needed at least.
        if distance == least or (shifts + least + 1) / len(reference) >= enough:
            return (shifts + distance) / len(reference)
        shifted, runs = words, _equal_runs(words, reference)
        # The shifts that can save most come first: as many edits as it takes to delete and to insert the words, or those passed.
        for most, start, place, length in sorted(((2 * min(run[2], abs(run[0] - run[1])), *run) for run in runs), reverse=True):
            if distance - most > best:
                break
            other = words[:start] + words[start + length :]
            other[place:place] = words[start : start + length]
            if best == least and other < shifted:
                continue
            same = min(start, place)  # the words before are as they were, and so are their rows
            value = distances.value(len(words), distances.after(rows[same], other[same:]))
            # Of equally good ones pyter takes the last in the order of their words.
            if value < best or value == best < distance and other > shifted:
                best, shifted = value, other
        if best == distance:
            return (shifts + distance) / len(reference)
        words, shifts = shifted, shifts + 1


def _equal_runs(words: Sequence[str], reference: Sequence[str]) -> Iterator[Tuple[int, int, int]]:
    """(begin in *words*, begin in *reference*, number of words) of the longest equal run from each two places that differ."""
    for start, word in enumerate(words):
        for place, other in enumerate(reference):
            if word == other and start != place:
                most, length = min(len(words) - start, len(reference) - place), 1
                while length < most and words[start + length] == reference[place + length]:
                    length += 1
                yield start, place, length
