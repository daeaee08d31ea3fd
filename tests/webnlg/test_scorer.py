"""The scorer against sacrebleu called by hand."""

import pytest
import sacrebleu

from sharp_plugins.text.references import reference_streams
from sharp_plugins.webnlg.scorer import ScoringError, score

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


def by_hand(rows):
    """sacrebleu's convenience functions, with the columns written out."""
    table = [REFERENCES[row] + [None] * (3 - len(REFERENCES[row])) for row in rows]
    columns = [list(column) for column in zip(*table)]
    columns = [column for column in columns if any(text is not None for text in column)]
    hypotheses = [HYPOTHESES[row] for row in rows]
    return (
        sacrebleu.corpus_bleu(hypotheses, columns).score,
        sacrebleu.corpus_chrf(hypotheses, columns, word_order=2).score,
        sacrebleu.corpus_ter(hypotheses, columns).score,
    )


def numbers(group):
    return group.bleu, group.chrf, group.ter


def test_overall_seen_and_unseen():
    scores = score(HYPOTHESES, REFERENCES, SEEN)
    assert numbers(scores.overall) == pytest.approx(by_hand([0, 1, 2]))
    assert numbers(scores.seen) == pytest.approx(by_hand([0]))
    assert numbers(scores.unseen) == pytest.approx(by_hand([2]))
    assert (scores.overall.count, scores.seen.count, scores.unseen.count) == (3, 1, 1)
    assert numbers(scores.unseen) == pytest.approx((100.0, 100.0, 0.0))  # word for word the second reference


def test_ter_worked_out():
    # 2 edits against the first reference (insert c, d), 1 against the second; the mean reference length is 3.5 words.
    assert score(["a b"], [["a b c d", "a b c"]]).overall.ter == pytest.approx(100 * 1 / 3.5)
    # One more input with one reference of 4 words and 1 edit: its missing second reference must not count.
    both = score(["a b", "a b c"], [["a b c d", "a b c"], ["a b c d"]]).overall.ter
    assert both == pytest.approx(100 * (1 + 1) / (3.5 + 4))


def test_missing_references_change_nothing():
    # A second copy of the only reference says the same as no second reference; an empty one would not, and is refused.
    alone = score(HYPOTHESES, REFERENCES).overall
    doubled = score(HYPOTHESES, [REFERENCES[0], REFERENCES[1] * 2, REFERENCES[2]]).overall
    assert numbers(alone) == pytest.approx(numbers(doubled))


def test_reference_streams():
    assert reference_streams([["a"], ["b", "c"]]) == [["a", "b"], [None, "c"]]


def test_without_flags_only_overall():
    scores = score(HYPOTHESES, REFERENCES)
    assert scores.seen is None and scores.unseen is None
    assert scores.as_dict()["seen"] is None and scores.as_dict()["overall"]["count"] == 3


@pytest.mark.parametrize(
    "hypotheses, references, seen, message",
    [
        (HYPOTHESES[:2], REFERENCES, SEEN, "2 hypotheses for 3 inputs"),
        (HYPOTHESES, REFERENCES, SEEN[:1], "1 seen flags for 3 inputs"),
        (["a"], [[]], [True], "input 1: a list with at least one reference"),
        (["a", "b"], [["a"], "b"], None, "input 2: a list"),
        ([], [], [], "nothing to score"),
        (["a"], [["a", ""]], None, "input 1, reference 2: a text that is not empty is expected, got ''"),
        (["a", "b"], [["a"], ["b", " \t"]], None, "input 2, reference 2: a text"),
        (["a"], [["a", None]], None, "input 1, reference 2: a text that is not empty is expected, got None"),
    ],
)
def test_what_does_not_fit_is_refused(hypotheses, references, seen, message):
    with pytest.raises(ScoringError, match=message):
        score(hypotheses, references, seen)
