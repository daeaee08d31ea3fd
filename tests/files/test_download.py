"""Fetching from a server on this machine that drops connections, ignores ranges, or sends something else."""

import hashlib
import io
import zipfile

import pytest
import served

from sharp_plugins.files import download as module
from sharp_plugins.files.download import Source, extract, fetch, fetch_missing


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = served.Server()
    yield server
    server.stop()


CONTENT = bytes(range(256)) * 1000


def test_a_file_is_fetched_and_checked(server, tmp_path):
    fetch(server.source("a.zip", CONTENT), tmp_path / "deep" / "a.zip")
    assert (tmp_path / "deep" / "a.zip").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.zip"]


def test_an_interrupted_download_goes_on(server, tmp_path):
    source = server.source("a.zip", CONTENT)
    server.stop_after = 100_000
    for _ in range(2):
        with pytest.raises(OSError, match=r"a\.zip: .*run this again to go on"):
            fetch(source, tmp_path / "a.zip")
        assert not (tmp_path / "a.zip").exists()
    fetch(source, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=200000-"]


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    source = server.source("a.zip", CONTENT)
    server.stop_after = 100_000
    with pytest.raises(OSError):
        fetch(source, tmp_path / "a.zip")
    server.knows_ranges, server.stop_after = False, None
    fetch(source, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT and server.ranges[-1] == "bytes=100000-"


def test_a_part_that_is_complete_is_not_fetched_again(server, tmp_path):
    source = server.source("a.zip", CONTENT)
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    fetch(source, tmp_path / "a.zip")
    assert server.ranges == [] and (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("there", [0, 500], ids=["at once", "in parts"])
@pytest.mark.parametrize("content", [CONTENT[:900], CONTENT + b"x"], ids=["shorter", "longer"])
def test_a_file_of_another_size_is_refused_and_deleted(server, tmp_path, content, there):
    source = server.source("a.zip", CONTENT)
    server.files["a.zip"] = content
    if there:
        (tmp_path / "a.zip.part").write_bytes(CONTENT[:there])
    words = rf"a\.zip: not the published file: it has {len(content)} bytes, and published are {len(CONTENT)}"
    with pytest.raises(ValueError, match=words):
        fetch(source, tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_part_beyond_the_servers_file_is_deleted(server, tmp_path):
    source = server.source("a.zip", CONTENT)
    server.files["a.zip"] = CONTENT[:900]
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:1000])
    with pytest.raises(OSError, match="416.*what was there was deleted; run this again"):
        fetch(source, tmp_path / "a.zip")
    server.files["a.zip"] = CONTENT
    fetch(source, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT and server.ranges == ["bytes=1000-", None]


def test_something_else_is_refused_and_deleted(server, tmp_path):
    source, content = server.source("a.zip", CONTENT), CONTENT[:-1] + b"x"
    server.files["a.zip"] = content
    found = hashlib.sha256(content).hexdigest()
    with pytest.raises(ValueError, match=rf"a\.zip: not the published file.*{found}.*{source.sha256}"):
        fetch(source, tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []


def test_no_such_file_and_no_server(server, tmp_path):
    with pytest.raises(OSError, match=r"b\.zip: HTTP Error 404"):
        fetch(Source(server.base, "b.zip", 10, "0" * 64), tmp_path / "b.zip")
    with pytest.raises(OSError, match="run this again"):
        fetch(Source("http://127.0.0.1:9/", "b.zip", 10, "0" * 64), tmp_path / "b.zip")


def test_files_that_are_there_are_not_fetched(server, tmp_path):
    sources = [server.source("a.zip", CONTENT), server.source("b.zip", CONTENT[:300])]
    (tmp_path / "a.zip").write_bytes(b"mine")
    shown = []
    assert fetch_missing(sources, tmp_path, shown.append) == [tmp_path / "a.zip", tmp_path / "b.zip"]
    assert (tmp_path / "a.zip").read_bytes() == b"mine" and (tmp_path / "b.zip").read_bytes() == CONTENT[:300]
    assert shown == [f"fetching {server.base}b.zip (0.0 MB)"] and server.ranges == [None]


def test_a_file_of_an_archive_appears_whole_and_where_it_is_wanted(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../../evil.tsv", CONTENT)

    def interrupted(source, target, size):
        target.write(source.read(10))
        raise KeyboardInterrupt

    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module.shutil, "copyfileobj", interrupted)
            extract(archive, "../../evil.tsv", tmp_path / "deep" / "x.tsv")
        assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
        extract(archive, "../../evil.tsv", tmp_path / "deep" / "x.tsv")
    assert (tmp_path / "deep" / "x.tsv").read_bytes() == CONTENT
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip", "deep", "x.tsv"]


def test_a_server_that_does_not_end_fills_no_disk(server, tmp_path, monkeypatch):
    """It says no size, and sends on."""
    source = server.source("a.zip", CONTENT)

    class Answer(io.RawIOBase):
        status, headers, sent = 200, {}, 0

        def read(self, size):
            self.sent += size
            assert self.sent < 2 * len(CONTENT)
            return bytes(size)

    monkeypatch.setattr(module.urllib.request, "urlopen", lambda request, timeout: Answer())
    with pytest.raises(ValueError, match=rf"a\.zip: not the published file \({len(CONTENT) + 1} bytes"):
        fetch(source, tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []
