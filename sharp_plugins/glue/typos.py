"""Typing errors in a text: how robust a model is that was trained without them.

A word with a typo has one letter inside it swapped with the next, dropped, added or replaced. Its first and last letters stay, as
people still read such words (Pruthi et al. 2019, "Combating Adversarial Misspellings with Robust Word Recognition", section 2).
"""

import re
from typing import List

import numpy

# Shorter words have nothing inside that could be swapped.
SHORTEST = 4
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORD = re.compile(r"[^\W\d_]+")


def with_typos(text: str, share: float, random: numpy.random.Generator) -> str:
    """The text, in which each word of four letters or more has a typo with probability *share*.

    Example::

        >>> with_typos("The cat is sleeping outside 2024.", 1.0, numpy.random.default_rng(1))
        'The cat is sleepng ouitside 2024.'
    """

    def change(match: re.Match) -> str:
        word = match.group()
        return typo(word, random) if len(word) >= SHORTEST and random.random() < share else word

    return WORD.sub(change, text)


def typo(word: str, random: numpy.random.Generator) -> str:
    """The word with one change inside; never the word itself.

    Args:
        word: of four letters or more.
    """
    inside = range(1, len(word) - 1)
    place = int(random.choice(inside))
    letter = LETTERS[int(random.integers(len(LETTERS)))]
    changes: List[str] = [word[:place] + word[place + 1 :], word[:place] + letter + word[place:]]
    swappable = [at for at in inside[:-1] if word[at] != word[at + 1]]
    if swappable:
        at = int(random.choice(swappable))
        changes.append(word[:at] + word[at + 1] + word[at] + word[at + 2 :])
    if letter != word[place].lower():
        changes.append(word[:place] + letter + word[place + 1 :])
    return changes[int(random.integers(len(changes)))]
