"""Text as sentencepiece's pieces, by the command."""

import pytest

sentencepiece = pytest.importorskip("sentencepiece")

from sharp_plugins.text.pieces import main

TEXTS = {"train.src": "<S> the cat\n<S> the dog\n", "train.tgt": "The cat sat.\nThe dog ran.\n", "dev.src": "<S> a rat\n"}


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text").mkdir()
    for name, lines in TEXTS.items():
        (tmp_path / "text" / name).write_text(lines)
    return tmp_path / "text"


def pieces(text, out, *more):
    return main(["--text", str(text), "--out", str(out), "--vocab-size", "40", "--marks", "<S>", *more])


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_all_texts_are_written_and_the_model_with_its_entries(text, tmp_path):
    assert pieces(text, tmp_path / "out") == 0
    made = files(tmp_path / "out")
    assert made.keys() == {*TEXTS, "spm.model", "spm.vocab"}
    for name, lines in TEXTS.items():
        coded = made[name].decode().splitlines()
        assert ["".join(line.split()).replace("\u2581", " ").strip() for line in coded] == lines.splitlines()
    sentencepiece.SentencePieceTrainer.train(
        input=[str(text / name) for name in ("train.src", "train.tgt")],
        model_prefix=str(tmp_path / "own"),
        model_type="bpe",
        vocab_size=40,
        character_coverage=1.0,
        user_defined_symbols=["\u2581<S>"],
        minloglevel=1,
    )
    assert made["spm.vocab"] == (tmp_path / "own.vocab").read_bytes()


def test_the_text_is_not_replaced_by_its_pieces(text, tmp_path, capsys):
    (tmp_path / "link").symlink_to(text)
    before = files(text)
    for out in (text, tmp_path / "link"):
        assert pieces(text, out) == 1
        assert capsys.readouterr().err == (
            f"error: --out {out}: it is the directory of the text, whose files would be replaced; choose another one\n"
        )
    assert files(text) == before


def test_a_text_that_cannot_be_read_leaves_the_old_pieces(text, tmp_path):
    assert pieces(text, tmp_path / "out") == 0
    before = files(tmp_path / "out")
    (text / "train.src").write_text("<S> the dog\n<S> the cat\n")
    (text / "zz.tgt").write_bytes(b"\xff\xfe\xff")
    assert pieces(text, tmp_path / "out") == 1 and files(tmp_path / "out") == before
