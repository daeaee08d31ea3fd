"""The reader of fairseq-generate's output."""

import pytest

from sharp_plugins.runs.generated import GeneratedError, join_pieces, read_generated

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
    with pytest.raises(GeneratedError, match=message):
        read_generated(path, count)


@pytest.mark.parametrize("runs", [GENERATED * 2, GENERATED.replace("S-", "X-") * 2, "H-0\t-0.1\tOne\nS-0\tsame\nH-0\t-0.1\tTwo\n"])
def test_an_appended_second_run_is_refused(tmp_path, runs):
    """Its hypotheses would be passed over without a word."""
    path = tmp_path / "generated.txt"
    path.write_text(runs, encoding="utf-8")
    with pytest.raises(GeneratedError, match=r"generated\.txt:\d+: input [02] comes again \(first on line \d\): .*two runs"):
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
    with pytest.raises(GeneratedError, match=r"generated\.txt:1: not UTF-8: .* at byte 12"):
        read_generated(path, 1)


def test_cut_line_is_named(tmp_path):
    path = tmp_path / "generated.txt"
    path.write_text("S-0\tsource\nH-0\t-0.3", encoding="utf-8")
    with pytest.raises(GeneratedError, match=r"generated\.txt:2: H-0"):
        read_generated(path, 1)


def test_join_pieces():
    assert join_pieces("\u2581The \u2581to wer .") == "The tower."
    assert join_pieces("The tower .") == "The tower ."
