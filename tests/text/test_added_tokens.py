"""The tokens beside a published vocabulary, and those that stay in one piece: as transformers reads the same files."""

import json

import published
import published_decoders as small
import pytest

from sharp_plugins.text.decoder_files import read_decoder_backend
from sharp_plugins.text.published import read_published

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
KINDS = ["encoder", "decoder"]
TEXTS = ["the <e1> cat", "the<e1>cat<E1>", "the <E1>  cat", "a<end>b <End> <end>", "in<e2> at <E2>.", "x<e3> at <E3>."]


def words(kind):
    """The vocabulary of a `backend`."""
    first = [*ROBERTA, *published.WORDPIECES] if kind == "encoder" else ["<|endoftext|>", "</s>", "<pad>", "<unk>"]
    return {word: index for index, word in enumerate(small.byte_level([*first, "<e1>", "<end>"], []))}


def backend(kind):
    """WordPieces without capitals, or byte-level BPE; no token is an added one."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    if kind == "encoder":
        result = Tokenizer(models.WordPiece(words(kind), unk_token="<unk>"))
        result.pre_tokenizer, result.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    else:
        result = Tokenizer(models.BPE(words(kind), merges=[tuple(merge.split(" ")) for merge in small.MERGES]))
        result.pre_tokenizer, result.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    result.normalizer = normalizers.Lowercase()
    return result


def write(directory, kind, config=None, names=None, added=None, tokens=()):
    """``tokenizer.json`` with added *tokens*, and the three files beside it, where they have something."""
    whole = backend(kind)
    whole.add_special_tokens(list(tokens))
    whole.save(str(directory / "tokenizer.json"))
    roles = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), ROBERTA))
    roles = roles if kind == "encoder" else dict(eos_token="</s>", pad_token="<pad>")
    content = {"tokenizer_class": "PreTrainedTokenizerFast", **roles, **(config or {})}
    for name, found in (("tokenizer_config", content), ("special_tokens_map", names), ("added_tokens", added)):
        if found is not None:
            (directory / f"{name}.json").write_text(json.dumps(found))


def assert_alike(directory, kind):
    """The same ids for the same texts, and the same tokens of roles."""
    theirs = transformers.AutoTokenizer.from_pretrained(str(directory))
    ours, special = read_published(directory) if kind == "encoder" else read_decoder_backend(directory, {})[:2]
    for text in TEXTS:
        expected = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text, add_special_tokens=False).ids == expected, text
    for role, token in special.items():
        assert token == getattr(theirs, role), role
    return theirs


def flagged(content, **flags):
    usual = dict(lstrip=False, rstrip=False, normalized=False, single_word=False, special=True)
    return {"content": content, **usual, **flags}


@pytest.mark.parametrize("is_told", [True, False], ids=["told", "older"])
@pytest.mark.parametrize("first", ["config", "map"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_map_of_special_tokens_is_the_older_file(tmp_path, kind, first, is_told):
    """Where tokenizer_config.json has its added tokens, it alone names the tokens of roles."""
    role, usual = ("sep_token", "</s>") if kind == "encoder" else ("eos_token", "</s>")
    config, names = ({role: usual}, {role: "<end>"}) if first == "map" else ({role: "<end>"}, {role: usual})
    if is_told:
        config["added_tokens_decoder"] = {str(words(kind)["<e1>"]): flagged("<e1>")}
    write(tmp_path, kind, config, names)
    assert (getattr(assert_alike(tmp_path, kind), role) == "<end>") == ((first == "map") != is_told)


@pytest.mark.parametrize(
    "config, names",
    [
        ({"additional_special_tokens": ["<e1>"]}, None),
        ({"extra_special_tokens": ["<e1>", "<end>"]}, None),
        ({"extra_special_tokens": {"image_token": "<e1>"}}, None),
        ({"image_token": "<e1>"}, None),
        ({}, {"additional_special_tokens": ["<e1>"]}),
        ({}, {"eos_token": flagged("<end>", lstrip=True)}),
        ({"eos_token": {"__type": "AddedToken", **flagged("<end>", rstrip=True, normalized=True)}}, None),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_the_vocabulary_that_a_file_names(tmp_path, kind, config, names):
    write(tmp_path, kind, config, names)
    assert_alike(tmp_path, kind)


@pytest.mark.parametrize(
    "flags", [{"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": True}, {"special": False, "lstrip": True}]
)
@pytest.mark.parametrize("kind", KINDS)
def test_flags_that_tokenizer_json_has_otherwise(tmp_path, kind, flags):
    from tokenizers import AddedToken

    told = {str(words(kind)[token]): flagged(token, **flags) for token in ("<e1>", "<end>")}
    write(tmp_path, kind, {"added_tokens_decoder": told}, tokens=[AddedToken("<e1>", normalized=False)])
    assert_alike(tmp_path, kind)


@pytest.mark.parametrize("names", [None, {"eos_token": "<e2>"}, {"eos_token": "<e2>", "extra_special_tokens": ["<E3>"]}])
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_the_older_file(tmp_path, kind, names):
    """added_tokens.json has no flags: what is named as special is taken as it is written, and the others in any case of letters."""
    from tokenizers import AddedToken

    size = len(words(kind))
    added = {"<e2>": size, "<E3>": size + 1, "<e1>": words(kind)["<e1>"]}
    write(tmp_path, kind, {}, names, added, tokens=[AddedToken("<e1>", lstrip=True, normalized=True)])
    assert_alike(tmp_path, kind)


def test_further_tokens_that_are_none(tmp_path):
    for value in ("<e1>", [5], [{"lstrip": True}]):
        write(tmp_path, "decoder", {"additional_special_tokens": value})
        with pytest.raises(ValueError, match="extra_special_tokens or additional_special_tokens must be a list"):
            read_decoder_backend(tmp_path, {})
