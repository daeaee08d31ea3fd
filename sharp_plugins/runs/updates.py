"""How many updates a training has: the learning rate and BAR's α fall to 0 at the last one, so their number is needed before."""

import math
from typing import Collection, Dict, Optional, Sequence, Set

from sharp_plugins.runs.record import Record

MAX_UPDATE, MAX_EPOCH, WARMUP = "optimization.max_update", "optimization.max_epoch", "lr_scheduler.warmup_updates"
FAIRSEQS_MULTIPLE = 8  # its default of dataset.required_batch_size_multiple


def changed_settings(changes: Sequence[str], record: Record) -> Set[str]:
    """Names of the settings that the command line sets for a run.

    >>> sorted(changed_settings(["a.b=1"], Record("", "", "base", 1, {"c.d": 2})))
    ['a.b', 'c.d']
    """
    return {*(change.partition("=")[0] for change in changes), *record.axes}


def updates_of_epochs(config: Dict, samples: int, longest: Optional[int] = None) -> Optional[int]:
    """Updates of all epochs, as fairseq makes them; None where the settings do not tell it.

    Args:
        samples: of the training set.
        longest: no sample has more tokens; None: it is not known. With it, a ``max_tokens`` that limits no batch is seen.

    >>> updates_of_epochs({"optimization": {"max_epoch": 5}, "dataset": {"batch_size": 8}}, 18025)
    11270
    >>> updates_of_epochs({"optimization": {"max_epoch": 3, "update_freq": [4, 2]}, "dataset": {"batch_size": 8}}, 80)
    13
    """
    rows, tokens = config["dataset"].get("batch_size"), config["dataset"].get("max_tokens")
    is_limited = tokens and (longest is None or not rows or longest * rows > tokens)
    return None if is_limited else _least_updates(config, samples)


def _least_updates(config: Dict, samples: int) -> Optional[int]:
    """The same, were there no ``max_tokens``, which can but make batches smaller."""
    limits, rows = config["optimization"], config["dataset"].get("batch_size")
    epochs, multiple = limits.get("max_epoch"), config["dataset"].get("required_batch_size_multiple", FAIRSEQS_MULTIPLE)
    if not epochs or not rows:
        return None
    # Each worker has as many batches as the others, with an empty one where they do not come out even.
    workers = config.get("distributed_training", {}).get("distributed_world_size") or 1
    batches = math.ceil(_batches(samples, rows, multiple) / workers)
    given = limits.get("update_freq") or [1]
    frequencies = list(given) if isinstance(given, (list, tuple)) else [given]  # by epoch; the last one stays
    whole = math.floor if limits.get("skip_remainder_batch") else math.ceil
    return sum(whole(batches / frequencies[min(epoch, len(frequencies) - 1)]) for epoch in range(epochs))


def _batches(samples: int, rows: int, multiple: int) -> int:
    """Of an epoch. fairseq cuts a batch of more than *multiple* samples to a multiple of it.

    >>> _batches(100, 12, 8), _batches(100, 12, 1), _batches(13, 16, 8)
    (13, 9, 2)
    """
    rows -= rows % multiple if rows > multiple else 0
    whole, rest = divmod(samples, rows)
    return whole + bool(rest) + (rest > multiple and rest % multiple > 0)


def set_last_update(config: Dict, samples: int, changed: Collection[str], longest: Optional[int] = None) -> Optional[str]:
    """Put the number of updates into a config whose training ends after epochs, and make it hold where both are set.

    Of ``max_update`` and ``max_epoch``, one that --set names alone goes before the settings' other one. Else training ends at the
    first of the two, and so does the schedule. A warm-up of the settings that is no shorter than that becomes a tenth of it.

    Args:
        samples, longest: see `updates_of_epochs`.
        changed: names of settings that the command line sets.

    Returns:
        what is to be said of the warm-up, if it is another one.

    Raises:
        ValueError: the number is not known, or the warm-up that is asked for is not shorter.
    """
    limits, updates = config["optimization"], config["optimization"].get("max_update")
    epochs, wants_epochs = updates_of_epochs(config, samples, longest), MAX_EPOCH in changed and MAX_UPDATE not in changed
    if not updates or (limits.get("max_epoch") and wants_epochs):
        limits["max_update"] = _known(config, epochs)
    elif limits.get("max_epoch") and (epochs or _least_updates(config, samples) or 0) < updates:
        if MAX_UPDATE in changed and MAX_EPOCH not in changed:
            del limits["max_epoch"]
        else:
            limits["max_update"] = _known(config, epochs)
    return _shorter_warmup(config, changed)


def _known(config: Dict, epochs: Optional[int]) -> int:
    if epochs is not None:
        return epochs
    if not config["optimization"].get("max_epoch"):
        raise ValueError(f"--set {MAX_UPDATE} is needed where {MAX_EPOCH} is not set")
    if not config["dataset"].get("batch_size"):
        raise ValueError(f"--set {MAX_UPDATE} is needed: without dataset.batch_size the updates of {MAX_EPOCH} are unknown")
    raise ValueError(
        f"--set {MAX_UPDATE} is needed, and no --set {MAX_EPOCH}: dataset.max_tokens makes some batches smaller, so the updates of "
        "epochs are unknown; or give --set dataset.max_tokens=null"
    )


def _shorter_warmup(config: Dict, changed: Collection[str]) -> Optional[str]:
    updates, warmup = config["optimization"]["max_update"], config.get("lr_scheduler", {}).get("warmup_updates") or 0
    if not warmup or warmup < updates:
        return None
    if WARMUP in changed:
        raise ValueError(f"--set {WARMUP}={warmup}: training has {updates} updates, so the rate would never fall; set fewer")
    config["lr_scheduler"]["warmup_updates"] = updates // 10
    return f"a warm-up of {updates // 10} updates and not {warmup}, as there are {updates} in all; --set {WARMUP} changes it"
