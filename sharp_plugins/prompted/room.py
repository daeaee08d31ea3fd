"""Whether the rows of prepared data fit into a model's positions: refused by the flag that has to change."""

import logging
from typing import Any

from sharp_plugins.prompted.prepared import Prepared

logger = logging.getLogger(__name__)


def check_lengths(prepared: Prepared, split: str, room: int, is_flag: bool) -> None:
    """Raise ValueError where a sequence of *split* has more positions than *room*.

    Args:
        is_flag: whether ``--tokens-per-sample`` says *room*, and not the model.
    """
    longest = prepared.facts.get(split, {}).get("longest", 0)
    if longest > room:
        limit = f"--tokens-per-sample {room}" if is_flag else f"the model's {room}"
        raise ValueError(
            f"{prepared.directory}: the longest sequence of {split} takes {longest} positions, more than {limit}; "
            "--skip-invalid-size-inputs-valid-test leaves such sequences out"
        )


def check_room(prepared: Prepared, model: Any, most: int) -> None:
    """Raise ValueError where rows to learn from are too long for *model*, unless only those of up to *most* positions are read.

    Rows of a test set, which is not read in training, are warned of.
    """
    longest = max([facts["longest"] for split, facts in prepared.facts.items() if not split.startswith("test")], default=0)
    room, prefix = model.max_positions(), getattr(model.decoder, "prefix", None)
    for split, facts in prepared.facts.items():
        if split.startswith("test") and facts["longest"] > room:
            logger.warning(
                "%s: the longest sequence of %s takes %d positions, more than the model's %d: it will be refused when the model is "
                "tested; prepare the data again with a smaller --max-positions",
                *(prepared.directory, split, facts["longest"], room),
            )
    if room >= min(longest, most):
        return
    flag, advice = f"--max-target-positions {room}", f"give at least {longest}"
    if prefix is not None:
        spare = room + prefix.length - longest
        flag, advice = f"--prefix-length {prefix.length}", f"at most {spare}" if spare > 0 else "there is no room for a prefix"
    raise ValueError(
        f"{flag}: rows of up to {longest} positions do not fit into {room}; {advice}, or leave longer rows out of training with "
        f"--tokens-per-sample {room}"
    )
