"""The command ``python -m sharp_plugins.webnlg score``: what it prints, writes and refuses."""

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from sharp_plugins.webnlg.__main__ import main
from sharp_plugins.webnlg.corpus import read_split
from sharp_plugins.webnlg.scores import command
from sharp_plugins.webnlg.scores.evaluation import all_scores

ROOT = Path(__file__).resolve().parents[3]
PATHS = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
RECORDS = [
    {"id": "1", "category": "Food", "seen": True, "triples": [["a", "b", "c"]], "refs": ["It has bacon in it.", "Bacon is in it."]},
    {"id": "2", "category": "Food", "seen": None, "triples": [["a", "b", "c"]] * 2, "refs": ["The ship was built in 1990."]},
    {"id": "3", "category": "Artist", "seen": False, "triples": [["a", "b", "c"]], "refs": ["He was born in İzmir, and sings."]},
]
TEXTS = ["It has bacon in it .", "the ship was built 1990", "He was born in İzmir and sings there."]


@pytest.fixture
def place(tmp_path):
    """A directory with a corpus of dev and test, and two systems' texts."""
    for split in ("dev", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, RECORDS[: 2 if split == "dev" else 3])))
    (tmp_path / "one.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    (tmp_path / "two.txt").write_text("\n".join([TEXTS[0], "", TEXTS[2]]), encoding="utf-8")
    return tmp_path


def score(place, *flags):
    flags = [str(place / flag) if flag.endswith((".txt", ".json", ".jar")) else flag for flag in flags]
    return main(["score", *flags, "--data", str(place)])


def test_what_is_written_is_what_the_function_returns(place, capsys):
    assert score(place, "one.txt", "--json", "out.json") == 0
    written = json.loads((place / "out.json").read_text())
    assert written == all_scores(TEXTS, read_split(place / "test.jsonl"))
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "test: 3 inputs, 2 seen, 1 unseen"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown if line.startswith("|")]
    assert rows[0] == ["", *(f"{name} {group}" for group in ("all", "seen", "unseen") for name in ("BLEU", "chrF++", "TER"))]
    assert [row[0] for row in rows[2:]] == ["sacrebleu", "challenge2017", "lora"]
    for row in rows[2:]:
        assert row[1:] == [f"{value:.2f}" for values in written[row[0]].values() for value in values.values()]


def test_scores_are_printed_though_they_cannot_be_written(place, monkeypatch, capsys):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sharp_plugins.webnlg.scores.command.write_text", full)
    assert score(place, "one.txt", "--json", "out.json") == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("test: 3 inputs, 2 seen, 1 unseen\n") and "No space left" in shown.err


def test_one_text_for_an_input_with_several_entries(place, capsys):
    (place / "grouped.txt").write_text("\n".join(TEXTS[:2]), encoding="utf-8")
    assert score(place, "grouped.txt", "--json", "out.json") == 0
    shown = capsys.readouterr()
    assert "3 entries are 2 inputs" in shown.err and shown.out.startswith("test: 2 inputs, 2 seen\n")
    printed = [f"{kind}-{number}\t-0.1\t{text}" for number, text in enumerate(TEXTS[:2]) for kind in "HD"]
    (place / "generated.txt").write_text("\n".join(printed) + "\n", encoding="utf-8")
    assert score(place, "generated.txt", "--json", "generated.json") == 0
    assert (place / "generated.json").read_text() == (place / "out.json").read_text()
    (place / "alone").mkdir()
    rows = [{**RECORDS[0], "refs": RECORDS[0]["refs"] + RECORDS[2]["refs"]}, RECORDS[1]]
    (place / "alone" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert json.loads((place / "out.json").read_text()) == all_scores(TEXTS[:2], read_split(place / "alone" / "test.jsonl"))


def test_the_data_may_be_the_file_of_the_split(place, capsys):
    assert main(["score", str(place / "one.txt"), "--data", str(place / "test.jsonl"), "--json", str(place / "file.json")]) == 0
    assert score(place, "one.txt", "--json", "out.json") == 0
    assert (place / "file.json").read_text() == (place / "out.json").read_text()


def test_another_split(place, capsys):
    (place / "short.txt").write_text("\n".join(TEXTS[:2]))
    assert score(place, "short.txt", "--split", "dev") == 0
    assert capsys.readouterr().out.startswith("dev: 2 inputs, 2 seen\n")
    assert score(place, "short.txt", "--split", "train") == 1
    assert "train.jsonl" in capsys.readouterr().err


def test_breakdown_is_printed(place, capsys):
    assert score(place, "one.txt", "--breakdown") == 0
    rows = [
        [cell.strip() for cell in line.split("|")[1:3]] for line in capsys.readouterr().out.splitlines() if line.startswith("|")
    ]
    assert [row for row in rows if row[1].isalnum()] == [
        *(["category", "inputs"], ["Artist", "1"], ["Food", "2"]),
        *(["triples", "inputs"], ["1", "2"], ["2", "1"]),
    ]


@pytest.mark.parametrize("out", ["one.txt", "./one.txt", "link.json", "two.txt", "test.jsonl", "dev.jsonl"])
def test_what_is_read_is_not_overwritten(place, capsys, monkeypatch, out):
    (place / "link.json").symlink_to(place / "one.txt")
    before = {path: path.read_bytes() for path in place.iterdir()}
    monkeypatch.chdir(place)
    # Nothing is read before: the corpus cannot be.
    monkeypatch.setattr(command, "read_split", None)
    line = f"score {place / 'one.txt'} --data . --against two.txt --json {out}"
    assert main(line.split()) == 1
    assert f"--json {Path(out)}: it is a file that is read" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in place.iterdir()} == before


def test_one_file_by_two_names_is_not_compared(place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    assert main(["score", "one.txt", "--data", ".", "--against", str(place / "one.txt")]) == 1
    assert "it is compared with itself" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, train, counts, words",
    [
        ("", "", "1 seen, 2 unseen", "by the ten categories of the 2017 challenge's training data"),
        ("", "Film", "2 seen, 1 unseen", "by the categories of the training set"),
        ("--seen published", "Film", "1 seen, 2 unseen", "by the ten categories of the 2017 challenge's training data"),
        ("--seen training", "Film", "2 seen, 1 unseen", "by the categories of the training set"),
        ("--seen training", "", None, "there are no training data to go by"),
    ],
)
def test_seen_by_training_or_by_the_list(place, capsys, flags, train, counts, words):
    """Release 3.0 has Film and others in training, which the list of 2017 does not have."""
    for split, categories in (("test", ["Food", "Film", "Artist"]), ("train", ["Food", train] if train else [])):
        rows = [{**one, "seen": None, "category": name} for one, name in zip(RECORDS, categories)]
        if rows:
            (place / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert score(place, "one.txt", *flags.split()) == (0 if counts else 1)
    shown = capsys.readouterr()
    assert words in (shown.out if counts else shown.err) and f"3 inputs, {counts}\n" in (
        shown.out if counts else "3 inputs, None\n"
    )


def test_a_rule_that_is_asked_for_goes_before_the_data(place, capsys):
    assert score(place, "one.txt") == 0
    first = "seen or unseen: as the data say; where they do not, by the ten categories of the 2017"
    assert first in capsys.readouterr().out
    (place / "train.jsonl").write_text(json.dumps({**RECORDS[2]}))
    assert score(place, "one.txt", "--seen", "training") == 0
    assert capsys.readouterr().out.startswith("test: 3 inputs, 1 seen, 2 unseen\nseen or unseen: by the categories of the training")


@pytest.mark.parametrize("test", ["bootstrap", "randomisation"])
def test_against_another_system(place, capsys, test):
    flags = ("--against", "two.txt", "--significance", test, "--samples", "20", "--seed", "3", "--json", "out.json")
    assert score(place, "one.txt", *flags) == 0
    found = json.loads((place / "out.json").read_text())["significance"]
    assert (found["test"], found["samples"], found["seed"], found["system"]) == (test, 20, 3, str(place / "one.txt"))
    one = found["against"][str(place / "two.txt")]["lora"]["all"]["ter"]
    assert one["difference"] < 0 < one["p"] <= 1
    shown = capsys.readouterr().out
    assert f"against {place / 'two.txt'}" in shown and "| lora, all, TER " in shown


@pytest.mark.parametrize(
    "flags, words",
    [
        (("none.txt",), "none.txt"),
        (("one.txt", "--against", "one.txt"), "one.txt: it is compared with itself, or given twice"),
        (("one.txt", "--against", "two.txt", "two.txt"), "two.txt: it is compared with itself, or given twice"),
        (("one.txt", "--samples", "-3"), "--samples -3: should be at least 1"),
        (("one.txt", "--seed", "0"), "--seed 0: should be from 1"),
        (("one.txt", "--meteor-jar", "none.jar"), "none.jar: no such file"),
        (("one.txt", "--meteor-paraphrases", "a.txt"), "--meteor-paraphrases: there is no --meteor-jar"),
        (("one.txt", "--format", "fairseq"), "one.txt: 0 hypotheses for 3 inputs"),
        (("one.txt", "--seen", "training"), "--seen training: there are no training data to go by"),
        (("one.txt", "--format", "json"), "one.txt:1: not a JSON object"),
    ],
)
def test_what_is_refused_leaves_nothing(place, capsys, flags, words):
    assert score(place, *flags, "--json", "out.json") == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and words in shown and "Traceback" not in shown
    assert not (place / "out.json").exists()


def test_two_training_sets_are_not_taken_for_none(place, capsys):
    for name in ("webnlg_release_v1_train.json", "webnlg_release_v2_train.json"):
        (place / name).write_text("{}")
    assert score(place, "one.txt") == 1
    assert "one train set is wanted, not several" in capsys.readouterr().err


def test_texts_as_hugging_faces_pipelines_write_them(place, capsys):
    (place / "one.json").write_text("".join(json.dumps({"generated_text": text}) + "\n" for text in TEXTS))
    assert score(place, "one.json", "--json", "a.json") == score(place, "one.txt", "--json", "b.json") == 0
    assert json.loads((place / "a.json").read_text()) == json.loads((place / "b.json").read_text())


def test_a_form_that_others_do_not_have_is_told(place, capsys):
    (place / "two.txt").write_text(unicodedata.normalize("NFD", "\n".join(TEXTS)), encoding="utf-8")
    assert score(place, "one.txt") == 0 and capsys.readouterr().err == ""
    assert score(place, "two.txt") == 0
    shown = capsys.readouterr().err
    assert shown.startswith(f"warning: {place / 'two.txt'}: input 3, and maybe others") and shown.count("\n") == 1


def test_meteor(place, capsys, monkeypatch):
    (place / "java").write_text("#!/bin/sh\necho 'Final score: 0.3125'\n")
    (place / "java").chmod(0o755)
    (place / "meteor.jar").write_bytes(b"")
    monkeypatch.setenv("PATH", str(place), prepend=os.pathsep)
    assert score(place, "one.txt", "--meteor-jar", "meteor.jar", "--json", "out.json") == 0
    written = json.loads((place / "out.json").read_text())
    assert written["meteor"]["challenge2017"] == {"all": 31.25, "seen": 31.25, "unseen": 31.25}
    assert "METEOR unseen" in capsys.readouterr().out


def test_the_command_itself(place):
    flags = "score one.txt --data . --split test --json out/scores.json"
    line = [sys.executable, "-m", "sharp_plugins.webnlg", *flags.split()]
    done = subprocess.run(line, cwd=place, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": PATHS})
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("test: 3 inputs")
    assert set(json.loads((place / "out" / "scores.json").read_text())) >= {"sacrebleu", "challenge2017", "lora"}
