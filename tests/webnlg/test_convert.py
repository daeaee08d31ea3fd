"""``convert``: any form in, JSON lines out, nothing written over and nothing half written."""

import json

import pytest

from sharp_plugins.webnlg import convert as module
from sharp_plugins.webnlg.__main__ import main
from sharp_plugins.webnlg.corpus import read_corpus, read_split

LINE = {"id": "1", "category": "Food", "seen": None, "triples": [["a", "b", "c"]], "refs": ["Good.", "bad"], "good": [True, False]}


def corpus(directory, **records):
    directory.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev", "test"):
        lines = "".join(json.dumps({**LINE, **record}) + "\n" for record in records.get(split, [{}]))
        (directory / f"{split}.jsonl").write_text(lines)
    return directory


def convert(data, out, *flags):
    return main(["convert", "--data", str(data), "--out", str(out), *flags])


def test_what_is_written_is_what_was_read(tmp_path, capsys):
    data = corpus(tmp_path / "in", train=[{"refs": ["ä \u2028", "bad"]}, {"id": "2", "category": "City"}])
    assert convert(data, tmp_path / "out") == 0
    assert read_corpus(tmp_path / "out") == read_corpus(data)
    assert capsys.readouterr().out.splitlines()[0] == (
        f"{tmp_path}/out/train.jsonl: 2 inputs, 4 texts (2 of them not good), 2 categories"
    )
    assert "ä" in (tmp_path / "out" / "train.jsonl").read_text(encoding="utf-8")


def test_good_texts_and_seen_categories(tmp_path, capsys):
    unseen = {"id": "2", "category": "Artist"}
    data = corpus(tmp_path / "in", train=[{}, {"id": "2", "good": [False, False]}], test=[{}, unseen])
    assert convert(data, tmp_path / "out", "--texts", "good", "--seen", "training") == 0
    written = read_corpus(tmp_path / "out")
    assert [entry.refs for entry in written["train"]] == [("Good.",)] and written["test"][0].refs == ("Good.", "bad")
    assert [entry.seen for entry in written["test"]] == [True, False] and written["train"][0].seen is None
    assert "2 categories, 1 inputs of seen and 1 of unseen categories" in capsys.readouterr().out


def test_a_split_of_two_files_is_not_left_out(tmp_path, capsys):
    data = corpus(tmp_path / "in")
    for name in ("webnlg_release_v1_test.json", "webnlg_release_v2_test.json"):
        (data / name).write_text("{}")
    (data / "test.jsonl").unlink(missing_ok=True)
    assert convert(data, tmp_path / "out") == 1 and not (tmp_path / "out").exists()
    assert "one test set is wanted, not several" in capsys.readouterr().err


def test_a_directory_to_write_to_that_is_a_file(tmp_path, capsys):
    data = corpus(tmp_path / "in")
    for out in (data / "train.jsonl", data / "train.jsonl" / "below"):
        with pytest.raises(SystemExit):
            convert(data, out)
        assert f"argument --out: {out}: " in capsys.readouterr().err


def test_a_part_of_a_corpus_or_one_file(tmp_path, capsys):
    data = corpus(tmp_path / "in")
    (data / "train.jsonl").unlink()
    assert convert(data, tmp_path / "out") == 0 and sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dev.jsonl",
        "test.jsonl",
    ]
    (data / "dart-v1.1.json").write_text(json.dumps([{"tripleset": [["a", "B", "c"]], "annotations": [{"text": "One."}]}]))
    assert convert(data / "dart-v1.1.json", tmp_path / "one") == 0
    assert read_split(tmp_path / "one" / "dart-v1.1.jsonl")[0].triples == (("a", "b", "c"),)
    assert convert(data / "test.jsonl", tmp_path / "listed", "--seen", "published") == 0
    assert None not in [entry.seen for entry in read_split(tmp_path / "listed" / "test.jsonl")]
    (data / "test.jsonl").rename(data / "with_refs.jsonl")
    assert convert(data / "with_refs.jsonl", tmp_path / "listed", "--seen", "published") == 0
    assert None not in [entry.seen for entry in read_split(tmp_path / "listed" / "with_refs.jsonl")]
    assert convert(data / "with_refs.jsonl", tmp_path / "no", "--seen", "training") == 1
    assert "error: --seen training: " in capsys.readouterr().err and not (tmp_path / "no").exists()
    (data / "with_refs.jsonl").rename(data / "test.jsonl")
    assert convert(data, tmp_path / "no", "--seen", "training") == 1
    assert "error: --seen training: " in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_what_is_read_is_not_written_over(tmp_path, capsys):
    data = corpus(tmp_path / "in")
    assert convert(data, tmp_path / "in" / ".." / "in", "--texts", "good") == 1
    assert "train.jsonl is what is read; choose another directory" in capsys.readouterr().err
    assert read_split(data / "train.jsonl")[0].refs == ("Good.", "bad")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tofix.tsv").touch()
    assert convert(data, tmp_path / "out") == 1 and "its tofix.tsv would mark texts" in capsys.readouterr().err


def test_another_corpus_is_not_mixed_with_it(tmp_path, capsys):
    data, out = corpus(tmp_path / "in"), tmp_path / "out"
    assert convert(data, out) == 0 and convert(data, out) == 0  # the same again
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    part = corpus(tmp_path / "part")
    (part / "train.jsonl").unlink()
    other = corpus(tmp_path / "other", test=[{"id": "9"}])
    for directory, name, flags in (
        (part, "train.jsonl", ()),
        (other, "test.jsonl", ()),
        (data, "train.jsonl", ("--texts", "good")),
    ):
        capsys.readouterr()
        assert convert(directory, out, *flags) == 1
        words = f"its {name} is of another corpus or of other flags; choose another directory, or remove it"
        assert capsys.readouterr().err == f"error: --out {out}: {words}\n"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    for split in ("train", "dev", "test"):  # one after the other
        assert convert(data / f"{split}.jsonl", tmp_path / "parts") == 0
    assert read_corpus(tmp_path / "parts") == read_corpus(data)


def test_all_splits_are_written_or_none(tmp_path, capsys):
    data = corpus(tmp_path / "in")
    (tmp_path / "out" / "test.jsonl").mkdir(parents=True)
    assert convert(data, tmp_path / "out") == 1 and [path.name for path in (tmp_path / "out").iterdir()] == ["test.jsonl"]
    assert "test.jsonl: it is a directory" in capsys.readouterr().err


@pytest.mark.parametrize("beside", ["", "test"])
def test_a_corpus_that_cannot_be_read_leaves_nothing(tmp_path, capsys, beside):
    data = tmp_path / "in"
    if beside:
        corpus(data, test=[{}, {}])  # the same id twice
    assert convert(data, tmp_path / "out") == 1 and not (tmp_path / "out").exists()
    shown = capsys.readouterr().err
    assert shown.startswith("error: --data: ") and (
        "test.jsonl:2: id '1' is already" in shown if beside else "no such file or dir" in shown
    )


def test_a_directory_of_something_else(tmp_path, capsys):
    assert convert(tmp_path, tmp_path / "out") == 1
    shown = capsys.readouterr().err
    assert "neither train.jsonl nor train.jsonl.gz is there" in shown and "and neither dev nor test" in shown


def test_it_fetches_first_where_it_is_asked_to(tmp_path, monkeypatch):
    from sharp_plugins.webnlg import download

    monkeypatch.setattr(download, "download", lambda name, data: corpus(data / name))
    assert convert(tmp_path, tmp_path / "out", "--download", "e2e") == 1  # what was fetched is elsewhere
    monkeypatch.setattr(download, "download", lambda name, data: corpus(data))
    assert convert(tmp_path / "in", tmp_path / "out", "--download", "e2e") == 0
    assert module.splits_of(tmp_path / "out").keys() == {"train", "dev", "test"}


def test_a_directory_of_xml_files_is_one_split(data_beside, tmp_path, capsys):
    tree = tmp_path / "triples"
    tree.mkdir()
    for name in ("2017_dev_1triple_Airport.xml", "2017_dev_5triples_Astronaut.xml"):
        (tree / name).write_bytes((data_beside / "webnlg_xml" / name).read_bytes())
    assert convert(tree, tmp_path / "out", "--seen", "published") == 0
    entries = read_split(tmp_path / "out" / "triples.jsonl")
    assert {entry.category for entry in entries} == {"Airport", "Astronaut"} and all(entry.seen for entry in entries)
    (tmp_path / "texts.txt").write_text("A text.\n" * len(entries))
    capsys.readouterr()
    assert main(["score", str(tmp_path / "texts.txt"), "--data", str(tree)]) == 0
    shown = capsys.readouterr().out
    assert f"{len(entries)} inputs" in shown and "lora bleu: nrefs:" in shown
    (tmp_path / "empty").mkdir()
    assert convert(tmp_path / "empty", tmp_path / "no") == 1
    assert "no XML file lies in" in capsys.readouterr().err
    assert main(["score", str(tmp_path), "--data", str(tree)]) == 1
    assert f"error: {tmp_path}: is a directory; HYPOTHESES" in capsys.readouterr().err
