"""Decoders from GGUF files: the same checkpoint as from the published directory, and what is refused."""

import json
import re
import shutil
import struct

import numpy as np
import published_decoders as small
import pytest
import torch
import toy

from sharp_plugins.convert.__main__ import main
from sharp_plugins.convert.decoder_conversion import convert_decoder
from sharp_plugins.files.gguf import GGUF
from sharp_plugins.text.converted import load_tokenizer
from sharp_plugins.text.decoder_files import read_decoder_backend

gguf = pytest.importorskip("gguf")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

LLAMA = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
GPT2 = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
}


def paired(weight, heads):
    """llama.cpp's order of the rows of queries and keys."""
    half = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return half.transpose(1, 2).reshape(weight.shape)


def write(directory, family, kind=None, drop=(), **fields):
    """The GGUF file of a directory of `small.write`; *fields* go into its header, in place of its own too, and *drop* out of it."""
    config = json.loads((directory / "config.json").read_text())
    backend, special, _ = read_decoder_backend(directory, config)
    path = directory.parent / f"{family}.gguf"
    writer = gguf.GGUFWriter(str(path), kind or family)
    sizes = dict(
        block_count=config.get("n_layer", config.get("num_hidden_layers")),
        context_length=config.get("n_positions", config.get("max_position_embeddings")),
        embedding_length=config.get("n_embd", config.get("hidden_size")),
        feed_forward_length=config.get("intermediate_size", 96),
        **{"attention.head_count": config.get("n_head", config.get("num_attention_heads"))},
    )
    if family == "llama":
        sizes |= {"attention.head_count_kv": config["num_key_value_heads"], "rope.dimension_count": config["head_dim"]}
    for name, value in sizes.items():
        if name not in drop:
            writer.add_uint32(f"{kind or family}.{name}", value)
    if family == "llama":
        writer.add_float32("llama.attention.layer_norm_rms_epsilon", config["rms_norm_eps"])
    tokens = [backend.id_to_token(i) for i in range(backend.get_vocab_size())]
    spelled = {"tokenizer.ggml.model": "llama" if "<0x00>" in tokens else "gpt2", "tokenizer.ggml.pre": "gpt-2"}
    for name, value in spelled.items():
        writer.add_string(name, value)
    writer.add_array("tokenizer.ggml.tokens", tokens)
    marked = {token.content for token in backend.get_added_tokens_decoder().values()}
    writer.add_array("tokenizer.ggml.token_type", [3 if token in marked else 1 for token in tokens])
    merges = [" ".join(merge) for merge in json.loads(backend.to_str())["model"]["merges"]]
    writer.add_array("tokenizer.ggml.merges", merges)
    roles = {"eos": "eos_token", "bos": "bos_token", "unknown": "unk_token", "padding": "pad_token"}
    ids = {role: special.get(name) for role, name in roles.items()}
    for role, token in ids.items():
        if token is not None:
            writer.add_uint32(f"tokenizer.ggml.{role}_token_id", backend.token_to_id(token))
    adds = {bool: writer.add_bool, str: writer.add_string, list: writer.add_array, float: writer.add_float32}
    for name, value in fields.items():
        if not isinstance(value, np.ndarray):
            writer.kv_data[0].pop(name, None)
            adds.get(type(value), writer.add_uint32)(name, value)
    for name, weight in small.weights(directory).items():
        part, _, end = name.rpartition(".")
        layer = re.match(r"(?:transformer\.h|model\.layers)\.(\d+)\.(.*)", part)
        names = LLAMA if family == "llama" else GPT2
        heads = {"self_attn.q_proj": config.get("num_attention_heads"), "self_attn.k_proj": config.get("num_key_value_heads")}
        if layer and heads.get(layer[2]):
            weight = paired(weight, heads[layer[2]])
        if family == "gpt2" and layer and weight.dim() == 2:
            weight = weight.t()
        own = f"blk.{layer[1]}.{names[layer[2]]}" if layer else names[part]
        if own not in drop:
            writer.add_tensor(f"{own}.{end}", weight.contiguous().numpy())
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def state(out):
    return torch.load(out / "model.pt", weights_only=True)["model"]


@pytest.mark.parametrize(
    "family, changes",
    [
        ("gpt2", {}),
        ("llama", {}),
        ("llama", dict(tie_word_embeddings=False)),
        ("llama", dict(attention_bias=True, mlp_bias=True, head_dim=10)),
        ("llama", dict(tokenizer=small.smollm2_tokenizer, eos_token_id=2)),
    ],
    ids=["gpt2", "llama", "untied", "with biases", "smollm2"],
)
def test_the_same_as_from_the_directory(tmp_path, family, changes):
    directory = small.write(tmp_path / "published", family, **changes)
    fields = {"tokenizer.ggml.pre": "smollm"} if changes.get("tokenizer") else {}
    path = write(directory, family, **fields, **({"tokenizer.ggml.add_bos_token": False} if fields else {}))
    one, other = convert_decoder(directory, tmp_path / "one"), convert_decoder(path, tmp_path / "other")
    assert other.flags == one.flags
    toy.assert_same(state(tmp_path / "other"), state(tmp_path / "one"))
    for name in ("dict.txt", "decoder.json", "special_tokens_map.json"):
        assert (tmp_path / "other" / name).read_text() == (tmp_path / "one" / name).read_text(), name
    ours, theirs = load_tokenizer(tmp_path / "other"), load_tokenizer(tmp_path / "one")
    assert ours.encode_many(small.TEXTS) == theirs.encode_many(small.TEXTS)
    assert [ours.decode(line) for line in ours.encode_many(small.TEXTS)] == small.TEXTS


def test_a_directory_with_one_file(tmp_path, capsys):
    path = write(small.write(tmp_path / "published", "llama"), "llama")
    (tmp_path / "files").mkdir()
    shutil.move(path, tmp_path / "files" / "one.gguf")
    assert main([str(tmp_path / "files"), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "model.pt").is_file()
    shutil.copy(tmp_path / "published" / "config.json", tmp_path / "files")  # beside it, as some are published
    assert convert_decoder(tmp_path / "files", tmp_path / "again").family == "llama"
    shutil.copy(tmp_path / "files" / "one.gguf", tmp_path / "files" / "two.gguf")
    capsys.readouterr()
    assert main([str(tmp_path / "files"), str(tmp_path / "other")]) == 1
    assert "it has 2 GGUF files; name one of them" in capsys.readouterr().err


def test_a_directory_with_the_parts_of_one(tmp_path, capsys):
    path = write(small.write(tmp_path / "published", "llama"), "llama", **{"split.count": 2})
    (tmp_path / "files").mkdir()
    for part in (1, 2):
        shutil.copy(path, tmp_path / "files" / f"one-0000{part}-of-00002.gguf")
    assert main([str(tmp_path / "files"), str(tmp_path / "out")]) == 1
    assert "one-00001-of-00002.gguf: it is one of 2 parts; join them first" in capsys.readouterr().err


@pytest.mark.parametrize(
    "rule, says, start", [("llama-bpe", {}, "<s>"), ("gpt-2", {}, None), ("llama-bpe", {"add_bos_token": False}, None)]
)
def test_what_stands_before_a_text_where_the_header_does_not_say_it(tmp_path, rule, says, start):
    """As llama.cpp: before Llama 3's texts its begin token."""
    directory = small.write(tmp_path / "published", "llama", tokenizer=small.smollm2_tokenizer, eos_token_id=2)
    more = {f"tokenizer.ggml.{name}": value for name, value in {"pre": rule, **says}.items()}
    convert_decoder(write(directory, "llama", **more), tmp_path / "out")
    # Without one the separator of documents stands there, which this tokenizer has.
    assert load_tokenizer(tmp_path / "out").start == (start or "<|endoftext|>")


def test_headers_that_say_what_is_computed_anyway(tmp_path):
    """Heads and windows as they are without these settings."""
    says = {"llama.attention.key_length": 4, "llama.attention.value_length": 4, "llama.attention.sliding_window": 96}
    path = write(small.write(tmp_path / "published", "llama"), "llama", **says)
    assert convert_decoder(path, tmp_path / "out").family == "llama"


def test_what_lies_in_the_directory_to_write_to(tmp_path, capsys):
    """Published files are not written over, and those of another model are not taken for the converted one's."""
    directory = small.write(tmp_path / "published", "llama", tokenizer=small.smollm2_tokenizer, eos_token_id=2)
    path = shutil.move(write(directory, "llama"), directory / "one.gguf")
    before = {file.name: file.read_bytes() for file in directory.iterdir()}
    assert main([str(path), str(directory)]) == 1 and "choose another directory" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == before
    (tmp_path / "out").mkdir()
    other = {"eos_token": "Ġt", "add_bos_token": True, "added_tokens_decoder": {"7": {"content": "of another"}}}
    (tmp_path / "out" / "tokenizer_config.json").write_text(json.dumps(other))
    (tmp_path / "out" / "added_tokens.json").write_text('{"of a third": 8}')
    convert_decoder(path, tmp_path / "out")
    convert_decoder(path, tmp_path / "clean")
    one, two = (load_tokenizer(tmp_path / name) for name in ("out", "clean"))
    assert (one.symbols, one.special_tokens, one.start) == (two.symbols, two.special_tokens, two.start)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match="file: it is a file, and OUT is a directory to write to"):
        convert_decoder(path, tmp_path / "file")


def test_linear_scaling(tmp_path):
    directory = small.write(tmp_path / "published", "llama")
    path = write(directory, "llama", **{"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0})
    flags = convert_decoder(path, tmp_path / "out").flags
    assert flags[flags.index("--rope-scaling") :][:4] == ["--rope-scaling", "linear", "--rope-factor", "2.0"]


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "Q5_0", "F16"])
def test_quantized_numbers_become_floats(tmp_path, kind):
    """As the package's own reader and dequantization have them."""
    numbers = np.random.default_rng(0).standard_normal((48, 64)).astype(np.float32)
    kind = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(str(tmp_path / "one.gguf"), "llama")
    writer.add_tensor("first", gguf.quants.quantize(numbers, kind), raw_dtype=kind)
    writer.add_tensor("second", np.ones(3, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (theirs, _), file = gguf.GGUFReader(str(tmp_path / "one.gguf")).tensors, GGUF(tmp_path / "one.gguf")
    expected = gguf.quants.dequantize(theirs.data, theirs.tensor_type).astype(np.float32)
    assert torch.equal(file.tensor("first"), torch.from_numpy(expected)) and file.tensors["first"].shape == (48, 64)
    assert torch.equal(file.tensor("second"), torch.ones(3)) and abs(expected - numbers).max() < 0.5


def test_headers_are_read_as_the_package_reads_them(smollm2_file):
    file, theirs = GGUF(smollm2_file), gguf.GGUFReader(str(smollm2_file))
    fields = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert file.settings == fields
    places = {t.name: (tuple(map(int, t.shape[::-1])), int(t.tensor_type), t.data_offset, t.n_bytes) for t in theirs.tensors}
    assert {name: tuple(place) for name, place in file.tensors.items()} == places


ROPE = {"rope_freqs.weight": np.ones(2, np.float32)}
REFUSALS = {
    "another architecture": (dict(kind="qwen2"), "general.architecture is 'qwen2'; of GGUF files llama and gpt2 are converted"),
    "experts": ({"llama.expert_count": 8}, "it has llama.expert_count, which is not converted from GGUF"),
    "a scaling": ({"llama.rope.scaling.type": "yarn"}, "rope_type is 'yarn'"),
    "Llama 3.1's scaling": (ROPE, "it has rope_freqs.weight, .* take the published directory"),
    "no size": (dict(drop=["block_count"]), "its header has no size for num_hidden_layers"),
    "no table": (dict(drop=["token_embd"]), "it has no token_embd.weight"),
    "a lost weight": (dict(drop=["blk.1.ffn_up"]), "its weights have no layers.1.mlp.up_proj.weight"),
    "a further norm": (
        {"blk.0.attn_q_norm.weight": np.ones(4, np.float32)},
        "blk.0.attn_q_norm.weight is there, and a llama has no such weight",
    ),
    "a further bias": (
        {"blk.1.attn_norm.bias": np.ones(24, np.float32)},
        "layers.1.input_layernorm.bias is there, and by config.json there is no such weight",
    ),
    "another tokenizer": ({"tokenizer.ggml.model": "t5"}, "tokenizer.ggml.model is 't5'; read are 'gpt2' and 'llama'"),
    "a part of each head turned": (
        {"llama.attention.key_length": 4, "llama.rope.dimension_count": 2},
        "it has llama.rope.dimension_count 2 in heads of 4",
    ),
    "other values": ({"llama.attention.value_length": 8}, "it has llama.attention.value_length 8 in heads of 4"),
    "a window": ({"llama.attention.sliding_window": 64}, "it has llama.attention.sliding_window 64 in a context of 96"),
    "a list of architectures": ({"general.architecture": ["llama"]}, r"general.architecture must be a text, and is \['llama'\]"),
    "a list of scalings": ({"llama.rope.scaling.type": ["linear"]}, "llama.rope.scaling.type must be a text"),
    "a text for a size": ({"llama.block_count": "2"}, "llama.block_count must be a whole number, and is '2'"),
    "heads by layers": ({"llama.attention.head_count_kv": [2, 2]}, r"llama.attention.head_count_kv must be a whole number"),
    "no heads": ({"llama.attention.head_count": 0}, "num_attention_heads must be a whole number, 1 or larger"),
    "a number for merges": ({"tokenizer.ggml.merges": 5}, "tokenizer.ggml.merges must be a list, of which each part is a text"),
    "numbers for merges": ({"tokenizer.ggml.merges": [5, 6]}, "tokenizer.ggml.merges must be a list, .* a text; it has 5"),
    "merges of unknown tokens": ({"tokenizer.ggml.merges": ["no such"]}, "tokenizer.ggml.merges cannot be used: .*"),
    "a number for tokens": ({"tokenizer.ggml.tokens": 5}, "tokenizer.ggml.tokens must be a list, of which each part is a text"),
    "a number for types": ({"tokenizer.ggml.token_type": 5}, "tokenizer.ggml.token_type must be a list"),
    "a text for an end": ({"tokenizer.ggml.eos_token_id": "2"}, "tokenizer.ggml.eos_token_id must be a whole number, and is '2'"),
    "a text for a switch": ({"tokenizer.ggml.add_bos_token": "yes"}, "tokenizer.ggml.add_bos_token must be true or false"),
    "a context beyond all": (
        {"llama.context_length": 1 << 31},
        "max_position_embeddings must be a whole number, 1 or larger up to",
    ),
    "one of several parts": ({"split.count": 3, "split.no": 1}, "it is one of 3 parts; join them first: llama-gguf-split --merge"),
    "another rule": ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2"}, "tokenizer.ggml.pre is 'qwen2'; known rules"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_leave_nothing_behind(tmp_path, capsys, name):
    how, message = REFUSALS[name]
    path = write(small.write(tmp_path / "published", "llama"), "llama", **how)
    capsys.readouterr()
    assert main([str(path), str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {path}: ") and re.search(message, printed), printed
    assert not (tmp_path / "out").exists()


def header(*parts, version=3, tensors=0, settings=0):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, settings) + b"".join(parts)


def text(words):
    return struct.pack("<Q", len(words)) + words


HUGE = 1 << 60
BROKEN = {
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "it is a git-lfs pointer"),
    "something else": (b"not a model at all", "no GGUF file|it is a text"),
    "nothing": (b"", "it is empty"),
    "a cut header": (header(settings=3), "cut off: its header has not ended at byte 24"),
    "another version": (header(version=1), "it is of version 1"),
    "the other order of bytes": (header(version=3 << 24), "of version 50331648; 2 and 3 are read, in little-endian order"),
    "a text without end": (header(struct.pack("<Q", HUGE), settings=1), "cut off"),
    "a list without end": (header(text(b"a"), struct.pack("<IIQ", 9, 5, HUGE), settings=1), "cut off"),
    "a list of texts without end": (header(text(b"a"), struct.pack("<IIQ", 9, 8, HUGE), settings=1), "cut off"),
    "lists in lists": (header(text(b"a"), struct.pack("<IIQI", 9, 9, 1, 9), settings=1), "a setting is of kind 9"),
    "settings without end": (header(settings=HUGE), "cut off"),
    "no letters": (header(text(b"\xff\xfe"), struct.pack("<II", 4, 1), settings=1), "utf-8"),
    "many dimensions": (header(text(b"a"), struct.pack("<I", 9), tensors=1), "9 dimensions"),
    "a tensor beyond the end": (header(text(b"a"), struct.pack("<IQIQ", 1, HUGE, 0, 0), tensors=1), "it is cut off: a ends at"),
    "no numbers": (header(text(b"a"), struct.pack("<IQQIQ", 2, 0, 1 << 33, 0, 0), tensors=1), r"a has shape \(8589934592, 0\)"),
    "an unknown kind": (header(text(b"a"), struct.pack("<IQIQ", 1, 2, 999, 0), tensors=1), "a is of kind 999"),
    "half a block": (header(text(b"a"), struct.pack("<IQIQ", 1, 33, 8, 0), tensors=1), "rows of 33 numbers, and .* blocks of 32"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(tmp_path, capsys, name):
    content, message = BROKEN[name]
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    assert main([str(path), str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {path}: cannot be read: ") and re.search(message, printed), printed
