"""XML from elsewhere: what is read, and that no entity is ever defined."""

import gzip

import pytest

from sharp_plugins.files.text import TextError
from sharp_plugins.files.xml import read_xml

LAUGHS = '<!ENTITY a "ha">' + "".join(f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefghi", "bcdefghij"))


def write(path, text):
    content = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["a.xml", "a.xml.gz"])
@pytest.mark.parametrize("beginning", ["", "\ufeff", "<?xml version='1.0' encoding='utf-8'?>\r\n"], ids=["", "mark", "declaration"])
def test_files_of_all_machines(tmp_path, name, beginning):
    root = read_xml(write(tmp_path / name, beginning + "<top>\n<one word='ä'>&lt;A &amp; B&gt; \u2028</one>\n</top>"), "top")
    assert [(one.get("word"), one.text) for one in root] == [("ä", "<A & B> \u2028")]


@pytest.mark.parametrize("before", ["", "<a/>" * 1000], ids=["at once", "later"])
def test_another_encoding_is_refused(tmp_path, before):
    text = f"<?xml version='1.0' encoding='iso-8859-1'?>\n<top>{before}\xe4</top>"
    with pytest.raises(TextError, match=r"a\.xml(:2)?: not UTF-8"):
        read_xml(write(tmp_path / "a.xml", text.encode("latin-1")), "top")


@pytest.mark.parametrize(
    "text",
    [
        f"<!DOCTYPE top [{LAUGHS}]><top>&j;</top>",
        '<!DOCTYPE top [<!ENTITY a SYSTEM "FILE">]><top>&a;</top>',
        '<!DOCTYPE top [<!ENTITY % a SYSTEM "FILE"> %a;]><top/>',
        '<!DOCTYPE top SYSTEM "FILE"><top/>',
        "<?xml version='1.0'?>\n<!DOCTYPE top><top/>",
    ],
    ids=["billion laughs", "external entity", "parameter entity", "external subset", "empty"],
)
def test_a_document_type_is_refused(tmp_path, text):
    (tmp_path / "secret").write_text("<!ENTITY b 'secret'>")
    path = write(tmp_path / "a.xml", text.replace("FILE", str(tmp_path / "secret")))
    with pytest.raises(
        TextError, match=r"a\.xml: cannot be read: it has a document type declaration \(<!DOCTYPE top>\), .*take"
    ) as told:
        read_xml(path, "top")
    assert "secret" not in str(told.value).replace(str(tmp_path), "")


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "it is empty"),
        ("<top><a></top>", "not XML: mismatched tag: line 1, column 10"),
        ("<top>&a;</top>", "not XML: undefined entity"),
        ("<top>", "not XML: no element found"),
        ("<other/>", "its root is <other>, and <top> is expected"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        ("<html><br></html>", "it is a web page"),
        (b"<top>\xe9</top>", "not UTF-8"),
        ("<top/>".encode("utf-16"), "it is UTF-16"),
    ],
    ids=["empty", "tags", "entity", "cut", "root", "pointer", "page", "bytes", "UTF-16"],
)
def test_other_files_are_named(tmp_path, text, words):
    with pytest.raises(TextError, match=rf"a\.xml(:1)?: .*{words}"):
        read_xml(write(tmp_path / "a.xml", text), "top")


def test_a_damaged_archive_is_named(tmp_path):
    path = write(tmp_path / "a.xml.gz", "<top>" + "<one/>" * 1000 + "</top>")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TextError, match=r"a\.xml\.gz"):
        read_xml(path, "top")


def test_no_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_xml(tmp_path / "a.xml", "top")
