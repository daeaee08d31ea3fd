"""The second view of a text: a few of its characters are masked.

A span of 5 characters is replaced by " [MASK] " in every text of at least 30. Its start is uniform. The text is then split where
these characters come first, so that a repeated string moves the span, in 1.3 % of the draws on STS-B's sentences; that is kept.

Source: Liu et al. 2021 (Mirror-BERT), section 2.1, and its code.
"""

import numpy

# Texts with fewer characters stay as they are.
SHORTEST = 30
# Which stream of random numbers chooses the spans.
SPANS = 0


def mask_span(text: str, random: numpy.random.Generator, length: int = 5, mask: str = "[MASK]") -> str:
    """The text with a span of *length* characters masked, or as it is where it has less than `SHORTEST` characters.

    >>> mask_span("A man is playing a large flute outside.", numpy.random.default_rng(0))
    'A man is playing a large flu [MASK] tside.'
    >>> mask_span("A short one.", numpy.random.default_rng(0))
    'A short one.'
    """
    if length == 0 or len(text) < max(SHORTEST, length + 1):
        return text
    start = random.integers(0, len(text) - length)
    before, after = text.split(text[start : start + length], 1)
    return f"{before} {mask} {after}"


def generator_of(seed: int, epoch: int, number: int) -> numpy.random.Generator:
    """The generator for a text's span: the same for the same run, epoch and text, whatever was drawn before.

    >>> bool(generator_of(1, 2, 3).integers(100) == generator_of(1, 2, 3).integers(100))
    True
    """
    return numpy.random.default_rng([SPANS, seed, epoch, number])
