"""Checkpoints that are whole under each of their names, whenever a run is killed or the disk is full.

fairseq writes a checkpoint's first file beside and renames it, and makes the others, ``checkpoint_last.pt`` above all, by copying
over the old ones. Here the copies are written beside and renamed too. They are no links: who writes into one of the files by hand
must not change the others.
"""

import io
import os
import shlex
import shutil
import time
import traceback
from pathlib import Path
from typing import Optional

import torch
from fairseq import checkpoint_utils, file_io
from fairseq.file_io import PathManager

from sharp_plugins.files import safe_load, writing
from sharp_plugins.host.patching import wrap

# How often a checkpoint is tried to be written, and the seconds between two tries; fairseq's own numbers.
TRIES, PAUSE = 3, 2.5


def _wrap_copy(copy):
    def copy_beside(src_path, dst_path, overwrite=False):
        is_elsewhere = any(map(PathManager.path_requires_pathmanager, (src_path, dst_path)))
        if is_elsewhere or (os.path.exists(dst_path) and not overwrite):
            return copy(src_path, dst_path, overwrite)
        unfinished = f"{dst_path}.tmp"  # fairseq's own name: what a killed process leaves is written over
        try:
            shutil.copyfile(src_path, unfinished)
            writing.replace(unfinished, dst_path)
        except OSError as error:
            Path(unfinished).unlink(missing_ok=True)
            words = f"cannot be written: {error.strerror}; it is as it was, and {src_path} is whole"
            raise OSError(error.errno, words, str(dst_path)) from error
        return True

    return copy_beside


def _wrap_persistent_save(save):
    """``--write-checkpoints-asynchronously`` writes into the file itself; here it is written beside too. And torch.save hands
    iopath's file its own memory, which is other data by the time it is written: what is read back is no checkpoint."""

    def save_beside(obj, filename, async_write=False):
        if not async_write or file_io.IOPathManager is None or not PathManager.supports_rename(filename):
            return save(obj, filename, async_write)
        unfinished = f"{filename}.tmp"

        def rename():
            os.replace(unfinished, filename)

        with file_io.IOPathManager.opena(unfinished, "wb", callback_after_file_close=rename) as file:
            whole = io.BytesIO()
            checkpoint_utils._torch_persistent_save(obj, whole)
            file.write(whole.getbuffer())

    return save_beside


def _wrap_tries(save):
    """fairseq tries three times to write a checkpoint into an open file, and each try began where the one before had failed."""

    def save_from_the_start(obj, f):
        if not (hasattr(f, "seekable") and f.seekable()):
            return save(obj, f)  # a path, or a file whose beginning is out of reach
        for others in reversed(range(TRIES)):
            try:
                f.seek(0)
                f.truncate()
                torch.save(obj, f)
                if isinstance(getattr(f, "name", None), str):  # it is in memory otherwise
                    f.flush()
                    writing.put_on_disk(f.name)
                return
            except Exception:  # whatever it is, as fairseq does
                if not others:
                    checkpoint_utils.logger.error(traceback.format_exc())
                    raise
                time.sleep(PAUSE)

    return save_from_the_start


# ---------------------------------------------------------------------- a last checkpoint that cannot be read


def updates_of(path: Path) -> Optional[int]:
    """The number of updates that a checkpoint was saved after; None where it cannot be read, or training cannot go on from it.

    Raises:
        safe_load.Refused: it is whole, and cannot be read without running what it holds.
    """
    try:
        state = safe_load.load(path, map_location="cpu", mmap=True)
        state["extra_state"]["train_iterator"]
        return state["optimizer_history"][-1]["num_updates"]
    except safe_load.Refused:
        raise
    except Exception:  # what it holds may be of any type
        return None


def _wrap_load(load):
    def load_checkpoint(cfg, trainer, **passthrough_args):
        try:
            return load(cfg, trainer, **passthrough_args)
        except safe_load.Unreadable as error:  # what is refused is whole, and other errors are not the file's
            last = Path(cfg.save_dir) / f"checkpoint_last{trainer.checkpoint_suffix}.pt"
            if cfg.restore_file != "checkpoint_last.pt" or error.path is None or Path(error.path) != last:
                raise
            raise safe_load.Unreadable(f"{error}. {what_else_is_there(last)}", error.path) from error

    return load_checkpoint


def what_else_is_there(last: Path) -> str:
    """For the user, from which other checkpoint beside *last* training can go on."""
    others, refused = {}, []
    for path in last.parent.glob("checkpoint*.pt"):
        try:
            updates = updates_of(path) if path != last else None
        except safe_load.Refused:
            refused.append(path)
        else:
            others.update({path: updates} if updates is not None else {})
    if others:
        newest = max(others, key=lambda path: (others[path], path.name))
        return (
            f"The newest one in {last.parent} that can be read is {newest.name}, after {others[newest]} updates; to go on from "
            f"it: {shlex.join(['cp', str(newest), str(last)])}, and the same command again"
        )
    if refused:
        newest = max(refused, key=lambda path: (path.stat().st_mtime, path.name))
        return (
            f"The others in {last.parent} are whole, but hold more than can be read safely, the newest of them {newest.name}: "
            "sharp_plugins/files/README.md ('Files from elsewhere') says what to do"
        )
    return f"No other checkpoint in {last.parent} can be read; move this one away, and the same command starts anew"


def install() -> None:
    wrap(PathManager, "copy", _wrap_copy)
    wrap(checkpoint_utils, "torch_persistent_save", _wrap_persistent_save)
    wrap(checkpoint_utils, "_torch_persistent_save", _wrap_tries)
    wrap(checkpoint_utils, "load_checkpoint", _wrap_load)
