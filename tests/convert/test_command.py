"""The whole conversion: what is written, what is printed, what trains, and what is refused."""

import json
import re
import shlex
import sys
from pathlib import Path

import processes
import published
import pytest
import torch
import toy
from fairseq import checkpoint_utils

from sharp_plugins.convert.__main__ import main
from sharp_plugins.convert.conversion import architecture_flags, convert
from sharp_plugins.convert.published_settings import Settings
from sharp_plugins.text.tokenizer import Tokenizer

pytest.importorskip("tokenizers")

FILES = ["dict.txt", "model.pt", "special_tokens_map.json", "tokenizer.json"]
WRITERS = {"bert": published.write_bert, "roberta": published.write_roberta}


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture(params=WRITERS)
def small(request, tmp_path):
    return WRITERS[request.param](tmp_path / "published")


def pairs(directory, out):
    """Binarized pairs in the converted vocabulary; the second sentence tells the label."""
    tokenizer = Tokenizer.load(out)
    first = [f"the cat is number {i}." for i in range(12)]
    second = ["the dog runs" if i % 2 else "on the mat" for i in range(12)]
    lines = [[" ".join(symbols) for symbols in tokenizer.encode_many(side)] for side in (first, second)]
    return published.write_sentence_data(directory, out / "dict.txt", *lines, [i % 2 for i in range(12)])


def test_what_is_written_and_printed(small, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    assert main([str(small), str(out)]) == 0
    printed = capsys.readouterr().out
    assert names(out) == FILES
    symbols = len(Tokenizer.load(small).symbols)
    assert f"dict.txt ({symbols} symbols)" in printed and "language-model head: untrained" in printed
    kind = json.loads((small / "config.json").read_text())["model_type"]
    arch = {"bert": "--arch sharp_", "roberta": "--arch roberta_"}[kind]
    assert arch in printed and ("--separator-token 2" in printed) == (kind == "roberta")
    assert ("left out: roberta.pooler.dense.bias" in printed) == (kind == "roberta")


def printed_flags(small, out, capsys):
    assert main([str(small), str(out)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("fairseq-train DATA --num-classes N ")
    return shlex.split(line)[4:]


def test_the_printed_flags_train(small, tmp_path, capsys):
    flags = printed_flags(small, tmp_path / "out", capsys)
    data = pairs(tmp_path, tmp_path / "out")
    at = flags.index("--user-dir")
    flags = [*flags[:at], *flags[at + 2 :], "--num-classes", "2", "--optimizer", "adam", "--lr", "0.005"]
    flags += ["--save-dir", str(tmp_path / "run")]
    trainer = toy.build_trainer(data, *flags, model=[], criterion=[], task="sentence_prediction")
    fresh = toy.weights(trainer)
    checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
    state = torch.load(tmp_path / "out" / "model.pt", weights_only=True)["model"]
    state = {name: value for name, value in state.items() if "pooler" not in name}
    toy.assert_same({name: toy.weights(trainer)[name] for name in state}, state)
    assert not torch.equal(fresh["encoder.sentence_encoder.embed_tokens.weight"], state["encoder.lm_head.weight"])
    (sample,) = toy.batches(trainer, [12])
    losses = [trainer.train_step([sample])["loss"] for _ in range(25)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("precision", [[], published.FP16], ids=["fp32", "fp16"])
def test_delta_sam_fine_tunes_a_converted_model(tmp_path, precision):
    published.write_bert(tmp_path / "published")
    converted = convert(tmp_path / "published", tmp_path / "out")
    data = pairs(tmp_path, tmp_path / "out")
    flags = ["--num-classes", 2, "--init-token", 0, "--optimizer", "dsam", "--lr", "0.005", *precision]
    flags += ["--finetune-from-model", tmp_path / "out" / "model.pt", "--save-dir", tmp_path / "run"]
    criterion = ["--criterion", "sentence_prediction"]
    trainer = toy.build_trainer(data, *flags, model=converted.flags, criterion=criterion, task="sentence_prediction")
    checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
    head = toy.weights(trainer)["classification_heads.sentence_classification_head.dense.weight"]
    pooler = torch.load(tmp_path / "out" / "model.pt", weights_only=True)["model"]["encoder.pooler.weight"]
    assert torch.equal(head, pooler.to(head.dtype))
    (sample,) = toy.batches(trainer, [12])
    losses = [trainer.train_step([sample])["loss"] for _ in range(25)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_the_printed_command_runs(tmp_path):
    published.write_bert(tmp_path / "published")
    root = Path(toy.PLUGIN).parent
    command = [sys.executable, "-m", "sharp_plugins.convert", str(tmp_path / "published"), str(tmp_path / "out")]
    line = processes.execute(command, root).splitlines()[-1]
    data = pairs(tmp_path, tmp_path / "out")
    line = line.replace("DATA", shlex.quote(str(data)), 1).replace("--num-classes N", "--num-classes 2", 1)
    more = "--cpu --optimizer adam --lr 1e-3 --batch-size 4 --max-update 3 --disable-validation --no-epoch-checkpoints"
    arguments = [*shlex.split(line)[1:], *more.split(), "--save-dir", str(tmp_path / "run")]
    printed = processes.console("fairseq-train", *arguments, directory=root)
    assert f"Loaded checkpoint {tmp_path}/out/model.pt" in printed
    saved = processes.last(tmp_path / "run")
    assert saved["optimizer_history"][-1]["num_updates"] == 3
    assert saved["cfg"]["model"].arch.startswith("sharp_")


def test_converting_twice_gives_the_same(tmp_path):
    published.write_bert(tmp_path / "published")
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        convert(tmp_path / "published", tmp_path / name)
    before = torch.get_rng_state()
    convert(tmp_path / "published", tmp_path / "two")  # over the old one
    assert torch.equal(torch.get_rng_state(), before)
    one, two = (torch.load(tmp_path / name / "model.pt", weights_only=True)["model"] for name in ("one", "two"))
    toy.assert_same(one, two)
    assert names(tmp_path / "two") == FILES


@pytest.mark.parametrize(
    "model, flags",
    [
        ((12, 768, 3072, 12), "--arch sharp_bert_base"),
        ((24, 1024, 4096, 16), "--arch sharp_bert_large"),
        ((6, 384, 1536, 12), "--arch sharp_minilm"),
        ((12, 384, 1536, 12), "--arch sharp_minilm --encoder-layers 12"),
        ((8, 768, 2048, 12), "--arch sharp_bert_base --encoder-layers 8 --encoder-ffn-embed-dim 2048"),
    ],
)
def test_the_closest_architecture_is_named(model, flags):
    sizes = ("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads")
    others = dict(activation_fn="gelu", dropout=0.1, attention_dropout=0.1, max_positions=512)
    others.update(token_types=2, layer_norm_eps=1e-12)
    settings = Settings("bert", 100, {**dict(zip(sizes, model)), **others}, 2)
    assert " ".join(architecture_flags(settings)) == flags


def test_roberta_keeps_its_architectures():
    sizes = dict(encoder_layers=24, encoder_embed_dim=1024, encoder_ffn_embed_dim=4096, encoder_attention_heads=16)
    others = dict(activation_fn="gelu", dropout=0.1, attention_dropout=0.1, max_positions=512)
    assert architecture_flags(Settings("roberta", 50265, {**sizes, **others}, 1)) == ["--arch", "roberta_large"]
    others["max_positions"] = 256
    flags = architecture_flags(Settings("roberta", 50265, {**sizes, **others}, 1))
    assert flags == ["--arch", "roberta_large", "--max-positions", "256"]


# ---------------------------------------------------------------------- what is refused


def change_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_weights(directory, change):
    from safetensors.torch import load_file, save_file

    weights = load_file(str(directory / "model.safetensors"))
    change(weights)
    save_file(weights, str(directory / "model.safetensors"))


def longer_vocabulary(directory):
    published.write_wordpiece(directory, [*published.WORDPIECES, "too", "many"])


def shorter_vocabulary(directory):
    rows = len(published.WORDPIECES) + 128
    settings = published.config("bert", rows)
    published.write(directory, settings, published.weights(settings))


def drop(name):
    return lambda directory: change_weights(directory, lambda weights: weights.pop(name))


def shrink(directory):
    def change(weights):
        weights["bert.encoder.layer.1.intermediate.dense.bias"] = torch.zeros(7)

    change_weights(directory, change)


def one_large_layer(directory):
    """Many small layers after a large one, of whose size all would be built."""

    def change(weights):
        weights["bert.encoder.layer.1.intermediate.dense.weight"] = torch.zeros(8, 16)

    change_weights(directory, change)


REFUSALS = {
    "no config.json": (lambda d: (d / "config.json").unlink(), "config.json: not there"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "neither model.safetensors nor pytorch_model.bin"),
    "no tokenizer": (lambda d: (d / "vocab.txt").unlink(), "no tokenizer there"),
    "another architecture": (lambda d: change_config(d, model_type="t5"), "model_type is 't5'"),
    "more tokens than rows": (
        longer_vocabulary,
        r"the vocabulary does not fit the model: it has \d+ tokens with ids up to \d+ \('many'\)",
    ),
    "far fewer tokens than rows": (shorter_vocabulary, "the vocabulary does not fit the model"),
    "a missing weight": (drop("bert.encoder.layer.0.output.dense.bias"), "none for .*layers.0.fc2.bias"),
    "another shape": (shrink, r"layers.1.fc1.bias has shape \(7,\), and by config.json it should have \(32,\)"),
    "other settings": (lambda d: change_config(d, intermediate_size=64), r"dense.weight has shape \(32, 16\), .* \(64, 16\)"),
    "absurd layers": (lambda d: change_config(d, num_hidden_layers=10**9), "2 layers, and config.json says .* 1000000000"),
    "absurd width": (lambda d: change_config(d, hidden_size=10**9), r"should have \(\d+, 1000000000\)"),
    "absurd positions": (lambda d: change_config(d, max_position_embeddings=10**9), r"should have \(1000000000, 16\)"),
    "absurd inner width": (lambda d: change_config(d, intermediate_size=10**9), r"should have \(1000000000, 16\)"),
    "absurd types": (lambda d: change_config(d, type_vocab_size=10**9), r"should have \(1000000000, 16\)"),
    "absurd vocabulary": (lambda d: change_config(d, vocab_size=10**9), "the vocabulary does not fit the model"),
    "one layer alone is large": (one_large_layer, r"layer.1.intermediate.dense.weight has shape \(8, 16\)"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_leave_nothing_behind(tmp_path, capsys, name):
    spoil, message = REFUSALS[name]
    directory, out = published.write_bert(tmp_path / "published"), tmp_path / "out"
    spoil(directory)
    assert main([str(directory), str(out)]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and not printed.out and not out.exists()
    assert re.search(message, printed.err) and len(printed.err.splitlines()) == 1


def test_padded_tables_of_words_are_taken(tmp_path):
    directory = published.write_bert(tmp_path / "published")
    rows = len(published.WORDPIECES) + 5
    settings = published.config("bert", rows)
    weights = published.weights(settings)
    published.write(directory, settings, weights)
    convert(directory, tmp_path / "out")
    state = torch.load(tmp_path / "out" / "model.pt", weights_only=True)["model"]
    expected = weights["bert.embeddings.word_embeddings.weight"][Tokenizer.load(directory).published_ids]
    assert len(expected) == rows - 5
    assert torch.equal(state["encoder.sentence_encoder.embed_tokens.weight"], expected)


def test_the_published_files_are_not_written_over(tmp_path, capsys):
    directory = published.write_bert(tmp_path / "published")
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert main([str(directory), str(tmp_path / "published" / ".." / "published")]) == 1
    assert "choose another directory" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


@pytest.mark.parametrize("there", [["config.json"], ["tokenizer.json"], ["special_tokens_map.json"], ["model.pt", "dict.txt"]])
def test_the_files_of_another_model_are_not_written_over(tmp_path, capsys, there):
    """Of another published model, or of fairseq's RoBERTa."""
    directory, out = published.write_bert(tmp_path / "published"), tmp_path / "out"
    out.mkdir()
    for name in there:
        (out / name).write_text("other")
    assert main([str(directory), str(out)]) == 1
    words = "it holds files of another model, of which some would be replaced; choose another directory to write to"
    assert capsys.readouterr().err == f"error: {out}: {words}\n" and names(out) == sorted(there)


def test_a_full_disk_is_told_in_one_line(tmp_path, capsys, monkeypatch):
    directory, out = published.write_bert(tmp_path / "published"), tmp_path / "out"

    def full(content, path):
        raise RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed")

    monkeypatch.setattr(torch, "save", full)
    assert main([str(directory), str(out)]) == 1 and not out.exists()
    words = "PytorchStreamWriter failed writing file data/1: file write failed"
    assert capsys.readouterr().err == f"error: {out / 'model.pt'}: cannot be written: {words}\n"


def test_a_stopped_conversion_is_made_again(tmp_path):
    directory, out = published.write_bert(tmp_path / "published"), tmp_path / "out"
    for moved in (["dict.txt"], ["dict.txt", "special_tokens_map.json", "tokenizer.json"]):
        convert(directory, out)
        for name in {*FILES} - {*moved}:
            (out / name).unlink()
        convert(directory, out)
        assert names(out) == FILES


def test_a_failure_while_writing_keeps_what_was_there(tmp_path, monkeypatch):
    directory, out = published.write_bert(tmp_path / "published"), tmp_path / "out"
    convert(directory, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    published.write_bert(directory, seed=1)

    def full(*args):
        raise OSError("no space left on the device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        convert(directory, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_output_that_is_a_file(tmp_path, capsys):
    directory = published.write_bert(tmp_path / "published")
    (tmp_path / "out").write_text("mine")
    with pytest.raises(SystemExit):
        main([str(directory), str(tmp_path / "out")])
    assert "out is a file, and no directory" in capsys.readouterr().err and (tmp_path / "out").read_text() == "mine"


def test_an_output_without_a_name(tmp_path, capsys, monkeypatch):
    """As a variable has none that is not set; it was the current directory."""
    directory = published.write_bert(tmp_path / "published")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main([str(directory), ""])
    assert "argument OUT: the name is empty, as a variable that is not set is" in capsys.readouterr().err
    assert names(tmp_path) == ["published"]


def test_the_last_layers_are_drawn_anew(tmp_path, capsys):
    published.write_bert(tmp_path / "published")
    states = {}
    for name, flags in (("whole", []), ("new", ["--redraw-layers", "1"]), ("again", ["--redraw-layers", "1"])):
        assert main([str(tmp_path / "published"), str(tmp_path / name), *flags]) == 0
        states[name] = torch.load(tmp_path / name / "model.pt", weights_only=True)["model"]
        assert ("new random weights: the last 1 of its layers" in capsys.readouterr().out) == bool(flags)
    whole, new = states["whole"], states["new"]
    toy.assert_same(new, states["again"])
    layers = [int(name.split("layers.")[1].split(".")[0]) for name in whole if "sentence_encoder.layers." in name]
    own = f"sentence_encoder.layers.{max(layers)}."
    assert max(layers) > 0 and all(torch.equal(new[name], whole[name]) for name in whole if own not in name)
    weight = new[f"encoder.{own}fc1.weight"]
    assert not torch.equal(weight, whole[f"encoder.{own}fc1.weight"]) and 0.015 < weight.std() < 0.025  # BERT's 0.02
    assert torch.equal(new[f"encoder.{own}final_layer_norm.weight"], torch.ones(weight.size(1)))
    assert main([str(tmp_path / "published"), str(tmp_path / "other"), "--redraw-layers", "9"]) == 1
    assert f"--redraw-layers 9: {tmp_path}/published has {max(layers) + 1} layers" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_the_first_layers_make_a_smaller_encoder(tmp_path, capsys):
    published.write_bert(tmp_path / "published")
    for name, flags in (("whole", []), ("small", ["--keep-layers", "1"])):
        assert main([str(tmp_path / "published"), str(tmp_path / name), *flags]) == 0
        printed = capsys.readouterr().out
        assert ("dropped: the last 1 of its layers" in printed) == bool(flags)
        assert ("--encoder-layers 1" in printed) == bool(flags)
    whole, small = (torch.load(tmp_path / name / "model.pt", weights_only=True)["model"] for name in ("whole", "small"))
    # The files hold no language-model head: it is new.
    small, whole = ({name: value for name, value in state.items() if ".lm_head." not in name} for state in (small, whole))
    toy.assert_same(small, {name: value for name, value in whole.items() if ".layers.1." not in name})
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task(
        [str(tmp_path / "small" / "model.pt")], {"data": str(tmp_path / "small")}
    )
    assert len(model.encoder.sentence_encoder.layers) == 1
    for n in ("0", "3"):
        assert main([str(tmp_path / "published"), str(tmp_path / "other"), "--keep-layers", n]) == 1
        assert f"--keep-layers {n}: {tmp_path}/published has 2 layers" in capsys.readouterr().err
    assert main([str(tmp_path / "published"), str(tmp_path / "other"), "--keep-layers", "1", "--redraw-layers", "2"]) == 1
    assert "--redraw-layers 2" in capsys.readouterr().err and not (tmp_path / "other").exists()
