"""Reading the sets."""

import gzip

import pytest
import sts_files

from sharp_plugins.sts.sets import DEV, FILES, SETS, find_set, read_set


def test_the_published_files_have_the_published_pairs(data_beside):
    for name, (_, count) in FILES.items():
        pairs, warnings = read_set(data_beside / "sts", name)
        assert len(pairs) == count and not warnings
        assert len({pair.subset for pair in pairs}) == {"STS12": 5, "STS13": 3, "STS14": 6, "STS15": 5, "STS16": 5}.get(name, 1)
    first = read_set(data_beside / "sts", "SICK-R").pairs[0]
    assert first.first == "There is no boy playing outdoors and there is no man smiling" and first.score == 3.3


def test_a_compressed_file_is_read_and_other_counts_are_told(tmp_path):
    path = sts_files.write_sets(tmp_path) / "STS13.tsv"
    with gzip.open(tmp_path / "STS13.tsv.gz", "wt") as file:
        file.write(path.read_text())
    path.unlink()
    pairs, (warning,) = read_set(tmp_path, "STS13")
    assert len(pairs) == 12 and "12 pairs, and the published STS13 has 1500" in warning


@pytest.mark.parametrize(
    "row, words",
    [
        ("a\thigh\tone\ttwo", "STS12.tsv:2: the score is 'high', and should be a number from 0 to 5"),
        ("a\tnan\tone\ttwo", "the score is 'nan'"),
        ("a\t5.5\tone\ttwo", "the score is '5.5'"),
        ("a\t\tone\ttwo", "the score is ''"),
        ("a\t1\t \ttwo", "STS12.tsv:2: a sentence is empty"),
        ("a\t1\tone", "3 fields, and the first line has 4"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path, row, words):
    (tmp_path / "STS12.tsv").write_text(f"subset\tscore\tsentence1\tsentence2\n{row}\n")
    with pytest.raises(ValueError, match=words):
        read_set(tmp_path, "STS12")


def test_scores_that_are_all_the_same_are_refused(tmp_path):
    (tmp_path / "STS12.tsv").write_text("score\tsentence1\tsentence2\n1\tone\ttwo\n1.0\tthree\tfour\n")
    with pytest.raises(ValueError, match="2 pairs, all of one score"):
        read_set(tmp_path, "STS12")


def test_missing_files_columns_and_sets_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="--data wants a directory with STS12.tsv"):
        find_set(tmp_path, DEV)
    with pytest.raises(ValueError, match="--sets STS11: there is no such set; choose of STS12"):
        find_set(tmp_path, "STS11")
    (tmp_path / "STS12.tsv").write_text("subset\tgold\tsentence1\tsentence2\na\t1\tone\ttwo\n")
    with pytest.raises(ValueError, match="no column score or relatedness_score"):
        read_set(tmp_path, "STS12")
    assert len(SETS) == 7
