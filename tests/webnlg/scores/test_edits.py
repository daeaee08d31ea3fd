"""The quick edits are those of sacrebleu and of pyter3, edit by edit."""

import random

import plain_bleu
import pytest
from sacrebleu.metrics import TER
from sacrebleu.metrics.lib_ter import translation_edit_rate

from sharp_plugins.webnlg.scores.beam import Beam
from sharp_plugins.webnlg.scores.distance import Distances
from sharp_plugins.webnlg.scores.pyter import edit_rate, least_rate
from sharp_plugins.webnlg.scores.tercom import QuickTER, edits


def pairs(seed, count, longest, letters):
    """Texts and references that are like each other by shifts, substitutions and additions, or not at all."""
    draw = random.Random(seed)

    def text(length):
        return [draw.choice("abcdefghijklmnopqrstuvwxyz"[:letters]) for _ in range(length)]

    for _ in range(count):
        reference = text(draw.randint(1, longest))
        words = list(reference) if draw.random() < 0.7 else text(draw.randint(0, longest))
        for _ in range(draw.randint(0, 4)):
            start, place, length = draw.randrange(len(words) + 1), draw.randrange(len(words) + 1), draw.randint(1, 6)
            moved, words = words[start : start + length], words[:start] + words[start + length :]
            words[place:place] = moved
        for _ in range(draw.randint(0, 3)):
            if words:
                words[draw.randrange(len(words))] = draw.choice("abz")
        if draw.random() < 0.3:
            words += text(draw.randint(0, longest // 2))
        yield words, reference


@pytest.mark.parametrize("count, longest, letters", [(150, 12, 3), (100, 20, 26), (4, 80, 26), (1, 70, 6)])
def test_tercoms_edits(count, longest, letters):
    # The long ones leave sacrebleu's beam, and with few letters they reach its limit of shifts that are tried.
    for words, reference in pairs(longest, count, longest, letters):
        assert edits(words, reference) == translation_edit_rate(words, reference)[0], (words, reference)


NUMBERED = [f"w{place}" for place in range(57)]


def test_the_beam_is_kept_to():
    # So many words are missing at the end that the cheapest paths lie outside sacrebleu's beam, before and after a shift.
    words = NUMBERED[:3] + NUMBERED[9:20] + NUMBERED[3:9] + NUMBERED[20:28]
    assert Beam(NUMBERED).is_left(words) and Beam(NUMBERED).is_left(NUMBERED[:28])
    distances = Distances(NUMBERED)
    assert distances.value(28, distances.rows(NUMBERED[:28])[-1]) == 29  # a shift and 29 insertions would do
    assert edits(words, NUMBERED) == translation_edit_rate(words, NUMBERED)[0] == 33


def test_sacrebleus_limit_of_shifts_is_kept_to():
    words = NUMBERED[27:] + NUMBERED[:27]
    assert edits(words, NUMBERED) == translation_edit_rate(words, NUMBERED)[0] == len(NUMBERED)  # and 3 shifts would do


@pytest.mark.parametrize("words, reference, number", [("", "a b", 2), ("a b", "", 2), ("", "", 0), ("a b", "a b", 0)])
def test_empty_texts(words, reference, number):
    assert edits(words.split(), reference.split()) == translation_edit_rate(words.split(), reference.split())[0] == number
    assert QuickTER().corpus_score([words], [[reference]]).score == TER().corpus_score([words], [[reference]]).score


def test_pyters_edits():
    for words, reference in [*pairs(1, 60, 9, 3), *pairs(2, 30, 12, 26)]:
        assert edit_rate(words, reference) == plain_bleu.pyter_rate(words, reference), (words, reference)


@pytest.mark.parametrize("count, longest, letters", [(40, 9, 4), (5, 40, 26)])
def test_the_best_of_several_references(count, longest, letters):
    """They are not all searched to the end."""
    given = list(pairs(7, count, longest, letters))
    hypotheses = [" ".join(words) for words, _ in given]
    streams = [[" ".join(given[row - shift][1]) for row in range(len(given))] for shift in range(3)]
    quick, plain = (metric._extract_corpus_statistics(hypotheses, streams) for metric in (QuickTER(), TER()))
    assert quick == plain
    for words, *references in zip(hypotheses, *streams):
        found = [edit_rate(words.split(), one.split()) for one in references]
        assert least_rate(words.split(), [one.split() for one in references]) == min(found)


def test_the_example_of_snover():
    # https://github.com/BramVanroy/pyter: 3 shifts or substitutions and an insertion, of 13 words.
    reference = "SAUDI ARABIA denied THIS WEEK information published in the AMERICAN new york times".split()
    assert edit_rate("THIS WEEK THE SAUDIS denied information published in the new york times".split(), reference) == 4 / 13
