"""The tokens that may end a text: which symbols they are, and that a converted decoder ends there as transformers does."""

import json
import re
import shlex

import published_decoders as small
import pytest
import torch
import toy  # noqa: F401  registers the plugin
from fairseq.dataclass.configs import GenerationConfig

from sharp_plugins.convert.__main__ import main
from sharp_plugins.convert.decoder_backbone import load_decoder, load_decoder_model
from sharp_plugins.generation import build_generator
from sharp_plugins.generation.flags import GenerationFlags

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")


def published(directory, roles, **changes):
    """A small Llama with SmolLM2's tokenizer, where <|endoftext|>, <|im_start|> and <|im_end|> are 0, 1 and 2."""
    small.write(directory, "llama", tokenizer=small.smollm2_tokenizer, tie_word_embeddings=False, **changes)
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **roles}))
    weights = small.weights(directory)
    weights["lm_head.weight"][:3] *= 3  # so that texts end soon
    small.rewrite(directory, weights)
    return directory


def printed_stops(directory, out, capsys):
    """The value of --stop-symbols that the command prints; empty where it prints none."""
    capsys.readouterr()
    assert main([str(directory), str(out)]) == 0
    found = re.search(r"--stop-symbols (.*)", capsys.readouterr().out)
    return shlex.split(found[1])[0] if found else ""


def assert_ends_alike(directory, out, stops, ends):
    """Greedy texts after prompts that begin with the start are those of transformers; each of *ends* ends one."""
    found, model = load_decoder(out), load_decoder_model(out)
    words, ids = found.dictionary, found.tokenizer.published_ids
    more = GenerationFlags(stop_symbols=stops)
    generator = build_generator([model], words, GenerationConfig(beam=1, max_len_a=0, max_len_b=30), more)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(str(directory), dtype=torch.float32).eval()
    met = set()
    for letter in "abcdefghijklmnopqrst":
        row = torch.tensor([[words.index(symbol) for symbol in (found.start, *found.tokenizer.encode(f"the {letter}"))]])
        [[best]] = generator.generate([model], {"net_input": {"src_tokens": row}})
        tokens = [ids[index] for index in best["tokens"].tolist()]
        prompt = torch.tensor([[ids[index] for index in row[0].tolist()]])
        out = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=30, min_new_tokens=1, do_sample=False)
        assert tokens == out[0, prompt.size(1) :].tolist()
        met.add(tokens[-1])
    assert ends <= met


@pytest.mark.parametrize(
    "roles, ends, stops",
    [
        (dict(pad_token="<|endoftext|>"), [0, 2], "<|endoftext|>"),  # an end, and what stands before a text
        (dict(pad_token="<|endoftext|>"), [2], ""),
        (dict(pad_token="<|im_start|>", bos_token=None), [2, 1], "<|im_start|>"),
    ],
)
def test_a_padding_token_that_ends_or_begins_a_text(tmp_path, capsys, roles, ends, stops):
    """It is a symbol like any other: generation neither writes <pad> nor takes it in a prompt."""
    directory = published(tmp_path / "published", roles, eos_token_id=ends, bos_token_id=None, pad_token_id=0)
    assert printed_stops(directory, tmp_path / "out", capsys) == stops
    found = load_decoder(tmp_path / "out")
    assert found.start == "<|endoftext|>" and "<pad>" in found.unused
    assert_ends_alike(directory, tmp_path / "out", stops, set(ends))


@pytest.mark.parametrize(
    "ends, more, stops",
    [
        (2, [2, 1], "<s>"),
        ([2, 1], None, "<s>"),
        ([2, 1], [0, 2, 1], "<s> <|endoftext|>"),
        (None, [0, 2], "<|endoftext|>"),
        (2, [10**6, -1, 2, 0], "<|endoftext|>"),  # two of no row of the table
    ],
)
def test_ends_of_the_generation_config(tmp_path, capsys, ends, more, stops):
    """transformers takes them from this file, and from config.json where there is none."""
    directory = published(tmp_path / "published", {}, eos_token_id=ends)
    path = directory / "generation_config.json"
    path.unlink() if more is None else path.write_text(json.dumps({"eos_token_id": more}))
    assert printed_stops(directory, tmp_path / "out", capsys) == stops
    assert_ends_alike(directory, tmp_path / "out", stops, {id for id in more or ends if id in (0, 1, 2)})


def test_a_generation_config_that_says_no_ends(tmp_path, capsys):
    directory = published(tmp_path / "published", {}, eos_token_id=2)
    for content, message in (('{"eos_token_id": "2"}', "eos_token_id must be a token's number"), ("{", "cannot be read")):
        (directory / "generation_config.json").write_text(content)
        capsys.readouterr()
        assert main([str(directory), str(tmp_path / "out")]) == 1
        assert re.match(f"error: .*generation_config.json: {message}", capsys.readouterr().err)
        assert not (tmp_path / "out").exists()
