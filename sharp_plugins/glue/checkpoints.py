"""The checkpoints of a run, as fairseq leaves them."""

import argparse
import math
import zipfile
from pathlib import Path
from typing import Dict, Optional

from sharp_plugins.files.tensors import read_torch

BEST, LAST = "checkpoint_best.pt", "checkpoint_last.pt"


def read_checkpoint(path: Path) -> Optional[Dict]:
    """A checkpoint, read safely and without its tensors yet; None where there is none or half of one.

    Raises:
        OSError: it is whole, and cannot be read all the same, for want of memory, say, or not safely.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        return read_torch(path, mmap=True)
    except ValueError as error:
        raise OSError(str(error)) from None


def config_of(state, part: str) -> Dict:
    """The settings of one part (``"task"``, ``"model"``) of a checkpoint's config; empty where it has none."""
    cfg = state.get("cfg") if isinstance(state, dict) else None
    found = cfg.get(part) if isinstance(cfg, dict) else None
    found = vars(found) if isinstance(found, argparse.Namespace) else found  # as fairseq's legacy parts are
    return found if isinstance(found, dict) else {}


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
