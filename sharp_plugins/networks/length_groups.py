"""Rows of like length together, so that little is padded.

Padding changes nothing, and is computed like the rest: of 32 sentences of SST-2, padded to the longest, two thirds are padding.
A group of rows of like length is padded to its own longest. A group costs something, too: it has gradients of its own for all
weights, which are added to those of the others.
"""

from itertools import accumulate
from typing import List, Sequence

# What one more group costs, in tokens. Its gradients are written and added, some 20 bytes a weight; a token is 6 operations a
# weight. A core of a CPU of 2026 does 100 GFLOP/s in fp32 and moves 8 GB/s.
OVERHEAD = 48


def groups_by_length(lengths: Sequence[int], overhead: int = OVERHEAD) -> List[List[int]]:
    """The rows of a batch in groups, the shortest rows first, such that

        Σ_groups (number of rows · length of the longest + overhead)

    is least.

    Args:
        lengths: of the rows, in tokens.
        overhead: what one more group costs, in tokens.

    >>> groups_by_length([7, 40, 6, 7, 38, 5], overhead=10)
    [[5, 2, 0, 3], [4, 1]]
    >>> groups_by_length([7, 6, 5], overhead=10)
    [[2, 1, 0]]
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    widths = sorted(set(lengths))
    ends = list(accumulate(sum(length == width for length in lengths) for width in widths))  # rows up to each width
    # best[k]: the least cost of the rows up to the k-th width, and where its last group begins, as a number of widths.
    best = [(0, 0)]
    for k, (width, end) in enumerate(zip(widths, ends)):
        best.append(min((best[j][0] + (end - (ends[j - 1] if j else 0)) * width + overhead, j) for j in range(k + 1)))
    groups: List[List[int]] = []
    k = len(widths)
    while k:
        j = best[k][1]
        groups.insert(0, order[ends[j - 1] if j else 0 : ends[k - 1]])
        k = j
    return groups
