"""Prompts with candidates as symbols, worked out by hand, and what is refused by file and line."""

import json

import choices
import prompts
import pytest

from sharp_plugins.candidates.encoding import Encoder, cut, format_with
from sharp_plugins.candidates.prepared import load_parts, read_candidates
from sharp_plugins.candidates.reader import Example
from sharp_plugins.prompted.encoding import Encoding
from sharp_plugins.text.decoder_directory import read_decoder_directory

GOOD = {"prompt": "It was", "candidates": [" the", " in"], "answers": [1]}


@pytest.fixture(scope="module")
def encode(backbone):
    """(symbols of a sequence, how many are counted) for each candidate; the tokenizer has "Ġthe" of "Ġt" and "he"."""
    directory = read_decoder_directory(backbone)

    def encode(prompt, *candidates, start="none", most=64):
        encoding = Encoding(format_with(start), directory.tokenizer, directory.dictionary, directory.start)
        (found,) = Encoder(encoding, directory, most)([Example("line 1", prompt, candidates, (0,))])
        words = [[directory.dictionary[symbol] for symbol in sequence] for sequence in found.sequences]
        return list(zip(map(" ".join, words), found.counted))

    return encode


@pytest.mark.parametrize(
    "prompt, candidate, sequence, counted",
    [
        ("x", " the", "x Ġthe", 1),
        ("x  ", "the", "x Ġ Ġthe", 2),  # the prompt is measured without its spaces, which stand before the candidate
        ("x\n", "the", "x Ċ t he", 2),  # a new line stays
        ("x\n ", "the", "x Ċ Ġthe", 1),
        ("x t", "he z", "x Ġthe Ġ z", 2),  # "t" and "he" are one symbol, and it is the prompt's
        ("x th", "e z", "x Ġthe Ġ z", 1),  # "Ġt h" are two symbols, "Ġthe" is one: the difference says what is counted
        (" x", " the ", "x Ġthe", 1),  # spaces at the ends of the whole go
    ],
)
def test_what_is_counted(encode, prompt, candidate, sequence, counted):
    assert encode(prompt, candidate, " zzz")[0] == (sequence, counted)


def test_a_candidate_that_vanishes_in_the_prompt(encode):
    with pytest.raises(ValueError, match="line 1: candidate 1, 'he': it has no symbol of its own"):
        encode("x t", "he z", "he")


def test_the_start_stays_where_the_prompt_is_cut(encode):
    assert encode("abcdef", " the", " in the", start="auto", most=4) == [("</s> e f Ġthe", 1), ("</s> f Ġin Ġthe", 2)]
    assert encode("abcdef", " the", " in the", most=4) == [("d e f Ġthe", 1), ("e f Ġin Ġthe", 2)]
    assert encode("abc", " the", " in", start="<|endoftext|>", most=5)[0] == ("</s> a b c Ġthe", 1)
    assert cut([0, 5, 6], 3, 1) == [0, 5, 6]


def test_a_candidate_that_leaves_nothing_of_the_prompt(encode):
    assert encode("ab", " the in the", " in", start="auto", most=5)[0] == ("</s> b Ġthe Ġin Ġthe", 3)
    with pytest.raises(ValueError, match="candidate 0, ' the in the': its 3 symbols leave no room for a prompt in 4 positions"):
        encode("ab", " the in the", " in", start="auto", most=4)


def test_prepared_data_hold_what_was_read(data, backbone):
    prepared = read_candidates(data)
    directory = read_decoder_directory(backbone)
    sequences, counted, answers = load_parts(prepared, "valid", directory.dictionary)
    wanted = choices.rows(8, 8)
    assert [row.tolist() for row in answers] == [right for _, _, right in wanted]
    assert [len(row) for row in counted] == [len(candidates) for _, candidates, _ in wanted]
    texts = [(prompt + candidate).strip(" ") for prompt, candidates, _ in wanted for candidate in candidates]
    found = [directory.tokenizer.decode([directory.dictionary[i] for i in row[1:].tolist()]) for row in sequences]
    assert found == texts and {int(row[0]) for row in sequences} == {directory.dictionary.eos()}
    lines = (data / "valid.examples.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == [prompt for prompt, _, _ in wanted]
    facts = prepared.facts["valid"]
    assert facts["examples"] == 8 and facts["candidates"] == len(texts) and facts["counted"] == sum(map(sum, counted)) > len(texts)
    assert facts["longest"] == max(map(len, sequences)) - 1 and facts["cut"] == 0


def test_made_once_and_not_with_other_files_or_settings(backbone, tmp_path, capsys):
    """Data of a call that named other splits would be lost."""
    lines, out = choices.write_lines(tmp_path / "lines.jsonl", choices.rows(3)), tmp_path / "data"
    for said in ("written", "nothing to do, all was there"):
        choices.prepare(backbone, out, "--train", lines, "--valid", lines)
        assert capsys.readouterr().out.splitlines()[-1].endswith(f"data: {said}")
    for flags in (["--test", lines], ["--train", lines, "--valid", lines, "--start", "none"]):
        assert choices.run("prepare", "--backbone", backbone, "--out", out, *flags) == 1
        words = "holds data of other files or settings; choose another --out, or remove it"
        assert capsys.readouterr().err == f"error: {out}: {words}\n"
    assert list(read_candidates(out).facts) == ["train", "valid"]
    (out / "prepared.json").unlink()
    (out / "mine.txt").touch()
    assert choices.run("prepare", "--backbone", backbone, "--out", out, "--test", lines) == 1
    assert "mine.txt" in capsys.readouterr().err and (out / "mine.txt").exists()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"prompt": None}, "prompt is no text but a NoneType"),
        ({"prompt": " "}, "prompt is empty"),
        ({"candidates": " the"}, "candidates is no list of texts"),
        ({"candidates": [" the"], "answers": [0]}, "1 candidates, and a choice needs two or more"),
        ({"candidates": [" the", " "]}, "candidate 1 is empty: ' '"),
        ({"candidates": [" the", " in", " the"]}, "candidates 0 and 2 are the same: ' the'"),
        ({"candidates": [" the", " the "]}, "candidate 1, ' the ': the tokenizer makes of it what it makes of candidate 0"),
        ({"candidates": [" the", "<|endoftext|> é\u0000"]}, None),
        ({"answers": 1}, "answers is no list of indices"),
        ({"answers": [True]}, "answers is no list of indices"),
        ({"answers": []}, "answers is empty"),
        ({"answers": [0, 2]}, "answer 2 is none of the candidates, 0 to 1"),
        ({"answers": [-1]}, "answer -1 is none of the candidates"),
        ({"answers": [1, 1]}, "an answer comes twice"),
    ],
)
def test_lines_that_are_no_examples(backbone, tmp_path, capsys, changes, words):
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps({**GOOD, **row}) for row in ({}, changes)) + "\n")
    status = choices.run("prepare", "--backbone", backbone, "--out", tmp_path / "data", "--train", path)
    errors = capsys.readouterr().err
    assert (status, errors) == (0, "") if words is None else (status == 1 and f"{path}:2: {words}" in errors)
    assert (tmp_path / "data").exists() == (words is None)


@pytest.mark.parametrize(
    "line, words",
    [
        ('["a"]', "not a JSON object but a list"),
        ('{"prompt": "x", "answers": [0]}', "no field candidates; there are prompt, answers"),
        ("{", "not a JSON object"),
        ("", "no example in it"),
    ],
)
def test_files_that_are_none(backbone, tmp_path, capsys, line, words):
    path = tmp_path / "train.jsonl"
    path.write_text(f"{line}\n")
    assert choices.run("prepare", "--backbone", backbone, "--out", tmp_path / "data", "--train", path) == 1
    assert words in capsys.readouterr().err and not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--max-positions", "2"], "--max-positions must be from 3 to 64, the model's, and is 2"),
        (["--max-positions", "65"], "--max-positions must be from 3 to 64"),
        (["--start", "<s>x"], "--start '<s>x': it is no symbol of the dictionary"),
        (["--test", "nowhere.jsonl"], "--test nowhere.jsonl: not there"),
        (["--backbone", "nowhere"], "--backbone nowhere/"),
    ],
)
def test_flags_that_do_not_fit(backbone, tmp_path, capsys, flags, words):
    path = choices.write_lines(tmp_path / "train.jsonl", choices.rows(2))
    assert choices.run("prepare", "--backbone", backbone, "--out", tmp_path / "data", "--train", path, *flags) == 1
    assert words in capsys.readouterr().err and not (tmp_path / "data").exists()


@pytest.mark.parametrize("start", ["<s>", "<pad>", "<unk>"])
def test_a_start_that_the_model_does_not_know(backbone, tmp_path, capsys, start):
    """MeZO's start is OPT's; GPT-2's kind has no such symbol."""
    path = choices.write_lines(tmp_path / "test.jsonl", choices.rows(2))
    assert choices.run("prepare", "--backbone", backbone, "--out", tmp_path / "data", "--test", path, "--start", start) == 1
    assert f"--start {start}: the model does not know this symbol" in capsys.readouterr().err


def test_a_character_that_the_tokenizer_does_not_know(tmp_path, capsys):
    backbone = prompts.write_backbone(tmp_path / "backbone", own=prompts.tokenizer_of_two_letters())
    path = choices.write_lines(tmp_path / "test.jsonl", [("x", ["y", "x"], [0]), ("x", ["y", "xzy"], [0])])
    assert choices.run("prepare", "--backbone", backbone, "--out", tmp_path / "data", "--test", path) == 1
    words = "test.jsonl:2: candidate 1, 'xzy': it or its prompt has a character that the tokenizer does not know"
    assert words in capsys.readouterr().err and not (tmp_path / "data").exists()


@pytest.mark.parametrize("part", ["prompt", "candidate"])
def test_a_text_with_a_symbol_that_the_model_does_not_know(tmp_path, capsys, part):
    from sharp_plugins.text.decoder_tokenizer import DecoderTokenizer

    own = prompts.tokenizer()
    backend = own.backend
    backend.add_special_tokens(["<pad>"])
    own = DecoderTokenizer(backend, {**own.special_tokens, "pad_token": "<pad>"}, rows=own.rows, family="gpt2")
    backbone = prompts.write_backbone(tmp_path / "padded", own=own)
    texts = {"prompt": "It was", "candidate": " in"}
    texts[part] += "<pad>"
    path = choices.write_lines(tmp_path / "test.jsonl", [(texts["prompt"], [texts["candidate"], " the"], [0])])
    assert choices.run("prepare", "--backbone", backbone, "--out", tmp_path / "data", "--test", path) == 1
    words = "test.jsonl:1: candidate 0, {!r}: it or its prompt has the symbol <pad>, which the model does not know"
    assert words.format(texts["candidate"]) in capsys.readouterr().err
