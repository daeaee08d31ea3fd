"""References as sacrebleu takes them."""

from typing import List, Optional, Sequence


def reference_streams(references_per_input: Sequence[Sequence[str]]) -> List[List[Optional[str]]]:
    """Turn rows of references, of different lengths, into sacrebleu's columns filled with ``None``, which sacrebleu leaves out.

    >>> reference_streams([["a"], ["b", "c"]])
    [['a', 'b'], [None, 'c']]
    """
    width = max(len(references) for references in references_per_input)
    return [
        [references[column] if column < len(references) else None for references in references_per_input] for column in range(width)
    ]
