"""References of generated texts, as sacrebleu reads them (`reference_streams`)."""

from typing import List, Optional, Sequence


def reference_streams(references_per_input: Sequence[Sequence[str]]) -> List[List[Optional[str]]]:
    """The references of each input as sacrebleu's columns ("reference streams"): the first of each input, the second ones, and so
    on.

    Inputs with fewer references than others are filled with ``None``, which sacrebleu leaves out. An empty string would not do: TER
    and BLEU's length penalty count it as a real reference with no words.

    >>> reference_streams([["a dog", "one dog"], ["a cat"]])
    [['a dog', 'a cat'], ['one dog', None]]
    """
    width = max(map(len, references_per_input), default=0)
    return [
        [references[column] if column < len(references) else None for references in references_per_input] for column in range(width)
    ]
