"""Where a corpus's splits are found, and which texts and categories count."""

import json

import pytest

from sharp_plugins.webnlg.corpus import CorpusError, files_of, find_split, read_corpus
from sharp_plugins.webnlg.entry import Entry
from sharp_plugins.webnlg.linearise import LINEARISATIONS, linearise
from sharp_plugins.webnlg.prepare import source_of
from sharp_plugins.webnlg.seen import SEEN_2017, with_seen
from sharp_plugins.webnlg.texts import choose_texts, good_texts, group_by_input

ENTRY = Entry("1", "Food", None, (("a", "b", "c"),), ("One.", "two"), (True, False))


# ---------------------------------------------------------------------- where they are


@pytest.mark.parametrize(
    "names, split, found",
    [
        (["train.xml", "train.json.gz"], "train", "train.json.gz"),
        (["dev.csv", "dev.jsonl.gz", "dev/1triples/Food.xml"], "dev", "dev.jsonl.gz"),
        (["trainset.csv", "testset.csv", "testset_w_refs.csv"], "test", "testset_w_refs.csv"),
        (["dart-v1.1.1-full-dev.json", "dart-v1.1.1-full-test.json"], "dev", "dart-v1.1.1-full-dev.json"),
        (["webnlg_release_v2_train.json"], "train", "webnlg_release_v2_train.json"),
        (["train/1triples/Food.xml.gz", "train/2triples/Food.xml"], "train", "train"),
        # Beside these lie the same inputs without texts, some of them again, and other inputs.
        (
            ["test/testdata_no_lex.xml", "test/testdata_unseen_with_lex.xml", "test/testdata_with_lex.xml"],
            "test",
            "test/testdata_with_lex.xml",
        ),
        (
            [
                f"test/{kind}-{refs}-refs-en.xml"
                for kind in ("rdf-to-text-generation-test-data", "semantic")
                for refs in ("with", "without")
            ],
            "test",
            "test/rdf-to-text-generation-test-data-with-refs-en.xml",
        ),
    ],
)
def test_the_first_that_is_there_is_taken(tmp_path, names, split, found):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_split(tmp_path, split) == tmp_path / found


def test_what_was_looked_for_is_told(tmp_path):
    (tmp_path / "dev").mkdir()  # without XML files
    with pytest.raises(
        CorpusError, match=r"neither dev\.jsonl nor dev\.jsonl\.gz is there, nor dev\.json, dev\.xml, dev\.csv, .*directory"
    ):
        find_split(tmp_path, "dev")


def test_two_of_the_same_right_are_named(tmp_path):
    for version in (1, 2):
        (tmp_path / f"dart-v{version}-full-train.json").touch()
    with pytest.raises(CorpusError, match="dart-v1-full-train.json, dart-v2-full-train.json: one train set is wanted, not several"):
        find_split(tmp_path, "train")


def test_checksums_are_of_all_files_that_are_read(tmp_path):
    for name in ("train/1triples/a.xml", "train/2triples/a.xml", "dev.jsonl", "test.xml", "tofix.tsv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(source_of(tmp_path, 100)["corpus"]) == [
        "train/1triples/a.xml",
        "train/2triples/a.xml",
        "dev.jsonl",
        "tofix.tsv",
        "test.xml",
    ]
    assert files_of(tmp_path / "test.xml") == [tmp_path / "test.xml"]  # the list is of JSON lines


# ---------------------------------------------------------------------- which texts count


def test_training_uses_the_good_texts_and_the_test_set_has_all():
    bad = Entry("2", "Food", None, (("a", "b", "d"),), ("three",), (False,))
    corpus = dict.fromkeys(("train", "dev", "test"), [ENTRY, bad])
    chosen = choose_texts(corpus, "good")
    assert chosen["train"] == chosen["dev"] == [Entry("1", "Food", None, ENTRY.triples, ("One.",))]
    assert chosen["test"] == [ENTRY, bad] and choose_texts(corpus, "all") == corpus
    with pytest.raises(ValueError, match="texts 'best': should be good or all"):
        choose_texts(corpus, "best")
    with pytest.raises(ValueError, match="^dev: none of its texts is marked as good; --texts all takes all$"):
        choose_texts({**corpus, "dev": [bad]}, "good")


def test_an_entry_has_a_flag_for_each_text():
    with pytest.raises(ValueError, match="entry 1: good has 3 values, and there are 2 texts"):
        Entry("1", "Food", None, ENTRY.triples, ENTRY.refs, (True,) * 3)


def test_the_counts_of_published_work(data_beside):
    corpus = read_corpus(data_beside / "webnlg2017")
    texts = {split: sum(len(entry.refs) for entry in entries) for split, entries in choose_texts(corpus, "good").items()}
    assert texts == {"train": 18102 - 77, "dev": 2268 - 10, "test": 4928}
    # LoRA's: batches of 8, the last of an epoch smaller.
    assert 5 * -(-texts["train"] // 8) == 11270
    assert (len(good_texts(corpus["train"])), len(good_texts(corpus["dev"]))) == (6935, 871)
    assert len(group_by_input(corpus["test"])) == 1862 and len(group_by_input(corpus["train"])) == 6893
    # Seen and unseen: the data, the published list and what is in training agree.
    unsaid = [Entry(entry.id, entry.category, None, entry.triples, entry.refs) for entry in corpus["test"]]
    said = [entry.seen for entry in corpus["test"]]
    assert (said.count(True), said.count(False)) == (971, 891)
    for entries in (with_seen(unsaid), with_seen(unsaid, "training", corpus["train"])):
        assert [entry.seen for entry in entries] == said
    assert {entry.category for entry in corpus["train"]} == set(SEEN_2017)


def test_an_input_has_the_texts_of_all_its_entries():
    turned = Entry("3", "Food", None, (("d", "e", "f"), ("a", "b", "c")), ("Turned.",))
    both = Entry("2", "City", True, turned.triples[::-1], ("Both.",))
    more = Entry("4", "Food", None, ENTRY.triples, ("three",), (False,))
    assert group_by_input([ENTRY, turned, both, more]) == [
        Entry("1", "Food", None, ENTRY.triples, ("One.", "two", "three"), (True, False, False)),
        turned,
        both,
    ]


# ---------------------------------------------------------------------- seen and unseen


def test_what_the_data_say_stays():
    said = [
        Entry("1", category, seen, ENTRY.triples, ENTRY.refs) for category in ("Food", "Artist") for seen in (True, False, None)
    ]
    assert [entry.seen for entry in with_seen(said)] == [True, False, True, True, False, False]
    assert [entry.seen for entry in with_seen(said, "training", said[3:])] == [True, False, False, True, False, True]


@pytest.mark.parametrize(
    "how, training, words", [("list", [ENTRY], "should be published or training"), ("training", [], "no training data")]
)
def test_seen_by_nothing_is_refused(how, training, words):
    with pytest.raises(ValueError, match=words):
        with_seen([ENTRY], how, training)


# ---------------------------------------------------------------------- linearisations


def test_linearisations():
    """As LoRA's and prefix tuning's code write these; see the module for their places."""
    entry = Entry(
        "1", "Food", None, (("Ayam_penyet", "region", '"Malaysia."@en'), ("A_|_B", "mainIngredient", "Ayam : x")), ("Text.",)
    )
    lora = 'Ayam_penyet : region : "Malaysia."@en | A_|_B : mainIngredient : Ayam : x'
    assert linearise(entry, "lora") == lora and linearise(entry, "prefix") == f" | {lora}"
    assert linearise(entry, "markup") == '<S> Ayam penyet <P> region <O> "Malaysia."@en <S> A | B <P> main ingredient <O> Ayam : x'
    with pytest.raises(ValueError, match=f"no linearisation 'gpt2'; there are {', '.join(LINEARISATIONS)}"):
        linearise(entry, "gpt2")


def test_e2e_as_in_loras_files():
    """Lines of examples/NLG/data/e2e/valid.txt and test.txt in microsoft/LoRA, of these published rows."""
    slots = [
        [
            "name[Cocum]",
            "eatType[coffee shop]",
            "food[Chinese]",
            "priceRange[£20-25]",
            "customer rating[high]",
            "familyFriendly[no]",
        ],
        ["name[Blue Spice]", "eatType[coffee shop]", "customer rating[5 out of 5]", "near[Crowne Plaza Hotel]"],
    ]
    triples = [tuple(("", *slot[:-1].split("[")) for slot in row) for row in slots]
    assert [linearise(Entry("1", "E2E", None, row, ("Text.",)), "lora") for row in triples] == [
        "name : Cocum | Type : coffee shop | food : Chinese | price : £ 20 - 25 | customer rating : high | family friendly : no",
        "name : Blue Spice | Type : coffee shop | customer rating : 5 out of 5 | near : Crowne Plaza Hotel",
    ]
    assert (
        linearise(Entry("1", "E2E", None, triples[1][:2], ("Text.",)), "markup")
        == "<P> name <O> Blue Spice <P> eat type <O> coffee shop"
    )


def test_the_example_of_decoders_uses_loras(tmp_path):
    import runpy
    from pathlib import Path

    line = {"id": "1", "category": "Food", "triples": [["A", "b", "C"], ["D_d", "e", "F"]], "refs": ["One."]}
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    script = Path(__file__).resolve().parents[2] / "examples" / "decoders" / "make_prompts.py"
    assert runpy.run_path(str(script))["main"](["--file", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "a.jsonl").read_text()) == {"prompt": "A : b : C | D_d : e : F", "texts": ["One."]}
