"""Files as they are published: texts with their spaces, tables between commas, and rows that are longer than their heading."""

import gzip
import json

import pytest
import rows
from own_tasks import CLOZE, DECODER, written

from sharp_plugins.fewshot.data import settings_of
from sharp_plugins.fewshot.reader import read
from sharp_plugins.fewshot.samples import Sampler
from sharp_plugins.fewshot.task_files import find_task, read_task
from sharp_plugins.files.text import LONGEST


def texts(path, task):
    return [(row.values["text"], row.label) for row in read(path, task)]


def test_a_text_keeps_the_spaces_at_its_ends_in_every_form(tmp_path):
    """SST-2's sentences end in a space, which is a token of MeZO's prompts."""
    task = read_task(written(tmp_path, CLOZE))
    table = rows.write_table(tmp_path / "a.tsv", ["text", "label"], [["so good ", " 1 "], [" bad", "0"]])
    lines = rows.write_lines(tmp_path / "a.jsonl", [{"text": "so good ", "label": 1}, {"text": " bad", "label": 0}])
    (tmp_path / "a.csv").write_text("text,label\nso good ,1\n bad,0\n")
    for path in (table, lines, tmp_path / "a.csv"):
        assert texts(path, task) == [("so good ", "good"), (" bad", "bad")]


def test_a_words_field_may_have_spaces(tmp_path):
    words = {"so": {"field": "question", "texts": {"cause": "because", "effect": "so"}}}
    own = {**DECODER, "fields": {"text": ["text"], "question": ["question"]}, "words": words}
    path = rows.write_table(tmp_path / "a.tsv", ["text", "question", "label"], [["It fell", " effect ", "1"]])
    assert read(path, read_task(written(tmp_path, own)))[0].values["so"] == "so"


# ---------------------------------------------------------------------- between commas


@pytest.mark.parametrize("name", ["train-v1.1.json", "train-v1.1.json.gz"])
def test_squads_own_file_is_one_long_line(tmp_path, name):
    """Its training file has 30 million bytes and no line feed. A row in a line of its own has a limit of 16 million."""
    one = {"id": "1", "question": "Q?", "answers": [{"text": "A", "answer_start": 0}]}
    article = {"title": "T", "paragraphs": [{"context": "A " * (LONGEST // 2), "qas": [one]}]}
    content = json.dumps({"version": "1.1", "data": [article]}).encode()
    assert len(content) > LONGEST
    (tmp_path / name).write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
    [row] = read(tmp_path / name, find_task("SQuAD", "decoder"))
    assert row.values["answers"] == ["A"] and len(row.values["context"]) >= LONGEST - 1


def test_tables_between_commas(tmp_path):
    task = read_task(written(tmp_path, {**CLOZE, "columns": ["label", "text"]}))
    with gzip.open(tmp_path / "train.csv.gz", "wt", newline="") as file:
        file.write('1,"so good , as ""it"" gets"\r\n\r\n0,bad\r\n')
    assert texts(tmp_path / "train.csv.gz", task) == [('so good , as "it" gets', "good"), ("bad", "bad")]


@pytest.mark.parametrize(
    "content, words",
    [
        ("1,a\n0,b,c\n", "a.csv:2: 3 fields, and columns of the task names 2"),
        ("1,a\n5,b\n", "a.csv:2: the label is '5'"),
        ('1,"a\n', "a.csv:1: unexpected end of data"),
        ("", "a.csv: it has no rows"),
    ],
)
def test_a_table_between_commas_that_cannot_be_read(tmp_path, content, words):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError) as error:
        read(tmp_path / "a.csv", read_task(written(tmp_path, {**CLOZE, "columns": ["label", "text"]})))
    assert words in str(error.value)


def test_a_heading_tells_the_columns_where_the_task_does_not(tmp_path):
    (tmp_path / "a.csv").write_text("label,sentence\n1,a\n0,b,c\n")
    with pytest.raises(ValueError, match=r"a.csv:3: 3 fields, and the first line has 2"):
        read(tmp_path / "a.csv", read_task(written(tmp_path, CLOZE)))


@pytest.mark.parametrize("name, label, row", [("trec", "3", "3,Who was he ?\n"), ("sst-5", "4", '4,"good , and short ."\n')])
def test_trecs_and_sst_5s_published_samples(tmp_path, name, label, row):
    task = find_task({"trec": "TREC", "sst-5": "SST-5"}[name], "cloze")
    place = tmp_path / name / "2-13"
    place.mkdir(parents=True)
    others = "".join(f"{other},{other} it is\n" for other in task.labels for _ in range(2))
    for split in ("train", "dev", "test"):
        (place / f"{split}.csv").write_text(row + others)
    sample = Sampler(task, [tmp_path]).training(2, 13)
    field = next(iter(task.fields))
    assert sample.rows["train"][0].values[field] == row.split(",", 1)[1].strip().strip('"') and not sample.remarks
    assert sample.rows["valid"][0].label == label and Sampler(task, [tmp_path]).test(13).rows["test"][0].label == label


@pytest.mark.parametrize("name, text", [("TREC", "question"), ("SST-5", "sentence")])
def test_lm_bffs_published_samples_of_trec_and_sst_5(tmp_path, name, text):
    """Tables with a line of names, of which one is text."""
    task = find_task(name, "cloze")
    lines = [[label, f"{label} it is"] for label in task.labels]
    for split in ("train", "dev"):
        rows.write_table(tmp_path / name.lower() / "1-13" / f"{split}.tsv", ["label", "text"], lines)
    sample = Sampler(task, [tmp_path]).training(1, 13)
    assert [[row.label, row.values[text]] for row in sample.rows["train"]] == lines and not sample.remarks


# ---------------------------------------------------------------------- SNLI's rows


def test_rows_whose_label_is_last(tmp_path):
    task = find_task("SNLI", "cloze")
    heading = ["index", "sentence1", "sentence2", "label1", "gold_label"]
    found = [
        ["1", "A man.", "A woman.", "neutral", "contradiction"],
        ["2", "A man.", "He is.", "neutral", "neutral", "neutral", "entailment", "entailment", "entailment"],
        ["3", "A man.", "He sits.", "neutral"],
    ]
    path = rows.write_table(tmp_path / "train.tsv", heading, found)
    assert [row.label for row in read(path, task)] == ["contradiction", "entailment", "neutral"]
    assert [row.values["hypothesis"] for row in read(path, task)] == ["A woman.", "He is.", "He sits."]
    with pytest.raises(ValueError, match=r"train.tsv:3: 9 fields, and the first line has 5"):
        read(path, find_task("MNLI", "cloze"))


# ---------------------------------------------------------------------- what would be taken for something else


def test_two_columns_of_one_name(tmp_path):
    path = rows.write_table(tmp_path / "a.tsv", ["text", "text", "label", "x", "x"], [["a", "b", "1", "", ""]])
    with pytest.raises(ValueError, match="a.tsv:1: text is the name of two columns"):
        read(path, read_task(written(tmp_path, CLOZE)))


def test_all_rows_left_out(tmp_path):
    path = rows.write_lines(tmp_path / "a.jsonl", [{"text": "a", "label": "-"}] * 3)
    with pytest.raises(ValueError, match="a.jsonl: all 3 rows have a label of skip: -"):
        read(path, read_task(written(tmp_path, {**CLOZE, "skip": ["-"]})))


def test_a_label_that_was_saved_with_a_point_is_known_in_a_table_too(tmp_path):
    path = rows.write_table(tmp_path / "a.tsv", ["text", "label"], [["a", "1.0"], ["b", "0.0"]])
    assert texts(path, read_task(written(tmp_path, CLOZE))) == [("a", "good"), ("b", "bad")]


@pytest.mark.parametrize(
    "own, words",
    [
        ({**CLOZE, "files": {"train": ["own/train.tsv"], "test": ["own/test"]}}, "own/train.tsv: names stand without their end"),
        ({**CLOZE, "sentences": ["hello"]}, "sentences: it names no field, as {text} would be, so that all rows are alike"),
        ({**DECODER, "prompt": "It was"}, "prompt: it names no field, as {text} would be, so that all rows are alike"),
        ({**DECODER, "candidates": {"bad": "", "good": " good"}}, "own.yaml: candidates: a text is expected, and not ''"),
        ({**CLOZE, "label_is_last": "yes"}, "own.yaml: label_is_last is one of False, True, and not 'yes'"),
    ],
)
def test_a_setting_that_is_wrong_is_named(tmp_path, own, words):
    with pytest.raises(ValueError) as error:
        read_task(written(tmp_path, own))
    assert words in str(error.value)


# ---------------------------------------------------------------------- samples


def test_published_samples_of_other_sizes_are_told(tmp_path):
    for name in ("16-13", "512-42"):
        rows.write_table(tmp_path / "SST-2" / name / "train.tsv", ["sentence", "label"], [["a", "1"]])
    with pytest.raises(FileNotFoundError, match="there are published samples of K-SEED 16-13, 512-42: --k and --seeds choose"):
        Sampler(find_task("SST-2", "cloze"), [tmp_path]).training(16, 42)


def test_a_k_that_leaves_no_development_set_is_told(tmp_path):
    table = [[f"row {number}", str(number % 2)] for number in range(12)]
    rows.write_table(tmp_path / "own" / "train.tsv", ["sentence", "label"], table)
    words = r"--k 30 trains on all there are \(class bad or 0: 6, class good or 1: 6\): choose a smaller --k"
    with pytest.raises(ValueError, match=words):
        Sampler(read_task(written(tmp_path, CLOZE)), [tmp_path]).training(30, 1)


def test_words_for_people_decide_nothing(tmp_path):
    stamps = [settings_of(read_task(written(tmp_path, {**CLOZE, "about": about}))) for about in ("mine", "all mine")]
    assert stamps[0] == stamps[1] and json.dumps(stamps[0]) != json.dumps(settings_of(read_task(written(tmp_path, DECODER))))
