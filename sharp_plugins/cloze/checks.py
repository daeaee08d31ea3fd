"""What of a run does not fit cloze prompts, or the checkpoint that its weights come from: refused before anything trains."""

import logging
from pathlib import Path
from typing import Any, Callable, Dict

import torch

from sharp_plugins.cloze.prepared import COMMAND, Prepared
from sharp_plugins.files.writing import sha256
from sharp_plugins.text.encoder_directory import HEAD, WORDS, has_lm_head

logger = logging.getLogger(__name__)

# What a checkpoint's "task_state" is called that tells which data it was trained on.
STATE = "cloze"
CRITERIONS = ("cloze", "rdrop_cloze", "r3f_cloze", "freelb_cloze", "smart_cloze")


def check_criterion(name: Any) -> None:
    """Raise ValueError where a criterion wants another task's batches."""
    if name not in CRITERIONS:
        raise ValueError(f"--criterion {name}: --task cloze has {', '.join(CRITERIONS)}")


def state_of(prepared: Prepared) -> Dict[str, Any]:
    """What a checkpoint says of the data that it was trained on."""
    return {"vocabulary": dict(prepared.checksums), "layout": prepared.layout.as_dict()}


def check_checkpoint(path: Path, state: Any, prepared: Prepared, warn: Callable[[str], None] = logger.warning) -> None:
    """Look at the checkpoint that weights come from.

    Args:
        state: what it holds.
        warn: is told where it was trained with another layout.

    Raises:
        ValueError: its masked-language-model head was never trained, or its vocabulary is not the data's, as far as it says.
    """
    weights = state.get("model") if isinstance(state, dict) else None
    if not isinstance(weights, dict) or not has_lm_head(state):
        raise ValueError(
            f"{path}: it has no masked-language-model head, with which --task cloze fills the mask: encoder.lm_head.* is not "
            "there, or is a new model's. Convert one that was published with it (BERT: cls.predictions.*, RoBERTa: lm_head.*)"
        )
    check_vocabulary((state.get("task_state") or {}).get(STATE), prepared, path, warn)
    beside = {name: path.parent / name for name in prepared.checksums}
    # A converted model lies beside both. A directory of data may hold checkpoints too, and then says the same.
    if all(file.is_file() for file in beside.values()):
        check_vocabulary({"vocabulary": {name: sha256(file) for name, file in beside.items()}}, prepared, path.parent)


def check_tied(path: Path, state: Any, choice: str) -> None:
    """Raise ValueError where a checkpoint has an output layer of its own, and the model with *choice* would have none: which of the
    two tables it got would be chance."""
    weights = state["model"]
    own, table = weights.get(f"{HEAD}weight"), weights.get(WORDS)
    if own is not None and table is not None and not (own.shape == table.shape and torch.equal(own, table)):
        raise ValueError(
            f"--train-lm-head {choice}: {path} has an output layer that is not its table of words, as untied training makes it; "
            "go on with --train-lm-head untied"
        )


def check_vocabulary(saved: Any, prepared: Prepared, where, warn: Callable[[str], None] = logger.warning) -> None:
    """Raise ValueError where a checkpoint was trained with another vocabulary; warn where the layout was another.

    Args:
        saved: of `state_of`, or nothing.
    """
    if not saved:
        return
    others = [name for name, checksum in prepared.checksums.items() if saved["vocabulary"].get(name) != checksum]
    if others:
        raise ValueError(
            f"{where}: its {' and '.join(others)} are another model's than those of {prepared.directory}: make the data with this "
            f"model's directory, `{COMMAND} --backbone DIR`"
        )
    ours = prepared.layout.as_dict()
    if saved.get("layout", ours) != ours:
        warn(f"{where} was trained with another layout: {saved['layout']}, and the data have {ours}")
