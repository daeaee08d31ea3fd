"""The checkpoint that a run's weights come from: it must be of the data's dictionary and tokenizer, and of the model's shape."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional

from fairseq.models import ARCH_MODEL_REGISTRY

from sharp_plugins.files.checkpoint_config import config_of
from sharp_plugins.files.tensors import read_torch
from sharp_plugins.files.writing import sha256
from sharp_plugins.models.decoder import DecoderModel
from sharp_plugins.models.decoder_config import FLAGS, OPPOSITES, fields_of
from sharp_plugins.models.run_settings import paths_to_train_from
from sharp_plugins.networks.decoder_settings import DecoderSettings
from sharp_plugins.prompted.prepared import COMMAND, Prepared

logger = logging.getLogger(__name__)

# What a checkpoint's "task_state" is called that tells which data it was trained on.
STATE = "prompted_generation"
# Settings that say which weights there are and how they are cut into heads, by the attributes that hold their values.
SHAPES = {"kv_heads": "kv", "head_size": "head_width", "word_width": "words"}
SHAPES.update({name: name for name in ("layers", "width", "ffn_width", "heads", "gated", "norm", "positions", *OPPOSITES)})
# Settings by which the same weights compute something else.
OTHERS = ("activation", "norm_eps", "rope_theta", "rope_scaling", "rope_factor", "rope_low_freq_factor", "rope_high_freq_factor")


def paths_of_weights(cfg: Any, to_generate: bool) -> List[Path]:
    """Where the model's weights will come from, whether there is a file or not.

    Args:
        cfg: the task's.
        to_generate: whether the model is built for a checkpoint, and not for training.
    """
    if to_generate:
        return [Path(path) for path in (cfg.path or "").split(":")]
    return paths_to_train_from(cfg)


def read_checked(path: Path, prepared: Prepared) -> Any:
    """What a checkpoint holds.

    Raises:
        ValueError: its dictionary or tokenizer are not the data's, as far as it says.
    """
    state = read_torch(path, mmap=True)
    if isinstance(state, dict):
        check_vocabulary((state.get("task_state") or {}).get(STATE), prepared, path)
    beside = {name: path.parent / name for name in prepared.checksums if (path.parent / name).is_file()}
    # A converted model lies beside both. A directory of data may hold checkpoints too, and then says the same.
    if len(beside) == len(prepared.checksums):
        check_vocabulary({"vocabulary": {name: sha256(file) for name, file in beside.items()}}, prepared, path.parent)
    return state


def check_vocabulary(saved: Optional[Dict[str, Any]], prepared: Prepared, where: Any) -> None:
    """Raise ValueError where the dictionary and tokenizer that *where* has *saved* are not the data's; warn of another format."""
    if not saved:
        return
    others = [name for name, checksum in prepared.checksums.items() if saved["vocabulary"].get(name) != checksum]
    if others:
        raise ValueError(
            f"{where}: its {' and '.join(others)} are another model's than those of {prepared.directory}: make the data with this "
            f"model's directory, `{COMMAND} --backbone DIR`"
        )
    if saved.get("format", prepared.format) != prepared.format:
        logger.warning("%s was trained with another format: %s, and the data have %s", where, saved["format"], prepared.format)


def check_shape(path: Path, state: Any, ours: DecoderSettings) -> None:
    """Raise ValueError where the weights of a checkpoint's decoder do not fit into a model with the settings *ours*, and warn where
    they would compute something else in it.

    Args:
        state: what the checkpoint holds. Nothing is said of one whose model is no `DecoderModel`.
    """
    model = config_of(state, "model")
    name = model.get("base_arch") or model.get("arch") or model.get("_name")
    if ARCH_MODEL_REGISTRY.get(name) is not DecoderModel:
        return
    flags = {**FLAGS, **OPPOSITES}
    given = fields_of(model)
    if given.get("max_positions") is None:  # the task said it
        given["max_positions"] = ours.max_positions
    theirs = replace(ours, **given)

    def differing(settings: Dict[str, str]) -> str:
        values = {flags[name]: [getattr(each, held) for each in (theirs, ours)] for name, held in settings.items()}
        if "max_target_positions" in values and ours.positions != "learned":
            del values["max_target_positions"]  # there is no table of them
        said = {flag: [not value if flag in OPPOSITES.values() else value for value in pair] for flag, pair in values.items()}
        return ", ".join(f"--{flag.replace('_', '-')} {a} and not {b}" for flag, (a, b) in said.items() if a != b)

    found = differing({**SHAPES, "max_positions": "max_positions"})
    if found:
        raise ValueError(
            f"{path}: its model has another shape than --arch and its flags say: it has {found}. "
            "`python -m sharp_plugins.convert` prints the flags of a converted model"
        )
    found = differing({name: name for name in OTHERS})
    if found:
        logger.warning("%s: its model has %s, as the flags say here", path, found)
