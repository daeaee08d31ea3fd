"""Fetching a corpus of many files from a server on this machine: whole splits or none. What is published is listed well."""

import re
from pathlib import Path

import pytest
import served
from two_calls import at_once

from sharp_plugins.webnlg import published
from sharp_plugins.webnlg.corpus import SPLITS, find_split
from sharp_plugins.webnlg.download import download

NAMES = ["train/1triples/a.xml", "train/2triples/a.xml", "dev/1triples/a.xml", "test/testdata_with_lex.xml"]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = served.Server()
    yield server
    server.stop()


@pytest.fixture
def files(server):
    return [server.source(name, f"<benchmark>{name}</benchmark>".encode() * 9) for name in NAMES]


def there(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_a_corpus_is_fetched_once(server, files, tmp_path):
    told = []
    assert download("webnlg2017", tmp_path / "new", told.append, files) and there(tmp_path / "new") == sorted(NAMES)
    assert [line.split()[1] for line in told] == [source.url for source in files]
    assert not download("webnlg2017", tmp_path / "new", told.append, files) and len(server.ranges) == 4
    # What is there stays, and what is missing comes.
    (tmp_path / "new" / NAMES[0]).write_bytes(b"mine")
    (tmp_path / "new" / NAMES[1]).unlink()
    assert download("webnlg2017", tmp_path / "new", told.append, files) and len(server.ranges) == 5
    assert (tmp_path / "new" / NAMES[0]).read_bytes() == b"mine" and there(tmp_path / "new") == sorted(NAMES)


def test_two_calls_at_once_fetch_a_corpus_once(server, files, tmp_path, monkeypatch):
    """The later one waits for the earlier, and has nothing left to do."""
    assert at_once(lambda show: download("webnlg2017", tmp_path / "new", show, files), monkeypatch) == [False, True]
    assert len(server.ranges) == 4 and there(tmp_path / "new") == sorted(NAMES)


def test_many_files_are_told_in_a_line(files, tmp_path, monkeypatch):
    monkeypatch.setattr("sharp_plugins.webnlg.download.FEW", 3)
    told = []
    download("webnlg2017", tmp_path, told.append, files)
    assert told == [f"fetching 4 files (0.0 MB) from {files[0].base}"]


def test_no_split_is_there_before_all_files_are(server, files, tmp_path):
    """Half a training set would be read as if it were whole."""
    del server.files[NAMES[3]]
    with pytest.raises(OSError, match="HTTP Error 404"):
        download("webnlg2017", tmp_path, print, files)
    assert [path.name for path in tmp_path.iterdir()] == [".downloads"]
    files[3] = server.source(NAMES[3], b"<benchmark/>")
    server.stop_after = 5
    with pytest.raises(OSError, match="run this again to go on"):
        download("webnlg2017", tmp_path, print, files)
    server.stop_after = None
    assert download("webnlg2017", tmp_path, print, files) and there(tmp_path) == sorted(NAMES)
    assert server.ranges[-1] == "bytes=5-" and len(server.ranges) == 6


def test_something_else_is_refused(server, files, tmp_path):
    server.files[NAMES[0]] = b"x" * files[0].size
    with pytest.raises(ValueError, match="not the published file"):
        download("webnlg2017", tmp_path, print, files)


def test_another_corpus_in_the_way_is_named(files, server, tmp_path):
    (tmp_path / "dev.jsonl").touch()
    with pytest.raises(ValueError, match="dev.jsonl is of another corpus; choose an empty directory"):
        download("webnlg2017", tmp_path, print, files)
    with pytest.raises(ValueError, match="--download webnlg: there is no such corpus; there are webnlg2017, webnlg2020, e2e, dart"):
        download("webnlg", tmp_path / "new")
    assert server.ranges == []


def test_what_is_published_is_a_corpus(tmp_path):
    """Each file once, at a commit, with a checksum; and the splits are found among them."""
    assert tuple(published.sources()) == published.CORPORA
    for name, files in published.sources().items():
        assert len({source.name for source in files}) == len(files)
        assert len({source.sha256 for source in files}) == len(files)
        for source in files:
            assert re.fullmatch(r"https://raw\.githubusercontent\.com/[\w.-]+/[\w.-]+/[0-9a-f]{40}/([\w.-]+/)*[\w.-]+", source.url)
            assert re.fullmatch("[0-9a-f]{64}", source.sha256) and source.size > 500
            path = tmp_path / name / source.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        assert len({find_split(tmp_path / name, split) for split in SPLITS}) == 3


def test_lists_of_files_are_installed():
    root = Path(__file__).resolve().parents[2]
    assert '"webnlg/manifests/*.txt"' in (root / "setup.py").read_text()
    assert {path.name for path in published.MANIFESTS.iterdir()} == {"webnlg2017.txt", "webnlg2020.txt"}


def test_checksums_are_those_of_the_files_at_hand(data_beside):
    import gzip
    import hashlib

    files = {source.name: source for name in ("webnlg2017", "webnlg2020") for source in published.sources()[name]}
    for name, beside in {
        "dev/1triples/1triple_allSolutions_Airport_dev_challenge.xml": "2017_dev_1triple_Airport.xml",
        "dev/5triples/5triples_Astronaut_dev_challenge.xml": "2017_dev_5triples_Astronaut.xml",
        "test/rdf-to-text-generation-test-data-with-refs-en.xml": "2020_test_with_refs_en.xml.gz",
    }.items():
        content = (data_beside / "webnlg_xml" / beside).read_bytes()
        content = gzip.decompress(content) if beside.endswith(".gz") else content
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (files[name].sha256, files[name].size)
