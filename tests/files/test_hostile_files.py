"""What a file from elsewhere could make us do beside running code: read and write other files, take any memory, any disk.

Sizes in config.json are in tests/convert/test_command.py; compressed checkpoints and shapes without values in
tests/files/test_broken_files.py; YAML's tags and aliases in tests/glue/test_configs.py; endless lines in
tests/glue/test_reader.py; names of files in results in tests/glue/test_results.py."""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "glue"))

import glue_files
import published
import pytest
import torch

from sharp_plugins.convert.__main__ import main as convert
from sharp_plugins.glue.__main__ import main as glue
from sharp_plugins.glue.binarize import prepare, read_prepared
from sharp_plugins.glue.evaluate import Checkpoint
from sharp_plugins.glue.tasks import TASKS
from sharp_plugins.lora.__main__ import main as lora
from sharp_plugins.lora.fairseq_checkpoint import read
from sharp_plugins.runs.methods import find_method
from sharp_plugins.runs.prepared import STAMP
from sharp_plugins.runs.record import Record, Result
from sharp_plugins.runs.store import Run, begin, load_results, save_result
from sharp_plugins.text.encoder_directory import load_backbone
from sharp_plugins.text.tokenizer import Tokenizer

pytest.importorskip("tokenizers")
safetensors = pytest.importorskip("safetensors.torch")
SECRET = "the secret of another directory"
RECORD = Record("glue", "RTE", "sam", 1, {})


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return glue_files.convert_small(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture
def prepared(bert, tmp_path):
    glue_files.write_task(tmp_path / "GLUE", "RTE", counts=(4, 4, 2))
    return prepare(tmp_path / "GLUE", load_backbone(bert), TASKS["RTE"], tmp_path / "data", max_positions=64)


def change(path, function):
    content = json.loads(path.read_text())
    function(content)
    path.write_text(json.dumps(content))


def test_shards_named_in_an_index_are_not_opened(tmp_path, capsys):
    directory = published.write_bert(tmp_path / "published")
    (directory / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"bert.embeddings.word_embeddings.weight": "../elsewhere.safetensors"}}
    for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        (directory / name).write_text(json.dumps(index))
    assert convert([str(directory), str(tmp_path / "out")]) == 1
    assert "neither model.safetensors nor pytorch_model.bin is there (shards are not read)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "config.json"])
def test_files_and_code_that_configs_name_are_not_opened(tmp_path, name):
    """transformers follows some of these names."""
    directory = published.write_bert(tmp_path / "published")
    (directory / "special_tokens_map.json").write_text("{}")
    for place in ("secret.txt", "code.py"):
        (tmp_path / place).write_text(f"raise SystemExit({SECRET!r})")
    elsewhere = str(tmp_path / "secret.txt")
    named = {
        "tokenizer_file": elsewhere,
        "vocab_file": elsewhere,
        "merges_file": elsewhere,
        "name_or_path": "../..",
        "_name_or_path": "../..",
        "auto_map": {"AutoTokenizer": ["../code.Tokenizer", None], "AutoModel": "../code.Model"},
        "trust_remote_code": True,
        "special_tokens_map_file": elsewhere,
    }
    change(directory / name, lambda content: content.update(named))
    assert convert([str(directory), str(tmp_path / "out")]) == 0
    plain = published.write_bert(tmp_path / "plain")
    assert convert([str(plain), str(tmp_path / "other")]) == 0
    for file in ("dict.txt", "tokenizer.json", "special_tokens_map.json"):
        assert (tmp_path / "out" / file).read_text() == (tmp_path / "other" / file).read_text()


def test_special_tokens_of_other_types(tmp_path, capsys):
    directory = published.write_bert(tmp_path / "published")
    for value in (["[UNK]"], {"content": ["[UNK]"]}, 7, {"content": {}}):
        (directory / "special_tokens_map.json").write_text(json.dumps({"unk_token": value}))
        assert convert([str(directory), str(tmp_path / "out")]) == (0 if value == {"content": {}} else 1)
        assert "Traceback" not in capsys.readouterr().err


def names_for(tensor):
    """Names that are 300 MB together, of one tensor of a few kilobytes."""
    return [f"copy{n}" for n in range(300 * 1024**2 // (4 * tensor.numel()))]


@pytest.mark.parametrize(
    "kind, safe", [("published", True), ("published", False), ("adapter", True), ("adapter", False), ("checkpoint", False)]
)
def test_one_tensor_of_many_names_takes_no_memory(tmp_path, capsys, kind, safe):
    if kind == "published":
        directory = published.write_bert(tmp_path / kind, safe=False)
        weights, name = directory / "pytorch_model.bin", "bert.embeddings.word_embeddings.weight"
        line = [str(directory), str(tmp_path / "out")]
    else:
        directory = tmp_path / kind
        directory.mkdir()
        (directory / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 1}')
        weights, name = directory / "adapter_model.bin", "w"
        torch.save({name: torch.randn(64, 64)}, weights)
        line = ["load", str(directory), str(weights), str(tmp_path / "out")]
    tensors = torch.load(weights, weights_only=True)
    names = names_for(tensors[name])
    if kind == "checkpoint":
        weights = tmp_path / "lora.pt"
        torch.save({"cfg": {}, "model": {**tensors, **dict.fromkeys(names, tensors[name])}}, weights)
        line = ["merge", str(weights), str(tmp_path / "out")]
    elif safe:
        weights.unlink()
        weights = weights.with_name("model.safetensors" if kind == "published" else "adapter_model.safetensors")
        safetensors.save_file(tensors, weights, metadata={"format": "pt", **dict.fromkeys(names, name)})
    else:
        torch.save({**tensors, **dict.fromkeys(names, tensors[name])}, weights)
    assert (convert if kind == "published" else lora)(line) == 1
    assert f"{weights}: its tensors under all their names are 31" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_tokenizers_padding_and_ids_take_no_memory(bert, tmp_path, capsys):
    shutil.copytree(bert, tmp_path / "bert")
    padding = {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None}
    padding.update(pad_id=0, pad_type_id=0, pad_token="[PAD]")
    truncation = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    change(tmp_path / "bert" / "tokenizer.json", lambda content: content.update(padding=padding, truncation=truncation))
    assert Tokenizer.load(tmp_path / "bert").encode("the cat") == ["the", "cat"]

    directory = published.write_bert(tmp_path / "published")
    shutil.copyfile(bert / "tokenizer.json", directory / "tokenizer.json")
    change(directory / "tokenizer.json", lambda content: content["model"]["vocab"].update(mat=2**31))
    assert convert([str(directory), str(tmp_path / "out")]) == 1
    assert "the vocabulary does not fit the model" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["rows", "files", "shortened", "stand_ins"])
def test_splits_in_prepared_json_name_no_other_files(prepared, part):
    def spoil(content):
        content[part] = ["../../secret"] if part == "stand_ins" else {**content[part], "../../secret": 1}

    change(prepared.directory / STAMP, spoil)
    with pytest.raises(FileNotFoundError, match="not written by `python -m sharp_plugins.glue prepare`"):
        read_prepared(prepared.directory)


@pytest.mark.parametrize(
    "change_to",
    [
        dict(rows=["valid"]),
        dict(files=["valid"]),
        dict(shortened=["valid"]),
        dict(rows={"valid": "4"}),
        dict(files={"valid": 4}),
        dict(shortened={"valid": None}),
        dict(stand_ins={"valid": 1}),
        dict(stand_ins="valid"),
        dict(warnings="x"),
        dict(warnings=[1]),
    ],
    ids=str,
)
def test_other_types_in_prepared_json(prepared, change_to):
    assert read_prepared(prepared.directory).rows == prepared.rows
    change(prepared.directory / STAMP, lambda content: content.update(change_to))
    with pytest.raises(FileNotFoundError, match="not written by `python -m sharp_plugins.glue prepare`"):
        read_prepared(prepared.directory)


@pytest.mark.parametrize("content", ["1", '{"source": 1}', '{"source": {"task": "../x"}}', '{"source": {"task": []}}', "{}"])
def test_other_content_of_prepared_json(prepared, capsys, content):
    (prepared.directory / STAMP).write_text(content)
    assert glue(["evaluate", "nowhere.pt", str(prepared.directory)]) == 1
    error = capsys.readouterr().err
    assert str(prepared.directory) in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        dict(metrics=3),
        dict(metrics={"valid": {"accuracy": "high"}}),
        dict(minutes="x"),
        dict(record={**RECORD._asdict(), "seed": None}),
        dict(notes=[]),
        dict(notes=None),
        dict(validations=[3]),
        dict(record={**RECORD._asdict(), "method": ["sam"]}),
        dict(record={**RECORD._asdict(), "method": None}),
        dict(record={**RECORD._asdict(), "task": ["RTE"]}),
        dict(record={**RECORD._asdict(), "task": {}}),
    ],
    ids=str,
)
def test_results_of_other_types(tmp_path, spoil):
    begin(Run(RECORD, find_method("sam"), tmp_path / "run", {}, {}))
    good = Result(RECORD, {"valid": {"accuracy": 1.0}}, 1.0, 1, 1, None, [], {})
    save_result(tmp_path / "run", good, "deleted")
    assert load_results(tmp_path, "glue") == [good]
    change(tmp_path / "run" / "result.json", lambda content: content.update(spoil))
    with pytest.raises(ValueError, match="result.json: not a run's result: .*delete it"):
        load_results(tmp_path, "glue")


@pytest.fixture
def spoiled(bert, prepared, tmp_path):
    """Evaluates a checkpoint with a changed model's config, and perhaps other changes."""
    state = torch.load(bert / "model.pt", weights_only=True)
    good = vars(state["cfg"]["model"])

    def evaluate(settings, weights=(), **changes):
        task = dict(_name="sentence_prediction", num_classes=2)
        model = {**state["model"], **{f"encoder.sentence_encoder.{name}": torch.zeros(2, 16) for name in weights}}
        cfg = {**state["cfg"], "task": task, "model": argparse.Namespace(**{**good, **settings})}
        content = {**state, "cfg": cfg, "model": model, **changes}
        torch.save({name: value for name, value in content.items() if value != "gone"}, tmp_path / "checkpoint.pt")
        with pytest.raises(ValueError) as error:
            Checkpoint(tmp_path / "checkpoint.pt", prepared)
        return str(error.value)

    return evaluate


def test_sizes_in_a_fine_tuned_checkpoints_config(spoiled):
    """fairseq builds a model of them before it reads the weights."""
    lora = dict(_name="lora", base_arch="sharp_bert")
    adapter = dict(_name="adapter", base_arch="sharp_bert")
    for own, names, weights in (
        ({}, ["encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "max_positions", "token_types"], []),
        (lora, ["encoder_layers", "token_types", "lora_rank"], ["layers.0.fc1.lora_A"]),
        (adapter, ["encoder_layers", "token_types", "adapter_size"], ["layers.0.fc2.adapter.down.weight"]),
    ):
        for name in names:
            assert f"checkpoint.pt: its config says {name} 1000000000, and its weights have" in spoiled(
                {**own, name: 10**9}, weights
            )
    assert "its config says token_types ${x}, and" in spoiled(dict(token_types="${x}"))


@pytest.mark.parametrize(
    "arch",
    [
        dict(_name="transformer", decoder_layers=10**9),
        dict(_name="roberta_enc_dec"),
        dict(_name="lora", base_arch="transformer"),
        dict(_name="adapter", base_arch="adapter"),
        dict(_name="lora"),
        dict(_name=None, arch=None),
        dict(_name=["roberta"]),
    ],
    ids=str,
)
def test_other_architectures_are_not_built_for_an_evaluation(spoiled, arch):
    assert "is none of a BERT or RoBERTa" in spoiled(arch)


def test_other_content_of_a_fine_tuned_checkpoint(spoiled):
    for model in ("gone", None, [1], {1: torch.zeros(1)}):
        assert "it has no model with weights by their names" in spoiled({}, model=model)
    assert "older fairseq" in spoiled({}, args=argparse.Namespace(arch="roberta", encoder_layers=10**9))
    for cfg in (None, [1], {"task": [1], "model": {}}, {"task": 3}):
        assert "no classifier with 2 outputs" in spoiled({}, cfg=cfg)


def in_itself(value):
    settings = {"a": value}
    settings["again"] = [settings]
    return settings


@pytest.mark.parametrize(
    "setting",
    [
        "${oc.env:TOKEN}",
        "${env:TOKEN}",
        "${ env : TOKEN }",
        "${oc.${oc.decode:env}:TOKEN}",
        "x ${oc.${a.b}:TOKEN}",
        ["${oc.env:TOKEN}"],
        {"a": [{"b": "${oc.env:TOKEN}"}]},
        {"${oc.env:TOKEN}": 1},
        ("${oc.env:TOKEN}",),
        b"${oc.env:TOKEN}",
        argparse.Namespace(a=argparse.Namespace(b="${oc.env:TOKEN}")),
        in_itself("${oc.env:TOKEN}"),
    ],
    ids=str,
)
def test_environment_variables_get_into_no_file(tmp_path, monkeypatch, capsys, setting):
    """OmegaConf reads them where an old checkpoint's settings say so, and the merged file would hold them."""
    monkeypatch.setenv("TOKEN", SECRET)
    assert lora(["merge", str(write_old(tmp_path / "old.pt", setting)), str(tmp_path / "merged.pt")]) == 1
    assert "its setting source_lang calls a function of OmegaConf's" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["old.pt"]


def test_old_settings_that_name_others_are_read(tmp_path):
    """Else the test above would hold of a reader that refuses everything; a colon alone is no function's."""
    old = read(write_old(tmp_path / "old.pt", "${task.data}", arch="transformer", data="a:b"))
    assert old["cfg"]["task"]["source_lang"] == "a:b"


def write_old(path, source_lang, arch="lora", data="data"):
    """A checkpoint of fairseq 0.10, with one Namespace of all flags."""
    args = argparse.Namespace(
        arch=arch,
        base_arch="transformer",
        task="translation",
        criterion="cross_entropy",
        optimizer="sgd",
        lora_rank=2,
        lora_alpha=4,
        lora_target="fc",
        data=data,
        source_lang=source_lang,
        lr=[0.1],
        lr_scheduler="fixed",
    )
    model = {"fc.weight": torch.ones(6, 4), "fc.lora_A": torch.ones(2, 4), "fc.lora_B": torch.ones(6, 2)}
    history = [{"criterion_name": "x", "optimizer_name": "x", "lr_scheduler_state": {}, "num_updates": 1}]
    old = {"args": args, "model": model, "optimizer_history": history, "extra_state": {"train_iterator": {"epoch": 1}}}
    torch.save(old, path)
    return path
