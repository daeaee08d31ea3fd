"""``python -m sharp_plugins.cloze prepare``: what is written, and what is refused by file and line."""

import json

import clozes
import published
import pytest

from sharp_plugins.cloze.prepared import read_prepared
from sharp_plugins.text.encoder_directory import load_backbone

ROW = {"sentences": ["xx"], "label": "1"}


@pytest.fixture
def refused(backbone, tmp_path, capsys):
    """The error of a file of lines (rows, or texts), which stands as that of *split*."""

    def error(*lines, split="train", layout="sst-2", flags=()):
        path = tmp_path / f"{split}.jsonl"
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        words = ["prepare", "--backbone", backbone, "--layout", layout, f"--{split}", path, "--out", tmp_path / "out", *flags]
        assert clozes.main(*words) == 1
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err.replace(str(tmp_path), "DIR").strip()

    return error


def test_what_is_written(data, backbone):
    prepared = read_prepared(data)
    rows = clozes.toy_rows(12, 50)
    letters = {"x": 91, "y": 92, "z": 93}
    assert clozes.symbols_of(data, "valid") == [[0, *(letters[c] for c in row[0][0]), 261, 264, 342, 17, 2] for row in rows]
    assert prepared.words == [272, 277] and prepared.max_positions == 256 and prepared.arch == "roberta_base"
    assert prepared.facts["valid"]["classes"] == {"0": 6, "1": 6} and prepared.facts["train"]["rows"] == 48
    assert (data / "dict.txt").read_bytes() == (backbone / "dict.txt").read_bytes()


def test_again_nothing_is_done_and_other_settings_are_refused(data, backbone, tmp_path, capsys):
    files = clozes.write_toy(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in data.iterdir()}
    clozes.prepare(backbone, data, "sst-2", **files)
    assert "nothing to do" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in data.iterdir()} == before
    assert clozes.main("prepare", "--backbone", backbone, "--layout", "sst-5", "--train", files["train"], "--out", data) == 1
    assert "holds data of other files or settings" in capsys.readouterr().err


def test_a_layout_of_ones_own_and_labels_that_are_numbers(backbone, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text('template:\n- <mask>\n- sentence: 1\n  space: true\nwords: {0: bad, 1: "Yes"}\nmax_length: 8\n')
    train = clozes.write_lines(tmp_path / "train.jsonl", [(["ab"], 1), (["xxxxxxxxx"], 0)])
    data = clozes.prepare(backbone, tmp_path / "data", str(own), train=train)
    assert clozes.symbols_of(data, "train") == [[0, 342, 224, 68, 69, 2], [0, 342, 224, 91, 91, 91, 91, 91]]
    assert read_prepared(data).facts["train"]["shortened"] == 1


def test_masks_that_are_cut_away(backbone, tmp_path, refused, capsys):
    long = {"sentences": ["x" * 130], "label": "0"}
    message = "2: the mask is cut away: it stands behind the first 128 tokens; a larger --max-length or a limit of the sentence"
    assert message in refused(ROW, long) and "--too-long skip" in refused(ROW, long)
    assert message in refused(ROW, long, split="valid", flags=["--too-long", "skip"])
    train = clozes.write_lines(tmp_path / "t.jsonl", [(["x" * 130], 0), (["xx"], 1)])
    data = clozes.prepare(backbone, tmp_path / "data", "sst-2", "--too-long", "skip", train=train)
    assert "t.jsonl:1: the mask is cut away" in (told := capsys.readouterr().out) and "1 skipped" in told
    assert len(clozes.symbols_of(data, "train")) == 1 and f"warning: {train}: no row of class 0" in told
    data = clozes.prepare(backbone, tmp_path / "longer", "sst-2", "--max-length", "140", train=train)
    assert len(clozes.symbols_of(data, "train")[0]) == 136


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "DIR/train.jsonl:2: not a JSON object"),
        ("[]", "DIR/train.jsonl:2: not a JSON object but a list"),
        ({"sentences": ["a"]}, "DIR/train.jsonl:2: no field label; there are sentences"),
        ({**ROW, "label": "2"}, "DIR/train.jsonl:2: the label is '2', and the layout's classes are 0, 1"),
        ({**ROW, "label": True}, "DIR/train.jsonl:2: the label is True"),
        ({**ROW, "sentences": "a"}, "DIR/train.jsonl:2: sentences is a list of texts, and not 'a'"),
        ({**ROW, "sentences": ["a", "b"]}, "DIR/train.jsonl:2: 2 sentences, and the layout has 1"),
        ({**ROW, "sentences": [" "]}, "DIR/train.jsonl:2: sentence 1 is empty"),
        ({**ROW, "sentences": ["a <mask>"]}, "DIR/train.jsonl:2: a sentence has the special symbol <mask> in it"),
        ({**ROW, "sentences": ["a</s>"]}, "DIR/train.jsonl:2: a sentence has the special symbol </s> in it"),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value)[:40],
)
def test_lines_that_cannot_be_used(refused, line, message):
    assert f"error: {message}" in refused(ROW, line)


def test_a_file_without_rows(refused):
    assert "train.jsonl: no row in it" in refused("")


@pytest.mark.parametrize(
    "settings, message",
    [
        ("template: [{sentence: 1}]\nwords: {a: great, b: bad}", "a layout needs max_length"),
        ("template: [{sentence: 1}]\nwords: {a: great, b: bad}\nmax_length: 9\nx: 1", "a layout has no x"),
        (
            "template: [{sentence: 1}]\nwords: {a: great, b: bad}\nmax_length: 9",
            "template: <mask> must be in it once, and is 0 times",
        ),
        ("template: [<mask>]\nwords: {a: great, b: bad}\nmax_length: 9", "it must have sentence 1, or 1 and 2, and has none"),
        ("template: [<mask>, {sentence: 2}]\nwords: {a: great, b: bad}\nmax_length: 9", "it must have sentence 1, or 1 and 2"),
        ("template: [<mask>, {sentence: 1, lower: true}]\nwords: {a: great, b: bad}\nmax_length: 9", "a sentence has no lower"),
        ("template: [<mask>, {sentence: 1, limit: 0}]\nwords: {a: great, b: bad}\nmax_length: 9", "limit is a number from 1"),
        (
            "template: [<mask>, {sentence: 1}]\nwords: {a: great, b: Yes}\nmax_length: 9",
            "the word of class b is True, and no text; write it in",
        ),
        (
            "template: [<mask>, {sentence: 1}]\nwords: {a: great, no: bad}\nmax_length: 9",
            "the class is False, and no text; write it in quotes",
        ),
        (
            "template: [<mask>, {sentence: 1}]\nwords: {a: great}\nmax_length: 9",
            "a word for each of two classes or more is expected",
        ),
        (
            "template: [<mask>, {sentence: 1}]\nwords: {a: great, b: bad}\nmax_length: 2",
            "max_length is a number of tokens, 4 or more",
        ),
        (
            "template: [<mask>, {sentence: 1}]\nwords: {a: great, b: awful}\nmax_length: 9",
            "--layout: words: 'awful' of class b must be one",
        ),
    ],
    ids=range(12),
)
def test_layouts_that_cannot_be_used(refused, tmp_path, settings, message):
    (tmp_path / "own.yaml").write_text(settings)
    assert message in refused(ROW, layout=str(tmp_path / "own.yaml"))


def test_flags_that_do_not_fit(refused, tmp_path, backbone, capsys):
    assert "--layout sst: choose one of mnli" in refused(ROW, layout="sst")
    assert "--layout no.yaml: there is no such file" in refused(ROW, layout="no.yaml")
    for most in (3, 257):
        message = f"--max-length must be from 4 to 256, the model's positions, and is {most}"
        assert message in refused(ROW, flags=["--max-length", most])
    settings = "template: [<mask>, {sentence: 1}]\nwords: {a: great, b: terrible}\nmax_length: 600"
    (tmp_path / "own.yaml").write_text(settings)
    message = "--layout: max_length must be from 4 to 256, the model's positions, and is 600; --max-length gives another"
    assert message in refused(ROW, layout=str(tmp_path / "own.yaml"))
    assert clozes.main("prepare", "--backbone", backbone, "--layout", "rte", "--out", tmp_path / "out") == 1
    assert "nothing to prepare" in capsys.readouterr().err


# ---------------------------------------------------------------------- the language-model head


@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_a_checkpoint_without_its_head_is_refused(kind, tmp_path, capsys):
    """Where it is missing its words would be random ones: half of all answers right, without a word."""
    write = published.write_roberta if kind == "roberta" else published.write_bert
    backbone = clozes.convert(write(tmp_path / "published"), tmp_path / "backbone")
    assert not load_backbone(backbone).has_lm_head
    train = clozes.write_lines(tmp_path / "train.jsonl", [(["a"], 0)])
    assert clozes.main("prepare", "--backbone", backbone, "--layout", "sst-2", "--train", train, "--out", tmp_path / "out") == 1
    part = {"roberta": "lm_head.*", "bert": "cls.predictions.*"}[kind]
    error = capsys.readouterr().err
    assert "it has no masked-language-model head" in error and f"({part})" in error


@pytest.mark.parametrize("kind, copies", [("roberta", "twice"), ("bert", "the-decoder-alone")])
def test_a_tied_table_under_other_names(kind, copies, tmp_path):
    """The output layer is the table of words, whichever of its names are there. The other tests have the table's alone."""
    import torch

    (published.write_byte_level if kind == "roberta" else published.write_wordpiece)(tmp_path / "published")
    size = len(published.byte_level_vocabulary() if kind == "roberta" else published.WORDPIECES)
    settings = published.config(kind, size)
    weights = published.weights(settings, lm_head=True)
    table = weights[f"{kind}.embeddings.word_embeddings.weight"]
    weights["lm_head.decoder.weight" if kind == "roberta" else "cls.predictions.decoder.weight"] = table.clone()
    if copies == "the-decoder-alone":
        del weights[f"{kind}.embeddings.word_embeddings.weight"]
    backbone = clozes.convert(published.write(tmp_path / "published", settings, weights), tmp_path / "backbone")
    loaded = load_backbone(backbone)
    assert loaded.has_lm_head
    state = torch.load(backbone / "model.pt", weights_only=False)["model"]
    rows = loaded.tokenizer.published_ids
    assert torch.equal(state["encoder.lm_head.weight"], table[rows])


def test_an_output_layer_of_its_own_is_no_published_head(tmp_path):
    """Trap: a class of transformers that does not tie the two fills the output layer with random numbers."""
    published.write_byte_level(tmp_path / "published")
    settings = published.config("roberta", len(published.byte_level_vocabulary()))
    weights = published.weights(settings, lm_head=True)
    weights["lm_head.decoder.weight"] = 1.0 + weights["roberta.embeddings.word_embeddings.weight"]
    backbone = clozes.convert(published.write(tmp_path / "published", settings, weights), tmp_path / "backbone")
    assert not load_backbone(backbone).has_lm_head


def test_a_checkpoint_that_does_not_say_whether_it_has_its_head(backbone, tmp_path):
    """One of fairseq's own, or of an earlier converter: a head that was never trained has biases of 0."""
    import torch

    from sharp_plugins.text.encoder_directory import has_lm_head

    state = torch.load(backbone / "model.pt", weights_only=False)
    assert state.pop("published") == {"lm_head": True}
    assert has_lm_head(state)
    state["model"]["encoder.lm_head.bias"].zero_()
    assert has_lm_head(state)  # its normalisation is another than a new head's
    state["model"]["encoder.lm_head.layer_norm.weight"].fill_(1.0)
    assert not has_lm_head(state)
