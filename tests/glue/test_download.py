"""Fetching from a server on this machine that drops connections, ignores ranges, or sends something else."""

import hashlib
import http.server
import io
import threading
import zipfile

import glue_files
import pytest

from sharp_plugins.glue import download as module
from sharp_plugins.glue.download import SOURCES, Source, download, fetch
from sharp_plugins.glue.reader import find_files, read
from sharp_plugins.glue.tasks import TASKS


class Server:
    """Serves *files*; keeps the Range header of each request."""

    def __init__(self):
        self.files, self.ranges, self.stop_after, self.knows_ranges = {}, [], None, True
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.ranges.append(self.headers.get("Range"))
                content = outer.files.get(self.path.strip("/"))
                if content is None:
                    self.send_error(404)
                    return
                start = 0
                if self.headers.get("Range") and outer.knows_ranges:
                    start = int(self.headers["Range"].split("=")[1].rstrip("-"))
                    if start >= len(content):
                        self.send_error(416)
                        return
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                else:
                    self.send_response(200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                stop = len(content) if outer.stop_after is None else min(len(content), start + outer.stop_after)
                self.wfile.write(content[start:stop])

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def source(self, name, content):
        self.files[name] = content
        return Source(self.base, name, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.server.shutdown()
    server.server.server_close()


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


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def archive_of(task, directory):
    """As the published ones: with the original files beside those of GLUE."""
    glue_files.write_task(directory, task)
    files = {f"{task}/{path.name}": path.read_bytes() for path in (directory / task).iterdir()}
    return zipped({f"{task}/original/readme.txt": b"", f"__MACOSX/{task}/._train.tsv": b"?", **files})


def test_a_task_is_fetched_once(server, tmp_path):
    sources = {"RTE": [server.source("RTE.zip", archive_of("RTE", tmp_path / "made"))]}
    shown = []
    assert download(TASKS["RTE"], tmp_path / "glue", shown.append, sources)
    assert any("RTE.zip" in line for line in shown)
    assert sorted(path.name for path in (tmp_path / "glue" / "RTE").iterdir()) == ["dev.tsv", "test.tsv", "train.tsv"]
    for path in (tmp_path / "glue" / "RTE").iterdir():
        assert path.read_bytes() == (tmp_path / "made" / "RTE" / path.name).read_bytes()
    assert not list((tmp_path / "glue").rglob("*.zip"))
    assert not download(TASKS["RTE"], tmp_path / "glue", shown.append, sources) and len(server.ranges) == 1


def test_files_that_are_there_stay_as_they_are(server, tmp_path):
    sources = {"RTE": [server.source("RTE.zip", archive_of("RTE", tmp_path / "made"))]}
    own = tmp_path / "glue" / "RTE" / "train.tsv.gz"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    (own.parent / "dev.tsv").write_text("mine")
    assert download(TASKS["RTE"], tmp_path / "glue", lambda line: None, sources)  # test.tsv is missing
    assert {path.name for path in own.parent.iterdir()} == {"train.tsv.gz", "dev.tsv", "test.tsv"}
    assert own.read_bytes() == (own.parent / "dev.tsv").read_bytes() == b"mine"


def test_mrpc_is_put_together(server, tmp_path):
    head = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    rows = [f'{i % 2}\t10{i}\t20{i}\tThe cat {i} .\t" The dog {i}\r\n' for i in range(6)]
    ids = "101\t201\n104\t204\n"
    names = [source.name for source in SOURCES["MRPC"]]
    texts = [(head + "".join(rows)).encode(), (head + "".join(rows[:3])).encode(), ids.encode()]
    sources = {"MRPC": [server.source(name, text) for name, text in zip(names, texts)]}
    download(TASKS["MRPC"], tmp_path, lambda line: None, sources)
    files = find_files(tmp_path, TASKS["MRPC"])
    read_rows = {split: read(path, TASKS["MRPC"], split).rows for split, path in files.items()}
    assert [row.sentences[0] for row in read_rows["train"]] == [f"The cat {i} ." for i in (0, 2, 3, 5)]
    assert [row.sentences[1] for row in read_rows["valid"]] == [f'" The dog {i}' for i in (1, 4)]
    assert [row.label for row in read_rows["valid"]] == ["1", "0"]
    assert [(row.index, row.label) for row in read_rows["test"]] == [("0", None), ("1", None), ("2", None)]


def test_every_task_has_published_files_with_checksums():
    assert SOURCES.keys() == TASKS.keys()
    for sources in SOURCES.values():
        for source in sources:
            assert source.url.startswith("https://dl.fbaipublicfiles.com/") and source.size > 0
            assert len(source.sha256) == 64 and set(source.sha256) <= set("0123456789abcdef")
    assert len({source.sha256 for sources in SOURCES.values() for source in sources}) == 10


def test_a_stop_between_files_is_no_complete_task(server, tmp_path, monkeypatch):
    """The files that tell a complete task are written last."""
    sources = {"RTE": [server.source("RTE.zip", archive_of("RTE", tmp_path / "made"))]}
    written = []

    def stop(path):
        written.append(path.name)
        if len(written) == 3:
            raise KeyboardInterrupt
        return replacing(path)

    replacing = module.replacing
    monkeypatch.setattr(module, "replacing", stop)
    with pytest.raises(KeyboardInterrupt):
        download(TASKS["RTE"], tmp_path / "glue", lambda line: None, sources)
    assert written == ["test.tsv", "dev.tsv", "train.tsv"]
    monkeypatch.undo()
    assert download(TASKS["RTE"], tmp_path / "glue", lambda line: None, sources)
    assert len(server.ranges) == 1  # what was fetched is still there


def test_an_archive_writes_nowhere_else(server, tmp_path):
    """Only the task's own files are taken out of it, whatever else it names."""
    files = {f"RTE/{path.name}": path.read_bytes() for path in _written("RTE", tmp_path / "made")}
    hostile = {"../evil.tsv": b"x", "/evil.tsv": b"x", "RTE/../../evil.tsv": b"x", "RTE/../train.tsv": b"x", "C:\\evil.tsv": b"x"}
    source = server.source("RTE.zip", zipped({**hostile, **files}))
    download(TASKS["RTE"], tmp_path / "deep" / "glue", lambda line: None, {"RTE": [source]})
    there = {str(path.relative_to(tmp_path / "deep")) for path in (tmp_path / "deep").rglob("*") if path.is_file()}
    assert there == {f"glue/RTE/{name}.tsv" for name in ("train", "dev", "test")}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "made"]


def _written(task, directory):
    glue_files.write_task(directory, task)
    return (directory / task).iterdir()


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
