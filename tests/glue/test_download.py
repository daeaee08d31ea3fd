"""GLUE's published files, from a server on this machine."""

import io
import zipfile

import glue_files
import pytest
import served
from two_calls import at_once

from sharp_plugins.glue import download as module
from sharp_plugins.glue.download import SOURCES, download
from sharp_plugins.glue.reader import find_files, read
from sharp_plugins.glue.tasks import TASKS


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = served.Server()
    yield server
    server.stop()


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


def test_two_calls_at_once_fetch_a_task_once(server, tmp_path, monkeypatch):
    """The later one waits for the earlier, and has nothing left to do."""
    sources = {"RTE": [server.source("RTE.zip", archive_of("RTE", tmp_path / "made"))]}
    assert at_once(lambda show: download(TASKS["RTE"], tmp_path / "glue", show, sources), monkeypatch) == [False, True]
    assert len(server.ranges) == 1
    assert not any(path.is_file() for path in (tmp_path / "glue" / ".downloads").rglob("*"))


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

    def stop(archive, member, path):
        written.append(path.name)
        if len(written) == 3:
            raise KeyboardInterrupt
        extract(archive, member, path)

    extract = module.extract
    monkeypatch.setattr(module, "extract", stop)
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
