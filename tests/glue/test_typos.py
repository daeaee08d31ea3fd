"""Typing errors in the sets that are evaluated on."""

import re

import glue_files
import numpy
import pytest
from glue_models import read_back

from sharp_plugins.glue import binarize
from sharp_plugins.glue.__main__ import main
from sharp_plugins.glue.binarize import prepare
from sharp_plugins.glue.tasks import TASKS
from sharp_plugins.glue.typos import typo, with_typos
from sharp_plugins.text.encoder_directory import load_backbone

TEXT = "Although the weather wasn't good, 17 children played outside; nobody complained about it."


def edits(one, other):
    """Damerau-Levenshtein's distance with adjacent swaps, by its recurrence."""
    table = numpy.zeros((len(one) + 1, len(other) + 1), dtype=int)
    table[:, 0], table[0] = range(len(one) + 1), range(len(other) + 1)
    for i, a in enumerate(one, 1):
        for j, b in enumerate(other, 1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                table[i, j] = min(table[i, j], table[i - 2, j - 2] + 1)
    return table[-1, -1]


@pytest.mark.parametrize("word", ["long", "aaaa", "Weather", "Éléonore", "abba"])
def test_a_typo_is_one_edit_inside_the_word(word):
    random, found = numpy.random.default_rng(0), set()
    for _ in range(200):
        changed = typo(word, random)
        assert changed[0] == word[0] and changed[-1] == word[-1] and edits(word, changed) == 1
        found.add(len(changed) - len(word))
    assert found == {-1, 0, 1}


def test_a_share_of_the_long_words_has_one():
    random = numpy.random.default_rng(0)
    assert with_typos(TEXT, 0.0, random) == TEXT
    changed = with_typos(TEXT, 1.0, random)
    words, others = re.findall(r"[^\W\d_]+|\d+|[^\w\s]", TEXT), re.findall(r"[^\W\d_]+|\d+|[^\w\s]", changed)
    assert len(words) == len(others)
    assert [a != b for a, b in zip(words, others)] == [len(word) >= 4 for word in words]
    some = [with_typos("typical", 0.3, random) != "typical" for _ in range(1000)]
    assert 250 < sum(some) < 350


def test_all_sets_but_the_training_set_have_them(bert, tmp_path):
    glue_files.write_task(tmp_path / "data", "RTE", counts=(20, 20, 20))
    backbone = load_backbone(bert)
    text = (tmp_path / "data" / "RTE" / "dev.tsv").read_text()
    (tmp_path / "data" / "RTE" / "dev.tsv").write_text(text.replace("the", "running"))
    clean, typos = (
        prepare(tmp_path / "data", backbone, TASKS["RTE"], tmp_path / name, 64, typos=share)
        for name, share in (("clean", 0.0), ("typos", 1.0))
    )
    assert read_back(clean, backbone, "train") == read_back(typos, backbone, "train")
    again = prepare(tmp_path / "data", backbone, TASKS["RTE"], tmp_path / "again", 64, typos=1.0)
    for split in ("valid", "test"):
        (before, labels), (after, same) = (read_back(prepared, backbone, split) for prepared in (clean, typos))
        assert labels == same and before != after
        assert read_back(again, backbone, split) == (after, same)


def test_all_models_see_the_same_ones(bert, tmp_path, monkeypatch):
    glue_files.write_task(tmp_path / "data", "RTE", counts=(20, 20, 20))
    seen, changed = [], binarize.with_typos

    def spied(*given):
        seen.append(changed(*given))
        return seen[-1]

    monkeypatch.setattr(binarize, "with_typos", spied)
    backbone = load_backbone(bert)
    for name, other in (("one", backbone), ("two", backbone._replace(checksums={**backbone.checksums, "dict.txt": "another's"}))):
        prepare(tmp_path / "data", other, TASKS["RTE"], tmp_path / name, 64, typos=0.5)
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :] and len(seen) >= 80


def test_clean_sets_are_not_replaced_by_those_with_typos(bert, tmp_path):
    glue_files.write_task(tmp_path / "data", "RTE", counts=(20, 20, 20))
    how = tmp_path / "data", load_backbone(bert), TASKS["RTE"], tmp_path / "out", 64
    prepare(*how)
    with pytest.raises(ValueError, match="holds the sets without typing errors.*--typos"):
        prepare(*how, typos=0.5)
    assert prepare(*how).done_before
    made = prepare(*how[:3], tmp_path / "typos", 64, typos=0.5)
    assert "50 % of the words of four letters or more have a typing error" in made.in_words
    with pytest.raises(ValueError, match="holds the sets with typing errors"):
        prepare(*how[:3], tmp_path / "typos", 64)


def test_a_share_that_is_none_is_refused(bert, tmp_path, capsys):
    line = ["prepare", "--data", tmp_path, "--backbone", bert, "--out", tmp_path / "out", "--typos", "1.5"]
    assert main([str(part) for part in line]) == 1
    assert "--typos 1.5: give a share" in capsys.readouterr().err
