"""The published formats, symbol by symbol; formats of one's own; what makes none."""

import published_decoders
import pytest
from prompts import tokenizer

from sharp_plugins.prompted.encoding import Encoding
from sharp_plugins.prompted.formats import FORMATS, Format, find_format, format_of

PROMPT, TEXT = "Ann : livesIn : Bonn", "Ann lives in Bonn."


def encoding(format, is_gpt2=True):
    own = tokenizer(is_gpt2)
    return Encoding(format, own, own.dictionary(), own.start)


def published(own, text):
    """The published ids of a text, by the tokenizers library alone."""
    return own.backend.encode(text, add_special_tokens=False).ids


def published_of(made, rows):
    """The published ids of rows of the dictionary."""
    return [made.tokenizer.published_ids[row] for row in rows]


def test_loras_gpt2():
    """context ids + 50256 + ids of " " + text + 50256, where 50256 is <|endoftext|>: here 0."""
    made = encoding(FORMATS["lora-gpt2"])
    assert published_of(made, made.prompts([PROMPT])[0]) == [*published(made.tokenizer, PROMPT), 0]
    assert published_of(made, made.texts([TEXT])[0]) == [*published(made.tokenizer, f" {TEXT}"), 0]


def test_prefix_tunings_gpt2():
    """One text in which the special token stands twice, as its code tokenises it."""
    made = encoding(FORMATS["prefix-gpt2"])
    whole = published(made.tokenizer, f" {PROMPT} <|endoftext|> {TEXT} <|endoftext|>")
    assert published_of(made, made.prompts([PROMPT])[0] + made.texts([TEXT])[0]) == whole


def test_facts():
    made = encoding(FORMATS["facts"], is_gpt2=False)
    found = published_of(made, made.prompts(["Ann_B : livesIn : Bonn"])[0])
    assert found == [0, *published(made.tokenizer, "Facts: Ann B : livesIn : Bonn\nText:")]
    text = made.texts([TEXT])[0]
    assert published_of(made, text) == [*published(made.tokenizer, f" {TEXT}"), 2]  # <|im_end|>
    assert made.stop == ["</s>", "Ċ"] and made.cannot_stop == ["\n\n"]


def test_plain_begins_as_the_model_has_seen():
    for is_gpt2, start in ((True, "</s>"), (False, "<|endoftext|>")):
        made = encoding(FORMATS["plain"], is_gpt2)
        assert made.symbols(made.prompts([PROMPT])[0])[0] == start == made.start[0]


def test_published_names_of_symbols_are_known():
    made = encoding(Format(separator="<|im_start|>", end="<|endoftext|>", start="<|im_end|>"), is_gpt2=False)
    assert (made.start, made.separator, made.end) == (["</s>"], ["<s>"], "<|endoftext|>")


@pytest.mark.parametrize("part", ["start", "separator", "end"])
def test_a_symbol_that_the_tokenizer_has_not(part):
    with pytest.raises(ValueError, match=f"--{part} '<sep>'"):
        encoding(Format(**{part: "<sep>"}))


@pytest.mark.parametrize("name", FORMATS)
def test_decoding_gives_prompt_and_text_again(name):
    made = encoding(FORMATS[name], is_gpt2=False)
    for prompt, text in ((PROMPT, TEXT), ("El niño : x : 🍲", "  two  spaces\tand Text: in it ")):
        assert made.decode_prompt(made.symbols(made.prompts([prompt])[0])) == prompt
        assert made.decode_text(made.symbols(made.texts([text])[0])) == text


# ---------------------------------------------------------------------- tokenizers that put a space before a text


@pytest.fixture(scope="module", params=["always", "first"])
def llama(request, tmp_path_factory):
    """Llama 2's tokenizer: a space before each text as its tokenizer.json has it, or before the first alone (``legacy=False``).
    Ours, and transformers'."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, pre_tokenizers

    from sharp_plugins.text.decoder_tokenizer import DecoderTokenizer

    directory = tmp_path_factory.mktemp("llama")
    rows = published_decoders.llama_tokenizer(directory)
    if request.param == "first":
        backend = Tokenizer.from_file(str(directory / "tokenizer.json"))
        backend.normalizer = None
        backend.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme="first", split=False)
        backend.save(str(directory / "tokenizer.json"))
    theirs = transformers.AutoTokenizer.from_pretrained(str(directory))
    roles = {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
    backend = Tokenizer.from_file(str(directory / "tokenizer.json"))
    return DecoderTokenizer(backend, roles, rows, family="llama", begins="<s>"), theirs, request.param


def test_the_formats_are_transformers_sequences(llama):
    own, theirs, scheme = llama
    joined = {"plain": "the inn : in it in the end", "facts": "Facts: the inn : in it\nText: in the end"}
    for name, whole in joined.items():
        made = Encoding(FORMATS[name], own, own.dictionary(), own.start)
        rows = made.prompts(["the inn : in it"])[0] + made.texts(["in the end"])[0]
        assert published_of(made, rows) == [*theirs(whole)["input_ids"], 2]
    for name, whole in (("lora-gpt2", "the inn</s> in it</s>"), ("prefix-gpt2", "the inn </s> in it </s>")):
        made = Encoding(FORMATS[name], own, own.dictionary(), own.start)
        rows = made.prompts(["the inn"])[0] + made.texts(["in it"])[0]
        if scheme == "first":  # the other one would put a space of its own before the text, too
            assert published_of(made, rows) == theirs(whole, add_special_tokens=False)["input_ids"]
        assert made.symbols(made.texts(["in it"])[0])[:2] == ["\u2581", "in"]
    made = Encoding(Format(text="{text}"), own, own.dictionary(), own.start)
    assert made.symbols(made.texts(["in it"])[0])[0] == "in"  # no space where the template has none


@pytest.mark.parametrize("template", ["{text}", " {text}", " {text} "])
def test_their_decoding_gives_prompt_and_text_again(llama, template):
    own = llama[0]
    made = Encoding(Format(prompt=template.replace("text", "prompt"), text=template), own, own.dictionary(), own.start)
    for prompt, text in ((PROMPT, TEXT), ("in  it", "  two  spaces\n"), ("El niño : 🍲", "El niño : 🍲")):
        assert made.decode_prompt(made.symbols(made.prompts([prompt])[0])) == prompt
        assert made.decode_text(made.symbols(made.texts([text])[0])) == text


def test_their_stops(llama):
    own = llama[0]
    facts, lora = (Encoding(FORMATS[name], own, own.dictionary(), own.start) for name in ("facts", "lora-gpt2"))
    assert facts.stop == ["</s>", "<0x0A>"] and lora.cannot_stop == ["\n\n"]


# ---------------------------------------------------------------------- settings


def test_a_file_of_settings(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("base: lora-gpt2\nprompt: '{prompt} ='\nstop: ['#']\n")
    assert find_format(str(path)) == Format(prompt="{prompt} =", separator="</s>", stop=("#",))


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"prompt": "Facts:"}, "--prompt-template 'Facts:': {prompt} must stand in it once"),
        ({"text": "{text} {text}"}, "--text-template"),
        ({"end": ""}, "--end: a symbol is needed"),
        ({"before": "x"}, "a format has no before; it has start, prompt"),
        ({"spaces": "yes"}, "spaces is true or false, and not 'yes'"),
        ({"stop": "x"}, "stop is a list of texts"),
        ({"stop": [1]}, "stop is a list of texts"),
        ({"start": 3}, "start is a text"),
    ],
)
def test_what_makes_no_format(settings, words):
    with pytest.raises(ValueError) as error:
        format_of(settings, "own.yaml")
    assert str(error.value).startswith("own.yaml: ") and words in str(error.value)


def test_a_format_that_is_not_known(tmp_path):
    with pytest.raises(ValueError, match="--format lora: choose one of lora-gpt2"):
        find_format("lora")
    (tmp_path / "own.yaml").write_text("base: lora\n")
    with pytest.raises(ValueError, match="base 'lora' is none of"):
        find_format(str(tmp_path / "own.yaml"))
    (tmp_path / "own.yaml").write_text("base: [1]\n")
    with pytest.raises(ValueError, match=r"base \[1\] is none of"):
        find_format(str(tmp_path / "own.yaml"))
    with pytest.raises(FileNotFoundError, match="--format nope.yaml: there is no such file"):
        find_format("nope.yaml")


def test_no_start_and_no_separator_are_written_as_elsewhere():
    assert format_of({"start": "none", "separator": "none"}, "own.yaml", FORMATS["lora-gpt2"]) == Format(stop=("\n\n",))
