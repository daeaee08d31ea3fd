"""The one opener of text files, and its reader of numbers; what reads with it is tested where it is."""

import bz2
import gzip
import lzma

import pytest

from sharp_plugins.files import text as text_files
from sharp_plugins.files.text import LONGEST, TextError, parse_json, read_class, read_json, read_number, text_lines

LINES = ["one", "zwei \u2028 \x85 \x0b drei", "", "\U0001f600"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "byte-order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["Unix", "Windows"])
@pytest.mark.parametrize("last", [True, False], ids=["", "no last end"])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_all_ways_to_write_the_same_lines(tmp_path, mark, end, last, name):
    content = mark + (end.join(LINES) + (end if last else "")).encode("utf-8")
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert list(text_lines(tmp_path / name)) == list(enumerate(LINES, start=1))


def test_one_carriage_return_alone_is_text(tmp_path):
    (tmp_path / "a").write_bytes(b"a\rb\r\r\n")
    assert list(text_lines(tmp_path / "a")) == [(1, "a\rb\r")]


def test_lines_before_a_bad_one_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b"good\n\xed\xa0\x80 half a surrogate pair, as some programs write it\n")
    lines = text_lines(tmp_path / "a")
    assert next(lines) == (1, "good")
    with pytest.raises(TextError, match="a:2: not UTF-8: invalid continuation byte at byte 1 of the line|a:2: not UTF-8"):
        next(lines)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs pointer"),
        (b"<!doctype html><html></html>", "web page"),
        (b"\x1f\x8b\x08\0\0", "compressed with gzip; unpack it first"),
        (b"\xff\xfea\0\n\0", "a:1: it is UTF-16"),
        (bytes(600), "zeros"),
    ],
    ids=["pointer", "web page", "compressed", "UTF-16", "zeros"],
)
def test_other_files(tmp_path, content, words):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(TextError, match=words):
        list(text_lines(tmp_path / "a"))


HTML = "<!DOCTYPE html>\n<html>\n"
XML = "<?xml version='1.0'?>\n<corpus>\n"


@pytest.mark.parametrize(
    "text", [HTML, "<html lang='en'>\n", "  <Head>\n", XML, "BZh\n", "Rar! said the lion.\n", "%PDF\n", "\ufeff" + HTML]
)
def test_free_text_begins_as_it_likes(tmp_path, text):
    (tmp_path / "a").write_text(text + "\u00e9" * 600, encoding="utf-8")
    assert [line for _, line in text_lines(tmp_path / "a", is_free=True)][0] == text.removeprefix("\ufeff").splitlines()[0]
    with pytest.raises(TextError, match="a: cannot be read: it is "):
        list(text_lines(tmp_path / "a"))


@pytest.mark.parametrize("text", ["<headline>The cat</headline>\n", "<bodywork>\n", "<htmlish\n", "<header>\n"])
def test_other_tags_are_no_web_page(tmp_path, text):
    (tmp_path / "a").write_text(text)
    assert list(text_lines(tmp_path / "a")) == [(1, text[:-1])]


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        gzip.compress(b"text"),
        bz2.compress(b"text"),
        lzma.compress(b"text"),
        b"Rar!\x1a\x07\x01\x00\xf3\xe1\x82",
        bytes(600),
    ],
    ids=["git-lfs", "gzip", "bzip2", "xz", "rar", "zeros"],
)
def test_what_is_no_text_is_no_free_text(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(TextError, match="a: cannot be read: it (is a git-lfs|is compressed|is a rar|holds zeros)"):
        list(text_lines(tmp_path / "a", is_free=True))


def test_a_compressed_file_unpacks_to_no_more_than_a_text_would(tmp_path, monkeypatch):
    """Rows that are right one by one; 1 GB in the place of 1 MB would be no other test."""
    row, path = b"0" * 100 + b"\n", tmp_path / "a.gz"
    path.write_bytes(gzip.compress(row * 20_000))
    assert 1 << 20 > 20 * path.stat().st_size
    assert len(list(text_lines(path))) == 20_000
    monkeypatch.setattr(text_files, "UNPACKED", 1 << 20)
    monkeypatch.setattr(text_files, "TIMES", 20)
    with pytest.raises(TextError, match=rf"a.gz:{(1 << 20) // len(row) + 1}: it unpacks from \d+ to more than 1048576 bytes;"):
        list(text_lines(path))
    path.write_bytes(gzip.compress(row * 20_000, compresslevel=0))
    assert len(list(text_lines(path))) == 20_000  # much, and honestly so
    (tmp_path / "a").write_bytes(row * 20_000)
    assert len(list(text_lines(tmp_path / "a"))) == 20_000


def test_an_empty_file_has_no_lines(tmp_path):
    (tmp_path / "a").touch()
    assert list(text_lines(tmp_path / "a")) == []
    with pytest.raises(OSError):
        list(text_lines(tmp_path / "b"))


@pytest.mark.parametrize("text, value", [("1", 1), (" -2.50 ", -2.5), ("1e-3", 1e-3), ("+.5", 0.5), ("5.", 5)])
def test_numbers(text, value):
    assert read_number(text) == value


@pytest.mark.parametrize("text", ["", "nan", "-inf", "1e999", "1_0", "1,5", "\u0661", "0x1", "1 2", "one"])
def test_other_words_are_no_numbers(text):
    assert read_number(text) is None


def test_limits_and_classes():
    assert read_number("5", 0, 5) == 5 and read_number("5.1", 0, 5) is None
    assert read_class("1.0", ("0", "1")) == "1" and read_class("2", ("0", "1")) is None
    assert read_class(" neutral ", ("contradiction", "neutral")) == "neutral" and read_class("1.0", ("neutral",)) is None


def test_json(tmp_path):
    (tmp_path / "a").write_bytes(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00"}\r\n')
    assert read_json(tmp_path / "a") == {"a": "\U0001f600"}
    for text, words in (
        ("{", "here: not a JSON object"),
        ("[" * 100_000, "here: not a JSON object that can be read"),
        ("1" * 10_000, "here: not a JSON object that can be read"),
        (r'["\uDC00"]', r"here: \\udc00 is half of a surrogate pair"),
    ):
        with pytest.raises(TextError, match=words):
            parse_json(text, "here")


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_json_may_be_one_line_of_any_length(tmp_path, name):
    """SQuAD's training file is a line of 30 million bytes. Rows in lines have a limit."""
    content = b'{"a": "' + b"b" * (LONGEST + 1) + b'"}'
    (tmp_path / name).write_bytes(gzip.compress(content, 1) if name.endswith("gz") else content)
    assert len(read_json(tmp_path / name)["a"]) == LONGEST + 1
    with pytest.raises(TextError, match=f"a.json.*:1: the line has more than {LONGEST} bytes"):
        list(text_lines(tmp_path / name))


def test_json_of_other_kinds_and_compressed(tmp_path):
    for name, content in (("a.json", b"[1]"), ("a.json.gz", gzip.compress(b"[\n1]\n"))):
        (tmp_path / name).write_bytes(content)
        assert read_json(tmp_path / name, (dict, list)) == [1]
        with pytest.raises(TextError, match=rf"{name}: cannot be read: not a JSON object but a list"):
            read_json(tmp_path / name)
    (tmp_path / "a.json").write_text("1")
    with pytest.raises(TextError, match=r"a\.json: cannot be read: not an object or array of JSON but a int"):
        read_json(tmp_path / "a.json", (dict, list))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"[1"))
    with pytest.raises(TextError, match=r"a\.json\.gz: cannot be read: not a JSON object: Expecting"):
        read_json(tmp_path / "a.json.gz", (dict, list))
