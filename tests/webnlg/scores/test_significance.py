"""The paired tests are sacrebleu's own, made of texts, but for samples with just the systems' difference."""

import os
import random

import pytest
from sacrebleu import significance
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.significance import PairedTest

from sharp_plugins.text.references import reference_streams
from sharp_plugins.webnlg.corpus import Entry
from sharp_plugins.webnlg.scores.evaluation import systems
from sharp_plugins.webnlg.scores.normalisation import challenge_hypothesis, challenge_reference
from sharp_plugins.webnlg.scores.significance import compare

SEED = 77


def made(inputs=24, seed=1):
    """Inputs, and the texts of three systems: two about as good as each other, and one that is worse."""
    draw, words = random.Random(seed), "the ship Alfa was built in 1990 by a yard of İzmir and has 3 decks .".split()
    references = [[" ".join(draw.choices(words, k=9)) for _ in range(draw.randint(1, 4))] for _ in range(inputs)]
    entries = [Entry(str(i), "Ship", i % 2 == 0, (("a", "b", "c"),), tuple(refs)) for i, refs in enumerate(references)]

    def system(kept):
        return [" ".join(word if draw.random() < kept else draw.choice(words) for word in refs[0].split()) for refs in references]

    return entries, {"one": system(0.8), "two": system(0.8), "worse": system(0.3)}


@pytest.mark.parametrize("test, kind", [("bootstrap", "bs"), ("randomisation", "ar")])
def test_as_sacrebleu(test, kind, monkeypatch):
    entries, texts = made()
    monkeypatch.setenv("SACREBLEU_SEED", "5")
    found = compare({name: systems(given, entries) for name, given in texts.items()}, entries, test, 60, SEED)
    assert os.environ["SACREBLEU_SEED"] == "5"
    assert {key: found[key] for key in ("test", "samples", "seed", "system")} == {
        "test": test,
        "samples": 60,
        "seed": SEED,
        "system": "one",
    }
    monkeypatch.setenv("SACREBLEU_SEED", str(SEED))
    filled = [[challenge_reference(ref) for ref in one.refs[:3]] + [""] * (3 - len(one.refs)) for one in entries]
    for way, streams, prepared, metrics in (
        (
            "sacrebleu",
            reference_streams([one.refs for one in entries]),
            str,
            {"bleu": BLEU(), "chrf": CHRF(word_order=2), "ter": TER()},
        ),
        ("challenge2017", reference_streams(filled), challenge_hypothesis, {"bleu": BLEU(tokenize="none", smooth_method="none")}),
    ):
        named = [(name, [prepared(text) for text in given]) for name, given in texts.items()]
        _, wanted = PairedTest(named, metrics, streams, kind, 60, 1000)()
        names = {"bleu": "BLEU", "chrf": "chrF2++", "ter": "TER"}
        for measure in metrics:
            first, *others = wanted[names[measure]]
            for name, other in zip(("two", "worse"), others):
                result = found["against"][name][way]["all"][measure]
                # Of edits, some samples have just the systems' difference: they count here, and not in sacrebleu.
                assert result["p"] == other.p_value or (measure == "ter" and other.p_value < result["p"] <= 1)
                assert (result["score"], result["other"]) == (first.score, other.score)
                assert result["difference"] == pytest.approx(first.score - other.score)
                assert result["interval"] == pytest.approx([first.mean, first.ci])
                assert result["other_interval"] == pytest.approx([other.mean, other.ci])


@pytest.mark.parametrize("test", ["bootstrap", "randomisation"])
def test_a_worse_system_is_told_from_an_equal_one(test):
    entries, texts = made()
    found = compare({name: systems(given, entries) for name, given in texts.items()}, entries, test, 99)
    for way in ("sacrebleu", "challenge2017", "lora"):
        for group in ("all", "seen", "unseen"):
            for measure in ("bleu", "chrf", "ter"):
                assert (
                    found["against"]["worse"][way][group][measure]["p"] < 0.05 < found["against"]["two"][way][group][measure]["p"]
                )


def test_the_mean_ter_worked_out():
    """Of 3 inputs with rates 0, 0, 1 against 0, 1, 1 an exchange of the second one leaves |difference| 1/3, whoever has it."""
    entries = [Entry(str(i), "Ship", None, (("a", "b", "c"),), ("a b",)) for i in range(3)]
    named = {"one": systems(["a b", "a b", "x y"], entries), "two": systems(["a b", "x y", "x y"], entries)}
    result = compare(named, entries, "randomisation", 200)["against"]["two"]["lora"]["all"]["ter"]
    assert result["difference"] == pytest.approx(-100 / 3) and result["p"] == 1
    # Rates 0, 0, 0 against 1, 1, 0: as often as both are on one side.
    named = {"one": systems(["a b", "a b", "a b"], entries), "two": systems(["x y", "x y", "a b"], entries)}
    result = compare(named, entries, "randomisation", 200)["against"]["two"]["lora"]["all"]["ter"]
    assert result["difference"] == pytest.approx(-200 / 3) and 0.4 < result["p"] < 0.6


@pytest.mark.parametrize("test", ["bootstrap", "randomisation"])
def test_the_same_outputs_do_not_differ(test):
    entries, texts = made(9)
    given, before = systems(texts["one"], entries), significance._compute_p_value
    found = compare({"one": given, "again": given}, entries, test, 30)["against"]["again"]
    assert {one["p"] for groups in found.values() for measures in groups.values() for one in measures.values()} == {1}
    assert significance._compute_p_value is before


@pytest.mark.parametrize("samples, seed, words", [(-1, 1, "--samples -1: should be at least 1"), (9, 0, "--seed 0: .* no seed")])
def test_numbers_out_of_range(samples, seed, words):
    entries, texts = made(4)
    with pytest.raises(ValueError, match=words):
        compare({name: systems(given, entries) for name, given in texts.items()}, entries, "bootstrap", samples, seed)
