"""SQuAD's F1 and exact match: cases of the official script, worked out by hand, and the output of fairseq-generate."""

import json
from pathlib import Path

import choices
import prompts
import pytest

from sharp_plugins.candidates.answers import f1, normalized, scores
from sharp_plugins.fewshot.stages import write_and_score

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "answer, wanted",
    [
        ("The Denver  Broncos.", "denver broncos"),
        ("a U.S. Army-base", "us armybase"),  # punctuation goes before the articles, and nothing takes its place
        ("the theatre, an anthem", "theatre anthem"),
        ("A", ""),
        ("“the” 50%", "“ ” 50"),  # of punctuation only ASCII's goes
    ],
)
def test_normalisation(answer, wanted):
    assert normalized(answer) == wanted


@pytest.mark.parametrize(
    "answer, gold, wanted",
    [
        ("Denver Broncos", "the Denver Broncos!", 1.0),
        ("Denver", "Denver Broncos", 2 / 3),  # precision 1, recall 1/2
        ("in the city of Denver", "Denver, Colorado", 1 / 3),  # 4 and 2 words, 1 in common
        ("tick tick tock", "tick tock tock", 2 / 3),  # words count as often as both have them
        ("Carolina", "Denver", 0.0),
        ("", "Denver", 0.0),
        ("the", "a", 0.0),  # nothing is left of both: no word in common
    ],
)
def test_f1(answer, gold, wanted):
    assert f1(answer, gold) == pytest.approx(wanted)


def test_the_best_gold_counts_and_the_mean_is_over_questions():
    found = scores(["Denver Broncos", "1990", ""], [["Broncos", "The Denver Broncos"], ["in 1990", "1991"], ["x"]])
    assert found == {"f1": pytest.approx(100 * (1 + 2 / 3 + 0) / 3), "em": pytest.approx(100 / 3), "questions": 3}
    with pytest.raises(ValueError, match="1 answers to 2 questions"):
        scores(["a"], [["b"], ["c"]])


@pytest.fixture(scope="module")
def questions(backbone, tmp_path_factory):
    """A test set in SQuAD's form: an answer ends with its line, and prompts are cut so that 20 of 64 positions are left."""
    directory = tmp_path_factory.mktemp("questions")
    found = [("Context: " + "the in " * 30 + "\nQuestion: who?\nAnswer:", ["Ann", "the Ann"]), ("Question: who?\nAnswer:", ["Bob"])]
    lines = prompts.write_lines(directory / "test.jsonl", found)
    flags = ["--test", lines, "--format", "plain", "--end", "\n", "--stop", "</s>", "--too-long", "cut", "--room", "20"]
    return prompts.prepare(backbone, directory / "data", *flags)


def test_prompts_of_questions_are_cut_on_the_left_and_answers_end_with_their_line(questions):
    """SQuAD as MeZO's code has it, by flags of ``prompted prepare`` alone."""
    from fairseq.data import Dictionary, data_utils

    from sharp_plugins.prompted.prepared import read_prepared

    dictionary = Dictionary.load(str(questions / "dict.txt"))
    prompt, text = (
        data_utils.load_indexed_dataset(str(questions / f"test.{part}"), dictionary, "mmap")[0] for part in ("prompt", "text")
    )
    words = [dictionary[i] for i in prompt.tolist()]
    assert len(words) == 44 and words[0] == "</s>" and "".join(words[-8:]) == "ĊAnswer:"
    assert [dictionary[i] for i in text.tolist()] == ["Ġ", "A", "n", "n", "Ċ"]
    assert read_prepared(questions).stop == ["Ċ", "</s>"]


def test_the_guides_command_writes_answers_as_few_shot_runs_do():
    """Empty ones, too."""
    guide = " ".join((ROOT / "sharp_plugins/candidates/README.md").read_text(encoding="utf-8").split())
    command, _ = write_and_score("SQUAD-DATA", "checkpoint_best.pt", "sharp_plugins", False)
    flags = "--beam 1 --max-len-b 50 --min-len 0"
    assert flags in " ".join(command) and f"{flags} > generated.txt" in guide


def test_generated_answers(questions, tmp_path, capsys):
    generated = tmp_path / "generated.txt"
    generated.write_text("S-1\tQuestion: who?\nH-1\t-0.5\tĠ B\nD-1\t-0.5\t Bob \nS-0\tx\nH-0\t-0.1\tx\nD-0\t-0.1\tAnn, Bob\n")
    assert choices.run("answers", generated, "--data", questions, "--json", tmp_path / "scores.json") == 0
    wanted = {"f1": pytest.approx(100 * (1 + 2 / 3) / 2), "em": 50.0, "questions": 2}
    assert json.loads((tmp_path / "scores.json").read_text()) == {"test": wanted}
    assert capsys.readouterr().out == "test: F1 83.33, exact match 50.00, 2 questions\n"
    generated.write_text("S-0\tx\nH-0\t-0.1\tx\nD-0\t-0.1\t\n")
    assert choices.run("answers", generated, "--data", questions) == 1
    assert "1 hypotheses for 2 inputs" in capsys.readouterr().err
    assert choices.run("answers", generated, "--data", tmp_path) == 1
    assert "prompted prepare` writes such a directory" in capsys.readouterr().err
