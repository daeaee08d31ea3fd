"""A run is killed, or the disk is full, while checkpoints are written: all are whole, and the same command goes on."""

import contextlib
import errno
import os
import re
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy
import processes
import pytest
import torch
import toy
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

from sharp_plugins.files import safe_load
from sharp_plugins.host import saving

pytestmark = pytest.mark.filterwarnings("ignore")

FLAGS = "--optimizer adam --lr 0.01 --batch-size 4 --save-interval-updates 2".split()


# ---------------------------------------------------------------------- one copy


def test_a_copy_is_a_file_of_its_own(tmp_path):
    one, other = tmp_path / "one.pt", tmp_path / "other.pt"
    one.write_bytes(b"new")
    other.write_bytes(b"old")
    reader = open(other, "rb")
    assert PathManager.copy(str(one), str(other), overwrite=True)
    assert other.read_bytes() == b"new" and reader.read() == b"old"  # who reads the old one reads it to its end
    other.write_bytes(b"by hand")
    assert one.read_bytes() == b"new" and sorted(os.listdir(tmp_path)) == ["one.pt", "other.pt"]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done, sync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(os.fstat(handle).st_size) or sync(handle))
    monkeypatch.setattr(os, "replace", lambda old, new: done.append("named") or replace(old, new))
    (tmp_path / "one.pt").write_bytes(b"new")
    PathManager.copy(str(tmp_path / "one.pt"), str(tmp_path / "other.pt"), overwrite=True)
    assert done[:2] == [3, "named"]
    done.clear()
    monkeypatch.setattr(os, "rename", lambda old, new: done.append("named") or replace(old, new))
    checkpoint_utils.torch_persistent_save({"a": torch.ones(1000)}, str(tmp_path / "one.pt"))
    assert done == [(tmp_path / "one.pt").stat().st_size, "named"]


@pytest.mark.parametrize("step", ["write", "rename"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, step):
    one, other = tmp_path / "one.pt", tmp_path / "other.pt"
    one.write_bytes(b"new")
    other.write_bytes(b"old")

    def full(src, dst):
        if step == "write":
            Path(dst).write_bytes(b"n")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*(shutil, "copyfile") if step == "write" else (os, "replace"), full)
    with pytest.raises(OSError, match=r"cannot be written: No space left .*one\.pt is whole: .*other\.pt"):
        PathManager.copy(str(one), str(other), overwrite=True)
    assert one.read_bytes() == b"new" and other.read_bytes() == b"old" and len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_checkpoint_is_whole_after_an_error_that_lasts_a_moment(tmp_path, monkeypatch, failures):
    path, save, failed = tmp_path / "checkpoint_last.pt", torch.save, []

    def failing(obj, file, **how):
        if len(failed) < failures:
            failed.append(file.write(b"half" * 5000))
            raise OSError(errno.EIO, "Input/output error")
        return save(obj, file, **how)

    monkeypatch.setattr(saving, "PAUSE", 0)
    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(OSError, match="Input/output") if failures == 3 else contextlib.nullcontext():
        checkpoint_utils.torch_persistent_save({"a": torch.ones(1000)}, str(path))
    assert len(failed) == failures and path.exists() is (failures < 3)
    if failures < 3:
        assert safe_load.load(path)["a"].sum() == 1000
        assert b"half" not in path.read_bytes()


# ---------------------------------------------------------------------- killed anywhere

# Ends the process after so many bytes of the copy that is made as the given one, counted from 1.
KILL = """
import os, shutil, sys
import processes
copies = 0

def copyfile(src, dst, **how):
    global copies
    copies += 1
    with open(src, "rb") as one, open(dst, "wb") as other:
        if copies == {copy}:
            other.write(one.read({size}))
            other.flush()
            os._exit(9)
        other.write(one.read())
    return dst

shutil.copyfile = copyfile
sys.argv = ["fairseq-train", *{line!r}]
from fairseq_cli.train import cli_main
cli_main()
"""


def kill(data, save_dir, copy, size, *flags):
    line = processes.line(data, save_dir, *FLAGS, *flags)
    line.remove("--disable-validation")
    code = KILL.format(copy=copy, size=size, line=line)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    how = dict(env=environment, capture_output=True, text=True, timeout=processes.LIMIT)
    done = subprocess.run([sys.executable, "-c", code], **how)
    assert done.returncode == 9, done.stderr[-3000:]


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_copies_goes_on(translation_data, tmp_path):
    # checkpoint_1_2.pt, its copies checkpoint_best.pt and checkpoint_last.pt; then those of checkpoint_1_4.pt.
    kill(translation_data, tmp_path, 4, 10000, "--max-update", 6)
    found = {path.name: processes.checkpoint(path)["optimizer_history"][-1]["num_updates"] for path in tmp_path.glob("*.pt")}
    assert found["checkpoint_last.pt"] == 2 and found["checkpoint_1_4.pt"] == 4
    resumed = processes.train(translation_data, tmp_path, *FLAGS, "--max-update", 6)
    assert "@ 2 updates" in resumed.text
    whole = tmp_path / "whole"
    processes.train(translation_data, whole, *FLAGS, "--max-update", 6)
    processes.assert_same_training(tmp_path, whole)


# Of the second checkpoint half is written, into the first of its files: then the process ends, or the disk is full.
HALF = """
import errno, io, os, sys
import processes
import torch
saves, save = 0, torch.save

def half(obj, file, **how):
    global saves
    saves += 1
    if saves < 2:
        return save(obj, file, **how)
    whole = io.BytesIO()
    save(obj, whole, **how)
    file = open(file, "wb") if isinstance(file, (str, os.PathLike)) else file
    file.write(whole.getvalue()[:len(whole.getvalue()) // 2])
    file.flush()
    {end}

torch.save = half
sys.argv = ["fairseq-train", *{line!r}]
from fairseq_cli.train import cli_main
cli_main()
"""
ENDS = {"killed": "os._exit(9)", "full": 'raise OSError(errno.ENOSPC, "No space left on device")'}


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_half_a_checkpoint_is_in_no_ones_place(translation_data, tmp_path, end):
    line = processes.line(translation_data, tmp_path, *FLAGS, "--keep-interval-updates", 1, "--max-update", 6)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    how = dict(env=environment, capture_output=True, text=True, timeout=processes.LIMIT)
    done = subprocess.run([sys.executable, "-c", HALF.format(end=ENDS[end], line=line)], **how)
    assert done.returncode == (9 if end == "killed" else 1) and (end == "killed" or "No space left" in done.stderr + done.stdout)
    found = {path.name: processes.checkpoint(path)["optimizer_history"][-1]["num_updates"] for path in tmp_path.glob("*.pt")}
    assert found["checkpoint_last.pt"] == 2 and set(found.values()) == {2}
    resumed = processes.train(translation_data, tmp_path, *FLAGS, "--keep-interval-updates", 1, "--max-update", 6)
    assert "@ 2 updates" in resumed.text
    processes.train(translation_data, tmp_path / "whole", *FLAGS, "--max-update", 6)
    processes.assert_same_training(tmp_path, tmp_path / "whole")


# ---------------------------------------------------------------------- a last one that cannot be read


def save(trainer, path, updates):
    trainer.set_num_updates(updates)
    trainer.consolidate_optimizer()
    place = trainer.get_train_iterator(epoch=1)
    place.next_epoch_itr()
    trainer.save_checkpoint(str(path), {"train_iterator": place.state_dict(), "val_loss": None})


@pytest.fixture
def trainer(translation_data, tmp_path):
    trainer = toy.build_trainer(translation_data, "--optimizer", "adam", "--lr", "0.1", "--save-dir", tmp_path)
    trainer.train_step(toy.batches(trainer, [4]))
    return trainer


@pytest.mark.parametrize("damage", [0, 3, 5000, -1], ids=["empty", "3 bytes", "half", "a byte missing"])
def test_an_unreadable_last_checkpoint_is_named_with_the_newest_whole_one(trainer, tmp_path, damage):
    for name, updates in (("1_90", 90), ("1_100", 100), ("best", 90)):
        save(trainer, tmp_path / f"checkpoint_{name}.pt", updates)
    last, newest = tmp_path / "checkpoint_last.pt", tmp_path / "checkpoint_1_100.pt"
    cut = newest.read_bytes()
    last.write_bytes(cut[:damage])
    (tmp_path / "checkpoint_1_110.pt").write_bytes(cut[:5000])
    torch.save({"model": {}}, tmp_path / "checkpoint_1_120.pt")  # nothing to go on from
    trainer.cfg.checkpoint.save_dir = f"{tmp_path}/./"  # as a user may write it
    with pytest.raises(ValueError) as caught:
        checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
    words = str(caught.value)
    assert words.startswith(f"{tmp_path}/./checkpoint_last.pt: cannot be read: ")
    assert "checkpoint_1_100.pt, after 100 updates" in words
    assert words.endswith(f"cp {newest} {last}, and the same command again")
    shutil.copy(newest, last)  # as it says
    checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
    assert trainer.get_num_updates() == 100


@pytest.mark.skipif(shutil.which("sh") is None, reason="the command is for a shell")
def test_the_command_can_be_pasted_whatever_the_directory_is_called(trainer, tmp_path):
    place = tmp_path / "my run's"
    place.mkdir()
    save(trainer, place / "checkpoint_1_5.pt", 5)
    last = place / "checkpoint_last.pt"
    last.write_bytes(b"PK\x03\x04")
    found = re.search("to go on from it: (.*), and the same command again$", saving.what_else_is_there(last))
    subprocess.run(found[1], shell=True, check=True)
    assert last.read_bytes() == (place / "checkpoint_1_5.pt").read_bytes()


def test_where_no_other_is_whole_it_says_so(trainer, tmp_path):
    (tmp_path / "checkpoint_last.pt").write_bytes(b"PK\x03\x04")
    words = "No other checkpoint in .* can be read; move this one away, and the same command starts anew"
    with pytest.raises(ValueError, match=words):
        checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)


def with_numpy(path):
    """As stock fairseq saves it with ``--best-checkpoint-metric f1``."""
    state = safe_load.load(path)
    state["extra_state"]["val_loss"] = numpy.float64(0.5)
    torch.save(state, path)


def test_a_last_checkpoint_that_is_refused_is_not_called_unreadable(trainer, tmp_path):
    for name in ("1_5", "last"):
        save(trainer, tmp_path / f"checkpoint_{name}.pt", 5)
        with_numpy(tmp_path / f"checkpoint_{name}.pt")
    last = tmp_path / "checkpoint_last.pt"
    with pytest.raises(safe_load.Refused) as caught:
        checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
    words = str(caught.value)
    assert words.startswith(f"{last}: cannot be read safely: it holds an object of numpy.") and "README.md" in words
    assert "No other" not in words and "delete" not in words and "anew" not in words
    last.write_bytes(last.read_bytes()[:5000])
    words = r"cut off.*are whole, but hold more .* newest of them checkpoint_1_5\.pt: sharp_plugins/files/README"
    with pytest.raises(safe_load.Unreadable, match=words):
        checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_other_errors_are_as_they_were(trainer, tmp_path, translation_data, zipped):
    last = tmp_path / "checkpoint_last.pt"
    save(trainer, last, 5)
    if not zipped:
        torch.save(safe_load.load(last), last, _use_new_zipfile_serialization=False)
    other = toy.build_trainer(
        translation_data, "--optimizer", "adam", "--lr", "0.1", "--save-dir", tmp_path, "--encoder-layers", "2"
    )
    with pytest.raises(Exception, match="ensure that the architectures match") as caught:
        checkpoint_utils.load_checkpoint(other.cfg.checkpoint, other)
    assert "cannot be read" not in str(caught.value)


def test_want_of_memory_is_not_the_files_fault(trainer, tmp_path, monkeypatch):
    save(trainer, tmp_path / "checkpoint_last.pt", 5)

    def load(*args, **how):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 80000000000 bytes.")

    monkeypatch.setattr(torch.serialization, "load", load)
    with pytest.raises(OSError, match=r"checkpoint_last\.pt: cannot be read: .*can't allocate memory") as caught:
        checkpoint_utils.load_checkpoint(trainer.cfg.checkpoint, trainer)
    assert "checkpoint in" not in str(caught.value)


# ---------------------------------------------------------------------- asynchronous writing


class Later:
    """Stands for iopath's manager, which is not installed (fairseq would write all files through it): writes when it is closed."""

    def __init__(self):
        self.jobs, self._path_handlers = [], {}

    @contextlib.contextmanager
    def opena(self, path, mode, callback_after_file_close):
        file = open(path, mode)
        yield types.SimpleNamespace(write=lambda data: self.jobs.append(lambda data=data: file.write(data)))
        self.jobs += [file.close, callback_after_file_close]

    def async_close(self):
        while self.jobs:
            self.jobs.pop(0)()
        return True


def test_asynchronous_writing_renames_what_is_whole(tmp_path, monkeypatch):
    manager = Later()
    path = tmp_path / "checkpoint_last.pt"
    torch.save({"a": torch.zeros(1)}, path)
    monkeypatch.setattr(saving.file_io, "IOPathManager", manager)
    seen, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda src, dst: (seen.append(zipfile.is_zipfile(src)), replace(src, dst)))
    checkpoint_utils.torch_persistent_save({"a": torch.ones(1000)}, str(path), async_write=True)
    assert safe_load.load(path)["a"].sum() == 0  # the old one, to the last moment
    assert manager.async_close() and seen == [True]
    assert safe_load.load(path)["a"].sum() == 1000 and os.listdir(tmp_path) == ["checkpoint_last.pt"]
