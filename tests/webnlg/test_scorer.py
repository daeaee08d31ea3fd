"""The scorer against sacrebleu called by hand, and the reader of fairseq-generate's output."""

import pytest
import sacrebleu

from sharp_plugins.webnlg.scorer import ScoringError, join_pieces, read_generated, reference_streams, score

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


GENERATED = """\
S-2\t<S> MS Opal
T-2\tA target.
H-2\t-0.1\tThird as pieces
D-2\t-0.1\tThird text.
P-2\t-0.1 -0.2
S-0\t<S> Port Alder
H-0\t-0.3\t\u2581Fir st \u2581text .
H-0\t-0.9\tThe second best of the first
S-1\t<S> Nothing
H-1\t-0.5\t
Generate test with beam=5: BLEU4 = 1.00
"""


def test_read_generated_restores_the_order(tmp_path):
    path = tmp_path / "generated.txt"
    path.write_text(GENERATED, encoding="utf-8")
    assert read_generated(path, 3) == ["First text.", "", "Third text."]


@pytest.mark.parametrize(
    "count, message", [(4, "3 hypotheses for 4 inputs .*none for input 3"), (2, "3 hypotheses for 2 inputs .*one for input 2")]
)
def test_wrong_number_of_hypotheses(tmp_path, count, message):
    path = tmp_path / "generated.txt"
    path.write_text(GENERATED, encoding="utf-8")
    with pytest.raises(ScoringError, match=message):
        read_generated(path, count)


@pytest.mark.parametrize("runs", [GENERATED * 2, GENERATED.replace("S-", "X-") * 2, "H-0\t-0.1\tOne\nS-0\tsame\nH-0\t-0.1\tTwo\n"])
def test_an_appended_second_run_is_refused(tmp_path, runs):
    """Its hypotheses would be passed over without a word."""
    path = tmp_path / "generated.txt"
    path.write_text(runs, encoding="utf-8")
    with pytest.raises(ScoringError, match=r"generated\.txt:\d+: input [02] comes again \(first on line \d\): .*two runs"):
        read_generated(path, 3)


def test_the_best_of_several_and_parts_of_one_run(tmp_path):
    """``--nbest 2`` prints an input's hypotheses one after the other; parts of ``--num-shards`` have inputs of their own."""
    path = tmp_path / "generated.txt"
    path.write_text("S-1\tx\nH-1\t-0.1\tbest\nD-1\t-0.1\tbest\nH-1\t-0.2\tnext\nD-1\t-0.2\tnext\nS-0\ty\nH-0\t-0.1\tother\n")
    assert read_generated(path, 2) == ["other", "best"]


def test_generated_text_of_other_machines(tmp_path):
    path = tmp_path / "generated.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "H-0\t-0.1\tone \u2028 text\r\nH-1\t-0.1\ttwo\r\n".encode("utf-8"))
    assert read_generated(path, 2) == ["one \u2028 text", "two"]
    path.write_bytes(b"H-0\t-0.1\tcaf\xe9\n")
    with pytest.raises(ScoringError, match=r"generated\.txt:1: not UTF-8: .* at byte 12"):
        read_generated(path, 1)


def test_cut_line_is_named(tmp_path):
    path = tmp_path / "generated.txt"
    path.write_text("S-0\tsource\nH-0\t-0.3", encoding="utf-8")
    with pytest.raises(ScoringError, match=r"generated\.txt:2: H-0"):
        read_generated(path, 1)


def test_join_pieces():
    assert join_pieces("\u2581The \u2581to wer .") == "The tower."
    assert join_pieces("The tower .") == "The tower ."
