"""Files of fairseq checkpoints: read without running code, and under their names when they are complete."""

import argparse
import contextlib
import re
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import torch

from sharp_plugins.files.aliases import check_copies
from sharp_plugins.files.tensors import read_torch
from sharp_plugins.files.torch_writer import save_torch
from sharp_plugins.files.writing import replacing
from sharp_plugins.lora.merge import State
from sharp_plugins.lora.peft_names import without_front

Checkpoint = Dict[str, Any]


def read(path: Path, mmap: bool = False) -> Checkpoint:
    """A fairseq checkpoint on the CPU, with a config of today's form.

    Args:
        mmap: tensors come into memory when they are used (the optimizer's state, and averages, seldom are).

    Raises:
        OSError: the file cannot be opened.
        ValueError: it cannot be loaded safely, is no fairseq checkpoint, or its names stand for far more than it holds.
    """
    checkpoint = read_torch(path, mmap)
    with about(path):
        model = checkpoint.get("model") if isinstance(checkpoint, dict) else None
        if not isinstance(model, dict) or not all(map(torch.is_tensor, model.values())):
            raise ValueError("no fairseq checkpoint: it has no model with tensors")
        check_copies(model, path.stat().st_size)
        if checkpoint.get("args") is not None:
            checkpoint = _with_config(checkpoint)
        if not isinstance(checkpoint.get("cfg"), dict):
            raise ValueError("no fairseq checkpoint: it has no cfg")
    return checkpoint


def _with_config(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint of fairseq 0.10 or earlier, with one Namespace of all flags, made today's by fairseq itself."""
    try:
        from fairseq.checkpoint_utils import _upgrade_state_dict
        from omegaconf import OmegaConf
    except Exception as error:  # missing, or broken: then it raises what it likes
        raise ValueError("it is of an older fairseq: install one that can be imported, which reads its config") from error
    if not isinstance(checkpoint["args"], argparse.Namespace):
        raise ValueError(f"no fairseq checkpoint: its args are a {type(checkpoint['args']).__name__}")
    for name, text in _texts(vars(checkpoint["args"])):
        # OmegaConf's functions are ${NAME:ARGUMENTS}, and fairseq's settings name each other without a colon. One of them
        # reads environment variables, by names that differ with the version; the written file would hold what they say.
        if ":" in text.partition("${")[2]:
            words = f"its setting {name} calls a function of OmegaConf's, {text[:100]!r}"
            raise ValueError(f"{words}, which could read the environment")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # today's hydra complains of the way in which fairseq calls it
            checkpoint = _upgrade_state_dict(checkpoint)
        cfg = OmegaConf.to_container(checkpoint["cfg"], resolve=True, enum_to_str=True)
    except Exception as error:  # hydra's and omegaconf's own, and KeyErrors
        raise ValueError(f"fairseq cannot read the config of its older checkpoint: {error!r}"[:300]) from error
    return {**checkpoint, "args": None, "cfg": cfg}


def _texts(settings: Dict) -> Iterator[Tuple[Any, str]]:
    """All that would be a text in a config, keys too, with the name of the setting in which it stands."""
    rest, seen = [(name, part) for name, value in settings.items() for part in (name, value)], set()
    while rest:
        name, value = rest.pop()
        value = vars(value) if isinstance(value, argparse.Namespace) else value
        if isinstance(value, (dict, list, tuple, set, frozenset)):
            if id(value) not in seen:  # it may hold itself
                seen.add(id(value))
                rest += [(name, part) for part in (*value, *(value.values() if isinstance(value, dict) else ()))]
        elif not torch.is_tensor(value):
            yield name, str(value)


def current_names(state: State, layers: List[str]) -> State:
    """A plain state dict in which *layers* have today's names. fairseq changes older ones when a model loads them:
    query, key and value were one weight, and RoBERTa's encoder was a decoder."""
    state = without_front(state)
    if any(key.startswith("decoder.sentence_encoder.") for key in state):
        state = {re.sub(r"^decoder\.", "encoder.", key): value for key, value in state.items()}
        state = {key.replace(".emb_layer_norm.", ".layernorm_embedding."): value for key, value in state.items()}
    state = dict(state)
    if any(f"{layer}.weight" not in state for layer in layers):
        for key in list(state):
            attention, packed, end = key.rpartition("in_proj_")
            if packed and end in ("weight", "bias"):
                value = state.pop(key)
                state.update({f"{attention}{part}_proj.{end}": third for part, third in zip("qkv", value.chunk(3))})
    return state


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint.

    Raises:
        OSError: it cannot be written; a file that was there is as it was.
    """
    with replacing(path) as new:
        save_torch(checkpoint, new, path)


@contextlib.contextmanager
def about(path: Path) -> Iterator[None]:
    """Say in a ValueError which file it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
