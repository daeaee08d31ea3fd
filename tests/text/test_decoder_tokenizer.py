"""Decoders' tokenizers: which token is which of fairseq's symbols, what stands before a text, and GGUF's two kinds."""

import json

import published_decoders as small
import pytest

from sharp_plugins.text.bpe import ConvertedTokenizer, TokenizerConfig
from sharp_plugins.text.converted import load_tokenizer
from sharp_plugins.text.decoder_files import read_decoder_backend
from sharp_plugins.text.decoder_tokenizer import DecoderTokenizer
from sharp_plugins.text.encode import encode_file
from sharp_plugins.text.gguf_tokenizer import read_gguf_backend

tokenizers = pytest.importorskip("tokenizers")

WRITERS = {
    "gpt2": small.gpt2_tokenizer,
    "opt": small.opt_tokenizer,
    "llama": small.llama_tokenizer,
    "smollm2": small.smollm2_tokenizer,
}


def read(directory, kind, more=0, config=None):
    """The tokenizer of a table with *more* rows than tokens."""
    rows = WRITERS[kind](directory) + more
    backend, special, begins = read_decoder_backend(directory, config or {})
    return DecoderTokenizer(backend, special, rows, kind, begins)


def configure(directory, **changes):
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("kind", WRITERS)
def test_texts_come_back_and_files_too(tmp_path, kind):
    tokenizer = read(tmp_path / "published", kind, more=3)
    (tmp_path / "out").mkdir()
    tokenizer.save(tmp_path / "out")
    again = load_tokenizer(tmp_path / "out")
    assert type(again) is DecoderTokenizer
    for name in ("symbols", "published_ids", "unused", "special_tokens", "start", "family", "rows"):
        assert getattr(again, name) == getattr(tokenizer, name), name
    lines = tokenizer.encode_many(small.TEXTS)
    assert again.encode_many(small.TEXTS) == lines
    assert [again.decode(line) for line in lines] == small.TEXTS
    bpe = ConvertedTokenizer(TokenizerConfig(bpe_tokenizer=str(tmp_path / "out")))
    assert [bpe.encode(text) for text in small.TEXTS] == [" ".join(line) for line in lines]
    assert [bpe.decode(" ".join(line)) for line in lines] == small.TEXTS
    dictionary = tokenizer.dictionary()
    assert dictionary.symbols == tokenizer.symbols and len(set(tokenizer.symbols)) == len(tokenizer.symbols)
    assert sorted(index for index in tokenizer.published_ids if index >= 0) == list(range(tokenizer.rows))
    assert (tmp_path / "out" / "dict.txt").read_text(encoding="utf-8").split()[::2] == tokenizer.symbols[4:]


def test_encode_file_puts_nothing_around(tmp_path):
    tokenizer = read(tmp_path / "published", "opt")
    (tmp_path / "out").mkdir()
    tokenizer.save(tmp_path / "out")
    (tmp_path / "text").write_text("the cat\n\nat\n")
    found = encode_file(tmp_path / "out", tmp_path / "text", tmp_path / "symbols")
    assert (tmp_path / "symbols").read_text() == "t he Ġ c at\n\nat\n" and found.unknown == 0


def test_special_tokens_stay_whole_and_come_back(tmp_path):
    tokenizer = read(tmp_path / "published", "smollm2")
    line = tokenizer.encode("<|im_start|>user\nHi<|im_end|>")
    assert (line[0], line[-1]) == ("<s>", "</s>") and "<|endoftext|>" in tokenizer.symbols
    assert tokenizer.decode(line) == "<|im_start|>user\nHi<|im_end|>"
    assert tokenizer.decode(["<pad>", "<unk>", "no such symbol"]) == ""


def test_where_words_begin(tmp_path):
    tokenizer, llama = read(tmp_path / "one", "gpt2"), read(tmp_path / "two", "llama")
    assert [tokenizer.begins_a_word(symbol) for symbol in ("Ġthe", "he", "</s>", "strange")] == [True, False, True, True]
    assert llama.begins_a_word("\u2581the") and not llama.begins_a_word("he")


def test_what_stands_before_a_text(tmp_path):
    assert read(tmp_path / "gpt2", "gpt2").start == "</s>"  # <|endoftext|>, between documents
    assert read(tmp_path / "opt", "opt").start == "</s>"
    assert read(tmp_path / "llama", "llama").start == "<s>"  # by its tokenizer.json
    assert read(tmp_path / "smollm2", "smollm2").start == "<|endoftext|>"
    configure(tmp_path / "llama", add_bos_token=False)
    backend, special, begins = read_decoder_backend(tmp_path / "llama", {})
    assert begins is None and DecoderTokenizer(backend, special, 800, "llama", begins).start is None
    configure(tmp_path / "smollm2", add_bos_token=True)
    assert read_decoder_backend(tmp_path / "smollm2", {})[2] == "<|im_start|>"


def test_roles_that_config_json_gives(tmp_path):
    tokens = small.byte_level(["<end>", "[PAD]"], ["<|endoftext|>"])
    rows = small.write_vocabulary(tmp_path, tokens)
    _, special, _ = read_decoder_backend(tmp_path, {"eos_token_id": 0, "bos_token_id": rows - 1, "pad_token_id": None})
    assert special == {"eos_token": "<end>", "bos_token": "<|endoftext|>"}
    found = read_decoder_backend(tmp_path, {"eos_token_id": [rows - 1, 9], "bos_token_id": 9, "pad_token_id": 1})[1]
    # The token 9 is a plain letter, and begins no text.
    assert found == {"eos_token": "<|endoftext|>", "pad_token": "[PAD]"}
    assert read_decoder_backend(tmp_path, {})[1] == {"eos_token": "<|endoftext|>"}
    assert read_decoder_backend(tmp_path, {"eos_token_id": 50256, "vocab_size": rows})[1] == {"eos_token": "<|endoftext|>"}


def test_a_padding_token_that_is_the_unknown_one(tmp_path):
    """As many Llamas have it: <unk> stays <unk>, and nothing is <pad>."""
    small.llama_tokenizer(tmp_path)
    configure(tmp_path, pad_token="<unk>")
    backend, special, begins = read_decoder_backend(tmp_path, {})
    tokenizer = DecoderTokenizer(backend, special, 320, "llama", begins)
    assert tokenizer.unused == ["<pad>"] and tokenizer.published_ids[:4] == [1, -1, 2, 0]


@pytest.mark.parametrize(
    "pad, begins, ends, padding",
    [
        ("<|endoftext|>", None, [0], -1),
        ("<|endoftext|>", None, [], -1),  # it stands before a text
        ("<|endoftext|>", "</s>", [], 0),
        ("<|endoftext|>", "</s>", [0, 2], -1),
        ("<pad>", None, [1], -1),  # not for its spelling either
        ("<pad>", "<pad>", [], -1),
        ("<pad>", None, [0], 1),
    ],
)
def test_a_padding_token_that_begins_or_ends_a_text(tmp_path, pad, begins, ends, padding):
    """It is not <pad>, and the files of the converted decoder say so too."""
    tokens = small.byte_level(["<|endoftext|>", "<pad>", "</s>"], [])
    rows = small.write_vocabulary(tmp_path, tokens, eos_token="</s>", pad_token=pad)
    backend, special, _ = read_decoder_backend(tmp_path, {})
    tokenizer = DecoderTokenizer(backend, special, rows, "gpt2", begins, ends)
    assert tokenizer.published_ids[1] == padding and ("<pad>" in tokenizer.unused) == (padding < 0)
    assert tokenizer.start == tokenizer.symbol_of(begins or "<|endoftext|>") != "<pad>"
    (tmp_path / "out").mkdir()
    tokenizer.save(tmp_path / "out")
    again = load_tokenizer(tmp_path / "out")
    assert (again.symbols, again.published_ids, again.start) == (tokenizer.symbols, tokenizer.published_ids, tokenizer.start)


def test_tokens_that_a_dictionary_cannot_hold(tmp_path):
    small.llama_tokenizer(tmp_path)
    configure(tmp_path, added_tokens_decoder={"301": {"content": "a b", "special": False}, "302": {"content": "<pad>"}})
    backend, special, begins = read_decoder_backend(tmp_path, {})
    tokenizer = DecoderTokenizer(backend, special, 303, "llama", begins)
    assert "<token:301>" in tokenizer.symbols and tokenizer.unused == []  # <pad> is spelled as fairseq's
    assert tokenizer.decode(tokenizer.encode("x a b")) == "x a b"


def test_a_token_that_is_spelled_as_anothers_symbol(tmp_path):
    """The row 302 has no token, and is <token:302>; the token of that spelling gets another symbol."""
    small.llama_tokenizer(tmp_path)
    configure(tmp_path, added_tokens_decoder={"301": {"content": "<token:302>"}})
    backend, special, begins = read_decoder_backend(tmp_path, {})
    tokenizer = DecoderTokenizer(backend, special, 303, "llama", begins)
    assert tokenizer.symbols[-2:] == ["<token:301>", "<token:302>"] and len(tokenizer.dictionary()) == len(tokenizer.symbols)
    assert tokenizer.decode(tokenizer.encode("a<token:302>")) == "a<token:302>"


def test_a_tokenizer_without_an_end(tmp_path):
    small.write_vocabulary(tmp_path, small.byte_level([], []))
    with pytest.raises(ValueError, match="no token ends a text: name it in tokenizer_config.json, as eos_token"):
        read_decoder_backend(tmp_path, {})


@pytest.mark.parametrize("tokens, rows, fits", [(263, 263 + 512, False), (20_000, 20_600, True), (20_000, 21_000, False)])
def test_rows_without_a_token(tmp_path, tokens, rows, fits):
    """A large table may have some for tokens to come, 3 % of it; more speak for another model's tokenizer."""
    small.gpt2_tokenizer(tmp_path)
    backend, special, begins = read_decoder_backend(tmp_path, {})
    backend.add_tokens([f"more{n}" for n in range(tokens - backend.get_vocab_size())])
    if fits:
        assert len(DecoderTokenizer(backend, special, rows, "gpt2", begins).symbols) >= rows
    else:
        with pytest.raises(ValueError, match="another model's"):
            DecoderTokenizer(backend, special, rows, "gpt2", begins)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("where", ["added_tokens.json", "tokenizer_config.json"])
def test_padding_that_was_added_behind_the_table(tmp_path, kind, where):
    """As in copies of Llama 2: the model has no row for it, and it is no token then."""
    whole, padded = read(tmp_path / "whole", kind), tmp_path / "padded"
    WRITERS[kind](padded)
    path = padded / where
    content = json.loads(path.read_text()) if path.is_file() else {}
    own = {"<pad>": whole.rows} if where == "added_tokens.json" else {}
    more = {**content.get("added_tokens_decoder", {}), str(whole.rows): {"content": "<pad>", "special": True}}
    path.write_text(json.dumps({**content, **(own or {"added_tokens_decoder": more, "pad_token": "<pad>"})}))
    backend, special, begins = read_decoder_backend(padded, {})
    assert "<pad>" in backend.get_vocab()
    tokenizer = DecoderTokenizer(backend, special, whole.rows, kind, begins)
    assert tokenizer.symbols == whole.symbols and tokenizer.unused == whole.unused and "<pad>" in tokenizer.unused
    for text in ("the cat <pad> sat", "the cat"):
        assert tokenizer.encode(text) == whole.encode(text)
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).symbols == whole.symbols


@pytest.mark.parametrize("role", ["eos_token", "bos_token", "unk_token", "additional"])
@pytest.mark.parametrize("also_pads", [False, True])
def test_other_special_tokens_behind_the_table_are_another_models(tmp_path, role, also_pads):
    """A text's end that is taken for no token would be another, or none, without a word."""
    whole = read(tmp_path / "whole", "llama")
    backend, special, begins = read_decoder_backend(tmp_path / "whole", {})
    backend.add_special_tokens(["<|own|>"])
    special = {**special, role: "<|own|>", **({"pad_token": "<|own|>"} if also_pads else {})}
    if role != "additional" or not also_pads:
        with pytest.raises(ValueError, match="another model's: .*<.own.>"):
            DecoderTokenizer(backend, special, whole.rows, "llama", "<|own|>" if role == "bos_token" else begins)


def test_a_word_that_was_added_behind_the_table_is_named(tmp_path):
    whole = read(tmp_path / "whole", "gpt2")
    backend, special, begins = read_decoder_backend(tmp_path / "whole", {})
    backend.add_tokens(["another"])
    with pytest.raises(
        ValueError, match=f"ids up to {whole.rows} .'another'., and the model's table of words has {whole.rows} rows"
    ):
        DecoderTokenizer(backend, special, whole.rows, "gpt2", begins)


def test_a_converted_directory_whose_files_do_not_fit(tmp_path):
    tokenizer = read(tmp_path / "published", "gpt2")
    (tmp_path / "out").mkdir()
    tokenizer.save(tmp_path / "out")
    known = json.loads((tmp_path / "out" / "decoder.json").read_text())
    for changes, words in (
        (dict(rows=9), "another model's"),
        (dict(rows=10**9), "another model's"),
        (dict(rows="many"), "ValueError"),
        (dict(start="none"), "KeyError"),
    ):
        (tmp_path / "out" / "decoder.json").write_text(json.dumps({**known, **changes}))
        with pytest.raises(ValueError, match=f"out: the decoder's files do not fit together: .*{words}"):
            load_tokenizer(tmp_path / "out")


# ---------------------------------------------------------------------- in GGUF's headers


def gguf_header(directory, **changes):
    """The header's settings of the small Llama's tokenizer; scores in the order of its merges."""
    small.llama_tokenizer(directory)
    content = json.loads((directory / "tokenizer.json").read_text())["model"]
    tokens = sorted(content["vocab"], key=content["vocab"].get)
    made = ["".join(merge) for merge in content["merges"]]
    scores = [-float(made.index(token)) if token in made else -1000.0 for token in tokens]
    settings = {"model": "llama", "tokens": tokens, "token_type": [3, 3, 3] + [1] * (len(tokens) - 3), "scores": scores}
    settings.update(merges=[" ".join(merge) for merge in content["merges"]], bos_token_id=1, eos_token_id=2, unknown_token_id=0)
    settings.update(changes)
    return {f"tokenizer.ggml.{name}": value for name, value in settings.items() if value is not None}


@pytest.mark.parametrize("part", ["merges", "scores"])
def test_sentencepieces_with_merges_or_scores(tmp_path, part):
    other = {"merges": "scores", "scores": "merges"}[part]
    backend, special, begins = read_gguf_backend(gguf_header(tmp_path, **{other: None}))
    assert (special["eos_token"], special["unk_token"], begins) == ("</s>", "<unk>", "<s>")
    theirs, _, _ = read_decoder_backend(tmp_path, {})
    for text in small.TEXTS:
        ours = backend.encode(text, add_special_tokens=False).ids
        assert ours == theirs.encode(text, add_special_tokens=False).ids and backend.decode(ours) == text


def test_what_a_header_says_of_spaces_and_beginnings(tmp_path):
    backend, _, begins = read_gguf_backend(gguf_header(tmp_path, add_space_prefix=False, add_bos_token=False))
    assert begins is None and backend.encode("the", add_special_tokens=False).tokens == ["t", "he"]


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(tokens=None), "tokenizer.ggml.model is 'llama'; read are 'gpt2' and 'llama', with their tokens"),
        (dict(tokens=["a", "a"], token_type=None), "has 2 tokens, 1 different ones"),
        (dict(token_type=[1]), "tokens, 301 different ones, of 1 types"),
        (dict(merges=None, scores=None), "merges and tokenizer.ggml.scores are not there"),
        (dict(merges=[5]), "merges must be a list, of which each part is a text; it has 5"),
        (dict(merges=["no such"]), "tokenizer.ggml.merges cannot be used"),
        (dict(tokens=5), "tokenizer.ggml.tokens must be a list"),
        (dict(token_type=5), "tokenizer.ggml.token_type must be a list"),
        (dict(scores=["0"], merges=None), "tokenizer.ggml.scores must be a list, of which each part is a number"),
        (dict(tokens=["x" * 1001, "</s>"], token_type=None), "has a token, number 0, of 1001 characters"),
        (dict(model=["llama"]), "tokenizer.ggml.model must be a text"),
        (dict(merges=["one"]), "has a merge that is not of two tokens"),
        (dict(eos_token_id=None), "tokenizer.ggml.eos_token_id is not there"),
        (dict(eos_token_id=10**6), "tokenizer.ggml.eos_token_id is not there"),
        (dict(model="gpt2", merges=None), "tokenizer.ggml.merges is not there"),
    ],
)
def test_headers_that_do_not_describe_a_tokenizer(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_gguf_backend(gguf_header(tmp_path, **changes))
