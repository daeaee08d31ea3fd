"""Text through a converted model: fairseq's hub, -interactive and -preprocess all see the published tokenizer's ids."""

import re
import shutil

import published
import pytest
import torch
import toy
from fairseq import options
from fairseq.data import Dictionary, data_utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models.roberta import RobertaModel
from fairseq_cli import interactive, preprocess

from sharp_plugins.convert.__main__ import main
from sharp_plugins.convert.conversion import convert
from sharp_plugins.text.bpe import NAME, ConvertedTokenizer, TokenizerConfig
from sharp_plugins.text.encode import encode_file

pytest.importorskip("tokenizers")

WRITERS = {"bert": published.write_bert, "roberta": published.write_roberta}
# In the small BERT's vocabulary.
TEXTS = ["The cat sat on the mat.", "Why, the dog runs!", "a cat - 3.5 dogs", "x"]


@pytest.fixture(scope="module", params=WRITERS)
def out(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    convert(WRITERS[request.param](directory / "published"), directory / "out")
    shutil.rmtree(directory / "published")
    return directory / "out"


def hub(directory, *how, **kwargs):
    return RobertaModel.from_pretrained(str(directory), *how, **kwargs)


def share_of_unknown(ids, dictionary):
    return float((ids == dictionary.unk()).float().mean())


def ids_by_hand(tokenizer, dictionary, text):
    """Of the tokenizers library, past our dictionary's symbols."""
    published_ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
    return [tokenizer.published_ids.index(i) for i in published_ids]


def test_hubs_text_is_the_published_tokenizers(out, tmp_path):
    """With fairseq's plain call, and after the directory was moved."""
    moved = tmp_path / "elsewhere"
    shutil.copytree(out, moved)
    model = hub(moved, checkpoint_file="model.pt")
    dictionary, tokenizer = model.task.source_dictionary, model.bpe.tokenizer
    for text in TEXTS:
        ids = model.encode(text)
        expected = ids_by_hand(tokenizer, dictionary, text)
        assert ids.tolist() == [dictionary.bos(), *expected, dictionary.eos()]
        assert share_of_unknown(ids, dictionary) == 0
        assert model.decode(ids).replace(" ", "").lower() == text.replace(" ", "").lower()
    pair = model.encode(*TEXTS[:2], no_separator=True).tolist()
    first, second = (ids_by_hand(tokenizer, dictionary, text) for text in TEXTS[:2])
    assert pair == [dictionary.bos(), *first, dictionary.eos(), *second, dictionary.eos()]
    assert model.extract_features(model.encode(TEXTS[0])).isfinite().all()


def test_minilms_ids_are_those_of_transformers(minilm_directory, tmp_path):
    transformers = pytest.importorskip("transformers")
    convert(minilm_directory, tmp_path / "out")
    model, theirs = hub(tmp_path / "out"), transformers.AutoTokenizer.from_pretrained(str(minilm_directory))
    rows, unknown = model.bpe.tokenizer.published_ids, 0
    for text in published.SENTENCES:
        assert [rows[i] for i in model.encode(text).tolist()] == theirs(text)["input_ids"], text
        unknown += share_of_unknown(model.encode(text), model.task.source_dictionary) * text.isascii()
        if text.isascii():
            assert model.decode(model.encode(text)) == theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True)
    for pair in published.PAIRS:
        assert [rows[i] for i in model.encode(*pair, no_separator=True).tolist()] == theirs(*pair)["input_ids"], pair
    assert unknown == 0


def test_predict_of_a_fine_tuned_model(out, tmp_path, capsys):
    """Trained with the printed flags: its checkpoint remembers where the tokenizer is."""
    for side, text in (("input0", TEXTS), ("input1", TEXTS[::-1])):
        (tmp_path / side).write_text("".join(f"{line}\n" for line in text))
        encode_file(out, tmp_path / side, tmp_path / f"{side}.symbols")
    sides = [(tmp_path / f"{side}.symbols").read_text().splitlines() for side in ("input0", "input1")]
    data = published.write_sentence_data(tmp_path, out / "dict.txt", *sides, [0, 1, 0, 1])
    separator = [] if "bert" in str(out) and "roberta" not in str(out) else ["--separator-token", 2]
    flags = ["--num-classes", 2, "--init-token", 0, *separator, "--optimizer", "adam", "--lr", 0.01]
    flags += ["--restore-file", out / "model.pt", "--reset-optimizer", "--bpe", NAME, "--bpe-tokenizer", out]
    arch = torch.load(out / "model.pt", weights_only=True)["cfg"]["model"]
    sizes = ("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads", "max_positions")
    model = ["--arch", arch.arch, *(f"--{name.replace('_', '-')}={getattr(arch, name)}" for name in sizes)]
    criterion = ["--criterion", "sentence_prediction"]
    trainer = toy.build_trainer(data, *flags, model=model, criterion=criterion, task="sentence_prediction")
    (sample,) = toy.batches(trainer, [4])
    trainer.train_step([sample])
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(tmp_path / "run.pt"), {"train_iterator": {"epoch": 1}, "val_loss": None})

    loaded = hub(tmp_path, "run.pt", str(data)).eval()
    trained = trainer.get_model().eval()
    for i, (first, second) in enumerate(zip(TEXTS, TEXTS[::-1])):
        tokens = loaded.encode(first, second, no_separator=not separator)
        length = int(sample["net_input"]["src_lengths"][i])
        assert tokens.tolist() == sample["net_input"]["src_tokens"][i][:length].tolist()
        with torch.no_grad():
            expected, _ = trained(tokens[None], features_only=True, classification_head_name="sentence_classification_head")
            predicted = loaded.predict("sentence_classification_head", tokens, return_logits=True)
        torch.testing.assert_close(predicted, expected, rtol=0, atol=1e-6)


def write_seq2seq(out, directory):
    """A translation model of the converted symbols, untrained, and the directory of its data."""
    for split in ("train", "valid"):
        for side in ("src", "tgt"):
            (directory / f"{split}.{side}.txt").write_text("".join(f"{line}\n" for line in TEXTS))
            encode_file(out, directory / f"{split}.{side}.txt", directory / f"{split}.{side}")
    data, dictionary = directory / "bin", str(out / "dict.txt")
    line = ["-s", "src", "-t", "tgt", "--trainpref", directory / "train", "--validpref", directory / "valid", "--destdir", data]
    line += ["--srcdict", dictionary, "--tgtdict", dictionary]
    preprocess.main(options.get_preprocessing_parser().parse_args(list(map(str, line))))
    trainer = toy.build_trainer(data, "--optimizer", "adam", "--lr", 0.01)
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(directory / "model.pt"), {"train_iterator": {"epoch": 1}, "val_loss": None})
    return data


@pytest.mark.parametrize("where", ["flag", "data"])
def test_interactive_takes_text(out, tmp_path, capsys, where):
    data = write_seq2seq(out, tmp_path)
    tokenizer = ["--bpe-tokenizer", str(out)]
    if where == "data":  # beside the dictionaries
        tokenizer = []
        for name in ("tokenizer.json", "special_tokens_map.json"):
            shutil.copyfile(out / name, data / name)
    (tmp_path / "text").write_text("".join(f"{line}\n" for line in TEXTS))
    parser = options.get_interactive_generation_parser()
    line = [str(data), "--path", str(tmp_path / "model.pt"), "--user-dir", toy.PLUGIN, "--bpe", NAME, *tokenizer, "--cpu"]
    line += ["--input", str(tmp_path / "text"), "--beam", "1", "--max-len-b", "3", "-s", "src", "-t", "tgt"]
    args = options.parse_args_and_arch(parser, line)
    capsys.readouterr()
    interactive.main(convert_namespace_to_omegaconf(args))
    sources = re.findall(r"^S-\d+\t(.*)$", capsys.readouterr().out, re.M)
    bpe = ConvertedTokenizer(TokenizerConfig(bpe_tokenizer=str(out)))
    assert sources == [bpe.encode(text) for text in TEXTS] and "<unk>" not in " ".join(sources)


def test_the_encode_command_and_the_step_that_it_prints(out, tmp_path, capsys):
    source, file = tmp_path / "my text.txt", tmp_path / "text.symbols"
    source.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*TEXTS, "", "the \u2028 end"]).encode("utf-8"))
    assert main(["encode", str(out), str(source), str(file)]) == 0
    first, command = capsys.readouterr().out.splitlines()
    lines = file.read_text(encoding="utf-8").split("\n")
    bpe = ConvertedTokenizer(TokenizerConfig(bpe_tokenizer=str(out)))
    assert lines == [*map(bpe.encode, TEXTS), "", bpe.encode("the \u2028 end"), ""]
    assert f"{file}: 6 lines, {sum(len(line.split()) for line in lines)} symbols, " in first
    words = command.replace("DATA", str(tmp_path / "data")).split()
    assert words[0] == "fairseq-preprocess"
    preprocess.main(options.get_preprocessing_parser().parse_args(words[1:]))
    dictionary = Dictionary.load(str(tmp_path / "data" / "dict.txt"))
    rows = data_utils.load_indexed_dataset(str(tmp_path / "data" / "train"), dictionary)
    for text, row in zip(TEXTS, rows):
        assert row.tolist() == [*ids_by_hand(bpe.tokenizer, dictionary, text), dictionary.eos()]


def test_a_web_page_is_a_text_too(out, tmp_path):
    (tmp_path / "page").write_text("<html>\nthe cat\n</html>\n")
    assert main(["encode", str(out), str(tmp_path / "page"), str(tmp_path / "symbols")]) == 0
    assert len((tmp_path / "symbols").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    "content, words",
    [(b"good\ncaf\xe9\n", r"text:2: not UTF-8: .* at byte 3"), (b"\xff\xfea\0", "text:1: it is UTF-16"), (None, "text")],
    ids=["Latin-1", "UTF-16", "not there"],
)
def test_a_text_that_cannot_be_encoded(out, tmp_path, capsys, content, words):
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    before = sorted(tmp_path.iterdir())
    assert main(["encode", str(out), str(tmp_path / "text"), str(tmp_path / "symbols")]) == 1
    error = capsys.readouterr().err
    assert re.search(words, error) and len(error.splitlines()) == 1 and sorted(tmp_path.iterdir()) == before


def test_the_text_is_not_written_over(out, tmp_path, capsys):
    (tmp_path / "text").write_text("mine")
    assert main(["encode", str(out), str(tmp_path / "text"), str(tmp_path / "text")]) == 1
    assert "choose another name" in capsys.readouterr().err and (tmp_path / "text").read_text() == "mine"


def test_a_tokenizer_that_is_nowhere(out, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"--bpe {NAME}: no tokenizer.json in any directory.*--bpe-tokenizer"):
        ConvertedTokenizer(TokenizerConfig())
    with pytest.raises(FileNotFoundError, match=f"no tokenizer.json in .*gone or {tmp_path}"):
        ConvertedTokenizer(TokenizerConfig(bpe_tokenizer=str(tmp_path / "gone"), data=str(tmp_path)))
    # The flag's directory goes before the data's, and one that is no longer there is passed over.
    bpe = ConvertedTokenizer(TokenizerConfig(bpe_tokenizer=str(tmp_path / "gone"), data=str(out)))
    assert bpe.encode("the cat")


def test_beginnings_of_words(out):
    bpe = ConvertedTokenizer(TokenizerConfig(bpe_tokenizer=str(out)))
    symbols = bpe.encode(" the the").split()
    if "roberta" in str(out):
        assert [bpe.is_beginning_of_word(symbol) for symbol in (*symbols, "h", "<mask>")] == [True, True, False, True]
    else:
        assert [bpe.is_beginning_of_word(symbol) for symbol in (*symbols, "##a", "<mask>")] == [True, True, False, True]
