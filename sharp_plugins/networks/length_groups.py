"""Rows of like length together, so that little is padded.

Padding changes nothing, and is computed like the rest: of 32 sentences of SST-2, padded to the longest, two thirds are padding.
A group of rows of like length is padded to its own longest. A group costs something, too: it has gradients of its own for all
weights, which are added to those of the others.
"""

from collections import Counter
from itertools import accumulate
from typing import List, Sequence

# What one more group costs, in tokens. Its gradients are written and added, some 20 bytes a weight; a token is 6 operations a
# weight. A core of a CPU of 2026 does 100 GFLOP/s in fp32 and moves 8 GB/s.
OVERHEAD = 48


def groups_by_length(lengths: Sequence[int], overhead: int = OVERHEAD) -> List[List[int]]:
    """The rows of a batch in groups, the shortest first also within one, such that

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
    order, counts = sorted(range(len(lengths)), key=lengths.__getitem__), Counter(lengths)
    widths = sorted(counts)
    ends = list(accumulate((counts[width] for width in widths), initial=0))  # rows up to each width
    # best[k]: the least cost of the rows of the first k widths, and how many widths come before their last group.
    best = [(0, 0)]
    for k, width in enumerate(widths, 1):
        best.append(min((best[j][0] + (ends[k] - ends[j]) * width + overhead, j) for j in range(k)))
    groups: List[List[int]] = []
    k = len(widths)
    while k:
        j = best[k][1]
        groups.insert(0, order[ends[j] : ends[k]])
        k = j
    return groups
