"""The beam of sacrebleu's TER: of a table of distances it fills in only the cells near the diagonal.

That changes a distance, or the edits that are told of it, only if a cheapest path through the table leaves the beam. It hardly ever
does. So it is asked first, and sacrebleu's own slow table is filled in for the others alone.
"""

import math
from typing import Iterator, List, Sequence, Tuple

from sacrebleu.metrics.lib_ter import _BEAM_WIDTH, BeamEditDistance

from sharp_plugins.webnlg.scores.distance import Distances


class Beam:
    """The beam around the diagonals of a reference's tables.

    >>> Beam("a b c".split()).is_left("x a b c".split())
    False
    """

    def __init__(self, reference: Sequence[str]):
        self.reference = reference
        self.forward, self.backward = Distances(reference), Distances(reference[::-1])
        self.table = BeamEditDistance(list(reference))

    def is_left(self, words: Sequence[str]) -> bool:
        """Whether a cheapest path leaves it: through a cell whose distances to both ends sum up to the whole distance."""
        count, most = len(words), len(self.reference)
        rows, back = self.forward.rows(words), self.backward.rows(words[::-1])
        whole = self.forward.value(count, rows[-1])
        for row, place in outside(count, most, whole):
            rest = self.backward.value(count - row, back[count - row], most - place)
            if self.forward.value(row, rows[row], place) + rest == whole:
                return True
        return False

    def distance(self, words: Sequence[str], value: int) -> int:
        """The distance within the beam, of that without one."""
        return self.table(list(words))[0] if self.is_left(words) else value


def edges(count: int, most: int) -> List[Tuple[int, int]]:
    """The first and the last cell that sacrebleu fills in, of each row but that of no word.

    Args:
        count, most: words of the text and of the reference.
    """
    ratio = most / count if count else 1
    width = math.ceil(ratio / 2 + _BEAM_WIDTH) if _BEAM_WIDTH < ratio / 2 else _BEAM_WIDTH
    middles = [math.floor(row * ratio) for row in range(1, count + 1)]
    found = [(max(0, middle - width), min(most, middle + width - 1)) for middle in middles]
    return found[:-1] + [(found[-1][0], most)] if found else []


def outside(count: int, most: int, distance: int) -> Iterator[Tuple[int, int]]:
    """The cells outside the beam that a path of at most this distance can reach: its insertions and deletions are so few."""
    insertions, deletions = (distance + most - count) // 2, (distance - most + count) // 2
    for row, (first, last) in enumerate(edges(count, most), start=1):
        for place in (*range(max(0, row - deletions), first), *range(last + 1, min(most, row + insertions) + 1)):
            yield row, place


def cannot_be_left(count: int, most: int, distance: int) -> bool:
    """Whether no path of at most this distance leaves the beam.

    >>> cannot_be_left(20, 20, 30), cannot_be_left(30, 55, 46)
    (True, False)
    """
    return distance + abs(count - most) < 2 * (_BEAM_WIDTH - 1) or next(outside(count, most, distance), None) is None
