"""GLUE's files in both layouts, and everything that can be wrong with them."""

import gzip

import glue_files
import pytest

from sharp_plugins.glue.reader import find_files, is_stand_in, read
from sharp_plugins.glue.tasks import TASKS

RTE = TASKS["RTE"]
HEAD = "index\tsentence1\tsentence2\tlabel\n"


def split_of(task, name):
    return next(split for split, (names, _, _) in TASKS[task].splits.items() if name in names)


@pytest.mark.parametrize("layouts", [glue_files.OFFICIAL, glue_files.PLAIN], ids=["official", "plain"])
@pytest.mark.parametrize("task", TASKS)
def test_both_layouts_are_read(tmp_path, task, layouts):
    written = glue_files.write_task(tmp_path, task, layouts=layouts)
    files = find_files(tmp_path, TASKS[task])
    assert {path.name for path in files.values()} == {f"{name}.tsv" for name in written}
    for name, rows in written.items():
        split = split_of(task, name)
        table = read(files[split], TASKS[task], split)
        has_labels = layouts is glue_files.PLAIN or not name.startswith("test")
        assert [(row.sentences, row.label) for row in table.rows] == [
            (sentences, label if has_labels else None) for sentences, label in rows
        ]
        if name.startswith("test"):
            assert [row.index for row in table.rows] == [str(i) for i in range(len(rows))]
        # None of them has as many rows as the published one.
        (warning,) = table.warnings
        assert f"{len(rows)} rows" in warning and str(TASKS[task].splits[split].rows) in warning


def test_compressed_files_and_stand_ins(tmp_path):
    layout = glue_files.PLAIN["QQP"][0]
    rows = glue_files.make_rows("QQP", 6)
    glue_files.write_file(tmp_path / "QQP" / "train_20k.tsv.gz", layout, rows)
    glue_files.write_file(tmp_path / "QQP" / "heldout_from_train.tsv.gz", layout, rows)
    files = find_files(tmp_path, TASKS["QQP"])
    assert {split: path.name for split, path in files.items()} == {
        "train": "train_20k.tsv.gz",
        "valid": "heldout_from_train.tsv.gz",
    }
    table = read(files["train"], TASKS["QQP"], "train")
    assert [row.sentences for row in table.rows] == [sentences for sentences, _ in rows]
    assert table.warnings == [] and is_stand_in(files["train"], TASKS["QQP"], "train")
    # The published file goes before; but a part of it is no development set.
    glue_files.write_file(tmp_path / "QQP" / "train.tsv", layout, rows)
    with pytest.raises(ValueError, match=r"heldout_from_train\.tsv\.gz: holds rows of the training set.*QQP/dev\.tsv"):
        find_files(tmp_path, TASKS["QQP"])
    glue_files.write_file(tmp_path / "QQP" / "dev.tsv", layout, rows)
    assert find_files(tmp_path, TASKS["QQP"])["train"].name == "train.tsv"
    assert not is_stand_in(tmp_path / "QQP" / "train.tsv", TASKS["QQP"], "train")


def test_only_line_feeds_end_a_line_and_quotes_are_text(tmp_path):
    first, second = 'a\u2028b \x85 "c', "d\x0be\x1c '"
    path = tmp_path / "train.tsv"
    path.write_bytes(f"{HEAD}0\t{first}\t{second}\tentailment\r\n".encode("utf-8"))
    (row,) = read(path, RTE, "train").rows
    assert row.sentences == (first, second) and row.label == "entailment"


def test_as_many_rows_as_published_give_no_warning(tmp_path):
    rows = glue_files.make_rows("RTE", 277)
    path = glue_files.write_file(tmp_path / "dev.tsv", glue_files.OFFICIAL["RTE"][1], rows)
    assert read(path, RTE, "valid").warnings == []


@pytest.mark.parametrize("missing", ["train", "dev"])
def test_a_missing_file_is_named(tmp_path, missing):
    glue_files.write_task(tmp_path, "RTE")
    (tmp_path / "RTE" / f"{missing}.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=rf"RTE/{missing}\.tsv.*--data.*--download"):
        find_files(tmp_path, RTE)


GOOD = "0\ta b\tc d\tentailment\n"
BAD = {
    "no column": ("index\tsentence1\tlabel\n" + GOOD, 1, "sentence2"),
    "no label column": ("index\tsentence1\tsentence2\n0\ta\tb\n", 1, "no column label"),
    "few fields": (HEAD + GOOD + "1\ta b\tentailment\n", 3, "3 fields, and the first line has 4"),
    "many fields": (HEAD + "0\ta\tb\tc\tentailment\n", 2, "5 fields"),
    "label": (HEAD + GOOD + GOOD + "2\ta\tb\tentails\n", 4, "'entails'.*entailment, not_entailment"),
    "no text": (HEAD + "0\t \t\tentailment\n", 2, "no text"),
    "cut in a row": (HEAD + GOOD + "1\ta b\tc", 3, "3 fields.*cut off"),
    "cut in a label": (HEAD + GOOD + "1\ta b\tc\tnot_entail", 3, "'not_entail'.*cut off"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, case):
    text, line, words = BAD[case]
    path = tmp_path / "train.tsv"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"train\.tsv:{line}: .*{words}"):
        read(path, RTE, "train")


def test_a_byte_that_is_not_utf8_is_named_by_line(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_bytes((HEAD + GOOD).encode() + b"1\tcaf\xe9\tb\tentailment\n")
    with pytest.raises(ValueError, match=r"train\.tsv:3: not UTF-8: .* at byte 5"):
        read(path, RTE, "train")


@pytest.mark.parametrize("text, words", [("", "empty"), (HEAD, "no rows")], ids=["nothing", "names alone"])
def test_an_empty_file(tmp_path, text, words):
    path = tmp_path / "train.tsv"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"train\.tsv: .*{words}"):
        read(path, RTE, "train")


def test_a_compressed_file_that_is_cut_off_or_damaged(tmp_path):
    rows = glue_files.make_rows("RTE", 2000)
    path = glue_files.write_file(tmp_path / "train.tsv.gz", glue_files.OFFICIAL["RTE"][0], rows)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"train\.tsv\.gz:\d+: cut off or damaged") as error:
        read(path, RTE, "train")
    line = int(str(error.value).split("train.tsv.gz:")[1].split(":")[0])
    assert 2 <= line <= 2001
    path.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"train\.tsv\.gz:1: cut off or damaged"):
        read(path, RTE, "train")
    with gzip.open(path, "wb") as file:
        file.write((HEAD + GOOD).encode())
    assert len(read(path, RTE, "train").rows) == 1


def test_a_whole_last_row_without_a_line_break_is_kept_with_a_warning(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text(HEAD + GOOD + "1\tx\ty\tnot_entailment")
    table = read(path, RTE, "train")
    assert table.rows[-1].label == "not_entailment"
    assert any("train.tsv:3: the last line has no line break" in warning for warning in table.warnings)


def test_sentences_are_without_the_white_space_around_them(tmp_path):
    """As SST-2's published ones are not: a byte-level BPE makes a token of the last space."""
    path = tmp_path / "train.tsv"
    path.write_text("sentence\tlabel\nhide new secretions from the parental units \t0\n")
    (row,) = read(path, TASKS["SST-2"], "train").rows
    assert row.sentences == ("hide new secretions from the parental units",)


def test_rows_left_out_keep_their_numbers(tmp_path):
    """A test file without a column of numbers: the rows after a bad one are those that the server counts."""
    path = tmp_path / "test.tsv"
    path.write_text("sentence1\tsentence2\na\tb\nbad\nc\td\n")
    assert [row.index for row in read(path, RTE, "test", skip_malformed=True).rows] == ["0", "2"]
    path.write_text("sentence1\tsentence2\nbad\n")
    with pytest.raises(ValueError, match=r"no rows that can be read; the first: .*test\.tsv:2: "):
        read(path, RTE, "test", skip_malformed=True)


def test_skip_malformed_leaves_bad_rows_out_and_counts_them(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text(HEAD + "0\ta\n" + GOOD + "2\ta\tb\tentails\n" + GOOD)
    with pytest.raises(ValueError, match="--skip-malformed"):
        read(path, RTE, "train")
    table = read(path, RTE, "train", skip_malformed=True)
    assert [row.sentences for row in table.rows] == [("a b", "c d")] * 2
    assert any("2 malformed rows" in warning and "train.tsv:2" in warning for warning in table.warnings)
    # A file that is not this task's at all is refused all the same.
    path.write_text("a\tb\n" + GOOD)
    with pytest.raises(ValueError, match=r"train\.tsv:1: no column"):
        read(path, RTE, "train", skip_malformed=True)


@pytest.mark.parametrize("score", ["5.1", "-0.2", "nan", "inf", "high", ""])
def test_a_score_must_be_a_number_from_0_to_5(tmp_path, score):
    head = "sentence1\tsentence2\tscore\n"
    path = tmp_path / "train.tsv"
    path.write_text(f"{head}a\tb\t0\nc\td\t5.000\ne\tf\t{score}\n")
    with pytest.raises(ValueError, match=r"train\.tsv:4: .*from 0 to 5"):
        read(path, TASKS["STS-B"], "train")


def test_cola_without_and_with_names_of_columns(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("gj04\t1\t\tOne sentence.\ngj04\t0\t*\tTwo sentence.\n")
    assert [row.label for row in read(path, TASKS["CoLA"], "train").rows] == ["1", "0"]
    path.write_text("gj04\t1\t\tOne sentence.\ngj04\t0\t*\n")
    with pytest.raises(ValueError, match=r"train\.tsv:2: 3 fields, and a row of this task has 4"):
        read(path, TASKS["CoLA"], "train")
    path.write_text("gj04\tlabel\tmark\tsentence\ngj04\t1\t\tOne sentence.\n")
    assert len(read(path, TASKS["CoLA"], "train").rows) == 1


@pytest.mark.parametrize("task", ["STS-B", "QQP", "QNLI", "MNLI", "RTE", "MRPC"])
def test_columns_of_the_same_name_in_all_tasks(tmp_path, task):
    rows = glue_files.make_rows(task, 5)
    path = glue_files.write_file(tmp_path / "train.tsv", ("sentence1\tsentence2\tlabel", "{a}\t{b}\t{y}"), rows)
    found = read(path, TASKS[task], "train").rows
    assert [(row.sentences, row.label) for row in found] == rows


def test_test_sets_may_have_a_placeholder_for_labels(tmp_path):
    rows = [(sentences, "-1") for sentences, _ in glue_files.make_rows("RTE", 4)]
    path = glue_files.write_file(tmp_path / "test.tsv", glue_files.OFFICIAL["RTE"][0], rows)
    assert [row.label for row in read(path, TASKS["RTE"], "test").rows] == [None] * 4
    with pytest.raises(ValueError, match="test.tsv:2: the label is '-1'"):
        read(path, TASKS["RTE"], "valid")


@pytest.mark.parametrize("label", ["1", "1.0", " 1", "1e0", "+1"])
def test_a_class_written_as_another_number_is_the_class(tmp_path, label):
    """As tables are saved in which a label was missing."""
    path = tmp_path / "train.tsv"
    path.write_text(f"sentence\tlabel\na b\t{label}\nc d\t0.0\n")
    assert [row.label for row in read(path, TASKS["SST-2"], "train").rows] == ["1", "0"]


@pytest.mark.parametrize("label", ["2.0", "0.5", "1_0", "\u0661", "True", "nan", ""])
def test_other_numbers_are_no_class(tmp_path, label):
    path = tmp_path / "train.tsv"
    path.write_text(f"sentence\tlabel\na b\t{label}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"train\.tsv:2: the label is .*, and should be one of 0, 1"):
        read(path, TASKS["SST-2"], "train")


@pytest.mark.parametrize("score", ["1_0", "1,5", "\u0661", "infinity"])
def test_scores_are_plain_numbers(tmp_path, score):
    """Python's float takes the first and the third."""
    path = tmp_path / "train.tsv"
    path.write_text(f"sentence1\tsentence2\tscore\na\tb\t{score}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"train\.tsv:2: the label is .*, and should be a number from 0 to 5"):
        read(path, TASKS["STS-B"], "train")


@pytest.mark.parametrize("unknown", ["-1", "-1.0"])
def test_unknown_labels_of_test_sets(tmp_path, unknown):
    path = tmp_path / "test.tsv"
    path.write_text(f"sentence\tlabel\na b\t{unknown}\n")
    assert read(path, TASKS["SST-2"], "test").rows[0].label is None


def test_utf16_is_named(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_bytes((HEAD + GOOD).encode("utf-16"))
    with pytest.raises(ValueError, match=r"train\.tsv:1: it is UTF-16; save it as UTF-8"):
        read(path, RTE, "train")


def test_a_compressed_file_cannot_fill_the_memory(tmp_path):
    """A line of 64 MB from 64 kB; it could be any number of gigabytes."""
    path = tmp_path / "train.tsv.gz"
    with gzip.open(path, "wb") as file:
        file.write((HEAD + GOOD).encode())
        for _ in range(64):
            file.write(bytes(1 << 20))
    with pytest.raises(ValueError, match=r"train\.tsv\.gz:3: the line has more than 16777216 bytes"):
        read(path, RTE, "train")
