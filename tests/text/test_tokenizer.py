"""Published tokenizers as symbols of a fairseq dictionary."""

import json
import sys

import published
import pytest
from fairseq.data import Dictionary, data_utils
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from published import SENTENCES

from sharp_plugins.text.tokenizer import Tokenizer

WRITERS = {"WordPiece": published.write_wordpiece, "byte-level BPE": published.write_byte_level}


def test_a_missing_library_is_named_with_its_command(tmp_path, monkeypatch):
    published.write_wordpiece(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match="pip install tokenizers"):
        Tokenizer.load(tmp_path)


@pytest.fixture
def library():
    return pytest.importorskip("tokenizers")


@pytest.fixture(params=WRITERS)
def directory(request, tmp_path, library):
    WRITERS[request.param](tmp_path)
    return tmp_path


def test_words_become_symbols(tmp_path, library):
    published.write_wordpiece(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("The CAT runs, cáts!") == ["the", "cat", "runs", ",", "cat", "##s", "!"]
    assert tokenizer.encode("a 猫") == ["a", "<unk>"]
    assert tokenizer.encode_many(["the mat", "", "on"]) == [["the", "mat"], [], ["on"]]


def test_bytes_become_symbols(tmp_path, library):
    published.write_byte_level(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("the the é") == ["t", "he", "Ġthe", "Ġ", "Ã", "©"]


def test_robertas_mask_takes_the_space_before_it_along(tmp_path, library):
    """As in roberta-base's tokenizer.json; where there is none, transformers 5 does otherwise."""
    published.write_byte_level(tmp_path)
    assert Tokenizer.load(tmp_path).encode("a <mask>.") == ["a", "<mask>", "."]


def test_words_begin_where_the_text_has_spaces(tmp_path, library):
    """With the pieces of sentencepiece, as multilingual MiniLM has them."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "\u2581the", "\u2581cat", "\u2581", "s", "at", "\u2581mat", ".", "<mask>"]
    backend = Backend(models.Unigram([(piece, -float(len(pieces) - i)) for i, piece in enumerate(pieces)], unk_id=3))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer, text = Tokenizer.load(tmp_path), "the cats sat at the mat."
    symbols = tokenizer.encode(text)
    starts = [i for i, symbol in enumerate(symbols) if tokenizer.begins_a_word(symbol)] + [len(symbols)]
    words = [tokenizer.decode(symbols[one:other]) for one, other in zip(starts, starts[1:])]
    assert words == text.split() and len(symbols) > len(words)
    assert all(map(tokenizer.begins_a_word, ("<s>", "</s>", "<mask>", "strange")))


def test_the_dictionary_is_fairseqs(directory, tmp_path):
    tokenizer = Tokenizer.load(directory)
    out = tmp_path / "out"
    out.mkdir()
    tokenizer.save(out)
    dictionary = SentencePredictionTask.load_dictionary(str(out / "dict.txt"))
    assert dictionary.symbols == tokenizer.symbols == tokenizer.dictionary().symbols
    assert len(set(tokenizer.symbols)) == len(tokenizer.symbols)
    special = [dictionary.bos(), dictionary.pad(), dictionary.eos(), dictionary.unk(), dictionary.index("<mask>")]
    roles = ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token")
    names = [tokenizer.special_tokens[role] for role in roles]
    vocabulary = tokenizer.backend.get_vocab()
    assert [tokenizer.published_ids[i] for i in special] == [vocabulary[name] for name in names]
    ordinary = [i for i in range(len(dictionary)) if i not in special]
    assert all(vocabulary[dictionary[i]] == tokenizer.published_ids[i] for i in ordinary)


def test_what_is_saved_reads_the_same(directory, tmp_path):
    first = Tokenizer.load(directory)
    out = tmp_path / "out"
    out.mkdir()
    first.save(out)
    second = Tokenizer.load(out)
    assert second.encode_many(SENTENCES) == first.encode_many(SENTENCES)
    assert (second.symbols, second.published_ids) == (first.symbols, first.published_ids)


def test_a_file_that_cannot_be_written(directory, tmp_path):
    """The library raises a bare Exception."""
    with pytest.raises(OSError, match=r"^tokenizer.json: cannot be written: No such file or directory"):
        Tokenizer.load(directory).save(tmp_path / "nowhere")


def test_symbols_survive_fairseq_preprocess(directory, tmp_path):
    tokenizer = Tokenizer.load(directory)
    out = tmp_path / "out"
    out.mkdir()
    tokenizer.save(out)
    lines = [" ".join(symbols) for symbols in tokenizer.encode_many(SENTENCES)]
    data = published.write_sentence_data(tmp_path, out / "dict.txt", lines, None, [0] * len(lines))
    dictionary = Dictionary.load(str(out / "dict.txt"))
    dataset = data_utils.load_indexed_dataset(str(data / "input0" / "train"), dictionary)
    for i, text in enumerate(SENTENCES):
        ids = [tokenizer.published_ids[symbol] for symbol in dataset[i].tolist()[:-1]]
        assert ids == tokenizer.backend.encode(text, add_special_tokens=False).ids


def test_roberta_keeps_its_order(tmp_path, library):
    published.write_byte_level(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.published_ids == list(range(len(published.byte_level_vocabulary())))


def test_tokens_that_a_line_cannot_hold_are_renamed(tmp_path, library):
    odd = ["<s>", "<mask>", "a\u00a0b", "\u3000"]
    words = [*published.WORDPIECES, *odd]
    published.write_wordpiece(tmp_path, words, lower=False)
    tokenizer = Tokenizer.load(tmp_path)
    first = len(published.WORDPIECES)
    assert tokenizer.symbols[-4:] == [f"<token:{first + i}>" for i in range(4)]
    assert tokenizer.published_ids[-4:] == [first + i for i in range(4)]
    tokenizer.dictionary().save(str(tmp_path / "dict.txt"))
    assert Dictionary.load(str(tmp_path / "dict.txt")).symbols == tokenizer.symbols


def test_truncation_and_padding_of_the_file_are_off(tmp_path, library):
    published.write_wordpiece(tmp_path)
    backend = Tokenizer.load(tmp_path).backend
    backend.enable_truncation(2)
    backend.enable_padding(length=9, pad_id=0, pad_token="[PAD]")
    backend.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path).encode("the cat sat on") == ["the", "cat", "sat", "on"]


def test_special_tokens_of_other_names(tmp_path, library):
    renamed = {"[CLS]": "[START]", "[SEP]": "[END]"}
    published.write_wordpiece(tmp_path, [renamed.get(word, word) for word in published.WORDPIECES])
    names = {"cls_token": "[START]", "sep_token": {"content": "[END]", "lstrip": False}, "pad_token": "[PAD]"}
    names.update(unk_token="[UNK]", mask_token="[MASK]")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    tokenizer = Tokenizer.load(tmp_path)
    words = published.WORDPIECES
    assert tokenizer.published_ids[:4] == [words.index(name) for name in ("[CLS]", "[PAD]", "[SEP]", "[UNK]")]
    assert tokenizer.encode("the [END] cat") == ["the", "</s>", "cat"]


def test_missing_files(tmp_path, library):
    with pytest.raises(FileNotFoundError, match="vocab.json and merges.txt"):
        Tokenizer.load(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="no tokenizer there"):
        Tokenizer.load(tmp_path)


def test_unreadable_files(tmp_path, library):
    published.write_byte_level(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="its tokenizer cannot be read"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(ValueError, match="tokenizer_config.json: cannot be read: not a JSON object but a list"):
        Tokenizer.load(tmp_path)


def test_wordpieces_say_their_case(tmp_path, library):
    published.write_wordpiece(tmp_path, lower=None)
    with pytest.raises(ValueError, match="do_lower_case, true or false"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("token, role", [("[MASK]", "mask_token"), ("[SEP]", "sep_token"), ("[PAD]", "pad_token")])
def test_a_vocabulary_without_a_special_token(tmp_path, library, token, role):
    published.write_wordpiece(tmp_path, [word for word in published.WORDPIECES if word != token])
    with pytest.raises(ValueError, match=f"it has no {role}"):
        Tokenizer.load(tmp_path)


def test_two_roles_for_one_token(tmp_path, library):
    published.write_wordpiece(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"cls_token": "[SEP]"}))
    with pytest.raises(ValueError, match="each special token must have one role"):
        Tokenizer.load(tmp_path)


# ---------------------------------------------------------------------- pairs


@pytest.mark.parametrize("write, expected", [(published.write_wordpiece, (1, True)), (published.write_byte_level, (2, False))])
def test_pairs_are_berts_or_robertas(tmp_path, library, write, expected):
    write(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.pair_format() == expected
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).pair_format() == expected


def with_template(directory, pair):
    """A tokenizer.json that puts pairs together so."""
    published.write_wordpiece(directory)
    backend = Tokenizer.load(directory).backend
    special = [(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]", "[MASK]")]
    backend.post_processor = processors().TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=special)
    backend.save(str(directory / "tokenizer.json"))
    return Tokenizer.load(directory)


def processors():
    from tokenizers import processors

    return processors


@pytest.mark.parametrize(
    "pair, expected",
    [
        ("[CLS] $A [SEP] $B:1 [SEP]:1", (1, True)),
        ("[CLS] $A [SEP] $B [SEP]", (1, False)),
        ("[CLS] $A [SEP] [SEP] $B [SEP]", (2, False)),
    ],
)
def test_pairs_are_the_files(tmp_path, library, pair, expected):
    assert with_template(tmp_path, pair).pair_format() == expected


@pytest.mark.parametrize("pair", ["[CLS] $A [MASK] $B [SEP]", "[CLS] $B [SEP] $A [SEP]", "$A [SEP] $B [SEP]", "[CLS] $A $B [SEP]"])
def test_pairs_that_fairseqs_task_cannot_make(tmp_path, library, pair):
    with pytest.raises(ValueError, match="its tokenizer writes a pair as .*; fairseq's sentence_prediction has "):
        with_template(tmp_path, pair).pair_format()


# ---------------------------------------------------------------------- what tokenizer_config.json adds


def saved(directory, config, lower=True):
    """A tokenizer.json of WordPieces, and a tokenizer_config.json beside it."""
    published.write_wordpiece(directory, [*published.WORDPIECES, "The"], lower=lower)
    Tokenizer.load(directory).save(directory)
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.load(directory)


@pytest.mark.parametrize(
    "lower, config, expected",
    [
        (False, {"do_lower_case": True}, ["the", "cat"]),
        (True, {"do_lower_case": False}, ["The", "cat"]),
        (False, {}, ["The", "cat"]),
        (True, {}, ["the", "cat"]),
    ],
)
def test_the_config_goes_before_the_tokenizers_file(tmp_path, library, lower, config, expected):
    assert saved(tmp_path, config, lower).encode("The cat") == expected


def test_the_configs_accents_and_spaces(tmp_path, library):
    tokenizer = saved(tmp_path / "wordpiece", {"do_lower_case": True, "strip_accents": False})
    assert tokenizer.encode("cát") == ["<unk>"] and saved(tmp_path / "other", {}).encode("cát") == ["cat"]
    published.write_byte_level(tmp_path)
    Tokenizer.load(tmp_path).save(tmp_path)
    assert Tokenizer.load(tmp_path).encode("the") == ["t", "he"]
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    assert Tokenizer.load(tmp_path).encode("the") == ["Ġthe"]


FLAGS = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": False}


@pytest.mark.parametrize("where", ["added_tokens.json", "tokenizer_config.json"])
def test_tokens_beside_the_vocabulary(tmp_path, library, where):
    published.write_wordpiece(tmp_path)
    count = len(published.WORDPIECES)
    if where == "added_tokens.json":
        (tmp_path / where).write_text(json.dumps({"[e2]": count + 1, "[e1]": count}))
    else:
        added = {str(count + i): {"content": f"[e{i + 1}]", **FLAGS} for i in range(2)}
        (tmp_path / where).write_text(json.dumps({"do_lower_case": True, "added_tokens_decoder": added}))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("the [e2] cat[e1]") == ["the", "[e2]", "cat", "[e1]"]
    assert tokenizer.published_ids[-2:] == [count, count + 1] and tokenizer.symbols[-2:] == ["[e1]", "[e2]"]
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).encode("the [e2] cat[e1]") == ["the", "[e2]", "cat", "[e1]"]


@pytest.mark.parametrize(
    "content, words", [({"[e1]": 3}, "'.e1.' should be number 3, and is 98"), ({"[e1]": "x"}, "cannot be read")]
)
def test_added_tokens_that_do_not_fit(tmp_path, library, content, words):
    published.write_wordpiece(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"added token.* {words}"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "config, named",
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer"),
        ({"tokenizer_class": "BertTokenizer", "word_tokenizer_type": "mecab"}, "BertTokenizer and word_tokenizer_type"),
        ({"tokenizer_class": "XLNetTokenizer"}, "XLNetTokenizer"),
    ],
)
def test_a_vocabulary_that_is_not_the_whole_tokenizer(tmp_path, library, config, named):
    published.write_wordpiece(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, **config}))
    with pytest.raises(ValueError, match=f"without tokenizer.json, {named} in tokenizer_config.json cannot be followed"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("kind", ["lower case", "cased", "byte-level BPE"])
def test_tokens_are_those_of_transformers(tmp_path, library, kind):
    transformers = pytest.importorskip("transformers")
    if kind == "byte-level BPE":
        directory = published.write_roberta(tmp_path)
    else:
        directory = published.write_bert(tmp_path)
        words = [*published.WORDPIECES, "T", "##E", "é", "ß"]
        published.write_wordpiece(tmp_path, words, lower=kind == "lower case")
    theirs = transformers.AutoTokenizer.from_pretrained(str(directory))
    ours = Tokenizer.load(directory)
    dictionary = ours.dictionary()
    special = ["The [MASK] sat.", "a<mask> b<mask>.", "x [SEP] y</s>z", "[UNK][PAD] café TEE straße"]
    for text in [*SENTENCES, *special]:
        ids = [ours.published_ids[dictionary.index(symbol)] for symbol in ours.encode(text)]
        assert ids == theirs(text, add_special_tokens=False)["input_ids"], text
