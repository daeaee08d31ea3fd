"""What is not the file that it should be, through every command and reader: the cause is named, torch's advice to switch its safe
loader off is not repeated, nothing runs, nothing is written."""

import os
import re
import shutil
import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "glue"))

import glue_files
import published
import pytest
import torch
from fairseq import checkpoint_utils

from sharp_plugins.convert.__main__ import main as convert
from sharp_plugins.convert.conversion import convert as converted
from sharp_plugins.files import safe_load
from sharp_plugins.files.tensors import read_safetensors, read_torch
from sharp_plugins.files.unreadable import words_of
from sharp_plugins.glue.__main__ import main as glue
from sharp_plugins.glue.binarize import prepare
from sharp_plugins.glue.tasks import TASKS
from sharp_plugins.host import loading
from sharp_plugins.lora.__main__ import main as lora
from sharp_plugins.text.encoder_directory import load_backbone

pytest.importorskip("tokenizers")
safetensors = pytest.importorskip("safetensors.torch")

ADVICE = re.compile(r"weights.only|safe_globals|allowlist|torch\.load|in pytorch 2", re.IGNORECASE)
POINTER = b"version https://git-lfs.github.com/spec/v1\n"
POINTER += b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"
TENSORS = {"w": torch.ones(50, 50)}


class Foreign:
    """An object of a program of the author's, which does no harm."""


class Harmful:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def saved(content, **how):
    return lambda path: torch.save(content, path, **how)


def half(path):
    torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def half_of_safetensors(path):
    safetensors.save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-5000])


def bomb(path):
    """A megabyte of zeros in a few kilobytes; a terabyte would be no larger a test."""
    torch.save({"w": torch.zeros(1 << 18)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def other_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/config.json", "{}")


def written(content):
    return lambda path: path.write_bytes(content)


# What stands in the place of any file.
ANY = {
    "git-lfs pointer": (written(POINTER), "it is a git-lfs pointer.*git lfs pull"),
    "web page": (written(PAGE), "it is a web page"),
    "server's answer": (written(b"<?xml version='1.0'?><Error>AccessDenied</Error>"), "an XML text.*AccessDenied"),
    "nothing": (written(b""), "empty"),
    "zeros": (written(bytes(4096)), "zeros"),
    "compressed": (written(b"\x1f\x8b\x08\0some bytes"), "compressed with gzip; unpack"),
}
PICKLED = {
    **ANY,
    "text": (written(b'{"error": "no such model"}'), r"it is a text, .*no such model"),
    "half": (half, "it is cut off"),
    "half of an old one": (
        lambda path: (torch.save(TENSORS, path, _use_new_zipfile_serialization=False), os.truncate(path, 100)),
        ": cannot be read: .",
    ),
    "foreign class": (saved({"w": Foreign()}), r"it holds an object of [\w.]*Foreign, which could run code"),
    "foreign class, as torch saved before": (saved({"w": Foreign()}, _use_new_zipfile_serialization=False), "[\\w.]*Foreign"),
    "code": (lambda path: torch.save({"w": Harmful(path.parent / "mark")}, path), "posix.mkdir"),
    "code in an old one": (
        lambda path: torch.save({"w": Harmful(path.parent / "mark")}, path, _use_new_zipfile_serialization=False),
        "posix.mkdir",
    ),
    "another archive": (other_archive, "a zip archive of something else"),
    "compressed inside": (bomb, "would unpack to 10[0-9]{5} bytes"),
    "absurd shape": (saved({"w": torch.ones(1).expand(10**9, 10**3)}), r"w has shape \(1000000000, 1000\), 4000000000000 bytes"),
    "no values": (saved({"w": torch.ones(3, device="meta")}), "w has no values"),
    "safetensors": (lambda path: safetensors.save_file(TENSORS, path), "a safetensors file; give it a name"),
}
SAFETENSORS = {
    **ANY,
    "text": (written(b'{"error": "no such model"}'), "it is a text"),
    "half": (half_of_safetensors, "it is cut off: its header describes .* are there"),
    "absurd header": (written((10**12).to_bytes(8, "little") + b'{"w": 1}'), "a header of 1000000000000 bytes follows"),
    "absurd tensor": (
        written(
            (62).to_bytes(8, "little") + b'{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}} '[:62] + bytes(4)
        ),
        ": cannot be read: .",
    ),
    "torch's": (saved(TENSORS), ": cannot be read: ."),
}
JSON = {
    **ANY,
    "a list": (written(b"[1]"), "JSON object"),
    "half": (written(b'{"hidden_size": 16, "vo'), "not a JSON object|cannot be read"),
    "Latin-1": (written(b'{"name": "caf\xe9"}'), "cannot be read"),
    "brackets": (written(b"[" * 200_000), "not a JSON object|cannot be read"),
    "half a surrogate pair": (written(rb'{"name": "\ud800"}'), r"\\ud800 is half of a surrogate pair"),
}


VOCABULARY = {name: ANY[name] for name in ANY if name != "server's answer"}


def write_good(directory):
    """Whole files of each kind."""
    safe = published.write_bert(directory / "safe")
    pickled = published.write_bert(directory / "pickled", safe=False)
    converted(safe, directory / "converted")
    shutil.copyfile(directory / "converted" / "tokenizer.json", safe / "tokenizer.json")
    assert not (pickled / "tokenizer.json").exists()

    torch.manual_seed(0)
    update = {"fc.lora_A": torch.randn(2, 4), "fc.lora_B": torch.randn(6, 2)}
    model = dict(arch="lora", _name="lora", base_arch="transformer", lora_rank=2, lora_alpha=4, lora_target="fc")
    torch.save({"cfg": {"model": model}, "model": {"fc.weight": torch.randn(6, 4), **update}}, directory / "lora.pt")
    plain = {"arch": "transformer", "_name": "transformer"}
    torch.save({"cfg": {"model": plain}, "model": {"fc.weight": torch.randn(6, 4)}}, directory / "plain.pt")
    assert lora(["save", str(directory / "lora.pt"), str(directory / "adapter")]) == 0
    (directory / "adapter.bin").mkdir()
    shutil.copyfile(directory / "adapter" / "adapter_config.json", directory / "adapter.bin" / "adapter_config.json")
    tensors, _ = read_safetensors(directory / "adapter" / "adapter_model.safetensors")
    torch.save(tensors, directory / "adapter.bin" / "adapter_model.bin")

    glue_files.write_task(directory / "GLUE", "RTE", counts=(4, 4, 2))
    backbone = load_backbone(directory / "converted")
    prepare(directory / "GLUE", backbone, TASKS["RTE"], directory / "data", max_positions=64)
    return directory


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_good(tmp_path_factory.mktemp("good"))


def by_fairseq(arguments):
    """fairseq reads checkpoints in one place, whatever --restore-file, --path or from_pretrained names."""
    loading.install()
    return shown(checkpoint_utils.load_checkpoint_to_cpu, *arguments)


def by_torch_load(arguments):
    """As a script reads them that `sharp_plugins.files.safely` runs."""
    return shown(safe_load.torch_load, *arguments)


def shown(read, path):
    """As the commands report an error."""
    try:
        read(path)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


PREPARE = "prepare --tasks RTE --data GLUE --backbone converted --max-positions 64 --out out"
# What reads a file: the kinds of broken ones, the file, and the command.
READERS = {
    "convert, pickled": (PICKLED, "pickled/pytorch_model.bin", convert, "pickled out"),
    "convert, safetensors": (SAFETENSORS, "safe/model.safetensors", convert, "safe out"),
    "convert, config": (JSON, "safe/config.json", convert, "safe out"),
    "convert, tokenizer": (ANY, "safe/tokenizer.json", convert, "safe out"),
    "convert, its config": (JSON, "safe/tokenizer_config.json", convert, "safe out"),
    "convert, vocabulary": (VOCABULARY, "pickled/vocab.txt", convert, "pickled out"),
    "lora merge": (PICKLED, "lora.pt", lora, "merge lora.pt out"),
    "lora save": (PICKLED, "lora.pt", lora, "save lora.pt out"),
    "lora load, plain": (PICKLED, "plain.pt", lora, "load adapter plain.pt out"),
    "lora load, safetensors": (SAFETENSORS, "adapter/adapter_model.safetensors", lora, "load adapter plain.pt out"),
    "lora load, pickled": (PICKLED, "adapter.bin/adapter_model.bin", lora, "load adapter.bin plain.pt out"),
    "lora load, config": (JSON, "adapter/adapter_config.json", lora, "load adapter plain.pt out"),
    "glue prepare": (PICKLED, "converted/model.pt", glue, PREPARE),
    "glue prepare, dictionary": (VOCABULARY, "converted/dict.txt", glue, PREPARE),
    "glue prepare, rows": (ANY, "GLUE/RTE/train.tsv", glue, PREPARE),
    "fairseq": (PICKLED, "converted/model.pt", by_fairseq, "converted/model.pt"),
    "a script": (PICKLED, "plain.pt", by_torch_load, "plain.pt"),
    "glue evaluate": (PICKLED, "checkpoint.pt", glue, "evaluate checkpoint.pt data"),
    "glue evaluate, data": (JSON, "data/prepared.json", glue, "evaluate lora.pt data"),
}
CASES = [(reader, kind) for reader, (kinds, *_) in READERS.items() for kind in kinds]


@pytest.mark.parametrize("reader, kind", CASES, ids=[": ".join(case) for case in CASES])
def test_a_broken_file_is_named_with_its_cause(good, tmp_path, monkeypatch, capsys, reader, kind):
    kinds, name, main, line = READERS[reader]
    work = tmp_path / "work"
    shutil.copytree(good, work)
    write, words = kinds[kind]
    write(work / name)
    before = sorted(work.rglob("*"))
    monkeypatch.chdir(work)
    capsys.readouterr()
    assert main(line.split()) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.splitlines()) == 1 and len(error) < 700, error
    assert str(name.split("/")[0]) in error and re.search(words, error), error
    assert not ADVICE.search(error), error
    assert sorted(work.rglob("*")) == before


def test_whole_files_are_read(good, tmp_path, monkeypatch, capsys):
    """Else the test above would hold of readers that refuse everything."""
    shutil.copytree(good, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    for _, _, main, line in READERS.values():
        if main is not glue or "prepare" in line:
            shutil.rmtree("out", ignore_errors=True)
            if os.path.exists("out"):
                os.remove("out")
            assert main(line.split()) == 0, (line, capsys.readouterr().err)


def test_old_formats_and_nested_content_are_read(tmp_path):
    content = {"model": {"w": torch.arange(6.0).view(2, 3)}, "steps": [1, {"m": torch.zeros(2)}]}
    for new in (True, False):
        torch.save(content, tmp_path / "file.pt", _use_new_zipfile_serialization=new)
        for mmap in (True, False):
            read = read_torch(tmp_path / "file.pt", mmap=mmap)
            assert torch.equal(read["model"]["w"], content["model"]["w"]) and read["steps"][0] == 1


def test_words_of_all_versions_of_torch():
    """Of 2.1, 2.4 and 2.6 and later, as they were printed."""
    advice = "Weights only load failed. Re-running `torch.load` with `weights_only` set to `False` will likely succeed, but it can "
    advice += "result in arbitrary code execution. Do it only if you get the file from a trusted source. WeightsUnpickler error: "
    for end in (
        "Unsupported class __main__.Thing",
        "Unsupported global: GLOBAL __main__.Thing was not an allowed global by default. Please use "
        "`torch.serialization.add_safe_globals([Thing])` to allowlist this global if you trust this class/function.",
    ):
        words = words_of(RuntimeError(advice + end))
        assert "__main__.Thing" in words and not ADVICE.search(words)
    kinds = "Can only build Tensor, Parameter, OrderedDict or types allowlisted via `add_safe_globals`, but got <class 'set'>"
    assert words_of(RuntimeError(advice + kinds)) == "Can only build Tensor, Parameter, OrderedDict but got <class 'set'>"
    assert words_of(RuntimeError(advice + "Unsupported operand 149")) == "Unsupported operand 149"
    assert words_of(ValueError("x" * 1000)) == "x" * 299 + "…"
