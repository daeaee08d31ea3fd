"""Files of prompts and texts as binarized data; lines that cannot be used, by file and line."""

import gzip
import json
import os

import prompts
import pytest
from fairseq.data import data_utils

from sharp_plugins.files.writing import sha256
from sharp_plugins.prompted.__main__ import main
from sharp_plugins.prompted.prepared import read_prepared
from sharp_plugins.text.stamped import check_out


def rows_of(directory, split, part):
    """The symbols of each row that was written."""
    dictionary = read_prepared(directory).dictionary()
    data = data_utils.load_indexed_dataset(str(directory / f"{split}.{part}"), dictionary, "mmap")
    return [[dictionary[i] for i in row] for row in data]


def fails(capsys, backbone, tmp_path, *flags):
    """The one line of a command that fails; nothing is left of it."""
    arguments = ["prepare", "--backbone", backbone, "--out", tmp_path / "out", *flags]
    assert main(list(map(str, arguments))) == 1
    assert not (tmp_path / "out").exists()
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_each_text_is_a_sample_but_in_a_test_set(data):
    assert {split: facts["samples"] for split, facts in read_prepared(data).facts.items()} == {"train": 48, "valid": 9, "test": 5}
    encoding = read_prepared(data).encoding(read_prepared(data).dictionary())
    wanted = [(p, text) for p, texts in prompts.pairs(32, 32) for text in texts]
    assert [encoding.decode_prompt(row) for row in rows_of(data, "train", "prompt")] == [p for p, _ in wanted]
    assert [encoding.decode_text(row) for row in rows_of(data, "train", "text")] == [text for _, text in wanted]
    kept = [json.loads(line) for line in (data / "test.references.jsonl").read_text().splitlines()]
    assert kept == [{"prompt": p, "texts": texts} for p, texts in prompts.pairs(5, 5)]
    assert [encoding.decode_text(row) for row in rows_of(data, "test", "text")] == [texts[0] for _, texts in prompts.pairs(5, 5)]


def test_the_same_again_is_nothing_to_do_and_other_data_are_refused(data, backbone, texts, capsys):
    before = (data / "train.text.bin").stat().st_mtime_ns
    prompts.prepare(backbone, data, *texts, "--format", "lora-gpt2")
    assert "nothing to do" in capsys.readouterr().out and (data / "train.text.bin").stat().st_mtime_ns == before
    assert main(["prepare", "--backbone", str(backbone), "--out", str(data), *texts, "--format", "plain"]) == 1
    assert "holds data of other files or settings" in capsys.readouterr().err


def test_files_that_changed_or_changed_places_are_other_data(backbone, tmp_path, capsys):
    """Two files of one name in two directories, and prompts and texts that change places."""
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "t").write_text(f"{side}x\n")
    files = [tmp_path / "a" / "t", tmp_path / "b" / "t"]
    arguments = ["prepare", "--backbone", str(backbone), "--out", str(tmp_path / "out"), "--train"]
    assert main([*arguments, *map(str, files)]) == main([*arguments, *map(str, files)]) == 0
    assert main([*arguments, *map(str, files[::-1])]) == 1
    files[0].write_text("changed\n")
    assert main([*arguments, *map(str, files)]) == 1
    assert capsys.readouterr().err.count("holds data of other files or settings") == 2
    stamp = json.loads((tmp_path / "out" / "prompted.json").read_text())
    (tmp_path / "out" / "prompted.json").write_text(json.dumps({**stamp, "version": 1}))
    assert main([*arguments, *map(str, files)]) == 1
    assert "holds data that another version wrote" in capsys.readouterr().err


def test_what_a_killed_command_left_is_made_anew(backbone, texts, tmp_path):
    out = tmp_path / "out"
    (out / ".unfinished-x").mkdir(parents=True)
    (out / "train.text.bin").write_bytes(b"half")
    prompts.prepare(backbone, out, *texts)
    assert len(rows_of(out, "train", "text")) == 48


def test_another_directory_is_not_touched(backbone, texts, tmp_path, capsys):
    (tmp_path / "mine").write_text("mine")
    assert main(["prepare", "--backbone", str(backbone), "--out", str(tmp_path), *texts]) == 1
    assert "holds something else (mine)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_parallel_files_windows_lines_and_gzip_give_the_same(backbone, tmp_path):
    rows = [(p, texts[:1]) for p, texts in prompts.pairs(6)]
    (tmp_path / "p.txt").write_bytes("".join(f"{p}\r\n" for p, _ in rows).encode("utf-8"))
    with gzip.open(tmp_path / "t.txt.gz", "wb") as file:
        file.write(b"\xef\xbb\xbf" + "".join(f"{t[0]}\n" for _, t in rows).encode("utf-8"))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"in": p, "out": t[0]}) + "\r\n" for p, t in rows) + "\n", newline="")
    one = prompts.prepare(backbone, tmp_path / "one", "--train", tmp_path / "p.txt", tmp_path / "t.txt.gz")
    fields = ["--prompt-field", "in", "--text-field", "out"]
    other = prompts.prepare(backbone, tmp_path / "other", "--train", tmp_path / "rows.jsonl", *fields)
    for part in ("prompt", "text"):
        assert rows_of(one, "train", part) == rows_of(other, "train", part)


@pytest.mark.parametrize(
    "line, words",
    [
        (b"[1, 2]", "not a JSON object but a list"),
        (b'{"prompt": "x"', "not a JSON object"),
        (b'{"prompt": "x"}', "no field text or texts or references (--text-field); there are prompt"),
        (b'{"text": "x"}', "no field prompt (--prompt-field); there are text"),
        (b'{"prompt": "", "text": "x"}', "prompt is empty"),
        (b'{"prompt": "x", "text": " \\n"}', "text is empty"),
        (b'{"prompt": "x", "texts": []}', "the list texts is empty"),
        (b'{"prompt": "x", "texts": ["x", null]}', "texts is no text but a NoneType"),
        (b'{"prompt": 3, "text": "x"}', "prompt is no text but a int"),
        (b'{"prompt": "\xff", "text": "x"}', "not UTF-8"),
        (b'{"prompt": "x", "text": "a<|endoftext|>b"}', "the text has the symbol </s> in it, which ends a text"),
        (b'{"prompt": "x", "text": "<token:267>"}', None),  # it is text like any other
    ],
)
def test_a_line_that_cannot_be_used(backbone, tmp_path, capsys, line, words):
    (tmp_path / "rows.jsonl").write_bytes(b'{"prompt": "x", "text": "y"}\n' + line + b"\n")
    if words is None:
        prompts.prepare(backbone, tmp_path / "out", "--train", tmp_path / "rows.jsonl")
        return
    found = fails(capsys, backbone, tmp_path, "--train", tmp_path / "rows.jsonl")
    assert found.startswith(f"error: {tmp_path / 'rows.jsonl'}:2: ") and words in found


def test_parallel_files_of_other_lengths(backbone, tmp_path, capsys):
    (tmp_path / "p").write_text("a\nb\n")
    (tmp_path / "t").write_text("a\n")
    found = fails(capsys, backbone, tmp_path, "--train", tmp_path / "p", tmp_path / "t")
    assert f"{tmp_path / 'p'}:2: {tmp_path / 't'} has no such line" in found
    (tmp_path / "t").write_text("a\n\n")
    assert f"{tmp_path / 't'}:2: text is empty" in fails(capsys, backbone, tmp_path, "--train", tmp_path / "p", tmp_path / "t")


def test_an_empty_file(backbone, tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text("\n")
    assert "no sample in it" in fails(capsys, backbone, tmp_path, "--valid", tmp_path / "rows.jsonl")


def test_symbols_that_the_model_has_not(backbone, smollm, tmp_path, capsys):
    path = prompts.write_lines(tmp_path / "rows.jsonl", [("x", ["y"])])
    found = fails(capsys, backbone, tmp_path, "--train", path, "--start", "<s>")
    assert f"{path}:1: the prompt has the symbol <s>, which the model does not know" in found
    prompts.prepare(smollm, tmp_path / "out", "--train", path, "--start", "<s>")


def test_a_character_that_the_tokenizer_does_not_know(tmp_path, capsys):
    directory = prompts.write_backbone(tmp_path / "backbone", own=prompts.tokenizer_of_two_letters())
    path = prompts.write_lines(tmp_path / "rows.jsonl", [("x", ["y"]), ("x", ["xzy"])])
    found = fails(capsys, directory, tmp_path, "--train", path)
    assert f"{path}:2: the text has a character that the tokenizer does not know" in found


# ---------------------------------------------------------------------- what does not fit


LONG = [("a b", ["c"]), ("k" * 40, ["y" * 30]), ("m" * 20, ["z" * 20])]


def test_what_does_not_fit_is_refused(backbone, tmp_path, capsys):
    path = prompts.write_lines(tmp_path / "rows.jsonl", LONG)
    found = fails(capsys, backbone, tmp_path, "--train", path)
    assert f"{path}:2: 41 symbols of prompt and 32 of text do not fit into 64 positions; --too-long skip or cut" in found
    found = fails(capsys, backbone, tmp_path, "--train", path, "--max-positions", "99")
    assert "--max-positions must be from 2 to 64" in found
    found = fails(capsys, backbone, tmp_path, "--train", path, "--max-positions", "0")
    assert "--max-positions must be from 2 to 64, the model's, and is 0" in found
    path = prompts.write_lines(tmp_path / "rows.jsonl", LONG[2:])
    found = fails(capsys, backbone, tmp_path, "--train", path, "--room", "50")
    assert f"{path}:1: a prompt of 21 symbols leaves less than 50 of 64 positions (--room)" in found


def test_as_long_as_the_model_fits(backbone, tmp_path, capsys):
    """65 symbols: the last one is not read."""
    path = prompts.write_lines(tmp_path / "rows.jsonl", [("k" * 40, ["y" * 22])])  # 1 + 40, and Ġ + 22 + 1
    out = prompts.prepare(backbone, tmp_path / "fits", "--train", path)
    assert read_prepared(out).facts["train"]["longest"] == 64
    path = prompts.write_lines(tmp_path / "rows.jsonl", [("k" * 40, ["y" * 23])])
    assert "do not fit" in fails(capsys, backbone, tmp_path, "--train", path)


def test_what_does_not_fit_is_skipped_or_cut(backbone, tmp_path):
    path = prompts.write_lines(tmp_path / "rows.jsonl", LONG)
    flags = ["--train", path, "--format", "lora-gpt2", "--start", "auto"]
    skipped = prompts.prepare(backbone, tmp_path / "skipped", *flags, "--too-long", "skip")
    assert read_prepared(skipped).facts["train"]["skipped"] == 1 and len(rows_of(skipped, "train", "text")) == 2
    cut = prompts.prepare(backbone, tmp_path / "cut", *flags, "--too-long", "cut")
    assert rows_of(cut, "train", "prompt")[1] == ["</s>", *"k" * 31, "</s>"] and read_prepared(cut).facts["train"]["cut"] == 1
    # As LoRA's code leaves room for what will be generated: the last seq_len - eval_len symbols of the prompt.
    room = prompts.prepare(backbone, tmp_path / "room", *flags[:-2], "--too-long", "cut", "--max-positions", "60", "--room", "30")
    assert [len(row) for row in rows_of(room, "train", "prompt")] == [4, 29, 21]


@pytest.mark.parametrize("flags", [["--format", "lora-gpt2"], ["--format", "facts"]])
def test_a_prompt_of_which_nothing_would_be_left_is_refused(backbone, tmp_path, capsys, flags):
    """One symbol of its own fits, and is kept; or none does, beside start, separator and the template's end."""
    behind = {"lora-gpt2": 1, "facts": 6}[flags[1]]  # </s>; a new line and "Text:"
    flags = [*flags, "--start", "auto", "--too-long", "cut", "--train"]
    most = 64 - behind - 2  # the text's first symbol is its space; its end takes no position
    path = prompts.write_lines(tmp_path / "rows.jsonl", [("a", ["b"]), ("abc" * 9, ["y" * (most - 1)])])
    out = prompts.prepare(backbone, tmp_path / "fits", *flags, path)
    assert rows_of(out, "train", "prompt")[1][:2] == ["</s>", "c"] and read_prepared(out).facts["train"]["longest"] == 64
    path = prompts.write_lines(tmp_path / "rows.jsonl", [("a", ["b"]), ("abc" * 9, ["y" * most])])
    found = fails(capsys, backbone, tmp_path, *flags, path)
    assert f"{path}:2: " in found and "--too-long cut would leave nothing of the prompt" in found


# ---------------------------------------------------------------------- the model's directory, and what was written


def test_a_backbone_that_is_none(backbone, texts, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    found = fails(capsys, tmp_path / "empty", tmp_path, *texts)
    assert (
        f"--backbone {tmp_path / 'empty' / 'model.pt'}: not there; wanted is what `python -m sharp_plugins.convert` wrote" in found
    )
    import published

    from sharp_plugins.convert.conversion import convert

    published.write_bert(tmp_path / "published")
    convert(tmp_path / "published", tmp_path / "bert")
    assert "decoder.json: not there; wanted" in fails(capsys, tmp_path / "bert", tmp_path, *texts)


def test_a_tokenizer_that_is_another_models(backbone, smollm, texts, tmp_path, capsys):
    import shutil

    mixed = shutil.copytree(backbone, tmp_path / "mixed")
    for name in ("tokenizer.json", "special_tokens_map.json", "decoder.json"):
        shutil.copy(smollm / name, mixed / name)
    assert "its files do not fit together: dict.txt has 272 symbols, and the tokenizer 273" in fails(
        capsys, mixed, tmp_path, *texts
    )
    # So may be the model alone.
    mixed = shutil.copytree(backbone, tmp_path / "mixed model")
    shutil.copy(smollm / "model.pt", mixed)
    assert f"--backbone {mixed}: its files do not fit together: model.pt has" in fails(capsys, mixed, tmp_path, *texts)


def test_data_that_were_changed(data, smollm, tmp_path):
    import shutil

    with pytest.raises(FileNotFoundError, match="prepare` writes such a directory"):
        read_prepared(tmp_path)
    changed = shutil.copytree(data, tmp_path / "changed")
    shutil.copy(smollm / "tokenizer.json", changed)
    with pytest.raises(ValueError, match="tokenizer.json: it is not the one that the data were made with"):
        read_prepared(changed)
    stamp = json.loads((data / "prompted.json").read_text())
    # Every file of the tokenizer counts: one that is changed, one that is gone, and one more.
    for name, content in (("decoder.json", "{}"), ("special_tokens_map.json", None), ("tokenizer_config.json", "{}")):
        changed = shutil.copytree(data, tmp_path / f"without {name}")
        (changed / name).unlink(missing_ok=True)
        if content:
            (changed / name).write_text(content)
        with pytest.raises(ValueError, match=f"{name}: it is not the one that the data were made with"):
            read_prepared(changed)
    # With checksums of a dictionary that is not the tokenizer's, too.
    changed = shutil.copytree(data, tmp_path / "other dictionary")
    shutil.copy(smollm / "dict.txt", changed)
    source = {**stamp["source"], "backbone": {**stamp["source"]["backbone"], "dict.txt": sha256(changed / "dict.txt")}}
    (changed / "prompted.json").write_text(json.dumps({**stamp, "source": source}))
    with pytest.raises(ValueError, match="its files do not fit together: dict.txt has"):
        read_prepared(changed).encoding(read_prepared(changed).dictionary())
    for broken, words in (
        ({**stamp, "version": 0}, "another version"),
        ({"version": stamp["version"]}, "not what"),
        ([], "not a JSON object"),
    ):
        (changed / "prompted.json").write_text(json.dumps(broken))
        with pytest.raises(ValueError, match=words):
            read_prepared(changed)


def test_flags(capsys, backbone, tmp_path, texts):
    assert "nothing to prepare" in fails(capsys, backbone, tmp_path)
    assert "one file of JSON lines, or one of prompts" in fails(capsys, backbone, tmp_path, "--train", "a", "b", "c")
    assert "--prompt-template" in fails(capsys, backbone, tmp_path, *texts, "--prompt-template", "Facts:")
    assert "--train nope: not there" in fails(capsys, backbone, tmp_path, "--train", "nope")
    assert f"--valid {tmp_path}: a directory" in fails(capsys, backbone, tmp_path, "--valid", tmp_path)
    reads, writes = os.pipe()  # its checksum would leave nothing to read
    os.close(writes)
    assert f"--test /dev/fd/{reads}: no plain file." in fails(capsys, backbone, tmp_path, "--test", f"/dev/fd/{reads}")
    os.close(reads)
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(SystemExit):
            fails(capsys, backbone, tmp_path, *texts, "--out", out)
        assert f"--out: {out}: {tmp_path / 'file'} is a file, and no directory" in capsys.readouterr().err
        with pytest.raises(ValueError, match=f"--out {out}: {tmp_path / 'file'} is a file, and no directory"):
            check_out(out)
    out = prompts.prepare(
        backbone, tmp_path / "own", *texts, "--text-template", " = {text}", "--spaces", "--stop", ".", "--start", ""
    )
    prepared = read_prepared(out)
    assert prepared.format["spaces"] is True and prepared.stop == ["</s>", "."]
    assert rows_of(out, "test", "text")[0][:4] == ["Ġ", "=", "Ġ", "A"] and rows_of(out, "test", "prompt")[0][0] == "A"
