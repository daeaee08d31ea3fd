"""The corpus reader: what it reads, how it linearises, and what it refuses."""

import gzip
import json

import pytest

from sharp_plugins.webnlg import parallel
from sharp_plugins.webnlg.corpus import CorpusError, Entry, read_corpus
from sharp_plugins.webnlg.linearise import markup, readable_predicate

RECORD = {
    "id": "one",
    "category": "Airport",
    "seen": None,
    "triples": [["Aarhus_Airport", "cityServed", '"Aarhus, Denmark"'], ["Aarhus", "leaderName", "Jacob_Bundsgaard"]],
    "refs": ["Aarhus Airport serves Aarhus, Denmark, led by\tJacob  Bundsgaard.", "Jacob leads Aarhus."],
}


def write(directory, **lines_of_split):
    """Write a corpus in which every split is RECORD's line, unless other lines are given."""
    for split in ("train", "dev", "test"):
        lines = lines_of_split.get(split, [json.dumps(RECORD)])
        (directory / f"{split}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return directory


def test_reads_every_field_and_gzip(tmp_path):
    write(tmp_path)
    plain = tmp_path / "train.jsonl"
    with gzip.open(tmp_path / "train.jsonl.gz", "wb") as packed:
        packed.write(plain.read_bytes())
    plain.unlink()
    corpus = read_corpus(tmp_path)
    assert list(corpus) == ["train", "dev", "test"]
    assert (
        corpus["train"]
        == corpus["dev"]
        == [
            Entry(
                id="one",
                category="Airport",
                seen=None,
                triples=(("Aarhus_Airport", "cityServed", '"Aarhus, Denmark"'), ("Aarhus", "leaderName", "Jacob_Bundsgaard")),
                refs=("Aarhus Airport serves Aarhus, Denmark, led by\tJacob  Bundsgaard.", "Jacob leads Aarhus."),
            )
        ]
    )


def test_markup():
    assert markup(RECORD["triples"]) == (
        "<S> Aarhus Airport <P> city served <O> Aarhus, Denmark <S> Aarhus <P> leader name <O> Jacob Bundsgaard"
    )


@pytest.mark.parametrize(
    "name, readable",
    [
        ("leaderName", "leader name"),
        ("ISBN_number", "ISBN number"),
        ("1st_runway_SurfaceType", "1st runway surface type"),
        ("elevationAboveTheSeaLevel_(in_metres)", "elevation above the sea level (in metres)"),
        ("added to the National Register", "added to the national register"),
    ],
)
def test_readable_predicate(name, readable):
    assert readable_predicate(name) == readable


def test_parallel_files(tmp_path, capsys):
    write(tmp_path)
    assert parallel.main(["--data", str(tmp_path), "--out", str(tmp_path / "text")]) == 0
    assert "train: 1 inputs, 2 lines" in capsys.readouterr().out
    source = markup(RECORD["triples"]) + "\n"
    lines = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "text").iterdir()}
    first, second = "Aarhus Airport serves Aarhus, Denmark, led by Jacob Bundsgaard.\n", "Jacob leads Aarhus.\n"
    assert lines == {
        "train.src": source * 2,
        "train.tgt": first + second,  # a pair for each reference
        "dev.src": source,
        "dev.tgt": first,
        "test.src": source,
        "test.tgt": first,
    }


def changed(**fields):
    return json.dumps({**RECORD, **fields})


def without(field):
    return json.dumps({key: value for key, value in RECORD.items() if key != field})


@pytest.mark.parametrize(
    "line, message",
    [
        ("{not json", "not a JSON object"),
        ("", "the line is empty"),
        ("[1]", "a JSON object is expected, not list"),
        (without("refs"), "field 'refs' is missing"),
        (without("id"), "field 'id' is missing"),
        (changed(refs=[]), "at least one reference"),
        (changed(refs="a text"), "'refs' must be a list"),
        (changed(refs=["good", " "]), "reference 2 must be a text that is not empty"),
        (changed(triples=[]), "at least one triple"),
        (changed(triples=[["a", "b", "c"], ["a", "b"]]), r"triple 2 must be \[subject, predicate, object\]"),
        (changed(triples=[["a", "b", ""]]), "triple 1 must be"),
        (changed(triples=["abc"]), "triple 1 must be"),  # a string of three letters is no triple
        (changed(seen="yes"), "'seen' must be true, false or null"),
        (changed(category=3), "'category' must be a string"),
        (json.dumps(RECORD), "id 'one' is already on line 1"),
        (json.dumps(RECORD).replace("Jacob leads", r"\ud83d leads"), r"\\ud83d is half of a surrogate pair"),
        ("[" * 100_000, "not a JSON object"),
    ],
)
def test_bad_line_is_named(tmp_path, line, message):
    write(tmp_path, dev=[json.dumps(RECORD), line])
    with pytest.raises(CorpusError, match=r"dev\.jsonl:2: .*" + message):
        read_corpus(tmp_path)


def test_files_of_other_machines(tmp_path):
    """A byte-order mark, Windows' line ends, separators that only Python takes for line ends, a whole surrogate pair."""
    line = changed(id="two", refs=["one \u2028 \x85 text", "smile"]).replace("smile", r"\ud83d\ude00")
    write(tmp_path)
    (tmp_path / "dev.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{json.dumps(RECORD, ensure_ascii=False)}\r\n{line}\r\n".encode())
    one, two = read_corpus(tmp_path)["dev"]
    assert one.refs == tuple(RECORD["refs"]) and two.refs == ("one \u2028 \x85 text", "\U0001f600")


def test_bytes_that_are_no_text_are_named_by_line(tmp_path):
    write(tmp_path)
    (tmp_path / "dev.jsonl").write_bytes(
        json.dumps(RECORD).encode() + b"\n" + changed(id="2").encode().replace(b"Airport", b"caf\xe9")
    )
    with pytest.raises(CorpusError, match=r"dev\.jsonl:2: not UTF-8: .* at byte"):
        read_corpus(tmp_path)


def test_empty_split(tmp_path):
    write(tmp_path, test=[])
    with pytest.raises(CorpusError, match=r"test\.jsonl: the file is empty"):
        read_corpus(tmp_path)


def test_missing_file_and_directory(tmp_path):
    write(tmp_path)
    (tmp_path / "dev.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"neither dev\.jsonl nor dev\.jsonl\.gz"):
        read_corpus(tmp_path)
    with pytest.raises(CorpusError, match="no such directory"):
        read_corpus(tmp_path / "nowhere")


def test_damaged_gzip(tmp_path):
    write(tmp_path)
    (tmp_path / "train.jsonl").unlink()
    packed = gzip.compress(b"".join(b"%d\n" % i for i in range(1000)))
    (tmp_path / "train.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(CorpusError, match=r"train\.jsonl\.gz"):
        read_corpus(tmp_path)


def test_command_line_error_writes_nothing(tmp_path, capsys):
    write(tmp_path, test=["{}"])
    assert parallel.main(["--data", str(tmp_path), "--out", str(tmp_path / "text")]) == 1
    error = capsys.readouterr().err
    assert "--data" in error and "test.jsonl:1" in error
    assert not (tmp_path / "text").exists()


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path, capsys):
    write(tmp_path)
    (tmp_path / "text").touch()
    for out in ("text", "text/below"):
        with pytest.raises(SystemExit):
            parallel.main(["--data", str(tmp_path), "--out", str(tmp_path / out)])
        assert f"argument --out: {tmp_path / out}: {tmp_path / 'text'} is a file, and no directory" in capsys.readouterr().err


def test_what_cannot_be_written_is_told_in_one_line(tmp_path, capsys):
    write(tmp_path)
    (tmp_path / "text" / "train.src").mkdir(parents=True)
    assert parallel.main(["--data", str(tmp_path), "--out", str(tmp_path / "text")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "train.src" in error and len(error.splitlines()) == 1


def test_webnlg_2017(data_beside):
    corpus = read_corpus(data_beside / "webnlg2017")
    # The counts that WebNLG's documentation gives.
    assert {split: len(entries) for split, entries in corpus.items()} == {"train": 6940, "dev": 872, "test": 1862}
    assert {split: sum(len(entry.refs) for entry in entries) for split, entries in corpus.items()} == {
        "train": 18102,
        "dev": 2268,
        "test": 4928,
    }
    assert sum(entry.seen for entry in corpus["test"]) == 971
    assert len(list(parallel.training_pairs(corpus["train"]))) == 18102
    lines = [line for split in corpus.values() for line, _ in parallel.evaluation_pairs(split)]
    assert not any("\n" in line or '"Aarhus' in line for line in lines)
