"""What is wrong with a task's file, a row or a sample is named before anything is trained."""

import pytest
import rows
import yaml
from own_tasks import CLOZE, DECODER, written

from sharp_plugins.fewshot.data import settings_of
from sharp_plugins.fewshot.family import DIRECTORY, FAMILIES, named, read_family
from sharp_plugins.fewshot.reader import read
from sharp_plugins.fewshot.samples import Sampler
from sharp_plugins.fewshot.task_files import find_task, read_task
from sharp_plugins.runs.sweep import read_sweeps


def test_adding_a_task_is_one_file(tmp_path):
    task = find_task(str(written(tmp_path, CLOZE)), "cloze")
    assert task.name == "own" and task.label_of(" 1 ") == "good" and task.layout.classes == ["bad", "good"]
    assert find_task(str(written(tmp_path, DECODER)), "decoder").rows == {"train": 1000, "valid": 500, "test": 1000}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"kind": "mask"}, "own.yaml: kind is one of cloze, decoder, and not 'mask'"),
        ({"layouts": "sst-2"}, "own.yaml: a task of kind cloze has no layouts; its settings are "),
        ({"layout": None}, "own.yaml: layout is the name of one"),
        ({"prompt": "{text}"}, "own.yaml: a task of kind cloze has no prompt"),
        ({"rows": {"valid": 9}}, "own.yaml: rows: of the kind cloze they are of test alone; --k says how many rows of a class are"),
        ({"rows": 9}, "own.yaml: rows are settings by name, and not 9"),
        ({"sentences": ["{texts}"]}, "own.yaml: sentences: {texts} is none of the fields; there are text"),
        ({"sentences": ["{text|upper}"]}, "own.yaml: sentences: '{text|upper}': there is no operation upper; choose from strip, "),
        ({"sentences": ["{text"]}, "own.yaml: sentences: '{text': { names no field; a brace of the text itself is doubled"),
        ({"sentences": []}, "own.yaml: sentences is a list of one or two templates"),
        ({"labels": {"bad": ["0"], "good": ["0"]}}, "own.yaml: labels: 0 is of two labels"),
        ({"labels": {True: [], False: []}}, "own.yaml: labels: a label or a value is False, and no text; write it in quotes"),
        ({"files": {"train": ["../x"], "test": ["y"]}}, "own.yaml: files: ../x is no name below --data"),
        ({"files": {"train": ["x"]}}, "own.yaml: files: none to test on"),
        ({"files": {"dev": ["x"], "test": ["x"]}}, "own.yaml: files are for published, train, test, and not for dev"),
        ({"stand_ins": ["own/some"]}, "own.yaml: stand_ins: own/some is none of the files"),
        ({"skip": ["0"]}, "own.yaml: skip: 0 is of a label"),
        ({"form": "csv"}, "own.yaml: form is one of rows, squad, record, and not 'csv'"),
        (
            {"words": {"so": {"field": "why", "texts": {"a": "b"}}}},
            "own.yaml: words: so is by why, which is none of the fields text",
        ),
    ],
)
def test_a_clozes_settings(tmp_path, changes, words):
    with pytest.raises(ValueError) as error:
        read_task(written(tmp_path, {**CLOZE, **changes}))
    assert words in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"candidates": {"bad": " bad", "fine": " good"}}, "candidates are of bad, fine, and labels of bad, good: both are needed"),
        ({"candidates": {"bad": " {word}", "good": " good"}}, "candidate of bad: {word} is none of the fields; there are text"),
        ({"each": "text"}, "one of three is expected: candidates (by label), each and candidate"),
        ({"training": "zero"}, "training is one of candidates, teacher-forcing, generation, and not 'zero'"),
        ({"rows": {"train": 0}}, "rows are numbers from 1 for train, valid, test"),
        (
            {"candidates": None, "each": "text", "candidate": "@placeholder", "answers": "text"},
            "prompt: {text} is a list, as each and answers are, and no text",
        ),
        (
            {
                "candidates": None,
                "each": "text",
                "candidate": "@placeholder",
                "answers": "text",
                "prompt": "A",
                "words": {"so": {"field": "text", "texts": {"a": "b"}}},
            },
            "words: so is by text, which is a list, as each and answers are, and no text",
        ),
        ({"answers": "gold"}, "answers: gold is none of the fields; there are text"),
    ],
)
def test_a_decoders_settings(tmp_path, changes, words):
    settings = {name: value for name, value in {**DECODER, **changes}.items() if value is not None}
    with pytest.raises(ValueError) as error:
        read_task(written(tmp_path, settings))
    assert words in str(error.value)


def test_a_layout_that_does_not_fit(tmp_path):
    for changes, words in (
        ({"layout": "rte"}, "layout has 2 sentences, and the task 1"),
        ({"layout": "sst-5"}, "layout has words for 0, 1, 2, 3, 4, and labels are bad, good"),
        ({"layout": "sst"}, "own.yaml: layout sst: choose one of"),
        ({"layout": "mine.yaml"}, f"own.yaml: layout mine.yaml: there is no file {tmp_path / 'mine.yaml'}"),
        ({"layout": {}}, "own.yaml: layout: a layout needs template, words, max_length"),
    ):
        with pytest.raises(ValueError) as error:
            read_task(written(tmp_path, {**CLOZE, **changes}))
        assert words in str(error.value)


def test_a_layouts_file_is_beside_the_tasks(tmp_path):
    task, stamps = written(tmp_path, {**CLOZE, "layout": "mine.yaml"}), []
    for words in ({"bad": "bad", "good": "good"}, {"bad": "poor", "good": "good"}):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**CLOZE["layout"], "words": words}))
        stamps.append(settings_of(read_task(task))["task"]["layout"])
        assert stamps[-1]["words"] == words
    (tmp_path / "mine.yaml").write_text("template: []")
    with pytest.raises(ValueError, match=r"own.yaml: layout .*mine.yaml: a layout needs words, max_length"):
        read_task(task)


def test_a_task_of_another_kind_or_of_no_name(tmp_path):
    for name, kind, words in (
        ("WNLI", "cloze", "--tasks WNLI: there is no such task for an encoder; choose from SST-2, SST-5"),
        (str(written(tmp_path, CLOZE)), "decoder", "it is of kind cloze, and --backbone is a decoder"),
    ):
        with pytest.raises(ValueError) as error:
            find_task(name, kind)
        assert words in str(error.value)


# ---------------------------------------------------------------------- rows and samples


@pytest.mark.parametrize(
    "row, words",
    [
        ({"text": "a"}, "train.jsonl:1: no field label; there are text"),
        ({"word": "a", "label": 0}, "train.jsonl:1: no field text or sentence; there are word, label"),
        ({"text": "a", "label": "2"}, "train.jsonl:1: the label is '2', and should be one of bad or 0, good or 1"),
        ({"text": ["a"], "label": 0}, "train.jsonl:1: text is a text, a whole number, true or false, and not \"['a']\""),
    ],
)
def test_a_row_that_is_none(tmp_path, row, words):
    with pytest.raises(ValueError) as error:
        read(rows.write_lines(tmp_path / "train.jsonl", [row]), read_task(written(tmp_path, DECODER)))
    assert words in str(error.value)


def sampler(tmp_path, labels, task=CLOZE):
    table = [[f"row {number}", label] for number, label in enumerate(labels)]
    rows.write_table(tmp_path / "own" / "train.tsv", ["sentence", "label"], table)
    return Sampler(read_task(written(tmp_path, task)), [tmp_path])


def test_too_few_rows_of_a_class(tmp_path):
    sample = sampler(tmp_path, "00000011").training(3, 1)
    (few, without) = sample.warnings
    assert "class good or 1 has 2 rows to train on, and --k is 3" in few and "no row of class good or 1" in without
    with pytest.raises(ValueError, match="own: no row of class good or 1 to train on"):
        sampler(tmp_path, "0000").training(2, 1)


def test_labels_may_be_true_or_saved_with_a_point(tmp_path):
    task = read_task(written(tmp_path, {**DECODER, "labels": {"bad": ["0", "false"], "good": ["1", "true"]}}))
    labels = [False, True, 0.0, 1.0, 0, "1"]
    path = rows.write_lines(tmp_path / "train.jsonl", [{"text": "a", "label": label} for label in labels])
    assert [row.label for row in read(path, task)] == ["bad", "good"] * 3
    with pytest.raises(ValueError, match="label is a text, a whole number, true or false, and not '0.5'"):
        read(rows.write_lines(tmp_path / "half.jsonl", [{"text": "a", "label": 0.5}]), task)


def test_a_decoders_sample_may_lack_a_class(tmp_path):
    sample = sampler(tmp_path, "0" * 30 + "1", {**DECODER, "rows": {"valid": 6}}).training(4, 1)
    assert any("the 4 rows to train on, as they are drawn, have none of class good or 1" in words for words in sample.warnings)


def test_a_decoder_keeps_its_development_set(tmp_path):
    small = {**DECODER, "rows": {"valid": 6}}
    sample = sampler(tmp_path, "01010101", small).training(1000, 1)
    assert "own: it has 2 rows to train on, and --examples is 1000" in sample.warnings[0]
    assert [len(sample.rows[split]) for split in ("train", "valid")] == [2, 6]
    with pytest.raises(
        ValueError, match=r"it has no row for the train set beside the 6 rows of the development set; rows: \{valid: N\}"
    ):
        sampler(tmp_path, "010101", small).training(1000, 1)


def test_files_that_are_missing(tmp_path):
    task = find_task("RTE", "cloze")
    with pytest.raises(FileNotFoundError, match=r"no train file of RTE: RTE/train.tsv, .csv or .jsonl, or .gz"):
        Sampler(task, [tmp_path]).training(16, 13)
    (tmp_path / "RTE" / "16-13").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no train and no valid file in it"):
        Sampler(task, [tmp_path]).training(16, 13)


# ---------------------------------------------------------------------- settings


def test_the_settings_come_with_the_package():
    assert {path.parent.name for path in DIRECTORY.glob("*/*.yaml")} == set(FAMILIES.values())
    assert {family: named(family) for family in ("roberta", "opt", "llama")} == {
        "roberta": ["bar", "mezo"],
        "opt": ["bar", "mezo"],
        "llama": ["own"],
    }


def test_the_grids_are_the_papers():
    lr = "optimization.lr=0.0001,0.0003,0.0005"
    assert read_family("roberta", "mezo").sweeps() == ["dataset.batch_size=4,8,16", lr]
    bar = ["optimizer.sam_rho=0.05,0.1,0.2", "optimizer.bar_alpha=0.5,1.0,2.0", "optimizer.bar_schedule=linear,cosine"]
    assert read_family("roberta", "bar").sweeps() == [lr, *bar]
    assert read_family("opt").sweeps()[:2] == ["dataset.batch_size=2,4,8", "optimization.lr=1e-05,0.0001,0.0005"]


def test_settings_of_another_form(tmp_path):
    path = tmp_path / "own.yaml"
    for text, words in (
        ("lora: {}", "expected, settings by name each; no run"),
        ("run: {}\nbase: {}", "expected, settings by name each; base"),
        ("run: {}\nlora: {dataset: 8}", "own.yaml: lora: dataset: settings by name are expected"),
        ("run: {}\ngrid: {lr: [1, 2]}", "grid: lr is part.name with two values or more"),
        (
            "run: {}\ngrid: {lora: {model.lora_target: [q_proj, 'q_proj,v_proj']}}",
            "grid: model.lora_target cannot be searched with the value 'q_proj,v_proj'",
        ),
        ("run: {}\ngrid: {optimization.clip_norm: [1, null]}", "optimization.clip_norm cannot be searched with the value None"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError) as error:
            read_family("opt", str(path))
        assert words in str(error.value)
    with pytest.raises(
        ValueError, match="--settings paper: there are no such settings; choose from bar, mezo, or name a YAML file"
    ):
        read_family("opt", "paper")
    path.write_text("run: {}\ngrid: {optimizer.adam_betas: ['(0.9, 0.98)', '(0.9, 0.999)']}")
    [text] = read_family("opt", str(path)).sweeps()
    assert read_sweeps([text]) == {"optimizer.adam_betas": ["(0.9, 0.98)", "(0.9, 0.999)"]}
    path.write_text("run: {common: {log_format: json}}")
    with pytest.raises(ValueError, match=r"own.yaml: has no .*optimizer.sam_rho"):
        read_family("opt", str(path)).settings({"task": {"_name": "candidates"}})
