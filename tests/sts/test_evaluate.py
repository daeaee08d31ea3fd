"""Correlations of checkpoints."""

import json

import pairs
import pytest
import scipy.stats
import sts_files
import torch
import toy

from sharp_plugins.sts import evaluate as evaluation
from sharp_plugins.sts.__main__ import main
from sharp_plugins.sts.evaluate import SentenceEncoder, correlations
from sharp_plugins.sts.sets import SETS, Pair, PairSet, read_set


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return pairs.write_backbone(tmp_path_factory.mktemp("pairs"))


def evaluate(backbone, data, *flags):
    return main(["evaluate", *map(str, (backbone / "model.pt", "--data", data, "--device", "cpu", *flags))])


def test_the_average_is_printed_though_it_cannot_be_written(backbone, tmp_path, monkeypatch, capsys):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sharp_plugins.sts.__main__.write_text", full)
    assert evaluate(backbone, sts_files.write_sets(tmp_path / "data"), "--pooling", "cls", "--json", tmp_path / "out.json") == 1
    shown = capsys.readouterr()
    assert "average: " in shown.out and "No space left" in shown.err


def test_the_command_writes_all_columns(backbone, tmp_path, capsys):
    data, out = sts_files.write_sets(tmp_path / "data"), tmp_path / "out.json"
    assert evaluate(backbone, data, "--pooling", "cls", "--json", out) == 0
    found = json.loads(out.read_text())
    assert list(found) == [*SETS, "average"]
    assert found["average"] == pytest.approx(sum(found[name] for name in SETS) / 7)
    shown = capsys.readouterr().out
    assert "pooling cls, at most 64 symbols" in shown and f"SICK-R: {found['SICK-R']:.2f} (12 pairs)" in shown

    encoder = SentenceEncoder(backbone / "model.pt", "cls", device="cpu")
    rows = read_set(data, "STS15").pairs
    cosines = [torch.cosine_similarity(*encoder.vectors([one.first, one.second]), dim=0).item() for one in rows]
    assert found["STS15"] == pytest.approx(100 * scipy.stats.spearmanr(cosines, [one.score for one in rows])[0], abs=1e-3)


def test_all_pairs_together_or_the_mean_of_subsets(backbone, tmp_path):
    data = sts_files.write_sets(tmp_path)
    encoder = SentenceEncoder(backbone / "model.pt", device="cpu")
    whole = read_set(data, "STS14")
    parts = {part: PairSet([pair for pair in whole.pairs if pair.subset == part], []) for part in "ab"}
    by_part = correlations(encoder, parts)
    assert correlations(encoder, {"STS14": whole}, by_subset=True)["STS14"] == pytest.approx(sum(by_part.values()) / 2)
    assert correlations(encoder, {"STS14": whole})["STS14"] != pytest.approx(sum(by_part.values()) / 2)


def test_a_subset_without_a_correlation_is_named(backbone):
    found = PairSet([Pair("the cat", "a dog", n, "a") for n in (1.0, 2.0)] + [Pair("a cat", "a mat", 2.0, "b")] * 2, [])
    with pytest.raises(ValueError, match="--subsets: STS14: the pairs of 'b' have no two different scores"):
        correlations(SentenceEncoder(backbone / "model.pt", device="cpu"), {"STS14": found}, by_subset=True)


def test_a_year_without_subsets_has_no_mean_over_them(backbone):
    pairs = PairSet([Pair("the cat", "a dog", n, "") for n in (1.0, 2.0)], [])
    encoder = SentenceEncoder(backbone / "model.pt", device="cpu")
    with pytest.raises(ValueError, match="--subsets: the file of STS14 has no column subset"):
        correlations(encoder, {"STS14": pairs}, by_subset=True)
    assert correlations(encoder, {"STS-B": pairs}, by_subset=True) == {"STS-B": 0}


def test_a_lora_encoder_without_positions_of_its_own(backbone, tmp_path):
    """fairseq's LoRA and adapters leave them to the task."""
    parts = dict(model=["--arch", "lora", "--base-arch", *pairs.arch()[1:]], criterion=["--criterion", "contrastive"])
    flags = pairs.flags(backbone, "--batch-size", "4", *toy.SGD, "--optimizer", "sgd")
    trainer = toy.trainer_from(toy.config(backbone, *flags, **parts, task="contrastive_sentences"))
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(tmp_path / "lora.pt"), {"train_iterator": {"epoch": 1}, "val_loss": None})
    assert getattr(torch.load(tmp_path / "lora.pt", weights_only=False)["cfg"]["model"], "max_positions", None) is None
    encoder = SentenceEncoder(tmp_path / "lora.pt", tokenizer=backbone, device="cpu")
    assert encoder.vectors(["the cat"]).shape == (1, 16)


def test_the_length_is_the_padded_length_and_has_a_say(backbone):
    sentences = ["the cat sat on the mat", "a dog runs"]
    short, long = (
        SentenceEncoder(backbone / "model.pt", "mean-padded", length=n, device="cpu").vectors(sentences) for n in (20, 64)
    )
    default = SentenceEncoder(backbone / "model.pt", "mean-padded", device="cpu")
    assert SentenceEncoder(backbone / "model.pt", device="cpu").length == 256
    assert default.length == 64 and not torch.allclose(short, long, atol=1e-3)
    torch.testing.assert_close(default.vectors(sentences), long)


def test_equal_sentences_have_one_vector_whatever_stands_beside(backbone):
    encoder = SentenceEncoder(backbone / "model.pt", device="cpu")
    found = encoder.vectors(["a dog", "the cat sat on the mat and the dog runs", "a dog"])
    assert torch.equal(found[0], found[2])
    alone = SentenceEncoder(backbone / "model.pt", device="cpu").vectors(["a dog"])
    torch.testing.assert_close(found[:1], alone, rtol=1e-5, atol=1e-5)


def test_a_sentence_of_several_sets_is_encoded_once(backbone, monkeypatch):
    encoded = []
    encode = evaluation.sentence_vectors
    monkeypatch.setattr(
        evaluation, "sentence_vectors", lambda model, tokens, *how: encoded.append(len(tokens)) or encode(model, tokens, *how)
    )
    encoder = SentenceEncoder(backbone / "model.pt", device="cpu")
    first = encoder.vectors(["a dog", "the cat sat", "a dog"])
    again = encoder.vectors(["the cat sat", "a dog runs"])
    assert sum(encoded) == 3 and torch.equal(first[1], again[0])


def test_what_does_not_fit_is_told(backbone, tmp_path, capsys):
    data = sts_files.write_sets(tmp_path / "data")
    lone = tmp_path / "lone" / "model.pt"
    lone.parent.mkdir()
    lone.write_bytes((backbone / "model.pt").read_bytes())
    assert main(["evaluate", str(lone), "--data", str(data)]) == 1
    assert "--tokenizer names the converted encoder's directory" in capsys.readouterr().err
    assert main(["evaluate", str(lone), "--data", str(data), "--tokenizer", str(backbone), "--device", "cpu"]) == 0
    assert evaluate(backbone, data, "--max-length", "300") == 1
    assert "has 256 positions" in capsys.readouterr().err
    assert evaluate(backbone, tmp_path) == 1
    assert "STS12.tsv: not there" in capsys.readouterr().err


def test_a_vector_that_is_no_number_is_told(backbone):
    encoder = SentenceEncoder(backbone / "model.pt", device="cpu")
    with torch.no_grad():
        next(encoder.loaded.model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="no finite numbers"):
        correlations(encoder, {"STS12": PairSet([Pair("a dog", "a cat", 1.0, "")], [])})


@pytest.mark.slow
def test_minilm_has_its_published_correlation(minilm_directory, data_beside, tmp_path):
    """STS16 is the smallest; MTEB's published value of all-MiniLM-L6-v2 is 78.99."""
    from sharp_plugins.convert.conversion import convert

    convert(minilm_directory, tmp_path / "minilm")
    encoder = SentenceEncoder(tmp_path / "minilm" / "model.pt", "mean", device="cpu")
    found = correlations(encoder, {"STS16": read_set(data_beside / "sts", "STS16")})
    assert found["STS16"] == pytest.approx(78.99, abs=0.05)
