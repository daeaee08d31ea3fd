"""The literature's two ways against the scripts written down once more (`plain_bleu`), on made and on published texts."""

import random
import unicodedata

import plain_bleu
import pytest

from sharp_plugins.webnlg.corpus import read_split
from sharp_plugins.webnlg.scores.groups import groups_of
from sharp_plugins.webnlg.scores.hypotheses import read_hypotheses
from sharp_plugins.webnlg.scores.normalisation import challenge_hypothesis, challenge_reference
from sharp_plugins.webnlg.scores.system import System
from sharp_plugins.webnlg.scores.ways import WAYS

# BLEU of all, seen and unseen inputs: as the challenge published it, and in LoRA's way.
PUBLISHED = {
    "melbourne": ("45.13 54.52 33.27", "44.67 54.11 32.76"),
    "baseline": ("33.24 52.39 6.13", None),
    "adapt": ("31.06 60.59 10.53", "31.01 60.50 10.52"),
    "upf": ("38.65 40.88 35.70", None),
}
PLAIN = {"challenge2017": plain_bleu.challenge_bleu, "lora": plain_bleu.lora_bleu}
WORDS = (
    "the cat a in is Aarhus İstanbul Besiktaş naïve 32°C – — “quote” … ½ m² a_b x-y 3.5 1,000 $5 &amp; <skipped> Straße 東京 Ωmega "
    "ﬁne №5 ™ it's (a) a/b U.S. ſ ø đ Æ ł % 50% 😀"
).split() + ["\u200bzero", "no\u00a0break", "line\u2028end", "next\u0085line", "e\u0301", "\x1f"]


def made(seed, inputs, references):
    draw = random.Random(seed)

    def text(most):
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, most)))

    given = [[f"{text(9)} the" for _ in range(draw.randint(1, references))] for _ in range(inputs)]
    return [draw.choice(("", text(9), one[-1], f"{one[0]} {text(4)}")) for one in given], given


@pytest.mark.parametrize("way", PLAIN)
def test_bleu_on_made_texts(way):
    above = 0
    for seed in range(40):
        hypotheses, references = made(seed, 1 + seed % 7, (1, 2, 3, 7)[seed % 4])
        score = System(WAYS[way], hypotheses, references).score("bleu", range(len(hypotheses)))
        assert score == pytest.approx(PLAIN[way](hypotheses, references), abs=1e-9), (hypotheses, references)
        above += score > 0
    assert above > 20  # many a made corpus has 4-grams in common


@pytest.mark.parametrize(
    "hypothesis, references, score",
    [
        # The missing second reference is an empty text, nearer to two words than five are: no brevity penalty, and no 4-gram.
        ([""] + ["a b c d"] * 2, [["a b c d e f"], ["a b c d", "x"], ["a b c d"]], 100.0),
        # Of two references as near as each other the shorter counts.
        (["a b c d e"], [["a b c d e f g", "a b c"]], 100.0),
        (["a b c"], [["a b c"]], 0.0),  # no 4-gram, and no smoothing
        (["a b c d"], [["x"], ["y"]][:1], 0.0),
    ],
)
def test_what_multi_bleu_does(hypothesis, references, score):
    assert System(WAYS["challenge2017"], hypothesis, references).score("bleu", range(len(hypothesis))) == pytest.approx(score)
    assert plain_bleu.challenge_bleu(hypothesis, references) == pytest.approx(score)


def test_three_references_count_and_six():
    refs = [f"{word} b c d e" for word in "stuvwxyz"]
    found = {way: [System(WAYS[way], [ref], [refs]).score("bleu", [0]) == pytest.approx(100) for ref in refs] for way in PLAIN}
    assert found == {"challenge2017": [True] * 3 + [False] * 5, "lora": [True] * 6 + [False] * 2}


def test_the_challenge_prepares_references_and_outputs_in_different_orders():
    # A sign that stands for letters is split off a reference, and grows together with an output's word.
    assert challenge_reference("32°C") == "32 deg c" and challenge_hypothesis("32°C") == "32degc"
    # What the folding brings is split in an output only, and made small in both.
    assert challenge_reference("½ 5…") == "1/2 5 ..." and challenge_hypothesis("½ 5…") == "1 / 2 5 . . ."


@pytest.fixture(scope="module")
def test_set(data_beside):
    return read_split(data_beside / "webnlg2017" / "test.jsonl")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_systems(name, data_beside, test_set):
    texts = read_hypotheses(data_beside / "webnlg2017" / "submissions" / f"{name}.txt", test_set)
    references = [entry.refs for entry in test_set]
    for way, wanted in zip(("challenge2017", "lora"), PUBLISHED[name]):
        system = System(WAYS[way], texts, references)
        found = [system.score("bleu", rows) for rows in groups_of(test_set).values()]
        if wanted is not None:
            assert " ".join(f"{score:.2f}" for score in found) == wanted
        rows = range(0, len(texts), 20)
        plain = PLAIN[way]([texts[row] for row in rows], [references[row] for row in rows])
        assert system.score("bleu", rows) == pytest.approx(plain, abs=1e-9)


def test_no_published_text_is_changed_by_composition(data_beside, test_set):

    texts = [ref for entry in test_set for ref in entry.refs]
    for name in PUBLISHED:
        texts += read_hypotheses(data_beside / "webnlg2017" / "submissions" / f"{name}.txt", test_set)
    assert len(texts) == 4928 + 4 * 1862 and all(unicodedata.is_normalized("NFC", text) for text in texts)


@pytest.mark.slow
def test_the_published_ter(data_beside, test_set):
    """tercom 0.7.25 printed 61.31, 44.86 and 80.73 at the challenge; sacrebleu's port comes near it."""
    texts = read_hypotheses(data_beside / "webnlg2017" / "submissions" / "baseline.txt", test_set)
    system = System(WAYS["challenge2017"], texts, [entry.refs for entry in test_set])
    found = [system.score("ter", rows) for rows in groups_of(test_set).values()]
    assert found == pytest.approx([61.31, 44.86, 80.73], abs=0.13)
