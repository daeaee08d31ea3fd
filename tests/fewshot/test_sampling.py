"""Samples are those of MeZO's code: the published ones are drawn again from the whole files, row for row."""

import re
import shutil

import numpy as np
import pytest
from own_tasks import CLOZE, DECODER, written
from rows import write_table

from sharp_plugins.fewshot.data import Maker
from sharp_plugins.fewshot.reader import read
from sharp_plugins.fewshot.samples import Sampler
from sharp_plugins.fewshot.sampling import SEEDS, TEST_SEED, first_of_all, held_out, k_per_class, permutation
from sharp_plugins.fewshot.task_files import find_task, read_task


def rows_of(path, task):
    return [(row.values, row.label) for row in read(path, task)]


def drawn(sample, split):
    return [(row.values, row.label) for row in sample.rows[split]]


def test_a_permutation_is_what_numpys_shuffle_makes_of_a_list():
    rows = [f"row {number}" for number in range(50)]
    shuffled = list(rows)
    np.random.seed(13)
    np.random.shuffle(shuffled)
    assert [rows[number] for number in permutation(50, 13)] == shuffled
    np.random.seed(13)
    assert np.random.permutation(50).tolist() == permutation(50, 13)


def test_classes_follow_each_other_as_they_appear():
    labels = list("abcabcabcaaaa")
    order = permutation(len(labels), 7)
    split = k_per_class(labels, 2, 7)
    appearing = list(dict.fromkeys(labels[number] for number in order))
    for rows, start in ((split.train, 0), (split.valid, 2)):
        expected = [[n for n in order if labels[n] == label][start : start + 2] for label in appearing]
        assert rows == [number for of in expected for number in of]
    assert [labels[n] for n in split.valid].count("b") == 1  # of the three b two are in the training set


def test_the_first_rows_and_what_is_left_of_few():
    split = first_of_all(10, 4, 3, 5)
    assert split.train + split.valid == permutation(10, 5)[:7] and len(split.valid) == 3
    assert first_of_all(3, 1000, 100, 5).train == []


def test_a_test_set_of_more_rows_is_a_sample():
    assert held_out(4, 4, 1) == [0, 1, 2, 3] and held_out(5, 4, 1) == permutation(5, 1)[:4]


@pytest.mark.parametrize("own, by", [(CLOZE, "seed 42"), (DECODER, "the sample's seed")], ids=["cloze", "decoder"])
def test_a_test_set_of_ones_own_that_is_not_taken_whole_is_told(tmp_path, own, by):
    path = write_table(tmp_path / "own" / "test.tsv", ["text", "label"], [[f"row {i}", str(i % 2)] for i in range(1200)])
    for limit, most in ((None, 1000), (1100, 1100), (1200, 1200), (2000, 1200)):
        task = read_task(written(tmp_path, own if limit is None else {**own, "rows": {"test": limit}}))
        sample = Sampler(task, [tmp_path]).test(13)
        seed = TEST_SEED if own is CLOZE else 13
        every = rows_of(path, task)
        assert drawn(sample, "test") == [every[number] for number in held_out(1200, most, seed)]
        told = f"own: tested on {most:,} of the 1,200 rows of test.tsv, drawn with {by}"
        assert sample.remarks == ([told] if most < 1200 else [])


@pytest.mark.parametrize("name", ["the file itself", "a link", "a copy"])
def test_a_file_to_train_and_to_test_on_is_refused(tmp_path, name):
    train = write_table(tmp_path / "own" / "train.tsv", ["text", "label"], [[f"row {i}", str(i % 2)] for i in range(20)])
    test = train if name == "the file itself" else train.with_name("test.tsv")
    if name == "a link":
        test.symlink_to(train)
    elif name == "a copy":
        shutil.copyfile(train, test)
    task = read_task(written(tmp_path, {**CLOZE, "files": {"train": ["own/train"], "test": [f"own/{test.stem}"]}}))
    maker = Maker(task, Sampler(task, [tmp_path]), None, {})
    words = f"{test}: own: the same file to train and to test on; name another under files: test"
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        maker.make(tmp_path / "out", 4, 13)
    assert not (tmp_path / "out").exists()
    assert list(maker.sampler.checksums(None, 13)) == ["test"]  # without training it is a test set like another


def test_a_published_development_set_is_no_test_set(tmp_path):
    for name, letter in (("4-13/train", "x"), ("4-13/dev", "y"), ("test", "y")):
        write_table(tmp_path / "own" / f"{name}.tsv", ["text", "label"], [[f"{letter} {i}", str(i % 2)] for i in range(8)])
    task = read_task(written(tmp_path, {**CLOZE, "files": {"published": ["own"]}}))
    words = "test.tsv: own: the same file to choose the checkpoint and to test on; name another under files: test"
    with pytest.raises(ValueError, match=words):
        Sampler(task, [tmp_path]).checksums(4, 13)


# ---------------------------------------------------------------------- the published samples


@pytest.mark.parametrize("seed", [13, 42])
def test_rte_of_mezo_row_for_row(places, data_beside, seed):
    task = find_task("RTE", "cloze")
    sample = Sampler(task, [data_beside / "glue"]).training(512, seed)
    for split, name in (("train", "train"), ("valid", "dev")):
        assert drawn(sample, split) == rows_of(data_beside / f"fewshot/mezo_k512/RTE/512-{seed}/{name}.tsv", task)
    assert Sampler(task, places).training_files(512, seed)["train"].parent.name == f"512-{seed}"


def test_sixteen_rows_of_a_class_are_lm_bffs(data_beside):
    task = find_task("RTE", "cloze")
    for seed in SEEDS:
        sample = Sampler(task, [data_beside / "glue"]).training(16, seed)
        for split, name in (("train", "train"), ("valid", "dev")):
            assert drawn(sample, split) == rows_of(data_beside / f"fewshot/lmbff_16shot/RTE/16-{seed}/{name}.tsv", task)


@pytest.mark.parametrize("name, published", [("SNLI", "SNLI/test"), ("MNLI", "MNLI/test_matched"), ("SST-5", "sst-5/test")])
def test_the_thousand_rows_of_a_test_set(data_beside, name, published):
    task = find_task(name, "cloze")
    whole = Sampler(task, [data_beside / "glue", data_beside / "fewshot"])
    assert drawn(whole.test(13), "test") == rows_of(data_beside / "fewshot/mezo_k512" / f"{published}.tsv", task)
    assert drawn(whole.test(13), "test") == drawn(whole.test(42), "test") and TEST_SEED == 42


def test_trec_has_too_few_abbreviations(places):
    sample = Sampler(find_task("TREC", "cloze"), places).training(512, 13)
    assert [len(sample.rows[split]) for split in ("train", "valid")] == [2646, 2243]
    (train, *valid), places = zip(*(re.fullmatch(r"TREC: (.*) \((?:.*)(512-13/.*)\)", words).groups() for words in sample.warnings))
    assert train == "class 2 or ABBR has 86 rows to train on, and --k is 512"
    assert valid == [
        "class 4 or LOC has 323 rows in the development set, and --k is 512",
        "class 5 or NUM has 384 rows in the development set, and --k is 512",
        "the development set has no row of class 2 or ABBR",
    ]
    assert places == ("512-13/train.tsv", *["512-13/dev.tsv"] * 3)


def test_what_the_decoders_sample_is(places):
    sizes = {}
    for name in ("CB", "COPA", "RTE", "SQuAD"):
        sampler = Sampler(find_task(name, "decoder"), places)
        sample = sampler.training(1000, 13)
        sizes[name] = len(sample.rows["train"]), len(sample.rows["valid"]), len(sampler.test(13).rows["test"]), sampler.is_sampled()
    assert sizes == {
        "CB": (150, 100, 56, False),
        "COPA": (300, 100, 100, False),
        "RTE": (1000, 500, 277, False),
        "SQuAD": (1000, 500, 1000, True),
    }
