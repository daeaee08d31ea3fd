"""Whole sequences of each published layout, by hand; label words; limits."""

import os
from dataclasses import replace

import clozes
import pytest

from sharp_plugins.cloze.encoding import Encoding
from sharp_plugins.cloze.layout import Sentence, find_layout, layout_of, named_layouts
from sharp_plugins.text.encoder_directory import load_backbone

S, E, MASK = 0, 2, 342
IT, WAS = 261, 264
# Each published layout on short sentences, in ids. Letters are ord(c) - 29, and Ġ, the space, is 224.
SEQUENCES = {
    # <s> F i n e ! ĠIt Ġwas <mask> . </s>
    "sst-2": (["Fine!"], [S, 41, 76, 81, 72, 4, IT, WAS, MASK, 17, E]),
    "sst-5": (["Fine!"], [S, 41, 76, 81, 72, 4, IT, WAS, MASK, 17, E]),
    # <s> I t Ġ r a i n s ? <mask> , Ġ m u d Ġ i s . : the full stop of the first goes, the M is made small
    "mnli": (["It rains.", "Mud is."], [S, 44, 87, 224, 85, 68, 76, 81, 86, 34, MASK, 15, 224, 80, 88, 71, 224, 76, 86, 17, E]),
    # without punctuation a letter goes all the same; the X alone is made small, and ĠY is the beginning of ĠYes
    "snli": (["Aha", "X Y"], [S, 36, 75, 34, MASK, 15, 224, 91, 288, E]),
    "rte": (["Aha?", "I"], [S, 36, 75, 68, 34, MASK, 15, 224, 76, E]),
    # <s> <mask> : Ġ H o w ? </s>, where ĠH is the beginning of ĠHuman
    "trec": (["How?"], [S, MASK, 29, 324, 82, 90, 34, E]),
}
WORDS = {
    "sst-2": {"0": 272, "1": 277},
    "sst-5": {"0": 272, "1": 280, "2": 284, "3": 287, "4": 277},
    "mnli": {"contradiction": 292, "entailment": 290, "neutral": 297},
    "snli": {"contradiction": 292, "entailment": 290, "neutral": 297},
    "rte": {"entailment": 290, "not_entailment": 292},
    "trec": {"0": 308, "1": 314, "2": 323, "3": 328, "4": 336, "5": 341},
}


@pytest.fixture(scope="module")
def loaded(backbone):
    return load_backbone(backbone)


def encoding(loaded, name, **changes):
    return Encoding(replace(find_layout(name), **changes), loaded.tokenizer, loaded.dictionary)


def test_the_vocabulary_is_as_its_rules_say(loaded):
    vocabulary = clozes.vocabulary()
    assert [loaded.dictionary.index(token) for token in vocabulary] == list(vocabulary.values())
    assert vocabulary["a"] == ord("a") - 29 and vocabulary["Ġ"] == 224 and vocabulary["ĠI"] == 260


def test_every_published_layout_is_tried():
    assert sorted(SEQUENCES) == sorted(WORDS) == named_layouts()


@pytest.mark.parametrize("name", SEQUENCES)
def test_whole_sequences(loaded, name):
    sentences, expected = SEQUENCES[name]
    (found,) = encoding(loaded, name).sequences([sentences])
    assert found.symbols == expected and found.has_mask and not found.is_shortened and not found.special


@pytest.mark.parametrize("name", WORDS)
def test_label_words(loaded, name):
    found = encoding(loaded, name)
    assert dict(zip(found.layout.classes, found.words)) == WORDS[name]


def test_published_limits():
    limits = {name: [part.limit for part in find_layout(name).template if isinstance(part, Sentence)] for name in named_layouts()}
    assert limits == {"mnli": [240, None], "rte": [240, None], "snli": [None, None], "sst-2": [None], "sst-5": [110], "trec": [110]}
    assert {name: find_layout(name).max_length for name in named_layouts()} == {
        **dict.fromkeys(("mnli", "rte", "snli"), 256),
        **dict.fromkeys(("sst-2", "sst-5", "trec"), 128),
    }


def test_a_sentences_limit_and_then_the_whole_ones_tail(loaded):
    # 110 letters of the 115 are left; <s> and five symbols more.
    (found,) = encoding(loaded, "sst-5").sequences([["x" * 115]])
    assert found.symbols == [S, *[91] * 110, IT, WAS, MASK, 17, E] and found.is_shortened and found.has_mask
    # <s> <mask> : Ġ and 109 of 200 letters: the space counts
    (found,) = encoding(loaded, "trec").sequences([["x" * 200]])
    assert found.symbols == [S, MASK, 29, 224, *[91] * 109, E]
    # The first sentence has 240 symbols; of the second the tail goes, </s> first.
    (found,) = encoding(loaded, "rte").sequences([["x" * 300, "zy" * 20]])
    assert found.symbols == [S, *[91] * 240, 34, MASK, 15, 224, *[93, 92] * 5, 93] and len(found.symbols) == 256


def test_a_mask_that_is_cut_away_is_told(loaded):
    first, second = encoding(loaded, "sst-2").sequences([["x" * 124], ["x" * 125]])
    assert first.symbols == [S, *[91] * 124, IT, WAS, MASK] and first.has_mask
    assert second.symbols == [S, *[91] * 125, IT, WAS] and not second.has_mask


def test_a_sentence_that_spells_a_special_symbol_is_told(loaded):
    found = encoding(loaded, "rte").sequences([["a</s>b", "c"], ["a", "b <mask>"], ["<", ">"]])
    assert [each.special for each in found] == [["</s>"], ["<mask>"], []]


def test_berts_word_pieces(bert):
    """LM-BFF's code gives BERT the same layouts: a literal's space says nothing there, and all token types are 0."""
    loaded = load_backbone(bert)
    found = encoding(loaded, "sst-2")
    (sequence,) = found.sequences([["The cat"]])
    names = [loaded.dictionary[index] for index in sequence.symbols]
    assert names == ["<s>", "the", "cat", "it", "was", "<mask>", ".", "</s>"]
    assert [loaded.dictionary[index] for index in found.words] == ["terrible", "great"]

    import torch

    from sharp_plugins.models.bert import token_types_of

    assert not token_types_of(torch.tensor([sequence.symbols]), loaded.dictionary.eos()).any()


# ---------------------------------------------------------------------- refusals


def layout(words=None, template=None):
    template = template or [{"sentence": 1}, "<mask>"]
    return layout_of({"template": template, "words": words or {"a": "great", "b": "bad"}, "max_length": 32}, "own.yaml")


@pytest.mark.parametrize(
    "given, message",
    [
        (layout({"a": "great", "b": "awful"}), "'awful' of class b must be one token of the vocabulary, and is 6: 'Ġ', 'a', 'w'"),
        (layout({"a": "great", "b": " bad"}), "' bad' of class b must be one token of the vocabulary, and is 2: 'Ġ', 'Ġbad'"),
        (layout({"a": "great", "b": "<mask>"}), "words: '<mask>' of class b is a special symbol, and no word"),
        (layout({"a": "great", "b": "<maybe>"}), "'<maybe>' of class b must be one token of the vocabulary, and is 0: none"),
        (layout({"a": "great", "b": "bad", "c": "great"}), "the classes a and c have one token, 'Ġgreat'"),
        (layout(template=["€", {"sentence": 1}, "<mask>"]), "the vocabulary has no token for '€'"),
    ],
    ids=["pieces", "a-space-twice", "special", "no-token", "one-word-twice", "a-literal-of-bytes"],
)
def test_words_and_literals_that_are_no_token(loaded, given, message):
    with pytest.raises(ValueError) as raised:
        Encoding(given, loaded.tokenizer, loaded.dictionary)
    assert message in str(raised.value)


def test_a_word_that_is_looked_up(loaded):
    """LM-BFF takes one that begins with a full stop, a comma or a bracket as the token that it is."""
    assert Encoding(layout({"a": ".", "b": "great"}), loaded.tokenizer, loaded.dictionary).words == [17, 277]


def test_an_unknown_word_of_berts(bert):
    loaded = load_backbone(bert)
    with pytest.raises(ValueError, match="words: 'Ωmega' of class b must be one token"):
        Encoding(layout({"a": "great", "b": "Ωmega"}), loaded.tokenizer, loaded.dictionary)


# ---------------------------------------------------------------------- the published files


@pytest.fixture(scope="module")
def roberta():
    """The tokenizer of a published RoBERTa: SHARP_TEST_ROBERTA names a directory with its files."""
    directory = os.environ.get("SHARP_TEST_ROBERTA")
    if not directory:
        pytest.skip("SHARP_TEST_ROBERTA names no directory with RoBERTa's vocab.json and merges.txt")
    from sharp_plugins.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(directory)
    return tokenizer, tokenizer.dictionary()


# The ids of the published vocabulary: <s> 0, </s> 2, <mask> 50264, "." 4, "," 6, "?" 116, ":" 35, ĠIt 85, Ġwas 21.
REAL = {
    "sst-2": (["a fun film"], "a Ġfun Ġfilm ĠIt Ġwas <mask> ."),
    "sst-5": (["a fun film"], "a Ġfun Ġfilm ĠIt Ġwas <mask> ."),
    "mnli": (["It rains.", "The sky is blue."], "It Ġrains ? <mask> , Ġthe Ġsky Ġis Ġblue ."),
    "snli": (["A man eats", "He runs."], "A Ġman Ġeat ? <mask> , Ġhe Ġruns ."),
    "rte": (["It rains.", "It is wet."], "It Ġrains ? <mask> , Ġit Ġis Ġwet ."),
    "trec": (["Who was he ?"], "<mask> : ĠWho Ġwas Ġhe Ġ?"),
}


@pytest.mark.parametrize("name", REAL)
def test_robertas_own_files(roberta, name):
    tokenizer, dictionary = roberta
    found = Encoding(find_layout(name), tokenizer, dictionary)
    sentences, expected = REAL[name]
    (sequence,) = found.sequences([sentences])
    assert [dictionary[index] for index in sequence.symbols] == ["<s>", *expected.split(), "</s>"]
    ids = [tokenizer.published_ids[index] for index in sequence.symbols]
    known = {"<mask>": 50264, ".": 4, ",": 6, "?": 116, ":": 35, "ĠIt": 85, "Ġwas": 21, "<s>": 0, "</s>": 2}
    assert all(index == known.get(dictionary[symbol], index) for index, symbol in zip(ids, sequence.symbols))
    assert all(dictionary[index] == f"Ġ{word}" for index, word in zip(found.words, found.layout.words.values()))
