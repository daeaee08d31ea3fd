"""The checkpoints of a run, as fairseq leaves them."""

import math
import zipfile
from pathlib import Path
from typing import Dict, NamedTuple, Optional

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


def is_trained(directory: Path, limits: Dict) -> bool:
    """Whether the last checkpoint is the training's end: fairseq, started again, would make one update more.

    Args:
        limits: the settings max_update, max_epoch, stop_time_hours and patience, where they are set.
    """
    state = read_checkpoint(directory / LAST)
    if state is None:
        return False
    updates = state["optimizer_history"][-1]["num_updates"]
    epoch = state["extra_state"]["train_iterator"]["epoch"]  # the one to go on in
    hours = state["extra_state"].get("previous_training_time", 0.0) / 3600
    # Validations without an improvement, which sharp_plugins.host.patience writes: fairseq saves once they are too many, and ends.
    worse = (state["extra_state"].get("should_stop_early") or {}).get("num_runs", 0)
    over = (limits.get("max_update") or math.inf) <= updates, epoch > (limits.get("max_epoch") or math.inf)
    return any(over) or hours > (limits.get("stop_time_hours") or math.inf) or 0 < limits.get("patience", 0) <= worse


class Trained(NamedTuple):
    """What a training's checkpoints tell.

    Attributes:
        minutes: of training and validation, by fairseq's own clock, which goes on where an interrupted run does.
        updates: that were made.
        best_update, best_epoch: of the checkpoint that is measured.
    """

    minutes: float
    updates: int
    best_update: int
    best_epoch: int


# Of a run without a training, such as one that measures a published model as it is.
UNTRAINED = Trained(minutes=0.0, updates=0, best_update=0, best_epoch=0)


def read_trained(directory: Path, measured: str = BEST) -> Optional[Trained]:
    """What the checkpoints in *directory* tell; None where one of them is missing or cut off.

    Args:
        measured: the file of the checkpoint that is measured.

    Raises:
        OSError: as `read_checkpoint`.
    """
    best, last = read_checkpoint(directory / measured), read_checkpoint(directory / LAST)
    if best is None or last is None:
        return None
    place = best["extra_state"]["train_iterator"]
    return Trained(
        last["extra_state"]["previous_training_time"] / 60,
        last["optimizer_history"][-1]["num_updates"],
        best["optimizer_history"][-1]["num_updates"],
        # After the last batch of an epoch the iterator's place is the beginning of the next.
        place["epoch"] - (place["iterations_in_epoch"] == 0),
    )


def minutes_before(start: Optional[str]) -> float:
    """The minutes of another training on fairseq's clock: it goes on from that of the checkpoint that training starts from.

    Args:
        start: the setting finetune_from_model; None where it is not set.
    """
    state = read_checkpoint(Path(start)) if start and Path(start).is_file() else None
    extra = state.get("extra_state") if isinstance(state, dict) else None
    return extra.get("previous_training_time", 0.0) / 60 if isinstance(extra, dict) else 0.0
