"""Reading the sets."""

import gzip

import pytest
import sts_files

from sharp_plugins.sts.sets import DEV, FILES, SETS, YEARS, checksum_of, find_set, read_set


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
        ("a\t1\tone\ttwo\n", "STS12.tsv:3: the line is empty"),
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
    with pytest.raises(FileNotFoundError, match="STS-B-dev --data wants a directory with STS-B/dev.tsv or stsbenchmark/sts-dev"):
        find_set(tmp_path, DEV)
    with pytest.raises(ValueError, match="--sets STS11: there is no such set; choose of STS12"):
        find_set(tmp_path, "STS11")
    (tmp_path / "STS12.tsv").write_text("subset\tgold\tsentence1\tsentence2\na\t1\tone\ttwo\n")
    with pytest.raises(ValueError, match="no column score or relatedness_score"):
        read_set(tmp_path, "STS12")
    (tmp_path / "STS12.tsv").write_text("score\tscore\tsentence1\tsentence2\n1\t2\tone\ttwo\n")
    with pytest.raises(ValueError, match="STS12.tsv:1: 2 columns are named score"):
        read_set(tmp_path, "STS12")
    assert len(SETS) == 7


# ---------------------------------------------------------------------- as they are published


def write_year(directory, **changes):
    """Two subsets in SemEval's files; a pair nobody scored, and sources as 2016 has them."""
    files = {
        "STS.input.OnWN.txt": 'a cat\ta dog\nno score\there\na mat\ta "park\n',
        "STS.gs.OnWN.txt": "4.5\n\n0\n",
        "STS2016.input.news.txt": "the cat sat\ta cat sits\tsource one\tsource two\n",
        "STS2016.gs.news.txt": "3\n",
        "STS.gs.ALL.txt": "4.5\n0\n3\n",
        **changes,
    }
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / name).unlink(missing_ok=True)
        if text is not None:
            (directory / name).write_text(text)


def test_a_year_is_read_as_semeval_publishes_it(tmp_path):
    write_year(tmp_path / "STS16-en-test")
    pairs, (warning,) = read_set(tmp_path, "STS16")
    assert pairs == [("a cat", "a dog", 4.5, "OnWN"), ("a mat", 'a "park', 0, "OnWN"), ("the cat sat", "a cat sits", 3, "news")]
    assert "STS16-en-test: 3 pairs, and the published STS16 has 1186" in warning
    before = checksum_of(tmp_path, "STS16")
    write_year(tmp_path / "STS16-en-test", **{"STS.gs.OnWN.txt": "4.5\n\n1\n"})
    assert checksum_of(tmp_path, "STS16") != before


@pytest.mark.parametrize("longer", ["STS.input.OnWN.txt", "STS.gs.OnWN.txt"])
def test_lines_of_nothing_at_the_end_are_none(tmp_path, longer):
    write_year(tmp_path / "STS16-en-test")
    before = read_set(tmp_path, "STS16").pairs
    with open(tmp_path / "STS16-en-test" / longer, "a") as file:
        file.write("\n \n")
    assert read_set(tmp_path, "STS16").pairs == before


def test_a_years_files_may_be_compressed(tmp_path):
    write_year(tmp_path / "STS16-en-test")
    before = read_set(tmp_path, "STS16").pairs
    for name in ("STS.input.OnWN.txt", "STS2016.gs.news.txt"):
        path = tmp_path / "STS16-en-test" / name
        with gzip.open(f"{path}.gz", "wb") as file:
            file.write(path.read_bytes())
        path.unlink()
    assert read_set(tmp_path, "STS16").pairs == before


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"STS.gs.OnWN.txt": None}, r"STS.input.OnWN.txt: there is no STS.gs.OnWN.txt beside it"),
        ({"STS2016.input.news.txt": None}, r"STS2016.gs.news.txt: there is no STS.input.news.txt beside it"),
        ({"STS.input.news.txt": "a\tb\n"}, r"STS.input.news.txt and .*STS2016.input.news.txt are of the same subset"),
        ({"STS.gs.OnWN.txt": "4.5\n\n"}, r"STS.input.OnWN.txt:3: .*STS.gs.OnWN.txt has no such line; the two must be parallel"),
        ({"STS.gs.OnWN.txt": "1\n\n2\n3\n"}, r"STS.gs.OnWN.txt:4: .*STS.input.OnWN.txt has no such line"),
        ({"STS.gs.OnWN.txt": "1\n\n6\n"}, r"STS.gs.OnWN.txt:3: the score is '6'"),
        ({"STS.input.OnWN.txt": "a cat\nb\tc\nd\te\n"}, r"STS.input.OnWN.txt:1: 1 sentences, and should have two"),
        ({"STS.input.OnWN.txt": "a cat\t \nb\tc\nd\te\n"}, r"STS.input.OnWN.txt:1: a sentence is empty"),
    ],
)
def test_what_does_not_fit_in_a_years_files_is_named(tmp_path, changes, words):
    write_year(tmp_path / "STS16-en-test", **changes)
    with pytest.raises(ValueError, match=words):
        read_set(tmp_path, "STS16")


def test_a_year_without_any_of_its_files_is_named(tmp_path):
    (tmp_path / "STS12-en-test").mkdir()
    with pytest.raises(ValueError, match="STS12-en-test: no STS.input.SUBSET.txt in it"):
        read_set(tmp_path, "STS12")


def test_the_benchmark_is_read_as_it_is_published(tmp_path):
    """Without names of the columns, and with sources behind some rows."""
    (tmp_path / "stsbenchmark").mkdir()
    rows = ["captions\tMSRvid\t2012test\t0024\t2.500\tA girl is styling her hair.\tA girl is brushing her hair."]
    rows += ['news\theadlines\t2015\t0033\t3.600\tOne "two.\tThree.\tsource\tother']
    (tmp_path / "stsbenchmark" / "sts-test.csv").write_text("".join(f"{row}\n" for row in rows))
    pairs = read_set(tmp_path, "STS-B").pairs
    assert [(pair.first, pair.score) for pair in pairs] == [("A girl is styling her hair.", 2.5), ('One "two.', 3.6)]
    (tmp_path / "SICK").mkdir()
    names = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"
    (tmp_path / "SICK" / "SICK_test_annotated.txt").write_bytes(f"{names}\r\n1\ta\tb\t3.3\tN\r\n2\tc\td\t4\tN\r\n".encode())
    assert [pair.score for pair in read_set(tmp_path, "SICK-R").pairs] == [3.3, 4]


@pytest.mark.parametrize("year", YEARS)
def test_tokenised_text_is_told(data_beside, year):
    """The raw files have no warning at all, see above."""
    [warning] = read_set(data_beside / "sts" / "senteval_tokenised", year).warnings
    assert f"{year}.tsv: the text seems to be tokenised" in warning
