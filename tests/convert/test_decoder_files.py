"""The forms in which decoders are published all give the same checkpoint; the checkpoint is torch's own kind of file, and small."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import published_decoders as small
import pytest
import torch
import toy

from sharp_plugins.convert import decoder_conversion
from sharp_plugins.convert.decoder_conversion import convert_decoder
from sharp_plugins.convert.stored import stored_weights

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

FRONTS = {"gpt2": "transformer.", "opt": "model.", "llama": "model."}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """A small decoder of each family, and what it is converted to."""
    root = tmp_path_factory.mktemp("published")
    made = {family: small.write(root / family, family) for family in FRONTS}
    for family, directory in made.items():
        convert_decoder(directory, root / f"{family}-out")
    return root


@pytest.fixture(params=FRONTS)
def family(request):
    return request.param


@pytest.fixture
def directory(directories, family, tmp_path):
    """A copy of the family's decoder, to be changed."""
    return Path(shutil.copytree(directories / family, tmp_path / "published"))


def state(out):
    return torch.load(out / "model.pt", weights_only=True)["model"]


def assert_same(directories, family, directory, out):
    convert_decoder(directory, out)
    toy.assert_same(state(out), state(directories / f"{family}-out"))


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("shards", [1, 3])
def test_files_and_shards(directories, family, directory, tmp_path, safe, shards):
    small.rewrite(directory, small.weights(directory), safe, shards)
    assert len(list(directory.glob("*.index.json"))) == (shards > 1)
    assert_same(directories, family, directory, tmp_path / "out")


def test_shards_as_transformers_writes_them(directories, family, directory, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(str(directory))
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory, max_shard_size="20KB")
    assert len(list(directory.glob("model-*.safetensors"))) > 1
    assert_same(directories, family, directory, tmp_path / "out")


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_names_without_what_stands_before(directories, family, directory, tmp_path, safe):
    bare = {name.removeprefix(FRONTS[family]): value for name, value in small.weights(directory).items()}
    assert not any(name.startswith(FRONTS[family]) for name in bare)
    small.rewrite(directory, bare, safe)
    assert_same(directories, family, directory, tmp_path / "out")


def test_what_training_loops_put_around(directories, family, directory, tmp_path):
    wrapped = {f"module.{name}": value for name, value in small.weights(directory).items()}
    small.rewrite(directory, wrapped, safe=False)
    torch.save({"state_dict": wrapped, "epoch": 3}, directory / "pytorch_model.bin")
    assert_same(directories, family, directory, tmp_path / "out")


def test_tied_weights_twice_or_under_the_other_name(directories, family, directory, tmp_path):
    (table,) = [name for name in small.weights(directory) if name.endswith(("wte.weight", "embed_tokens.weight"))]
    weights = small.weights(directory)
    small.rewrite(directory, {**weights, "lm_head.weight": weights[table].clone()})
    assert_same(directories, family, directory, tmp_path / "twice")
    small.rewrite(directory, {("lm_head.weight" if name == table else name): value for name, value in weights.items()})
    assert_same(directories, family, directory, tmp_path / "other")


def test_an_index_may_name_a_tied_output_layer_that_is_not_stored(directories, family, directory, tmp_path):
    small.rewrite(directory, small.weights(directory), shards=2)
    (path,) = directory.glob("*.index.json")
    index = json.loads(path.read_text())
    index["weight_map"]["lm_head.weight"] = min(index["weight_map"].values())
    path.write_text(json.dumps(index))
    assert_same(directories, family, directory, tmp_path / "out")


def test_old_buffers_are_passed_over(directories, family, directory, tmp_path):
    layer = {"gpt2": "transformer.h.0.attn", "opt": "model.decoder.layers.0", "llama": "model.layers.0.self_attn"}[family]
    buffers = {f"{layer}.bias": torch.ones(1, 1, 4, 4), f"{layer}.masked_bias": torch.tensor(-1e4)}
    if family == "opt":
        buffers = {}
    if family == "llama":
        buffers = {f"{layer}.rotary_emb.inv_freq": torch.ones(2)}
    small.rewrite(directory, {**small.weights(directory), **buffers, "score.weight": torch.ones(2, 24)})
    assert convert_decoder(directory, tmp_path / "out").left_out == ["score.weight"]
    toy.assert_same(state(tmp_path / "out"), state(directories / f"{family}-out"))


def test_what_several_weights_are_part_of_is_read_once(directories, tmp_path, monkeypatch):
    """GPT-2's queries, keys and values: from a GGUF file each read dequantizes."""
    reads = Counter()

    def counted(directory, ends):
        def reader(name, read):
            return lambda: (reads.update([name]), read())[1]

        found = stored_weights(directory, ends)
        return {name: stored._replace(read=reader(name, stored.read)) for name, stored in found.items()}

    monkeypatch.setattr(decoder_conversion, "stored_weights", counted)
    convert_decoder(directories / "gpt2", tmp_path / "out")
    assert {reads[name] for name in reads} == {1} and any("c_attn" in name for name in reads)
    toy.assert_same(state(tmp_path / "out"), state(directories / "gpt2-out"))


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "published"])
def test_number_formats(directories, tmp_path, dtype):
    directory = small.write(tmp_path / "published", "gpt2")
    half = {name: value.bfloat16() for name, value in small.weights(directory).items()}
    small.rewrite(directory, half)
    converted = convert_decoder(directory, tmp_path / "out", dtype)
    expected = {"fp32": torch.float32, "fp16": torch.float16}.get(dtype, torch.bfloat16)
    assert {value.dtype for value in state(tmp_path / "out").values()} == {expected}
    assert converted.dtypes == [str(expected).removeprefix("torch.")]
    for name, value in state(directories / "gpt2-out").items():
        assert torch.equal(state(tmp_path / "out")[name], value.bfloat16().to(expected)), name


def test_tied_tables_are_stored_once(directories):
    for family in FRONTS:
        tensors = state(directories / f"{family}-out")
        one, other = tensors["decoder.embed_tokens.weight"], tensors["decoder.output_projection.weight"]
        assert one.data_ptr() == other.data_ptr()
        numbers = {value.data_ptr(): value.numel() for value in tensors.values()}
        assert (directories / f"{family}-out" / "model.pt").stat().st_size < 4 * sum(numbers.values()) + 40_000


# Converts, after a small decoder, each directory that it is given, and prints the bytes that it had in memory at most, beyond what
# it had before. The kernel forgets a process's peak where 5 is written to clear_refs.
MEASURE = """
import json, re, sys
import torch
from sharp_plugins.convert.decoder_conversion import convert_decoder

def memory(name):
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(name + r":\\s*(\\d+) kB", status.read())[1])

torch.set_num_threads(1)
first, *others = sys.argv[1:]
convert_decoder(first, first + "-out")
for directory in others:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = memory("VmRSS")
    convert_decoder(directory, directory + "-out")
    print(memory("VmHWM") - before)
"""
OLD = "bin of a torch before 1.6"  # which is read as a whole
FORMS = {
    "safetensors": (True, 1),
    "shards": (True, 4),
    "bin": (False, 1),
    "bin shards": (False, 4),
    "half": (True, 1),
    OLD: (False, 1),
}


def tokenizer_of_10_000(directory):
    return small.smollm2_tokenizer(directory, more=10_000)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux tells it")
def test_memory_is_near_the_checkpoints(directories, tmp_path):
    """Less than the checkpoint, here of 100 MB, a fifth of it the table of words; also where fp16 becomes fp32. A file that is
    read as a whole may take 1.3 times as much."""
    sizes = dict(hidden_size=504, intermediate_size=1536, num_hidden_layers=7, tokenizer=tokenizer_of_10_000)
    first = small.write(tmp_path / "safetensors", "llama", **sizes)
    weights = small.weights(first)
    for name, (safe, shards) in FORMS.items():
        directory = Path(shutil.copytree(first, tmp_path / name)) if name != "safetensors" else first
        changed = {key: value.half() for key, value in weights.items()} if name == "half" else weights
        small.rewrite(directory, changed, safe, shards)
        if name == OLD:
            torch.save(changed, directory / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    line = [sys.executable, "-W", "ignore", "-c", MEASURE, directories / "llama", *(tmp_path / name for name in FORMS)]
    run = subprocess.run([str(part) for part in line], cwd=Path(toy.PLUGIN).parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for name, used in zip(FORMS, map(int, run.stdout.split())):
        files = [*(tmp_path / name).glob("*.safetensors"), *(tmp_path / name).glob("*.bin")]
        size = sum(path.stat().st_size for path in files)
        print(f"{name}: {used / size:.2f} of {size / 1e6:.0f} MB")
        assert size > (50e6 if name == "half" else 100e6) and used < (1.3 if name == OLD else 0.8) * size
