"""What is refused of decoders: before any work, in one line that names the file, and with nothing left behind."""

import json
import pickle
import re
import shutil

import published
import published_decoders as small
import pytest
import torch
import toy  # noqa: F401  registers the plugin

from sharp_plugins.convert.__main__ import main
from sharp_plugins.convert.decoder_backbone import load_decoder
from sharp_plugins.convert.decoder_conversion import convert_decoder

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

LAYER = {"gpt2": "transformer.h.1.", "opt": "model.decoder.layers.1.", "llama": "model.layers.1."}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    for family in LAYER:
        small.write(root / family, family)
    return root


def config(**changes):
    return lambda directory: small.change_config(directory, **changes)


def weights(change):
    def spoil(directory):
        tensors = small.weights(directory)
        change(tensors)
        small.rewrite(directory, tensors)

    return spoil


def put(**tensors):
    return weights(lambda all: all.update({name.replace("__", "."): value for name, value in tensors.items()}))


def drop(name):
    return weights(lambda all: all.pop(name))


def cut(name):
    def spoil(directory):
        small.rewrite(directory, small.weights(directory), safe=name.endswith("safetensors"), shards=3)
        path = directory / name
        path.write_bytes(path.read_bytes()[:-40])

    return spoil


def lose(name, safe=True):
    def spoil(directory):
        small.rewrite(directory, small.weights(directory), safe, shards=3)
        (directory / name).unlink()

    return spoil


def misplace(directory):
    """The index says another shard than that which holds the weight."""
    small.rewrite(directory, small.weights(directory), shards=3)
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    for name, place in index["weight_map"].items():
        index["weight_map"][name] = place.replace("00002-of", "00001-of")
    path.write_text(json.dumps(index))


def point_outside(directory):
    small.rewrite(directory, small.weights(directory), shards=3)
    path = directory / "model.safetensors.index.json"
    path.write_text(path.read_text().replace("model-00002-of", "../model-00002-of"))


def point_above(directory):
    small.rewrite(directory, small.weights(directory), shards=3)
    path = directory / "model.safetensors.index.json"
    path.write_text(path.read_text().replace("model-00002-of-00003.safetensors", ".."))


def pickled(directory):
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps({"transformer.h.0.ln_1.weight": torch.ones(24)}, protocol=4))


def other_tokenizer(of):
    """The files of the tokenizer of a model with more tokens."""

    def spoil(directory):
        for path in [*directory.glob("tokenizer*"), *directory.glob("vocab*"), *directory.glob("merges*")]:
            path.unlink()
        of(directory)

    return spoil


def plain_end(directory):
    """GPT-2's tokenizer, whose files name no token of any role, for another model's config."""
    small.gpt2_tokenizer(directory)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (directory / name).unlink(missing_ok=True)
    assert json.loads((directory / "vocab.json").read_text())["#"] == 2
    small.change_config(directory, eos_token_id=2, bos_token_id=2, pad_token_id=1)


def fewer_tokens(directory):
    vocabulary = json.loads((directory / "vocab.json").read_text())
    size = small.model("gpt2", vocab_size=len(vocabulary) + 512)
    size.save_pretrained(directory)


def sentencepiece_alone(directory):
    (directory / "tokenizer.json").rename(directory / "tokenizer.model")


def role(**names):
    def spoil(directory):
        path = directory / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **names}))

    return spoil


TABLE = torch.ones(7, 24)
LINEAR = {"type": "linear", "factor": 2.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}
REFUSALS = {
    "another type": ("llama", config(model_type="mistral"), r"model_type is 'mistral'; only 'bert'.* 'gpt2', 'llama' and 'opt'"),
    "no type": ("llama", config(model_type=None), "model_type is None"),
    "scaled by layers": ("gpt2", config(scale_attn_by_inverse_layer_idx=True), "json: scale_attn_by_inverse_layer_idx is True"),
    "reordered": ("gpt2", config(reorder_and_upcast_attn=True), "config.json: reorder_and_upcast_attn is True"),
    "not scaled": ("gpt2", config(scale_attn_weights=False), "config.json: scale_attn_weights is False"),
    "cross attention": ("gpt2", config(add_cross_attention=True), "config.json: add_cross_attention is True"),
    "an activation": ("gpt2", config(activation_function="tanh"), "activation_function is 'tanh'; sharp_decoder has relu, gelu"),
    "another activation": ("llama", config(hidden_act="relu6"), "hidden_act is 'relu6'"),
    "norms without weights": ("opt", config(layer_norm_elementwise_affine=False), "layer_norm_elementwise_affine is False"),
    "a scaling": ("llama", config(rope_parameters=YARN), "rope_type is 'yarn' .* known are default, linear, llama3"),
    "an old scaling": (
        "llama",
        config(rope_parameters=None, rope_scaling={"type": "dynamic", "factor": 2.0}),
        "rope_type is 'dynamic'",
    ),
    "two scalings": (
        "llama",
        config(rope_parameters={"rope_type": "default", "rope_theta": 1e4}, rope_scaling=LINEAR),
        "config.json: rope_parameters and rope_scaling differ; take out the one that does not hold",
    ),
    "two bases": (
        "llama",
        config(rope_parameters={**LINEAR, "rope_theta": 5e5}, rope_scaling=LINEAR),
        "config.json: rope_parameters and rope_scaling differ",
    ),
    "half a scaling": ("llama", config(rope_parameters={"rope_type": "llama3", "factor": 8.0}), "low_freq_factor, .* missing"),
    "a part turned": ("llama", config(partial_rotary_factor=0.5), "partial_rotary_factor is 0.5"),
    "quantized": ("llama", config(quantization_config={"bits": 4}), "quantization_config is"),
    "no size": ("opt", config(ffn_dim=None), "config.json: ffn_dim missing"),
    "a size that is none": ("llama", config(num_hidden_layers="2"), "num_hidden_layers must be a whole number"),
    "a dropout that is none": ("gpt2", config(resid_pdrop=1.5), "resid_pdrop must be a number from 0 to below 1"),
    "heads": ("gpt2", config(n_head=5), "the width of the layers, 24, is no multiple of the 5 heads"),
    "heads of keys": ("llama", config(num_key_value_heads=4), "num_attention_heads, 6, is no multiple of num_key_value_heads"),
    "fewer layers": ("gpt2", config(n_layer=1), "its weights are of 2 layers, and config.json says 1"),
    "absurd layers": ("llama", config(num_hidden_layers=10**9), "of 2 layers, and config.json says 1000000000"),
    "absurd width": ("opt", config(hidden_size=1999999998, word_embed_proj_dim=1999999998), r"should have \(\d+, 1999999998\)"),
    "absurd positions": ("gpt2", config(n_positions=10**9), r"wpe.weight has shape \(96, 24\), .* \(1000000000, 24\)"),
    "another width inside": ("llama", config(intermediate_size=48), r"mlp.up_proj.weight has shape \(40, 24\), .* \(48, 24\)"),
    "absurd words": ("gpt2", config(vocab_size=10**9), r"wte.weight has shape \(263, 24\), .* \(1000000000, 24\)"),
    "beyond all": ("llama", config(max_position_embeddings=10**30), "max_position_embeddings must be a whole .* to 2147483647"),
    "a list of types": ("llama", config(model_type=["llama"]), r"model_type is \['llama'\]"),
    "a list of activations": ("llama", config(hidden_act=["silu"]), r"hidden_act is \['silu'\]"),
    "a list of scalings": ("llama", config(rope_parameters={"rope_type": ["linear"], "factor": 2.0}), r"rope_type is \['linear'\]"),
    "a number of 400 digits": ("llama", config(rms_norm_eps=10**400), "rms_norm_eps must be .* and is a number of more than 60"),
    "a base of 400 digits": ("llama", config(rope_parameters=None, rope_theta=10**400), "config.json: rope_theta must be a number"),
    "no base": ("llama", config(rope_parameters=None, rope_theta=0), "config.json: rope_theta must be a number larger than 0"),
    "no epsilon": ("gpt2", config(layer_norm_epsilon=0.0), "config.json: layer_norm_epsilon must be a number larger than 0"),
    "a squeeze": ("llama", config(rope_parameters={"rope_type": "linear", "factor": 0.5}), "json: factor must be 1 or larger"),
    "frequencies": (
        "llama",
        config(rope_parameters={**small.LLAMA3, "low_freq_factor": 9.0, "rope_theta": 1e4}),
        "published: by its config the decoder's rope_low_freq_factor must be between 0 and rope_high_freq_factor",
    ),
    "an odd head": ("llama", config(head_dim=5), "published: .*"),
    "a bias too much": ("opt", config(enable_bias=False), r"bias is there, and by config.json there is no such weight"),
    "no bias": ("llama", config(attention_bias=True), "its weights have no model.layers.0.self_attn.q_proj.bias"),
    "no final norm": ("opt", drop("model.decoder.final_layer_norm.weight"), "norm.weight; .*_remove_final_layer_norm true"),
    "a lost weight": ("gpt2", drop("transformer.h.1.mlp.c_fc.bias"), "its weights have no transformer.h.1.mlp.c_fc.bias"),
    "no table": ("llama", drop("model.embed_tokens.weight"), "its weights have no model.embed_tokens.weight"),
    "untied without a head": ("llama", config(tie_word_embeddings=False), "its weights have no lm_head.weight"),
    "tied with another head": ("gpt2", put(lm_head__weight=torch.ones(263, 24)), "lm_head.weight is another table than"),
    "a head of another size": ("llama", put(lm_head__weight=TABLE), r"lm_head.weight has shape \(7, 24\)"),
    "numbers that are none": (
        "llama",
        put(model__norm__weight=torch.ones(24, dtype=torch.int8)),
        "model.norm.weight is I8; plain floating-point weights",
    ),
    "a weight too much": ("gpt2", put(transformer__h__1__extra=TABLE), "transformer.h.1.extra is there, and by config.json"),
    "two models": ("llama", put(other__layers__0__mlp__down_proj__weight=TABLE), "one llama model is expected; 2 weights end in"),
    "another family's": ("gpt2", config(model_type="opt", hidden_size=24, ffn_dim=96, num_hidden_layers=2, num_attention_heads=3,
                                        max_position_embeddings=94), "one opt model is expected; 0 weights"),
    "a lost shard": ("gpt2", lose("model-00002-of-00003.safetensors"), "1 of the 3 shards .* not there: model-00002-of-00003.safe"),
    "a lost torch shard": ("gpt2", lose("pytorch_model-00003-of-00003.bin", False), "not there: pytorch_model-00003-of-00003.bin"),
    "a cut shard": ("opt", cut("model-00003-of-00003.safetensors"), "3-of-00003.safetensors: cannot be read: it is cut off"),
    "a cut torch shard": ("opt", cut("pytorch_model-00001-of-00003.bin"), "1-of-00003.bin: cannot be read: it is cut"),
    "a wrong index": ("gpt2", misplace, "1-of-00003.safetensors: it has no transformer.*, and model.safetensors.index.json"),
    "an index that points outside": ("gpt2", point_outside, r"\.\./model-00002-of-.* is no name of a file beside it"),
    "an index that points above": ("gpt2", point_above, r"index.json: '..' is no name of a file beside it"),
    "a bare pickle": ("gpt2", pickled, "cannot be read safely: it holds a pickle .* which could run code"),
    "numbers that are not finite": (
        "llama",
        weights(lambda all: all["model.layers.1.mlp.up_proj.weight"][3].fill_(float("nan"))),
        "up_proj.weight: it has numbers that are not finite",
    ),
    "an infinite number": (
        "gpt2",
        weights(lambda all: all["transformer.wte.weight"][7, 3].fill_(float("-inf"))),
        "wte.weight: it has numbers that are not finite",
    ),
    "no weights": ("gpt2", lambda d: (d / "model.safetensors").unlink(), "no weights there; expected is one of model.safetensors"),
    "no tokenizer": ("gpt2", lambda d: (d / "merges.txt").unlink(), "no tokenizer there. Expected is tokenizer.json, or"),
    "sentencepiece alone": ("llama", sentencepiece_alone, "tokenizer.model alone is not read. .*save_pretrained"),
    "another model's tokenizer": ("gpt2", other_tokenizer(small.llama_tokenizer), "tokenizer is another model's: "),
    "a tokenizer of the same size": ("gpt2", role(eos_token="Ġthe"), "another model's: the token that ends .* 'Ġthe', number 258"),
    "a tokenizer that names no end": (
        "opt",
        plain_end,
        "another model's: config.json says eos_token_id 2, which is '#' there, a plain part of texts; if it is right, name",
    ),
    "far fewer tokens": ("gpt2", fewer_tokens, "another model's: it has 263 tokens .* and the model's table of words has 775 rows"),
    "a text for an end": ("gpt2", config(eos_token_id="2"), "config.json: eos_token_id must be a token's number, .* and is '2'"),
    "a list of texts for an end": ("gpt2", config(eos_token_id=["2"]), r"eos_token_id must be a token's number, .* is \['2'\]"),
    "a list of beginnings": ("gpt2", config(bos_token_id=[1, 2]), "config.json: bos_token_id must be a token's number"),
    "a number for a token": ("gpt2", role(eos_token=5), "eos_token must be a text, and is 5"),
    "a token without content": ("llama", role(pad_token={"content": None}), "pad_token must be a text, and is {'content': None}"),
    "a text for a switch": ("llama", role(add_bos_token="yes"), "add_bos_token must be true or false, and is 'yes'"),
    "another class": ("gpt2", role(tokenizer_class="BloomTokenizer"), "BloomTokenizer in tokenizer_config.json cannot be followed"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_leave_nothing_behind(directories, tmp_path, capsys, name):
    family, spoil, message = REFUSALS[name]
    directory, out = shutil.copytree(directories / family, tmp_path / "published"), tmp_path / "out"
    spoil(directory)
    capsys.readouterr()  # transformers' progress
    assert main([str(directory), str(out)]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {directory}") and not printed.out and not out.exists()
    assert re.search(message, printed.err) and len(printed.err.splitlines()) == 1, printed.err


def test_all_ends_of_the_config_are_told(directories, tmp_path, capsys):
    directory = shutil.copytree(directories / "gpt2", tmp_path / "published")
    vocabulary = json.loads((directory / "vocab.json").read_text())
    small.change_config(directory, eos_token_id=[vocabulary["<|endoftext|>"], vocabulary["Ġthe"], vocabulary["."]])
    assert main([str(directory), str(tmp_path / "out")]) == 0
    assert "by its published configs these end a text too: fairseq-generate --stop-symbols 'Ġthe .'" in capsys.readouterr().out


@pytest.mark.parametrize("end", [10**20, [10**20], [-5], -5])
def test_ends_that_are_no_token(directories, tmp_path, capsys, end):
    """Refused, or taken for the usual config's where the vocabulary has no such id; and never with a traceback."""
    directory = shutil.copytree(directories / "gpt2", tmp_path / "published")
    small.change_config(directory, eos_token_id=end)
    status = main([str(directory), str(tmp_path / "out")])
    assert status == (end in (-5, [-5])) and capsys.readouterr().err.startswith("error: " if status else "")


def test_a_source_that_is_one_of_the_files(directories, tmp_path, capsys):
    for name in ("model.safetensors", "config.json"):
        assert main([str(directories / "gpt2" / name), str(tmp_path / "out")]) == 1
        assert (
            f"{name}: SOURCE is a GGUF file or a directory; name the directory, {directories / 'gpt2'}" in capsys.readouterr().err
        )


def test_numbers_too_large_for_fp16(directories, tmp_path, capsys):
    directory = shutil.copytree(directories / "gpt2", tmp_path / "published")
    weights(lambda all: all["transformer.h.0.mlp.c_fc.bias"].fill_(1e6))(directory)
    assert main([str(directory), str(tmp_path / "out"), "--dtype", "fp16"]) == 1
    assert "c_fc.bias: it has numbers that are too large for fp16; choose --dtype bf16 or fp32" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([str(directory), str(tmp_path / "out"), "--dtype", "bf16"]) == 0


def test_an_encoder_is_no_decoder_and_a_decoder_no_encoder(directories, tmp_path, capsys):
    from sharp_plugins.text.encoder_directory import load_backbone

    published.write_bert(tmp_path / "bert")
    assert main([str(tmp_path / "bert"), str(tmp_path / "encoder"), "--dtype", "bf16"]) == 1
    assert "--dtype bf16: only decoders" in capsys.readouterr().err
    assert main([str(directories / "gpt2"), str(tmp_path / "decoder"), "--redraw-layers", "1"]) == 1
    assert "--redraw-layers 1: only an encoder's" in capsys.readouterr().err and not (tmp_path / "decoder").exists()
    assert main([str(directories / "gpt2"), str(tmp_path / "decoder"), "--keep-layers", "1"]) == 1
    assert "--keep-layers 1: only an encoder's" in capsys.readouterr().err and not (tmp_path / "decoder").exists()
    assert main([str(tmp_path / "bert"), str(tmp_path / "encoder")]) == 0
    convert_decoder(directories / "gpt2", tmp_path / "decoder")
    with pytest.raises(FileNotFoundError, match="encoder/decoder.json: not there; .* and this seems to be an encoder"):
        load_decoder(tmp_path / "encoder")
    with pytest.raises(ValueError, match="it holds a converted decoder; --backbone wants an encoder"):
        load_backbone(tmp_path / "decoder")
    capsys.readouterr()
    assert main(["logits", str(tmp_path / "encoder")]) == 1
    assert "and this seems to be an encoder" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_an_encoder_over_a_decoder_and_a_decoder_over_an_encoder(directories, tmp_path, capsys, kind):
    """Refused: a file of the first alone would stay, and say of what kind the second is."""
    sources = {"encoder": published.write_bert(tmp_path / "bert"), "decoder": directories / "gpt2"}
    first, second, out = sources.pop(kind), *sources.values(), tmp_path / "out"
    assert main([str(first), str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main([str(second), str(out)]) == 1
    told = capsys.readouterr().err
    assert re.search(f"out: it holds an? {kind} that was converted, and this is an? .*; choose another directory", told)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert main([str(first), str(out)]) == 0  # over its own kind


@pytest.mark.parametrize("name", ["dict.txt", "decoder.json", "model.pt"])
def test_parts_of_two_decoders(directories, tmp_path, name):
    convert_decoder(directories / "gpt2", tmp_path / "out")
    convert_decoder(directories / "llama", tmp_path / "other")
    shutil.copy(tmp_path / "other" / name, tmp_path / "out" / name)
    with pytest.raises(ValueError, match="do not fit together"):
        load_decoder(tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}: not there"):
        load_decoder(tmp_path / "out")
