"""The checkpoints of a run, as fairseq leaves them."""

import math
import os
import shutil
from pathlib import Path
from typing import Dict, Optional

from sharp_plugins.files import replacing
from sharp_plugins.tensor_files import read_torch

BEST, LAST = "checkpoint_best.pt", "checkpoint_last.pt"
# A zip file's last record: its mark, and the bytes after it where there is no comment.
END, END_FIELDS = b"PK\x05\x06", 18


def mend_last_checkpoint(directory: Path) -> None:
    """Replace a last checkpoint that a stop has cut off.

    After its best epoch fairseq writes ``checkpoint_best.pt`` and copies it byte by byte to ``checkpoint_last.pt``. A
    process that is killed meanwhile leaves half a file, from which no run can go on; the whole one is beside it.

    Raises:
        OSError: one cannot be read; all stay as they are.
    """
    last, best = directory / LAST, directory / BEST
    if last.exists() and not is_whole(last):
        if best.exists() and is_whole(best):
            with replacing(last) as new:
                shutil.copyfile(best, new)
        else:
            last.unlink()


def read_checkpoint(path: Path) -> Optional[Dict]:
    """A checkpoint, by torch's safe loader, without reading its tensors yet; None where there is none or half of one.

    Raises:
        OSError: it is whole, and cannot be read all the same, for want of memory, say.
    """
    if not (path.exists() and is_whole(path)):
        return None
    try:
        return read_torch(path, mmap=True)
    except ValueError as error:
        raise OSError(str(error)) from None


def is_whole(path: Path) -> bool:
    """Whether a file of torch.save's is complete: it is a zip file, whose last record is written at its end.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - len(END) - END_FIELDS))
        return file.read().startswith(END)


def config_of(state, part: str) -> Dict:
    """The settings of one part (``"task"``, ``"model"``) of a checkpoint's config; empty where it has none."""
    found = ((state.get("cfg") if isinstance(state, dict) else None) or {}).get(part) or {}
    return found if isinstance(found, dict) else vars(found)  # fairseq's legacy parts are Namespaces


def is_trained(directory: Path, limits: Dict) -> bool:
    """Whether the last checkpoint is the training's end: fairseq, started again, would make one update more.

    Args:
        limits: the settings max_update and max_epoch, where they are set.
    """
    state = read_checkpoint(directory / LAST)
    if state is None:
        return False
    updates = state["optimizer_history"][-1]["num_updates"]
    epoch = state["extra_state"]["train_iterator"]["epoch"]  # the one to go on in
    return updates >= (limits.get("max_update") or math.inf) or epoch > (limits.get("max_epoch") or math.inf)
