"""A system's texts from a file: three forms, line ends, what is refused."""

import gzip
import json
import os
from dataclasses import replace

import pytest

from sharp_plugins.webnlg.corpus import Entry
from sharp_plugins.webnlg.scores.hypotheses import read_hypotheses

ENTRIES = [Entry(name, "Food", None, (("a", "b", "c"),), ("text",)) for name in ("Id1", "Id2", "Id3")]
TEXTS = ["It has bacon.", "", '"Alfa" — a ship; İzmir']


def read(path, content, entries=ENTRIES, form=""):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_hypotheses(path, entries, form)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_plain_lines(tmp_path, end, last, mark):
    assert read(tmp_path / "a.txt", mark + end.join(TEXTS) + end * last) == TEXTS


def test_compressed(tmp_path):
    assert read(tmp_path / "a.txt.gz", gzip.compress("\n".join(TEXTS).encode())) == TEXTS


def test_other_separators_end_no_line(tmp_path):
    texts = ["a\u2028b\u2029c", "d\u0085e\x0bf\x0c\x1c\x1d\x1eg", "h\rj"]
    assert read(tmp_path / "a.txt", "\n".join(texts) + "\n") == texts


def test_a_text_may_begin_like_another_file(tmp_path):
    texts = ["<html>", "%PDF", "PK is a club"]
    assert read(tmp_path / "a.txt", "\n".join(texts)) == texts


def test_what_fairseq_generate_printed(tmp_path):
    lines = [
        "2026-11-26 | INFO | fairseq_cli.generate",
        "S-2\t<S> Alfa",
        "T-2\tx",
        f"H-2\t-0.3\t{TEXTS[2]}",
        f"D-2\t-0.3\t{TEXTS[2]}",
    ]
    lines += [
        "P-2\t-0.1 -0.2",
        "S-0\t<S>",
        "H-0\t-1.25\t▁It ▁has ▁ba con .",
        "H-0\t-2\tworse",
        "H-1\t-inf\t",
        "Generate test with beam=5",
    ]
    assert read(tmp_path / "generated.txt", "\n".join(lines) + "\n") == TEXTS
    assert read(tmp_path / "generated.txt", "\n".join(lines).replace("\n", "\r\n")) == TEXTS
    with pytest.raises(ValueError, match="generated.txt: 2 hypotheses for 3 inputs .*none for input 2"):
        read(tmp_path / "generated.txt", "\n".join(lines[5:]))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
@pytest.mark.parametrize("field", [None, "text", "hypothesis", "prediction", "generated", "output"])
def test_json_lines(tmp_path, name, field):
    lines = [json.dumps(text if field is None else {"triples": 3, field: text}) for text in TEXTS]
    assert read(tmp_path / name, "\r\n".join(lines) + "\n\n") == TEXTS


@pytest.mark.parametrize("content, is_read", [("S-0\tx\nH-0\t-0.3\ta b\n", False), ("a b\n", True)])
def test_a_pipe_is_read_once(content, is_read):
    reads, writes = os.pipe()
    os.write(writes, content.encode())
    os.close(writes)
    if is_read:
        assert read_hypotheses(f"/dev/fd/{reads}", ENTRIES[:1]) == ["a b"]
    else:
        with pytest.raises(ValueError, match="what fairseq-generate printed is read twice, and a pipe only once"):
            read_hypotheses(f"/dev/fd/{reads}", ENTRIES[:1])
    os.close(reads)


def test_json_lines_with_ids_in_any_order(tmp_path):
    named = [{"id": name, "text": text} for name, text in zip(("Id3", "Id1", "Id2"), (TEXTS[2], *TEXTS[:2]))]
    assert read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, named))) == TEXTS
    # A number counts the inputs from 0, as fairseq does.
    numbered = [{"id": number, "text": TEXTS[number]} for number in (1, 2, 0)]
    assert read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, numbered))) == TEXTS


NUMBERED = [Entry(name, "Food", None, (("a", "b", "c"),), ("text",)) for name in ("1", "2", "3")]


@pytest.mark.parametrize(
    "ids, order", [((1, 2, 3), (0, 1, 2)), ((3, 1, 2), (1, 2, 0)), ((0, 1, 2), (0, 1, 2)), ((2, 1, 0), (2, 1, 0))]
)
def test_numbers_are_ids_where_all_are(tmp_path, ids, order):
    lines = [json.dumps({"id": number, "text": text}) for number, text in zip(ids, "abc")]
    assert read(tmp_path / "a.jsonl", "\n".join(lines), NUMBERED) == ["abc"[place] for place in order]


def test_numbers_that_may_be_both_are_refused(tmp_path):
    entries = [replace(entry, id=name) for entry, name in zip(NUMBERED, ("2", "0", "1"))]
    lines = [json.dumps({"id": number, "text": text}) for number, text in zip((0, 1, 2), "abc")]
    with pytest.raises(ValueError, match="a.jsonl: the id 0 is an input's id, and the number, counted from 0, of another input"):
        read(tmp_path / "a.jsonl", "\n".join(lines), entries)
    same = [replace(entry, id=name) for entry, name in zip(NUMBERED, "012")]
    assert read(tmp_path / "a.jsonl", "\n".join(lines), same) == ["a", "b", "c"]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["a.json", "a.txt"])
def test_one_array(tmp_path, indent, name):
    assert read(tmp_path / name, json.dumps(TEXTS, indent=indent)) == TEXTS
    named = [{"id": one, "text": text} for one, text in zip(("Id3", "Id1", "Id2"), (TEXTS[2], *TEXTS[:2]))]
    assert read(tmp_path / name, json.dumps(named, indent=indent)) == TEXTS
    with pytest.raises(ValueError, match="a.json: element 2: a string or an object is expected, not int"):
        read(tmp_path / "a.json", json.dumps(["a", 2, "b"], indent=indent))


def test_the_form_that_a_file_is_taken_for_is_told(tmp_path):
    """Quoted sentences, of which one is empty: as JSON the empty line is none."""
    quoted = '"a"\n\n"c"\n'
    with pytest.raises(ValueError, match="2 texts for 3 inputs, 1 too few .taken for JSON .*--format text reads plain lines"):
        read(tmp_path / "a.txt", quoted)
    assert read(tmp_path / "a.txt", quoted, form="text") == ['"a"', "", '"c"']
    with pytest.raises(ValueError, match="a.json:1: .*; JSON lines are expected, one for each input, or one array"):
        read(tmp_path / "a.json", '{\n"text": "a"\n}\n')


def test_plain_lines_that_look_like_json(tmp_path):
    for texts in (['"Alfa" is a "ship"', "{Bravo}", '"Charlie"'], ["[Alfa]", "", "[Charlie]"], ["[1,", "2,", "3]"]):
        assert read(tmp_path / "a.txt", "\n".join(texts)) == texts
    assert read(tmp_path / "a.txt", '"a"\n"b"\n"c"', form="text") == ['"a"', '"b"', '"c"']
    assert read(tmp_path / "a.txt", '"a"\n"b"\n"c"') == ["a", "b", "c"]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.txt", "a\nb\n", "a.txt: 2 texts for 3 inputs, 1 too few; an empty text is an empty line, with its line end"),
        ("a.txt", "a\n", "a.txt: 1 texts for 3 inputs, 2 too few"),
        ("a.txt", "", "a.txt: 0 texts for 3 inputs, 3 too few"),
        ("a.txt", "a\nb\nc\nd\n", "a.txt: 4 texts for 3 inputs, 1 too many"),
        ("a.txt", "a\nb\nc\n\n \n", "a.txt: 5 texts for 3 inputs, 2 too many; those at the end are empty lines: delete them"),
        ("a.txt", b"a\nna\xefve\nc\n", "a.txt:2: not UTF-8: invalid continuation byte at byte 2 of the line"),
        ("a.txt", "a\nb\nc".encode("utf-16"), "a.txt:1: it is UTF-16; save it as UTF-8"),
        ("a.jsonl", '"a"\n"b"', "a.jsonl: 2 texts for 3 inputs, 1 too few"),
        ("a.jsonl", '"a"\n"b"\n3', "a.jsonl:3: a string or an object is expected, not int"),
        ("a.jsonl", '"a"\n{"text": "b", }', "a.jsonl:2: not a JSON object"),
        ("a.jsonl", '"a"\n{"words": "b"}', "a.jsonl:2: one of the fields text, hypothesis, .* is expected, got none"),
        ("a.jsonl", '{"text": "a", "output": "b"}', "a.jsonl:1: one of the fields .* got text, output"),
        ("a.jsonl", '"a"\n{"text": null}', "a.jsonl:2: field 'text' must be a string, an empty one for no text, got None"),
        ("a.jsonl", '{"text": "a", "id": true}', "a.jsonl:1: field 'id' must be an input's id or its number from 0, got True"),
        ("a.jsonl", '{"text": "a", "id": "Id1"}\n"b"', "a.jsonl:2: it has no id, and others have one"),
        ("a.jsonl", '{"text": "a", "id": "Id4"}', "a.jsonl:1: no input has the id 'Id4'"),
        ("a.jsonl", '{"text": "a", "id": 3}', "a.jsonl:1: no input has the id 3"),
        ("a.jsonl", '{"text": "a", "id": "Id1"}\n{"text": "a", "id": 0}', "a.jsonl:2: the id 0 is already on line 1"),
        ("a.jsonl", '{"text": "a", "id": "Id2"}', "a.jsonl: 1 texts for 3 inputs, 2 too few; none has the id 'Id1'"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, name, content, words):
    with pytest.raises(ValueError, match=words):
        read(tmp_path / name, content)
