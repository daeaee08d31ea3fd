"""LoRA's commands on fairseq's checkpoints: `merge_checkpoint` and `merge_checkpoints`, `save_adapter`, `load_adapter`.

A checkpoint of ``--arch lora`` holds W, A and B of a layer M as ``M.weight``, ``M.lora_A`` and ``M.lora_B``.
"""

import argparse
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Union

import torch

from sharp_plugins.files.writing import filling
from sharp_plugins.lora import decoder_adapters, peft, peft_prefix
from sharp_plugins.lora.average import Mean
from sharp_plugins.lora.config import (
    decoder_settings,
    flags_of,
    lora_config,
    lora_settings,
    model_settings,
    own_task,
    plain_config,
    wrapped_config,
)
from sharp_plugins.lora.decoder_names import published
from sharp_plugins.lora.fairseq_checkpoint import Checkpoint, about, current_names, read, write
from sharp_plugins.lora.merge import NO_UPDATES, Agreement, State, lora_names, merge
from sharp_plugins.lora.peft_names import without_front
from sharp_plugins.lora.to_transformers import to_transformers
from sharp_plugins.networks.lora import LoRASettings

# What training goes on with, and merged weights do not fit: in the checkpoint itself, and in its extra_state.
TRAINING_STATE = {"last_optimizer_state": "the optimizer's state"}
EMA_STATE = {"ema": "the EMA weights (they are not merged)", "ema_fp32_params": "their fp32 copy"}
# What a merged checkpoint has beside fairseq's parts: how many checkpoints it is the mean of. Training from it saves none of it.
MERGED = "merged"


class Merged(NamedTuple):
    """What `merge_checkpoints` did, for a message."""

    base_arch: str
    averaged: int  # checkpoints
    dtypes: List[str]  # of the merged weights
    agreement: Agreement
    left_out: List[str]
    has_namespace: bool  # in its config, which torch 2.6 and later load only where it is allowed
    own_task: Optional[str]  # the task's name, where it is one of this package


class Saved(NamedTuple):
    """What `save_adapter` wrote, for a message."""

    layers: int
    rank: int
    modules: List[str]  # trained along
    size: int  # of the weights' file, in bytes
    said: Optional[str] = None  # what is not as it was


class SavedPrefix(NamedTuple):
    """What `save_adapter` wrote of a prefix, for a message."""

    tokens: int
    size: int  # of the weights' file, in bytes


class Loaded(NamedTuple):
    """What `load_adapter` wrote, for a message."""

    what: str  # that it has besides the plain model
    flags: List[str]  # for fairseq-train


def merge_checkpoint(path: Path, out: Path, dtype: Optional[torch.dtype] = None) -> Merged:
    """Write the checkpoint of the plain model that computes what the one in the LoRA checkpoint *path* does.

    Raises:
        FileNotFoundError: *path* is not there.
        ValueError: it cannot be read or is no LoRA checkpoint, *out* is the same file or another checkpoint that was not merged,
            or as for `merge`.
    """
    return merge_checkpoints([path], out, dtype)


def merge_checkpoints(paths: List[Path], out: Path, dtype: Optional[torch.dtype] = None) -> Merged:
    """Write the checkpoint of a plain model whose weights are the mean of the merged weights of the LoRA checkpoints *paths*.
    All else is the first one's. Memory is that of two models, however many there are.

    Raises:
        FileNotFoundError: one of them is not there.
        ValueError: as for `merge_checkpoint`, or they have different bases or settings.
    """
    _check_output(out, *paths)
    _check_replaced(out, lambda there: MERGED in there)
    checkpoint, base_arch, settings = _read_lora(paths[0])
    left_out = [words for key, words in TRAINING_STATE.items() if checkpoint.pop(key, None) is not None]
    extra_state = checkpoint.get("extra_state") or {}
    left_out += [words for key, words in EMA_STATE.items() if extra_state.pop(key, None) is not None]
    mean = Mean(checkpoint["model"], settings)
    for path in paths[1:]:
        other, other_arch, others = _read_lora(path, mmap=True)
        with about(path):
            _check_settings_agree((other_arch, others), (base_arch, settings), paths[0])
            mean.add(other["model"])
        del other  # before the next one is read
    with about(paths[0]):
        model, agreement = merge(mean.state(), mean.scale, dtype)
    dtypes = {str(model[f"{name}.weight"].dtype).replace("torch.", "") for name in mean.layers}
    cfg = plain_config(checkpoint["cfg"], base_arch)
    write({**checkpoint, "cfg": cfg, "model": model, MERGED: len(paths)}, out)
    has_namespace = isinstance(cfg["model"], argparse.Namespace)
    return Merged(base_arch, len(paths), sorted(dtypes), agreement, left_out, has_namespace, own_task(cfg))


def save_adapter(path: Path, directory: Path, names: str = "fairseq") -> Union[Saved, SavedPrefix]:
    """Write the update or the prefix in the checkpoint *path*, and what was trained with it, into *directory* as PEFT's files.

    Args:
        names: of modules, "fairseq" or "transformers" (see `to_transformers` and `decoder_adapters`). A prefix names none.

    Raises:
        FileNotFoundError: *path* is not there.
        ValueError: it cannot be read, or is no checkpoint of ``--arch lora`` or ``prefix``, or as for `peft.to_peft`.
        ImportError: safetensors is not installed.
    """
    checkpoint = read(path)
    checkpoint["model"] = without_front(checkpoint["model"])
    with about(path):
        if peft_prefix.has_prefix(checkpoint["model"]):
            adapter = peft.Adapter(*peft_prefix.to_peft(checkpoint["model"], decoder_settings(model_settings(checkpoint["cfg"]))))
            return SavedPrefix(adapter.config["num_virtual_tokens"], _write_adapter(adapter, directory))
        _, settings = _check_lora(checkpoint)
        adapter, said = peft.to_peft(checkpoint["model"], settings), None
        if names == "transformers":
            adapter, said = _with_transformers_names(adapter, checkpoint)
    size = _write_adapter(adapter, directory)
    layers = len(lora_names(checkpoint["model"]))
    return Saved(layers, settings.rank, adapter.config["modules_to_save"] or [], size, said)


def _with_transformers_names(adapter: peft.Adapter, checkpoint: Checkpoint) -> Tuple[peft.Adapter, Optional[str]]:
    """*adapter* for the published model that the checkpoint's was converted from, and what is not as it was."""
    model, config, said = model_settings(checkpoint["cfg"]), dict(adapter.config), None
    decoder = published(decoder_settings(model))
    if decoder is not None:
        tensors, said = decoder_adapters.to_transformers(adapter.tensors, config, checkpoint["model"], decoder)
    else:
        activation = model.get("pooler_activation_fn") or "tanh"
        tensors = to_transformers(adapter.tensors, config, checkpoint["model"], activation)
    return peft.Adapter(tensors, config), said


def _write_adapter(adapter: peft.Adapter, directory: Path) -> int:
    """Write the two files; returns the size of that of the weights."""
    with filling(directory, last=peft.CONFIG) as unfinished:
        peft.write_adapter(adapter, unfinished)
        return (unfinished / peft.WEIGHTS).stat().st_size


def load_adapter(directory: Path, path: Path, out: Path) -> Loaded:
    """Write the checkpoint of ``--arch lora``, or of ``--arch prefix``, of the plain checkpoint *path* with the adapter in
    *directory*: one to start from, without an optimizer's state.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: one cannot be read, *path* is no plain checkpoint, *out* is an input or a checkpoint that was not written so, or
            as for `peft.from_peft` and `peft_prefix.from_peft`.
        ImportError: safetensors is not installed.
    """
    _check_output(out, path, *(directory / name for name in (peft.WEIGHTS, peft.PICKLED, peft.CONFIG)))
    _check_replaced(out, _is_to_start_from)
    adapter = peft.read_adapter(directory)
    plain = read(path)
    with about(path):
        model = model_settings(plain["cfg"])
        if model.get("base_arch") or lora_names(plain["model"]):
            raise ValueError(f"its architecture is {model['_name']}, and the checkpoint of a plain one is expected")
    with about(directory):
        if adapter.config.get("peft_type") == "PREFIX_TUNING":
            return _load_prefix(adapter, plain, model, out)
        decoder = published(decoder_settings(model))
        state, settings = peft.from_peft(adapter, current_names(plain["model"], peft.layers_in(adapter)), decoder)
    write(_to_start_from(plain, lora_config(plain["cfg"], settings), state), out)
    flags, defaults = ["--arch", "lora", "--base-arch", model["_name"]], flags_of(LoRASettings())
    for name, value in flags_of(settings).items():
        if value != defaults[name]:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return Loaded(f"{len(lora_names(state))} layers with updates", [*flags, "--finetune-from-model", str(out)])


def _load_prefix(adapter: peft.Adapter, plain: Checkpoint, model: Dict[str, Any], out: Path) -> Loaded:
    numbers = peft_prefix.from_peft(adapter.tensors, adapter.config, decoder_settings(model))
    own = {"prefix_length": len(numbers), "prefix_hidden": 0, "prefix_dropout": 0.0}
    state = {**plain["model"], f"{peft_prefix.FRONT}table": numbers}
    write(_to_start_from(plain, wrapped_config(plain["cfg"], "prefix", own), state), out)
    flags = ["--arch", "prefix", "--base-arch", model["_name"], "--prefix-length", str(len(numbers)), "--prefix-hidden", "0"]
    return Loaded(f"a prefix of {len(numbers)} tokens", [*flags, "--finetune-from-model", str(out)])


def _to_start_from(plain: Checkpoint, cfg: Dict[str, Any], state: State) -> Checkpoint:
    """A checkpoint like *plain*, before any update."""
    return {
        "args": None,
        "cfg": cfg,
        "model": state,
        "criterion": plain.get("criterion"),
        "optimizer_history": [{"optimizer_name": None, "lr_scheduler_state": {}, "num_updates": 0}],
        "task_state": plain.get("task_state") or {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }


def _is_to_start_from(checkpoint: Checkpoint) -> bool:
    """Whether `_to_start_from` made it: a run's names its optimizer, and a base model has neither LoRA nor a prefix."""
    state, history = checkpoint["model"], checkpoint.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history else None
    is_before = isinstance(last, dict) and (last.get("optimizer_name"), last.get("num_updates")) == (None, 0)
    return is_before and bool(lora_names(state) or peft_prefix.has_prefix(state))


def _read_lora(path: Path, mmap: bool = False) -> Tuple[Checkpoint, str, LoRASettings]:
    """A LoRA checkpoint, its base architecture's name and its settings."""
    checkpoint = read(path, mmap)
    checkpoint["model"] = without_front(checkpoint["model"])
    with about(path):
        return (checkpoint, *_check_lora(checkpoint))


def _check_lora(checkpoint: Checkpoint) -> Tuple[str, LoRASettings]:
    """The base architecture's name and the settings of a LoRA checkpoint; ValueError if it is none."""
    names = lora_names(checkpoint["model"])
    if not names:
        if peft_prefix.has_prefix(checkpoint["model"]):
            raise ValueError("has a prefix, which cannot be merged into weights: generate with the checkpoint as it is")
        raise ValueError(NO_UPDATES)
    base_arch, settings = lora_settings(checkpoint["cfg"])
    for name in names:
        rank = len(checkpoint["model"][f"{name}.lora_A"])
        if rank != settings.rank:
            raise ValueError(f"{name}.lora_A has rank {rank}, and the config says lora_rank {settings.rank}")
    return base_arch, settings


def _check_settings_agree(other: Tuple[str, LoRASettings], first: Tuple[str, LoRASettings], path: Path) -> None:
    """Raise ValueError where *other* has not the architecture, the rank or the alpha of *first*, which is in *path*."""
    (arch, settings), (first_arch, first_settings) = other, first
    pairs = {"base_arch": (arch, first_arch)}
    pairs.update({f"lora_{name}": (getattr(settings, name), getattr(first_settings, name)) for name in ("rank", "alpha")})
    for name, (value, expected) in pairs.items():
        if value != expected:
            raise ValueError(f"{name} is {value}, and {expected} in {path}: these are not averaged")


def _check_replaced(out: Path, is_own: Callable[[Checkpoint], bool]) -> None:
    """Raise ValueError if *out* is a checkpoint that is not the command's own, by *is_own*, such as a run's or the base model: the
    name to write to was forgotten, say, after several to read."""
    try:
        there = read(out, mmap=True) if out.is_file() else None
    except (OSError, ValueError):
        return
    if there is not None and not is_own(there):
        kind = "a LoRA checkpoint" if lora_names(there["model"]) else "a checkpoint that this command did not write"
        raise ValueError(f"{out}: choose another name to write to; this is {kind}, which would be lost")


def _check_output(out: Path, *inputs: Path) -> None:
    """Raise ValueError if *out* is one of the *inputs*."""
    if out.exists() and any(path.exists() and path.samefile(out) for path in inputs):
        raise ValueError(f"{out}: choose another name to write to; this is a file that is read")
