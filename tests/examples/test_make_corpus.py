"""The quickstart's corpus: the same bytes everywhere, in WebNLG's shape, with every fact said in every text."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from sharp_plugins.webnlg.corpus import read_corpus
from sharp_plugins.webnlg.linearise import readable_entity
from sharp_plugins.webnlg.parallel import training_pairs

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "quickstart" / "make_corpus.py"

# Of train.jsonl, dev.jsonl and test.jsonl together, with the default options.
SHA256 = "76ea492ab91e9f272a6dec3194c283eeae1fd57f3dfa43c594bfe18cad40e3eb"


def make(directory, *flags):
    # A hash seed of its own for every run shows any dependence on the order of a set.
    command = [sys.executable, str(SCRIPT), "--out", str(directory), *flags]
    return subprocess.run(command, capture_output=True, text=True, env={"PYTHONHASHSEED": "random"})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus")
    done = make(directory)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="module")
def corpus(made):
    return read_corpus(made)


def digest(directory):
    return hashlib.sha256(b"".join((directory / f"{s}.jsonl").read_bytes() for s in ("train", "dev", "test"))).hexdigest()


def test_same_bytes_everywhere(made, tmp_path):
    assert digest(made) == SHA256
    make(tmp_path, "--seed", "2")
    assert digest(tmp_path) != SHA256


def test_shape(corpus):
    assert {split: len(entries) for split, entries in corpus.items()} == {"train": 1200, "dev": 150, "test": 300}
    assert 3000 <= len(list(training_pairs(corpus["train"]))) <= 4000
    assert {len(entry.triples) for entry in corpus["train"]} == set(range(1, 8))
    assert all(2 <= len(entry.refs) for entry in corpus["train"] if len(entry.triples) > 1)
    assert all(len(set(entry.refs)) == len(entry.refs) for entries in corpus.values() for entry in entries)


def test_unseen_categories_never_occur_in_training(corpus):
    trained = {entry.category for entry in corpus["train"]}
    assert all(entry.seen is None for entry in corpus["train"] + corpus["dev"])
    assert all((entry.category in trained) is entry.seen for entry in corpus["test"])
    assert sum(not entry.seen for entry in corpus["test"]) == 100
    known = {part for entry in corpus["train"] for triple in entry.triples for part in (triple[0], triple[2])}
    # The subjects of unseen inputs, and some of their properties, are new.
    assert not any(entry.triples[0][0] in known for entry in corpus["test"] if not entry.seen)
    predicates = {triple[1] for entry in corpus["train"] for triple in entry.triples}
    assert {"homePort", "director"}.isdisjoint(predicates)


def test_no_input_occurs_twice(corpus):
    keys = [tuple(sorted(entry.triples)) for entries in corpus.values() for entry in entries]
    assert len(set(keys)) == len(keys)


def test_every_text_says_every_fact(corpus):
    for entries in corpus.values():
        for entry in entries:
            for text in entry.refs:
                for subject, _, obj in entry.triples:
                    assert readable_entity(obj).lower() in text.lower(), (entry.id, obj, text)
                    assert readable_entity(subject).lower() in text.lower(), (entry.id, subject, text)
                assert text[0].isupper() and text.endswith(".") and ",," not in text and ",." not in text


def test_one_value_for_each_property(corpus):
    values = {}
    for entry in corpus["train"] + corpus["dev"] + [entry for entry in corpus["test"] if entry.seen]:
        for subject, predicate, obj in entry.triples:
            assert values.setdefault((subject, predicate), obj) == obj


def test_flags_are_checked(tmp_path):
    done = make(tmp_path, "--dev", "0")
    assert done.returncode != 0 and "--dev" in done.stderr
    assert list(tmp_path.iterdir()) == []
