"""The commands for decoders: what is written and printed, what trains, texts in symbols, and logits."""

import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import processes
import published_decoders as small
import pytest
import torch
import toy
from fairseq import checkpoint_utils, options
from fairseq.models.fairseq_model import FairseqLanguageModel
from fairseq_cli import preprocess

from sharp_plugins.convert import decoder_conversion
from sharp_plugins.convert.__main__ import DTYPES, main
from sharp_plugins.convert.decoder_conversion import convert_decoder
from sharp_plugins.convert.decoder_flags import decoder_flags
from sharp_plugins.models.decoder import DecoderModel

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

FILES = ["decoder.json", "dict.txt", "model.pt", "special_tokens_map.json", "tokenizer.json"]
FAMILIES = ("gpt2", "opt", "llama")


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    for family in FAMILIES:
        small.write(root / family, family, padding=3 * (family == "opt"))
    return root


def printed(directory, out, capsys, *flags):
    capsys.readouterr()
    assert main([str(directory), str(out), *flags]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_and_printed(directories, tmp_path, capsys, family):
    out = tmp_path / "deep" / "out"
    first, start, prepare, train = printed(directories / family, out, capsys).splitlines()
    assert names(out) == FILES
    symbols = len((out / "dict.txt").read_text().splitlines()) + 4
    unused = {"gpt2": ", of which the published model has no <s> <pad> <unk>", "opt": "", "llama": ", of which .* no <pad>"}[family]
    assert f"dict.txt ({symbols} symbols" in first and "weights in float32, up to 96 tokens)" in first
    assert unused.split(" .* ")[-1] in first
    assert start == f"before a text on its own: {'<s>' if family == 'llama' else '</s>'}"
    assert prepare == f"python -m sharp_plugins.prompted prepare --backbone {out} --train FILE --valid FILE --out DATA"
    assert train.startswith(
        "fairseq-train DATA --user-dir sharp_plugins --task prompted_generation --criterion cross_entropy --arch "
    )
    assert f"--finetune-from-model {out}/model.pt --bpe sharp_tokenizer --bpe-tokenizer {out}" in train


def data_of(out, directory):
    """Binarized text, by the two printed commands: ``convert encode`` and ``fairseq-preprocess``."""
    (directory / "text").write_text("the cat sat in the hat\nthe hat is in the cat\n" * 6)
    for split in ("train", "valid"):
        assert main(["encode", str(out), str(directory / "text"), str(directory / f"{split}.symbols")]) == 0
    line = ["--only-source", "--srcdict", out / "dict.txt", "--destdir", directory / "bin"]
    line += ["--trainpref", directory / "train.symbols", "--validpref", directory / "valid.symbols"]
    preprocess.main(options.get_preprocessing_parser().parse_args([str(part) for part in line]))
    return directory / "bin"


def model_flags(line):
    """Those of the printed training."""
    flags = shlex.split(line)
    return flags[flags.index("--arch") : flags.index("--finetune-from-model")]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_printed_flags_train(directories, tmp_path, capsys, family):
    line = printed(directories / family, tmp_path / "out", capsys).splitlines()[-1]
    data = data_of(tmp_path / "out", tmp_path)
    flags = ["--finetune-from-model", tmp_path / "out" / "model.pt", "--save-dir", tmp_path / "run", "--optimizer", "adam"]
    flags += ["--lr", "0.003", "--tokens-per-sample", 30, "--sample-break-mode", "eos"]
    trainer = toy.build_trainer(
        data, *flags, model=model_flags(line), criterion=["--criterion", "cross_entropy"], task="language_modeling"
    )
    checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
    state = torch.load(tmp_path / "out" / "model.pt", weights_only=True)["model"]
    toy.assert_same({name: toy.weights(trainer)[name] for name in state}, state)
    (sample,) = toy.batches(trainer, [12])
    losses = [trainer.train_step([sample])["loss"] for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_the_printed_commands_run(directories, tmp_path):
    root = Path(toy.PLUGIN).parent
    line = [sys.executable, "-m", "sharp_plugins.convert", str(directories / "llama"), str(tmp_path / "out")]
    prepare, train = processes.execute(line, root).splitlines()[-2:]
    (tmp_path / "train.jsonl").write_text('{"prompt": "the cat", "text": " sat in the hat"}\n' * 12)
    prepare = prepare.replace("FILE", shlex.quote(str(tmp_path / "train.jsonl"))).replace(
        "DATA", shlex.quote(str(tmp_path / "data"))
    )
    processes.execute([sys.executable, *shlex.split(prepare)[1:]], root)
    more = "--cpu --optimizer adam --lr 1e-3 --batch-size 4 --max-update 3 --disable-validation --no-epoch-checkpoints"
    train = train.replace("DATA", shlex.quote(str(tmp_path / "data")), 1)
    told = processes.console(
        "fairseq-train", *shlex.split(train)[1:], *more.split(), "--save-dir", str(tmp_path / "run"), directory=root
    )
    assert f"{tmp_path}/out/model.pt" in told
    assert processes.last(tmp_path / "run")["optimizer_history"][-1]["num_updates"] == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_text_through_fairseqs_hub(directories, tmp_path, family):
    """The checkpoint names its tokenizer, wherever the directory is; decoding gives the text back."""
    convert_decoder(directories / family, tmp_path / "out")
    moved = shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    hub = DecoderModel.from_pretrained(str(moved), checkpoint_file="model.pt")
    assert isinstance(hub.models[0], FairseqLanguageModel)
    for text in small.TEXTS:
        if text.strip():
            line = hub.bpe.encode(text)
            rows = hub.task.source_dictionary.encode_line(line, append_eos=False, add_if_not_exist=False)
            assert hub.bpe.decode(hub.task.source_dictionary.string(rows)) == text
            assert not (rows == hub.task.source_dictionary.unk()).any() or family == "llama"


def test_converting_twice_gives_the_same(directories, tmp_path):
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        convert_decoder(directories / "gpt2", tmp_path / name)
    before = torch.get_rng_state()
    convert_decoder(directories / "gpt2", tmp_path / "two")  # over the old one
    assert torch.equal(torch.get_rng_state(), before) and names(tmp_path / "two") == FILES
    for name in FILES[:2] + FILES[3:]:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    one, two = (torch.load(tmp_path / name / "model.pt", weights_only=True)["model"] for name in ("one", "two"))
    toy.assert_same(one, two)


def test_a_failure_while_writing_keeps_what_was_there(directories, tmp_path, monkeypatch):
    convert_decoder(directories / "gpt2", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(*args):
        raise OSError("no space left on the device")

    monkeypatch.setattr(decoder_conversion, "write_torch", full)
    for directory, out in (("llama", "out"), ("opt", "new")):
        with pytest.raises(OSError, match="no space left"):
            convert_decoder(directories / directory, tmp_path / out)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before and not (tmp_path / "new").exists()


def test_the_published_files_are_not_written_over(directories, capsys):
    directory = directories / "gpt2"
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert main([str(directory), str(directory / ".." / "gpt2")]) == 1
    assert "choose another directory" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_number_formats_have_one_list():
    assert DTYPES == tuple(decoder_conversion.DTYPES)


LLAMA2 = dict(
    decoder_layers=32, decoder_embed_dim=4096, decoder_ffn_embed_dim=11008, decoder_attention_heads=32, decoder_kv_heads=32
)
LLAMA2.update(decoder_head_dim=128, max_target_positions=4096, activation_fn="silu", decoder_gated_ffn=True, decoder_norm="rms")
LLAMA2.update(decoder_positions="rotary", no_attention_bias=True, no_ffn_bias=True, untied_output=True, dropout=0.0)
LLAMA2.update(attention_dropout=0.0)


@pytest.mark.parametrize(
    "family, changes, flags",
    [
        ("llama", {}, "--arch sharp_llama2_7b"),
        ("llama", dict(decoder_norm_eps=1e-6), "--arch sharp_llama2_7b --decoder-norm-eps 1e-06"),
        ("llama", dict(untied_output=False, decoder_layers=30), "--arch sharp_smollm2_1_7b"),
        ("llama", dict(no_attention_bias=False), "--arch sharp_opt_6_7b"),  # a Llama's could not be switched back
    ],
)
def test_the_closest_architecture_is_named(family, changes, flags):
    assert " ".join(decoder_flags({**LLAMA2, **changes}, family)).startswith(flags)


# ---------------------------------------------------------------------- logits


def logits(monkeypatch, capsys, out, text, *flags):
    """The status, what was printed by lines, and what was told."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    capsys.readouterr()
    status = main(["logits", str(out), *flags])
    found = capsys.readouterr()
    return status, [json.loads(line) for line in found.out.splitlines()], found.err


def test_logits_as_json(directories, tmp_path, monkeypatch, capsys):
    convert_decoder(directories / "opt", tmp_path / "out")
    status, lines, _ = logits(monkeypatch, capsys, tmp_path / "out", "the cat\r\n sat in Zürich\nx".encode())
    assert status == 0 and [line["start"] for line in lines] == ["</s>"] * 3
    assert list(lines[0]) == ["ids", "start", "max", "mean", "min", "logsumexp"]
    assert all(line["ids"][0] == 2 and line["max"] < line["logsumexp"] and line["min"] < line["mean"] for line in lines)
    status, others, _ = logits(monkeypatch, capsys, tmp_path / "out", b"\xef\xbb\xbfthe cat\nthe cat\r\r\n")
    assert status == 0 and others[0] == lines[0] and len(others[1]["ids"]) == len(others[0]["ids"]) + 1  # the first return is text
    for start in ("none", "Ġthe", "<pad>"):
        status, (line,), _ = logits(monkeypatch, capsys, tmp_path / "out", b"the cat\n", "--start", start)
        assert (status, line["start"]) == (0, None if start == "none" else start)


def test_logits_that_are_no_numbers(directories, tmp_path, monkeypatch, capsys):
    """A converted file may be damaged later."""
    convert_decoder(directories / "gpt2", tmp_path / "out")
    content = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    content["model"]["decoder.layer_norm.bias"].fill_(float("nan"))
    torch.save(content, tmp_path / "out" / "model.pt")
    status, lines, told = logits(monkeypatch, capsys, tmp_path / "out", b"the\n")
    assert (status, lines) == (1, []) and "line 1: the model's logits are not finite numbers" in told


@pytest.mark.slow
def test_logits_for_a_reader_that_has_enough(directories, tmp_path):
    """As `| head -1`: no error, and nothing else on the screen."""
    convert_decoder(directories / "gpt2", tmp_path / "out")
    line = shlex.join([sys.executable, "-W", "ignore", "-m", "sharp_plugins.convert", "logits", str(tmp_path / "out")])
    shell = f"set -o pipefail; yes the | head -2000 | {line} | head -1"
    run = subprocess.run(["bash", "-c", shell], cwd=Path(toy.PLUGIN).parent, capture_output=True, text=True)
    assert len(run.stdout.splitlines()) == 1 and not run.stderr


def test_names_from_a_file_are_shown_as_text(directories, tmp_path, capsys):
    directory = shutil.copytree(directories / "gpt2", tmp_path / "published")
    more = {f"extra{n:04}": torch.ones(1) for n in range(500)} | {"\x1b]0;title\x07": torch.ones(1)}
    small.rewrite(directory, {**small.weights(directory), **more})
    told = printed(directory, tmp_path / "out", capsys)
    assert "\x1b" not in told and "left out: '\\x1b]0;title\\x07', extra0000, " in told and ", … (501 in all)" in told


@pytest.mark.parametrize(
    "family, text, flags, message",
    [
        ("gpt2", b"the " * 99, [], "line 1: it has 102 tokens; from 1 to 96 are possible"),
        ("gpt2", b"the\n\n", ["--start", "none"], "line 2: it has 0 tokens; .*--start SYMBOL puts one before it"),
        ("gpt2", b"the", ["--start", "<pad>"], "--start <pad>: the model has no such token; .* such as </s>, or none"),
        ("llama", b"the", ["--start", "nonsense"], "--start nonsense: the model has no such token"),
        ("llama", b"the\n\xff\n", [], "standard input:2: not UTF-8: .* at byte 0 of the line"),
    ],
)
def test_logits_that_cannot_be_told(directories, tmp_path, monkeypatch, capsys, family, text, flags, message):
    convert_decoder(directories / family, tmp_path / "out")
    status, _, told = logits(monkeypatch, capsys, tmp_path / "out", text, *flags)
    assert status == 1 and told.startswith("error: ") and re.search(message, told), told
