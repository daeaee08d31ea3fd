"""Converted decoders compute what `transformers` computes: its ids, and its fp32 logits to 1e-4 of their range."""

import published_decoders as small
import pytest
import torch
import toy  # noqa: F401  registers the plugin

from sharp_plugins.convert.decoder_backbone import load_decoder, load_decoder_model
from sharp_plugins.convert.decoder_conversion import convert_decoder
from sharp_plugins.convert.logits import logits_of

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

BRANCHES = {
    "gpt2": ("gpt2", {}),
    "gpt2, erf, narrow inside, padded vocabulary": ("gpt2", dict(activation_function="gelu", n_inner=20, padding=7)),
    "gpt2, untied": ("gpt2", dict(tie_word_embeddings=False)),
    "gpt2, other dropouts": ("gpt2", dict(resid_pdrop=0.0, embd_pdrop=0.2, attn_pdrop=0.3)),
    "opt-125m": ("opt", {}),
    "opt-350m": ("opt", dict(do_layer_norm_before=False, word_embed_proj_dim=16, padding=7)),
    "opt, no final norm": ("opt", dict(_remove_final_layer_norm=True)),
    "opt, no biases (galactica)": ("opt", dict(enable_bias=False, activation_function="gelu")),
    "llama": ("llama", {}),
    "llama, padded vocabulary": ("llama", dict(padding=5)),
    "llama, one head of keys": ("llama", dict(num_key_value_heads=1)),
    "llama, all heads of keys, untied": ("llama", dict(num_key_value_heads=6, tie_word_embeddings=False)),
    "llama, head_dim": ("llama", dict(head_dim=10)),
    "llama, biases": ("llama", dict(attention_bias=True, mlp_bias=True)),
    "llama, linear": ("llama", dict(rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0})),
    "llama 3": ("llama", dict(rope_parameters={**small.LLAMA3, "rope_theta": 1000.0})),
    "smollm2": ("llama", dict(tokenizer=small.smollm2_tokenizer, eos_token_id=2, pad_token_id=2)),
}


def assert_agree(directory, out, texts):
    """Ids of all texts, and logits of all their tokens."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(str(directory), dtype=torch.float32).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(str(directory))
    backbone, ours = load_decoder(out), load_decoder_model(out)
    published, dictionary = torch.tensor(backbone.tokenizer.published_ids), backbone.dictionary
    used = published >= 0
    assert sorted(published[used].tolist()) == list(range(theirs.config.vocab_size))
    for text in texts:
        ids = their_tokenizer(text)["input_ids"]
        rows = [dictionary.index(symbol) for symbol in backbone.tokenizer.encode(text)]
        begun = [index for index in ids[:1] if len(ids) == len(rows) + 1]
        assert begun + published[rows].tolist() == ids, text
        if begun:
            assert backbone.start == dictionary[backbone.tokenizer.published_ids.index(begun[0])]
        assert backbone.tokenizer.decode(dictionary[row] for row in rows) == text
        if not ids:
            continue
        tokens = torch.tensor([[backbone.tokenizer.published_ids.index(index) for index in ids]])
        with torch.no_grad():
            one, other = ours(tokens)[0][0], theirs(torch.tensor([ids])).logits[0]
        assert torch.isneginf(one[:, ~used]).all()
        reach = float(other.max() - other.min())
        assert reach > 1
        difference = float((one[:, used] - other[:, published[used]]).abs().max())
        assert difference <= 1e-4 * reach, f"{text!r}: {difference} of {reach}"


@pytest.mark.parametrize("branch", BRANCHES)
def test_small_models(tmp_path, branch):
    family, changes = BRANCHES[branch]
    directory = small.write(tmp_path / "published", family, **changes)
    convert_decoder(directory, tmp_path / "out")
    assert_agree(directory, tmp_path / "out", small.TEXTS)


def test_what_the_dictionaries_symbols_are(tmp_path):
    def converted(family, **changes):
        convert_decoder(small.write(tmp_path / family, family, **changes), tmp_path / f"{family}-out")
        return load_decoder(tmp_path / f"{family}-out")

    gpt2 = converted("gpt2")
    assert gpt2.tokenizer.unused == ["<s>", "<pad>", "<unk>"] and gpt2.start == "</s>"
    assert gpt2.tokenizer.published_ids[:6] == [-1, -1, gpt2.tokenizer.rows - 1, -1, 0, 1]
    opt = converted("opt", padding=3)
    assert opt.tokenizer.unused == [] and opt.start == "</s>"
    assert opt.tokenizer.published_ids == list(range(opt.tokenizer.rows))  # fairseq's own order
    assert opt.dictionary.symbols[-2:] == [f"<token:{opt.tokenizer.rows - n}>" for n in (2, 1)]
    llama = converted("llama")
    assert llama.tokenizer.unused == ["<pad>"] and llama.start == "<s>"
    assert llama.tokenizer.published_ids[:5] == [1, -1, 2, 0, 3]
    smollm2 = converted("llama", tokenizer=small.smollm2_tokenizer, pad_token_id=2)
    assert smollm2.tokenizer.unused == ["<pad>", "<unk>"] and smollm2.start == "<|endoftext|>"
    assert smollm2.tokenizer.published_ids[:6] == [1, -1, 2, -1, 0, 3]
    assert smollm2.flags[-2:] == ["--unused-symbols", "<pad> <unk>"]


def test_logits_after_a_text(tmp_path):
    """Over the published vocabulary; with another start, and with none."""
    directory = small.write(tmp_path / "published", "gpt2")
    convert_decoder(directory, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(str(directory)).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(directory))
    end = tokenizer.eos_token_id
    for start, before, name in ((None, [end], "<|endoftext|>"), ("none", [], None), ("e", tokenizer("e")["input_ids"], "e")):
        for text, found in zip(small.SENTENCES, logits_of(tmp_path / "out", small.SENTENCES[:3], start)):
            assert (found["ids"], found["start"]) == (before + tokenizer(text)["input_ids"], name)
            with torch.no_grad():
                logits = theirs(torch.tensor([found["ids"]])).logits[0, -1].double()
            expected = [float(v) for v in (logits.max(), logits.mean(), logits.min(), logits.logsumexp(0))]
            assert [found[key] for key in ("max", "mean", "min", "logsumexp")] == pytest.approx(expected, rel=1e-4, abs=1e-4)
