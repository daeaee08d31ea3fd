"""sacrebleu's TER, which is tercom's, with the same numbers in a twentieth of the time.

sacrebleu looks for the shift of words that saves most edits, and finds a whole table of distances for each shift that it tries.
Here a table's row is two whole numbers (`Distances`). The order in which shifts are tried, their limits and their choice are those
of
``sacrebleu.metrics.lib_ter``; a test compares the two.
"""

import math
from typing import Dict, Iterator, List, Sequence, Tuple

from sacrebleu.metrics import TER
from sacrebleu.metrics.lib_ter import (
    _MAX_SHIFT_CANDIDATES,
    _MAX_SHIFT_DIST,
    _MAX_SHIFT_SIZE,
    _flip_trace,
    _perform_shift,
    trace_to_alignment,
)

from sharp_plugins.webnlg.scores.beam import Beam, cannot_be_left
from sharp_plugins.webnlg.scores.distance import Distances, Row, nearest_first


class QuickTER(TER):
    """sacrebleu's TER, sooner.

    >>> QuickTER().corpus_score(["the cat sat on a mat"], [["on the mat the cat sat"]]).score
    33.33333333333333
    """

    def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: Dict) -> List[float]:
        words, references = hypothesis.split(), ref_kwargs["ref_words"]
        least = math.inf
        for one in nearest_first(words, references):
            least = min(least, edits(words, one, least))
        return [least, sum(map(len, references)) / len(references)]


def edits(words: Sequence[str], reference: Sequence[str], enough: float = math.inf) -> float:
    """Insertions, deletions, substitutions and shifts that make *reference* of *words*, as sacrebleu counts them.

    Args:
        enough: where there are at least so many, they need not be counted on.

    >>> edits("on the mat the cat sat".split(), "the cat sat on the mat".split())
    1
    """
    words, reference = list(words), list(reference)
    if not reference or words == reference:
        return 0 if reference else len(words)
    shifts, tried, distances = 0, 0, Distances(reference)
    rows = distances.rows(words)
    distance = distances.value(len(words), rows[-1])
    # Shifts keep the words and lower the distance, so what holds at first holds for all that follows.
    least = distances.least(words)
    beam = None if cannot_be_left(len(words), len(reference), distance) else Beam(reference)
    while True:
        if beam and beam.is_left(words):
            distance, trace = beam.table(words)
        else:
            distance, trace = distances.value(len(words), rows[-1]), _trace(words, distances, rows)
        # Where it is not the least there is, a further edit or shift is needed at least.
        if beam is None and distance == least or shifts + least + (distance > least) >= enough:
            return shifts + distance
        found, tried = _shifts(words, reference, trace, tried)
        shifted = _best(found, words, distance, distance - least, distances, rows, beam)
        # The shift that is found as the limit is reached is not made.
        if shifted is None or tried >= _MAX_SHIFT_CANDIDATES:
            return shifts + distance
        words, shifts = shifted, shifts + 1
        rows = distances.rows(words)


def _best(found, words, distance, cap, distances, rows, beam):
    """The words after the best of some shifts; None where none saves an edit. *cap* is the most that any can save."""
    best: Tuple = (0,)
    # The shifts that can save most come first. Only the beam can make one save more.
    for most, length, start, target in sorted(((_most(*shift), *shift) for shift in found), reverse=True):
        if most < best[0] and beam is None:
            break
        if best[0] == cap and (length, -start, -target) < best[1:4]:
            continue
        shifted = _perform_shift(words, start, length, target)
        same = min(start, target)  # the words before are as they were, and so are their rows
        value = distances.value(len(words), distances.after(rows[same], shifted[same:]))
        saved = distance - value
        if beam is not None and saved > 0 and saved >= best[0]:  # within the beam a shift saves as much or less
            saved = distance - beam.distance(shifted, value)
        if saved > 0:
            best = max(best, (saved, length, -start, -target, shifted))
    return best[-1] if best[0] else None


def _most(length: int, start: int, target: int) -> int:
    """The most edits that a shift can save: as many as it takes to delete and to insert the words, or those that they pass."""
    passed = start - target if target < start else target - start - (length if target > start + length else 0)
    return 2 * min(length, passed)


def _trace(words: Sequence[str], distances: Distances, rows: Sequence[Row]) -> str:
    """The cheapest edits from *words* to the reference, from left to right: " " for an equal word, "s", "d" and "i".

    Of equally cheap ones sacrebleu prefers an equal word or a substitution, then a deletion, then an insertion.
    """
    row, place, trace = len(words), len(distances.reference), []
    value = distances.value(row, rows[row], place)
    while row or place:
        if row and place:
            is_equal = words[row - 1] == distances.reference[place - 1]
            diagonal = distances.value(row - 1, rows[row - 1], place - 1)
            if diagonal + (not is_equal) == value:
                trace.append(" " if is_equal else "s")
                row, place, value = row - 1, place - 1, diagonal
                continue
        if row and distances.value(row - 1, rows[row - 1], place) + 1 == value:
            trace.append("d")
            row -= 1
        else:
            trace.append("i")
            place -= 1
        value -= 1
    return "".join(reversed(trace))


def _shifts(words: Sequence[str], reference: Sequence[str], trace: str, tried: int) -> Tuple[List[Tuple[int, int, int]], int]:
    """The shifts (length, start, target) that are tried, and how many were tried since the text's first."""
    align, reference_errors, word_errors = trace_to_alignment(_flip_trace(trace))
    found: List[Tuple[int, int, int]] = []
    for start, place, length in _equal_runs(words, reference):
        # Only words that are wrong where they are, to a place that is wrong, and that they do not cover.
        if not any(word_errors[start : start + length]) or not any(reference_errors[place : place + length]):
            continue
        if start <= align[place] < start + length:
            continue
        last = -1
        for before in range(place - 1, place + length):
            if before != -1 and before not in align:
                break
            target = 0 if before == -1 else align[before] + 1
            if target != last:
                last = target
                found.append((length, start, target))
        if tried + len(found) >= _MAX_SHIFT_CANDIDATES:
            break
    return found, tried + len(found)


def _equal_runs(words: Sequence[str], reference: Sequence[str]) -> Iterator[Tuple[int, int, int]]:
    """(begin in *words*, begin in *reference*, number of words) of all equal runs, those that are part of a longer one too."""
    for start, word in enumerate(words):
        for place, other in enumerate(reference):
            if word == other and abs(place - start) <= _MAX_SHIFT_DIST:
                most, length = min(len(words) - start, len(reference) - place, _MAX_SHIFT_SIZE), 0
                while length < most and words[start + length] == reference[place + length]:
                    length += 1
                    yield start, place, length
