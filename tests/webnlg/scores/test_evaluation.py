"""sacrebleu's way against sacrebleu called by hand; groups, the breakdown, what is refused."""

import unicodedata
from dataclasses import replace

import pytest
import sacrebleu

from sharp_plugins.text.references import reference_streams
from sharp_plugins.webnlg.corpus import Entry
from sharp_plugins.webnlg.scores.evaluation import ScoringError, all_scores

HYPOTHESES = [
    "The Amber Tower was designed by Anna Abel and has 12 floors.",
    "Port Alder is led by Hugo Holt.",
    "The MS Opal is 120 metres long.",
]
REFERENCES = [
    ["The Amber Tower has 12 floors and was designed by Anna Abel.", "Anna Abel designed the Amber Tower with 12 floors."],
    ["Hugo Holt is the leader of Port Alder."],
    ["The length of the MS Opal is 120 metres.", "The MS Opal is 120 metres long.", "The MS Opal has 120 metres."],
]
SEEN = [True, None, False]
WAYS, MEASURES = ("sacrebleu", "challenge2017", "lora"), ("bleu", "chrf", "ter")


def entries(references=REFERENCES, seen=(None,) * 9, categories=("Ship",) * 9, triples=(1,) * 9):
    return [
        Entry(str(number), category, is_seen, (("a", "b", "c"),) * count, tuple(refs))
        for number, (refs, is_seen, category, count) in enumerate(zip(references, seen, categories, triples))
    ]


def by_hand(rows):
    """sacrebleu's convenience functions, with the columns written out."""
    table = [REFERENCES[row] + [None] * (3 - len(REFERENCES[row])) for row in rows]
    columns = [list(column) for column in zip(*table)]
    columns = [column for column in columns if any(text is not None for text in column)]
    hypotheses = [HYPOTHESES[row] for row in rows]
    return {
        "bleu": sacrebleu.corpus_bleu(hypotheses, columns).score,
        "chrf": sacrebleu.corpus_chrf(hypotheses, columns, word_order=2).score,
        "ter": sacrebleu.corpus_ter(hypotheses, columns).score,
    }


def scored(hypotheses, references, way="sacrebleu"):
    return all_scores(hypotheses, entries(references))[way]["all"]


def test_all_seen_and_unseen():
    scores = all_scores(HYPOTHESES, entries(seen=SEEN))
    assert scores["sacrebleu"]["all"] == pytest.approx(by_hand([0, 1, 2]))
    assert scores["sacrebleu"]["seen"] == pytest.approx(by_hand([0]))
    assert scores["sacrebleu"]["unseen"] == pytest.approx(by_hand([2]))
    assert scores["counts"] == {"all": 3, "seen": 1, "unseen": 1}
    # Word for word the second reference.
    assert list(scores["sacrebleu"]["unseen"].values()) == pytest.approx([100, 100, 0])
    signatures = scores["signatures"]["sacrebleu"]
    assert signatures["bleu"] == f"nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    assert "nw:2" in signatures["chrf"] and "tok:tercom" in signatures["ter"]


def test_the_form_of_the_dictionary():
    scores = all_scores(HYPOTHESES, entries(seen=SEEN))
    for way in WAYS:
        assert list(scores[way]) == ["all", "seen", "unseen"]
        for values in scores[way].values():
            assert list(values) == list(MEASURES) and all(type(value) is float for value in values.values())


def test_ter_worked_out():
    # 2 edits against the first reference (insert c, d), 1 against the second; the mean reference length is 3.5 words.
    assert scored(["a b"], [["a b c d", "a b c"]])["ter"] == pytest.approx(100 * 1 / 3.5)
    # One more input with one reference of 4 words and 1 edit: its missing second reference must not count.
    both = scored(["a b", "a b c"], [["a b c d", "a b c"], ["a b c d"]])["ter"]
    assert both == pytest.approx(100 * (1 + 1) / (3.5 + 4))
    # LoRA's is the mean over inputs of the lowest rate: 1/3 and 1/4.
    assert scored(["a b", "a b c"], [["a b c d", "a b c"], ["a b c d"]], "lora")["ter"] == pytest.approx(100 * (1 / 3 + 1 / 4) / 2)


def test_missing_references_change_nothing():
    # A second copy of the only reference says the same as no second reference; an empty one would not, and is refused.
    doubled = [REFERENCES[0], REFERENCES[1] * 2, REFERENCES[2]]
    assert scored(HYPOTHESES, REFERENCES) == pytest.approx(scored(HYPOTHESES, doubled))


def test_reference_streams():
    assert reference_streams([["a"], ["b", "c"]]) == [["a", "b"], [None, "c"]]


def test_without_flags_and_webnlgs_categories_there_is_no_seen_and_unseen():
    scores = all_scores(HYPOTHESES, entries())
    assert list(scores["lora"]) == ["all"] and scores["counts"] == {"all": 3}


def test_the_published_categories_tell_seen_from_unseen():
    scores = all_scores(HYPOTHESES, entries(categories=("Building", "Politician", "Ship")))
    assert scores["counts"] == {"all": 3, "seen": 1, "unseen": 2}
    # What the data say goes before the list.
    scores = all_scores(HYPOTHESES, entries(categories=("Building", "Politician", "Ship"), seen=(False, True, None)))
    assert scores["counts"] == {"all": 3, "seen": 1, "unseen": 2}
    assert scores["sacrebleu"]["seen"] == pytest.approx(by_hand([1]))


def test_breakdown():
    scores = all_scores(HYPOTHESES, entries(categories=("City", "Food", "City"), triples=(2, 1, 11)))
    for way in WAYS:
        parts = scores["breakdown"][way]
        assert {name: values["count"] for name, values in parts["category"].items()} == {"City": 2, "Food": 1}
        assert list(parts["triples"]) == ["1", "2", "11"]
    assert scores["breakdown"]["sacrebleu"]["category"]["City"] == pytest.approx({**by_hand([0, 2]), "count": 2})


def test_a_part_is_scored_as_a_corpus_of_its_own():
    # The challenge's BLEU takes as many references as the widest input of a part has.
    given = entries(seen=SEEN, categories=("City", "Food", "City"), triples=(2, 1, 11))
    parts = all_scores(HYPOTHESES, given)["breakdown"]
    for rows, part, name in (([1], "triples", "1"), ([0], "triples", "2"), ([0, 2], "category", "City")):
        alone = all_scores([HYPOTHESES[row] for row in rows], [given[row] for row in rows])
        for way in WAYS:
            assert parts[way][part][name] == {**alone[way]["all"], "count": len(rows)}


def test_texts_are_scored_as_they_are():
    """No tool that the numbers are of brings texts into one of Unicode's forms."""
    text = "Beşiktaş is in İstanbul and the café's menu is à la carte."
    split = unicodedata.normalize("NFD", text)
    scores = all_scores([split], entries([[text]]))
    assert scores["sacrebleu"]["all"] == {
        "bleu": pytest.approx(sacrebleu.corpus_bleu([split], [[text]]).score),
        "chrf": pytest.approx(sacrebleu.corpus_chrf([split], [[text]], word_order=2).score),
        "ter": pytest.approx(sacrebleu.corpus_ter([split], [[text]]).score),
    }
    assert all(scores[way]["all"]["bleu"] < 100 for way in ("sacrebleu", "lora"))


def test_a_signature_names_the_preparation():
    signatures = all_scores(HYPOTHESES, entries())["signatures"]
    ends = {way: {text.partition("prep:")[2] for text in own.values()} for way, own in signatures.items()}
    assert ends == {"sacrebleu": {""}, "challenge2017": {"challenge2017"}, "lora": {"lora"}}


def test_an_empty_text_counts():
    whole = all_scores([*HYPOTHESES, ""], entries([*REFERENCES, ["It has words."]]))
    assert whole["counts"]["all"] == 4
    for way in WAYS:
        before, after = all_scores(HYPOTHESES, entries())[way]["all"], whole[way]["all"]
        assert after["ter"] > before["ter"] and after["chrf"] < before["chrf"]
        # An empty text is as long as the challenge's empty reference, so that it costs no brevity penalty there.
        assert after["bleu"] == before["bleu"] if way == "challenge2017" else after["bleu"] < before["bleu"]
    only = all_scores(["", ""], entries([["a b c d"], ["e f"]]))
    assert {way: only[way]["all"] for way in WAYS} == dict.fromkeys(WAYS, {"bleu": 0.0, "chrf": 0.0, "ter": 100.0})


@pytest.mark.parametrize(
    "hypotheses, references, message",
    [
        (HYPOTHESES[:2], REFERENCES, "2 hypotheses for 3 inputs"),
        (["a", None], REFERENCES[:2], "hypothesis 2: a text is expected, got None"),
        (["a"], [[]], "input 1: a list with at least one reference"),
        ([], [], "nothing to score"),
        (["a"], [["a", ""]], "input 1, reference 2: a text that is not empty is expected, got ''"),
        (["a", "b"], [["a"], ["b", " \t"]], "input 2, reference 2: a text"),
        (["a"], [["a", None]], "input 1, reference 2: a text that is not empty is expected, got None"),
    ],
)
def test_what_does_not_fit_is_refused(hypotheses, references, message):
    with pytest.raises(ScoringError, match=message):
        all_scores(hypotheses, entries(references))


def test_a_lone_string_is_no_list_of_references():
    (one,) = entries([["a"]])
    with pytest.raises(ScoringError, match="input 2: a list"):
        all_scores(["a", "b"], [one, replace(one, refs="b")])
