"""The translation edit rate of the package pyter3, as LoRA's numbers were made with it.

It is Snover et al. 2006 with fewer restrictions: from all equal runs of words that stand at different places in the two texts, the
shift that saves most edits is made, until none saves any. There is no limit to a shift's length or distance, as tercom has it.
"""

from typing import Iterator, List, Sequence, Tuple


def edit_rate(words: Sequence[str], reference: Sequence[str]) -> float:
    """Edits (insertions, deletions, substitutions of words, and shifts) that make *reference* of *words*, for each of its words.

    >>> edit_rate("this week the saudis denied it".split(), "saudi arabia denied it this week".split())
    0.5

    An empty reference gives 1, as in the evaluation of 2020.
    """
    if not reference:
        return 1.0
    words, shifts = list(words), 0
    rows = _distances(words, reference)
    while True:
        best, shifted = 0, words
        for start, place, length in _equal_runs(words, reference):
            other = words[:start] + words[start + length :]
            other[place:place] = words[start : start + length]
            same = min(start, place)  # the words before are as they were, and so are their rows
            saved = rows[-1][-1] - _distances(other[same:], reference, rows[same])[-1][-1]
            if saved > 0 and (saved, other) > (best, shifted if best else []):
                best, shifted = saved, other
        if not best:
            return (shifts + rows[-1][-1]) / len(reference)
        words, shifts = shifted, shifts + 1
        rows = _distances(words, reference)


def _equal_runs(words: Sequence[str], reference: Sequence[str]) -> Iterator[Tuple[int, int, int]]:
    """(begin in *words*, begin in *reference*, number of words) of the longest equal runs from each two places that differ."""
    places = {}
    for place, word in enumerate(reference):
        places.setdefault(word, []).append(place)
    for start, word in enumerate(words):
        for place in places.get(word, ()):
            if place != start:
                length = 1
                while (
                    start + length < len(words)
                    and place + length < len(reference)
                    and words[start + length] == reference[place + length]
                ):
                    length += 1
                yield start, place, length


def _distances(words: Sequence[str], reference: Sequence[str], first: Sequence[int] = ()) -> List[List[int]]:
    """The rows of the edit distances' table: the first, which is of no word or given, and one for each of *words*."""
    rows = [list(first) or list(range(len(reference) + 1))]
    for word in words:
        above = rows[-1]
        row = [left := above[0] + 1]
        for place, other in enumerate(reference):
            left = min(above[place + 1] + 1, left + 1, above[place] + (word != other))
            row.append(left)
        rows.append(row)
    return rows
