"""Edit distances between texts as lists of words, quickly: a row of the table is two whole numbers, with a bit for each word.

Two cells that are neighbours in a row differ by 1 at most. So a row is kept as two sets of places: where it climbs and where it
falls from one cell to the next. The next row is found from them with a dozen operations on whole numbers (Myers 1999; Hyyrö 2003,
"A Bit-Vector Algorithm for Computing Levenshtein and Damerau Edit Distances", figure 4), whatever the number of words.
"""

from collections import Counter
from typing import Dict, List, Sequence, Tuple

Row = Tuple[int, int]


class Distances:
    """The distances from texts to one reference.

    >>> distances = Distances("the cat sat here".split())
    >>> rows = distances.rows("a cat sat".split())
    >>> distances.value(3, rows[3]), distances.value(2, rows[2], 3)  # all of it; "a cat" to "the cat sat"
    (2, 2)
    """

    def __init__(self, reference: Sequence[str]):
        self.reference = reference
        self.full = (1 << len(reference)) - 1
        self.places: Dict[str, int] = {}
        for place, word in enumerate(reference):
            self.places[word] = self.places.get(word, 0) | 1 << place

    def rows(self, words: Sequence[str]) -> List[Row]:
        """The rows (climbs, falls) of no word of *words*, of the first, of the first two, and so on."""
        rows = [(self.full, 0)]
        for word in words:
            rows.append(self.after(rows[-1], (word,)))
        return rows

    def after(self, row: Row, words: Sequence[str]) -> Row:
        """The row that lies some *words* below another."""
        climbs, falls = row
        full, places = self.full, self.places
        for word in words:
            equal = places.get(word, 0)
            # Where the diagonal step costs nothing.
            diagonal = (((equal & climbs) + climbs) ^ climbs) | equal | falls if equal else falls
            up = (falls | ~(diagonal | climbs)) << 1 | 1
            down = (diagonal & climbs) << 1
            climbs = (down | ~(diagonal | up)) & full
            falls = up & diagonal & full
        return climbs, falls

    def value(self, count: int, row: Row, place: int = -1) -> int:
        """The distance from *count* words, whose row it is, to the reference's first *place* words (-1: to all)."""
        climbs, falls = row
        if place >= 0:
            before = (1 << place) - 1
            climbs, falls = climbs & before, falls & before
        return count + climbs.bit_count() - falls.bit_count()

    def least(self, words: Sequence[str]) -> int:
        """The least distance that *words* have in any order: no more of them can be equal than both texts hold.

        >>> Distances("a b c".split()).least("c x a".split())
        1
        """
        equal = sum((Counter(words) & Counter(self.reference)).values())
        return max(len(words), len(self.reference)) - equal


def nearest_first(words: Sequence[str], references: Sequence[Sequence[str]]) -> List[Sequence[str]]:
    """The references by their distance, the least first: the best is likely found at once, and bounds the search of the others.

    >>> nearest_first("a b c".split(), [["x"], ["a", "c"]])
    [['a', 'c'], ['x']]
    """
    found = [Distances(one) for one in references]
    values = [one.value(len(words), one.after((one.full, 0), words)) for one in found]
    return [references[number] for number in sorted(range(len(references)), key=values.__getitem__)]
