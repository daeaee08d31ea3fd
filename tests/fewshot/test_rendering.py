"""The twelve tasks in prompts, letter for letter. Expected texts are written by hand from the rules of MeZO's code."""

from pathlib import Path

import pytest

from sharp_plugins.cloze.layout import Sentence
from sharp_plugins.fewshot.reader import Row, find_file, read
from sharp_plugins.fewshot.render import candidates_line, cloze_line, text_line
from sharp_plugins.fewshot.task_files import find_task, named_tasks, task_of

SAMPLES = "fewshot/mezo_k512"


def row_of(data: Path, task, path: str, text: str):
    """The first row of a file that holds a text."""
    return next(row for row in read(data / path, task) if any(text in str(value) for value in row.values.values()))


def filled(task, row) -> str:
    """The text of a row in its layout, with the label's word behind it."""
    layout, line = task.layout, cloze_line(row, task)
    parts = [part.text_of(line["sentences"][part.number - 1]) if isinstance(part, Sentence) else part for part in layout.template]
    return f"{''.join(parts)} = {layout.words[line['label']]}"


@pytest.mark.parametrize(
    "name, path, text, expected",
    [
        ("SST-2", f"{SAMPLES}/SST-2/test.tsv", "one long string", "one long string of cliches . It was<mask>. = terrible"),
        ("SST-5", f"{SAMPLES}/sst-5/test.tsv", "the rock is", "as an actor , the rock is aptly named . It was<mask>. = bad"),
        ("TREC", f"{SAMPLES}/trec/test.tsv", "Galileo", "<mask>: Who was Galileo ? = Human"),
        # The last character goes whatever it is: here a quotation mark, and in the next row a letter.
        (
            "MNLI",
            f"{SAMPLES}/MNLI/test_matched.tsv",
            "She hates me",
            "She hates me.?<mask>, she doesn't like people like me. = Maybe",
        ),
        ("MNLI", f"{SAMPLES}/MNLI/test_matched.tsv", "yep same", "yep same her?<mask>, that never happened to me. = No"),
        (
            "SNLI",
            f"{SAMPLES}/SNLI/test.tsv",
            "A dog runs along the ocean",
            "A dog runs along the ocean surf?<mask>, a cat is running in the waves. = No",
        ),
        (
            "RTE",
            "glue/RTE/dev.tsv",
            "in Drummondville.",
            "The girl was found in Drummondville?<mask>, drummondville contains the girl. = No",
        ),
    ],
    ids=["SST-2", "SST-5", "TREC", "MNLI", "MNLI-letter", "SNLI", "RTE"],
)
def test_clozes(data_beside, name, path, text, expected):
    task = find_task(name, "cloze")
    assert filled(task, row_of(data_beside, task, path, text)) == expected


@pytest.mark.parametrize(
    "name, path, text, prompt, candidates, answers",
    [
        ("SST-2", "glue/SST-2/dev.tsv", "one long", "one long string of cliches . It was", [" terrible", " great"], [0]),
        (
            "RTE",
            "glue/RTE/dev.tsv",
            "in Drummondville.",
            'The girl was found in Drummondville.\nDoes this mean that "Drummondville contains the girl." is true? Yes or No?\n',
            ["Yes", "No"],
            [1],
        ),
        (
            "CB",
            "superglue/CB/val.jsonl",
            "we go with it or not",
            "Suppose ``Who knows? The point is, do we go with it or not?'' Do we assume there is a shipment? Can we infer that "
            '"there is a shipment"? Yes, No, or Maybe?\n',
            ["Yes", "No", "Maybe"],
            [2],
        ),
        # "I" stays as it is.
        (
            "COPA",
            "superglue/COPA/train.jsonl",
            "The stain came out",
            "The stain came out of the shirt because",
            [" I patched the shirt.", " I bleached the shirt."],
            [1],
        ),
        (
            "COPA",
            "superglue/COPA/val.jsonl",
            "on the faucet",
            "The man turned on the faucet so",
            [" the toilet filled with water.", " water flowed from the spout."],
            [1],
        ),
    ],
    ids=["SST-2", "RTE", "CB", "COPA-because", "COPA-so"],
)
def test_candidates(data_beside, name, path, text, prompt, candidates, answers):
    task = find_task(name, "decoder")
    line = candidates_line(row_of(data_beside, task, path, text), task)
    assert line == {"prompt": prompt, "candidates": candidates, "answers": answers}


def test_record(data_beside):
    task = find_task("ReCoRD", "decoder")
    row = row_of(data_beside, task, "superglue/record_explorer_123.jsonl.gz", "Hantuchova breezed")
    line = candidates_line(row, task)
    assert line["prompt"].startswith("(CNN) -- A day after her sister Serena's comeback was ended in Eastbourne, Venus Williams")
    assert "@highlight" not in line["prompt"] and "on my game today.\n- Daniela Hantuchova knocks Venus" in line["prompt"]
    assert line["prompt"].endswith("\n- Mario Bartoli will face Australian Sam Stosur in other semifinal\n-")
    assert len(line["candidates"]) == 17 and line["answers"] == [7, 3, 8]
    assert line["candidates"][0].startswith(" Hantuchova breezed through") and line["candidates"][0].endswith(
        "before CNN hit her stride."
    )
    assert text_line(row, task)["text"].endswith("led the second 4-2 before Venus hit her stride.")


def test_record_as_superglue_has_it(data_beside):
    """One row for each query; the entities are the distinct texts, sorted as in Hugging Face's data."""
    task = find_task("ReCoRD", "decoder")
    row = row_of(data_beside, task, "superglue/fewglue_32dev/ReCoRD/train.jsonl", "Swansea emphatic win")
    assert row.values["answers"] == ["West Brom", "West Bromwich Albion"]
    assert row.values["entities"] == sorted(set(row.values["entities"])) and "Roy Hodgson" in row.values["entities"]


def test_squad(data_beside):
    task = find_task("SQuAD", "decoder")
    line = text_line(row_of(data_beside, task, "squad/train-v1.1.subset.json.gz", "in 1858 in Lourdes"), task)
    beginning = "Title: University_of_Notre_Dame\nContext: Architecturally, the school has a Catholic character."
    end = "statue of Mary.\nQuestion: To whom did the Virgin Mary allegedly appear in 1858 in Lourdes France?\nAnswer:"
    assert line["prompt"].startswith(beginning) and line["prompt"].endswith(end)
    assert line["texts"] == ["Saint Bernadette Soubirous"]


def test_the_tasks_are_those_of_the_papers():
    assert named_tasks("cloze") == ["SST-2", "SST-5", "SNLI", "MNLI", "RTE", "TREC"]
    assert named_tasks("decoder") == ["SST-2", "CB", "RTE", "COPA", "ReCoRD", "SQuAD"]


# ---------------------------------------------------------------------- traps, on made-up rows


def copa(**values):
    given = {"premise": "It broke.", "choice1": "It fell.", "choice2": "We ran.", "conjunction": "so", **values}
    return candidates_line(Row("train.jsonl:1", given, "0"), find_task("COPA", "decoder"))


def test_copas_capitals_and_stops():
    assert copa(choice1="I'm late.")["candidates"][0] == " i'm late."  # only the word "I" itself stays
    assert copa(choice1="NASA flew. It fell. ")["candidates"][0] == " nasa flew. It fell."
    assert copa(premise="Did it break?  ")["prompt"] == "Did it break? so"
    assert copa(premise="It broke..")["prompt"] == "It broke. so"


def test_white_space_around_a_prompt():
    task = find_task("SST-2", "decoder")
    line = candidates_line(Row("x", {"sentence": " a  film . "}, "1"), task)
    assert line["prompt"] == "a  film . It was"
    squad = text_line(
        Row("x", {"title": "T", "context": "C ", "question": " Q? ", "answers": ["A"]}, None), find_task("SQuAD", "decoder")
    )
    assert squad["prompt"] == "Title: T\nContext: C \nQuestion: Q?\nAnswer:"


def test_a_prompt_may_end_in_a_new_line_and_not_in_spaces():
    rte = find_task("RTE", "decoder")
    line = candidates_line(Row("x", {"premise": "\n P", "hypothesis": "H"}, "entailment"), rte)
    assert line["prompt"] == 'P\nDoes this mean that "H" is true? Yes or No?\n'


@pytest.mark.parametrize(
    "values, words",
    [
        ({"query": "No gap."}, "x:1: ' No gap.' has no @placeholder for an element of entities"),
        ({"answers": ["Mars"]}, "x:1: none of answers is one of entities"),
        ({"passage": " "}, ""),
    ],
    ids=["no-gap", "no-answer", "a-short-prompt"],
)
def test_records_refusals(values, words):
    given = {"passage": "P", "query": "@placeholder won.", "entities": ["Ann", "Bob"], "answers": ["Bob"], **values}
    row, task = Row("x:1", given, None), find_task("ReCoRD", "decoder")
    if not words:
        assert candidates_line(row, task)["prompt"] == "-"
        return
    with pytest.raises(ValueError) as error:
        candidates_line(row, task)
    assert str(error.value) == words


def test_an_empty_candidate_and_an_empty_prompt():
    settings = {
        "kind": "decoder",
        "files": {"test": ["x"]},
        "fields": {"a": ["a"], "b": ["b"]},
        "label": "y",
        "labels": {"0": [], "1": []},
        "prompt": "{a}",
        "candidates": {"0": " {b}", "1": " no"},
    }
    task = task_of(settings, "own", "own.yaml")
    for values, words in (({"a": "A", "b": " "}, "x:1: a candidate is empty"), ({"a": " ", "b": "B"}, "x:1: the prompt is empty")):
        with pytest.raises(ValueError) as error:
            candidates_line(Row("x:1", values, "0"), task)
        assert str(error.value) == words


def test_a_file_is_found_by_its_first_name(tmp_path):
    for place, name in (("one", "b.tsv"), ("two", "a.jsonl.gz"), ("two", "b.tsv")):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / name).touch()
    places = [tmp_path / "one", tmp_path / "two"]
    assert find_file(places, ["a", "b"]) == tmp_path / "two" / "a.jsonl.gz"
    assert find_file(places, ["b"]) == tmp_path / "one" / "b.tsv" and find_file(places, ["c"]) is None
