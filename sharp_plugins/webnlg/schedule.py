"""How many updates a training has: the learning rate and BAR's α fall to 0 at the last one, so their number is needed before."""

import math
from typing import Collection, Dict, Optional

MAX_UPDATE, MAX_EPOCH, WARMUP = "optimization.max_update", "optimization.max_epoch", "lr_scheduler.warmup_updates"


def updates_of_epochs(config: Dict, samples: int) -> Optional[int]:
    """Updates of all epochs, as fairseq makes them; None where the settings do not tell it.

    >>> updates_of_epochs({"optimization": {"max_epoch": 5}, "dataset": {"batch_size": 8}}, 18025)
    11270
    >>> updates_of_epochs({"optimization": {"max_epoch": 3, "update_freq": [4, 2]}, "dataset": {"batch_size": 8}}, 80)
    13
    """
    limits, rows = config["optimization"], config["dataset"].get("batch_size")
    epochs = limits.get("max_epoch")
    if not epochs or not rows or config["dataset"].get("max_tokens"):
        return None
    # Each worker has as many batches as the others, with an empty one where they do not come out even.
    workers = config.get("distributed_training", {}).get("distributed_world_size") or 1
    batches = math.ceil(math.ceil(samples / rows) / workers)
    given = limits.get("update_freq") or [1]
    frequencies = list(given) if isinstance(given, (list, tuple)) else [given]  # by epoch; the last one stays
    whole = math.floor if limits.get("skip_remainder_batch") else math.ceil
    return sum(whole(batches / frequencies[min(epoch, len(frequencies) - 1)]) for epoch in range(epochs))


def set_last_update(config: Dict, samples: int, changed: Collection[str]) -> Optional[str]:
    """Put the number of updates into a config whose training ends after epochs, and make it hold where both are set.

    A ``max_update`` of --set alone goes before the settings' epochs. Where both have been asked for, training ends at the first of
    the two, and so does the schedule. A warm-up of the settings that is no shorter than that becomes a tenth of it.

    Args:
        samples: of the training set.
        changed: names of settings that the command line sets.

    Returns:
        what is to be said of the warm-up, if it is another one.

    Raises:
        ValueError: the number is not known, or the warm-up that is asked for is not shorter.
    """
    limits, epochs = config["optimization"], updates_of_epochs(config, samples)
    if not limits.get("max_update"):
        if epochs is None:
            raise ValueError(f"--set {MAX_UPDATE} is needed where {MAX_EPOCH} or dataset.batch_size is not set")
        limits["max_update"] = epochs
    elif limits.get("max_epoch") and (epochs is None or epochs < limits["max_update"]):
        if MAX_UPDATE in changed and MAX_EPOCH not in changed:
            del limits["max_epoch"]
        elif epochs is None:
            raise ValueError(f"--set {MAX_EPOCH}: without dataset.batch_size its updates are unknown; leave it or {MAX_UPDATE} out")
        else:
            limits["max_update"] = epochs
    return _shorter_warmup(config, changed)


def _shorter_warmup(config: Dict, changed: Collection[str]) -> Optional[str]:
    updates, warmup = config["optimization"]["max_update"], config.get("lr_scheduler", {}).get("warmup_updates") or 0
    if not warmup or warmup < updates:
        return None
    if WARMUP in changed:
        raise ValueError(f"--set {WARMUP}={warmup}: training has {updates} updates, so the rate would never fall; set fewer")
    config["lr_scheduler"]["warmup_updates"] = updates // 10
    return f"a warm-up of {updates // 10} updates and not {warmup}, as there are {updates} in all; --set {WARMUP} changes it"
