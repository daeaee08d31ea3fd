"""A real decoder, SmolLM2-135M-Instruct from its GGUF file: weights, ids, logits and perplexity are those that are known."""

import json

import published
import pytest
import torch
import toy  # noqa: F401  registers the plugin

from sharp_plugins.convert.decoder_backbone import load_decoder, load_decoder_model
from sharp_plugins.convert.logits import logits_of
from sharp_plugins.text.converted import load_tokenizer

pytestmark = pytest.mark.slow


def webnlg(data, name):
    """The entries of a split, from shared/data."""
    with open(data / "webnlg2017" / name, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def model(smollm2_converted):
    return load_decoder_model(smollm2_converted)


def test_what_it_is(smollm2_converted):
    found = load_decoder(smollm2_converted)
    assert found.flags == ["--arch", "sharp_smollm2_135m", "--unused-symbols", "<pad> <unk>"]
    assert (found.family, found.max_positions, found.start) == ("llama", 8192, "<|endoftext|>")
    assert found.dictionary.symbols[:6] == ["<s>", "<pad>", "</s>", "<unk>", "<|endoftext|>", "<repo_name>"]
    assert len(found.dictionary) == 49154 and found.tokenizer.published_ids[:6] == [1, -1, 2, -1, 0, 3]


def test_weights_are_bit_equal_to_transformers(smollm2_converted, smollm2_transformers):
    from safetensors.torch import load_file

    theirs = load_file(smollm2_transformers / "model.safetensors")
    state = torch.load(smollm2_converted / "model.pt", weights_only=True, mmap=True)["model"]
    names = {"fc1": "mlp.up_proj", "fc_gate": "mlp.gate_proj", "fc2": "mlp.down_proj", "self_attn.out_proj": "self_attn.o_proj"}
    names |= {f"self_attn.{part}_proj": f"self_attn.{part}_proj" for part in "qkv"}
    names |= {"self_attn_layer_norm": "input_layernorm", "final_layer_norm": "post_attention_layernorm"}
    pairs = {"decoder.layer_norm": "model.norm"}
    pairs |= {f"decoder.layers.{n}.{own}": f"model.layers.{n}.{name}" for n in range(30) for own, name in names.items()}
    assert len(pairs) + 1 == len(theirs)
    for own, name in pairs.items():
        assert torch.equal(state[f"{own}.weight"], theirs[f"{name}.weight"]), own
    rows = torch.tensor(load_tokenizer(smollm2_converted).published_ids)
    table, expected = state["decoder.embed_tokens.weight"], theirs["model.embed_tokens.weight"]
    assert torch.equal(table[rows >= 0], expected[rows[rows >= 0]]) and not table[rows < 0].any()


def test_logits_after_a_prompt(smollm2_converted):
    """The published numbers of transformers' model."""
    (found,) = logits_of(smollm2_converted, ["The capital of France is"])
    assert found["ids"] == [0, 504, 3575, 282, 4649, 314] and found["start"] == "<|endoftext|>"
    for name, value in dict(max=17.0761, mean=-2.8497, min=-23.2641, logsumexp=17.2919).items():
        assert found[name] == pytest.approx(value, abs=2e-3), name


def test_perplexity_of_webnlg(smollm2_converted, model, data_beside):
    """53.89 after ``<|endoftext|>``: the first text of every 17th set, 50 texts."""
    texts = [entry["refs"][0] for entry in webnlg(data_beside, "dev.jsonl")[::17][:50]]
    backbone = load_decoder(smollm2_converted)
    lines = [[backbone.start, *symbols] for symbols in backbone.tokenizer.encode_many(texts)]
    rows = torch.full((len(lines), max(map(len, lines))), backbone.dictionary.pad())
    for row, line in zip(rows, lines):
        row[: len(line)] = torch.tensor([backbone.dictionary.index(symbol) for symbol in line])
    with torch.inference_mode():
        features = model.decoder.features(rows[:, :-1])
        wanted = rows[:, 1:] != backbone.dictionary.pad()
        losses = torch.nn.functional.cross_entropy(
            model.decoder.output_layer(features[wanted]), rows[:, 1:][wanted], reduction="sum"
        )
    assert int(wanted.sum()) == 1534
    assert float((losses / wanted.sum()).exp()) == pytest.approx(53.89, abs=0.01)


def lines_of_data(data):
    """10,000 texts: of WebNLG, its triples among them, and of GLUE."""
    lines = []
    for entry in webnlg(data, "dev.jsonl") + webnlg(data, "test.jsonl"):
        lines += [*entry["refs"], " | ".join(" : ".join(triple) for triple in entry["triples"])]
    lines = lines[:7000]
    for name in ("CoLA", "MRPC", "RTE", "SST-2", "STS-B"):
        lines += (data / "glue" / name / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:1000]
    return lines[:10_000]


@pytest.mark.parametrize("texts", ["made up", "data"])
def test_ids_are_those_of_transformers(smollm2_converted, smollm2_transformers, texts, request):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(smollm2_transformers))
    tokenizer = load_tokenizer(smollm2_converted)
    if texts == "data":
        lines = lines_of_data(request.getfixturevalue("data_beside"))
    else:
        lines = [*published.SENTENCES, "  two  spaces ", " 12  345", "\u00bd cup", "<|im_end|>"]
    ids = dict(zip(tokenizer.symbols, tokenizer.published_ids))
    symbols = tokenizer.encode_many(lines)
    assert len(lines) == 10_000 or texts == "made up"
    for line, ours, expected in zip(lines, symbols, theirs(lines, add_special_tokens=False)["input_ids"]):
        assert [ids[symbol] for symbol in ours] == expected, line
        assert tokenizer.decode(ours) == line
