"""Files that are complete or not there, several of them too."""

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest
import toy

from sharp_plugins.files.writing import filling, one_at_a_time, replacing, write_text


def test_files_are_moved_and_the_last_one_is_the_last(tmp_path, monkeypatch):
    moved, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: moved.append(new) or replace(old, new))
    out = tmp_path / "made" / "for it"
    out.mkdir(parents=True)
    (out / "b").write_text("old")
    with filling(out, last="a") as unfinished:
        for name in "abcdefgh":
            (unfinished / name).write_text(f"new {name}")
        assert [path.name for path in out.iterdir() if path != unfinished] == ["b"] and not moved
    assert [path.name for path in moved] == list("bcdefgha") and {path.parent for path in moved} == {out}
    assert sorted(os.listdir(out)) == list("abcdefgh") and (out / "b").read_text() == "new b"


def test_after_an_error_nothing_is_moved(tmp_path):
    with pytest.raises(KeyboardInterrupt), filling(tmp_path / "new" / "one", last="a") as unfinished:
        (unfinished / "a").write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_kill_among_the_moves_leaves_no_last_file(tmp_path, monkeypatch):
    """An old one would say that all is there, of old files and new ones."""
    for name in "abc":
        (tmp_path / name).write_text(f"old {name}")
    replace = os.replace

    def killed(old, new):
        if new.name == "c":
            raise KeyboardInterrupt
        replace(old, new)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt), filling(tmp_path, last="a") as unfinished:
        for name in "abc":
            (unfinished / name).write_text(f"new {name}")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"b": "new b", "c": "old c"}


# Writes half of what is asked for, says so, and waits.
WRITER = """
import sys
from pathlib import Path
from sharp_plugins.files.writing import filling, replacing, write_text

path = Path(sys.argv[2])
with (filling(path.parent, path.name) if sys.argv[1] == "filling" else replacing(path)) as unfinished:
    file = unfinished / path.name if sys.argv[1] == "filling" else unfinished
    file.write_text("half")
    print("half", flush=True)
    sys.stdin.readline()
    file.write_text("whole")
"""


def writer(way, path):
    """A process that has written half of its file."""
    line = [sys.executable, "-c", WRITER, way, str(path)]
    process = subprocess.Popen(line, cwd=Path(toy.PLUGIN).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "half\n"
    return process


def write(way, path):
    with filling(path.parent, path.name) if way == "filling" else replacing(path) as unfinished:
        (unfinished / path.name if way == "filling" else unfinished).write_text("mine")


@pytest.mark.parametrize("way", ["filling", "replacing"])
def test_what_a_killed_process_left_goes_and_not_a_living_ones(tmp_path, way):
    path = tmp_path / "out" / "file"
    killed, living = writer(way, path), writer(way, path)
    killed.kill()
    killed.communicate()
    assert len(os.listdir(path.parent)) == 2
    write(way, path)
    assert path.read_text() == "mine" and len(os.listdir(path.parent)) == 2
    living.communicate("\n")
    assert living.returncode == 0 and path.read_text() == "whole" and os.listdir(path.parent) == ["file"]


def test_one_file_leaves_what_was_left_of_others(tmp_path):
    """They may be those of a process whose starter was killed."""
    for name in ("one", "other"):
        (tmp_path / f".unfinished-{name}").mkdir()
        (tmp_path / f".unfinished-{name}" / name).write_text("half")
    (tmp_path / ".unfinished-link").symlink_to(tmp_path / ".unfinished-other")
    write("replacing", tmp_path / "one")
    assert sorted(os.listdir(tmp_path)) == [".unfinished-link", ".unfinished-other", "one"]
    write("filling", tmp_path / "one")
    assert sorted(os.listdir(tmp_path)) == [".unfinished-link", "one"]


def test_a_directory_that_is_taken_for_a_left_one(tmp_path, monkeypatch):
    """Another process may find it before it is locked."""
    make, made = tempfile.mkdtemp, []

    def mkdtemp(**how):
        made.append(make(**how))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    write("filling", tmp_path / "file")
    assert len(made) == 2 and os.listdir(tmp_path) == ["file"]


def test_what_is_locked_is_a_file(tmp_path, monkeypatch):
    """Over NFS a lock on a directory keeps away no process of another machine."""
    flock, kinds = fcntl.flock, []
    monkeypatch.setattr(fcntl, "flock", lambda file, how: kinds.append(stat.S_IFMT(os.fstat(file).st_mode)) or flock(file, how))
    (tmp_path / ".unfinished-left").mkdir()
    write("filling", tmp_path / "file")
    assert kinds == [stat.S_IFREG] * 2 and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("way", ["filling", "replacing"])
def test_nothing_is_left_where_open_files_cannot_be_removed(tmp_path, monkeypatch, way):
    """Over NFS such a file has another name until it is closed, and its directory stays."""

    def rmtree(path, ignore_errors=False):
        for name in os.listdir(path):
            os.unlink(path / name)
        if not ignore_errors:
            raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    (tmp_path / ".unfinished-left").mkdir()
    (tmp_path / ".unfinished-left" / "file").write_text("half")
    write(way, tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("way", ["filling", "replacing"])
def test_what_another_user_left_stays(tmp_path, monkeypatch, way):
    other, look, open_ = tmp_path / ".unfinished-other", os.stat, os.open
    other.mkdir()

    def refusing(what):
        def asked(path, *args, **kwargs):
            if str(path).startswith(f"{other}{os.sep}"):
                raise PermissionError(13, "Permission denied", str(path))
            return what(path, *args, **kwargs)

        return asked

    monkeypatch.setattr(os, "stat", refusing(look))
    monkeypatch.setattr(os, "open", refusing(open_))
    write(way, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine" and other.is_dir()


def test_a_file_is_written_though_its_directory_cannot_be_removed(tmp_path, monkeypatch):
    """It may hold old data that are read-only, or be gone already."""

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", refuse)
        write("replacing", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(FileNotFoundError, match="own"), filling(tmp_path, last="other") as unfinished:
        shutil.rmtree(unfinished)
        raise FileNotFoundError("the block's own")


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done, sync, replace = [], os.fsync, os.replace

    def fsync(handle):
        done.append(stat.S_IFMT(os.fstat(handle).st_mode))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda old, new: done.append("named") or replace(old, new))
    write_text(tmp_path / "file", "new")
    assert done == [stat.S_IFREG, "named", stat.S_IFDIR]


def test_files_that_cannot_be_put_on_the_disk_leave_the_old_ones(tmp_path, monkeypatch):
    def fill(content):
        with filling(tmp_path, last="b") as unfinished:
            for name in "ab":
                (unfinished / name).write_text(content)

    def fsync(handle):
        raise OSError(errno.ENOSPC, "no space")

    fill("old")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="no space"):
        fill("new")
    assert [(tmp_path / name).read_text() for name in "ab"] == ["old", "old"]


@pytest.mark.parametrize("number, is_told", [(errno.EINVAL, False), (errno.ENOSPC, True), (errno.EIO, True)])
def test_a_file_that_cannot_be_put_on_the_disk_takes_no_ones_place(tmp_path, monkeypatch, number, is_told):
    """File systems that do not know how are none of it."""
    (tmp_path / "file").write_text("old")

    def fsync(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=os.strerror(number)) if is_told else nullcontext():
        write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == ("old" if is_told else "new") and os.listdir(tmp_path) == ["file"]


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(Path("there", "file"))
    for text in ("new", "newer"):
        with replacing(tmp_path / "link") as new:
            assert new.name == "link"  # whose end may say the format
            new.write_text(text)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "file").read_text() == text
    assert sorted(os.listdir(tmp_path)) == ["link", "there"] and os.listdir(tmp_path / "there") == ["file"]


# Says when it is in the block, and leaves it when it is told to.
ALONE = """
import sys
from pathlib import Path
from sharp_plugins.files.writing import one_at_a_time

with one_at_a_time(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.readline()
    Path(sys.argv[1]).with_name("left").touch()
"""


def test_blocks_are_done_one_at_a_time(tmp_path):
    line = [sys.executable, "-c", ALONE, str(tmp_path / "lock")]
    how = dict(cwd=Path(toy.PLUGIN).parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen(line, **how) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(BlockingIOError), open(tmp_path / "lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        other.stdin.write("\n")
        other.stdin.flush()
        with one_at_a_time(tmp_path / "lock"):
            assert (tmp_path / "left").exists() and (tmp_path / "lock").exists()
    assert os.listdir(tmp_path) == ["left"]


def test_without_locks_blocks_are_done_all_the_same(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    for place in (tmp_path, tmp_path / "not there"):
        with one_at_a_time(place / "lock"):
            pass
    with pytest.raises(PermissionError, match="the block's own"), one_at_a_time(tmp_path / "lock"):
        raise PermissionError("the block's own")


def test_no_file_takes_the_place_of_a_device(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OSError, match=f"{name}: it is no regular file"):
            write_text(tmp_path / name, "text")
    assert stat.S_ISFIFO(os.stat(tmp_path / "link").st_mode) and sorted(os.listdir(tmp_path)) == ["link", "pipe"]


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_directory_in_a_files_place_is_seen_before_anything_goes(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / {"a": "b", "b": "a"}[name]).write_text("old")
    with pytest.raises(IsADirectoryError, match=f"{name}: it is a directory, and a file of this name is to be written"):
        with filling(tmp_path, last="a") as unfinished:
            for new in "abc":
                (unfinished / new).write_text("new")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"] and (tmp_path / {"a": "b", "b": "a"}[name]).read_text() == "old"
