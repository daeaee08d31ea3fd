"""The update alone, in the files of Hugging Face PEFT: adapter_model.safetensors and adapter_config.json.

    ours                      PEFT's, after "base_model.model."
    M.lora_A, M.lora_B        M.lora_A.weight, M.lora_B.weight
    M.bias of such a layer    M.base_layer.bias
    other biases              M.bias
    what is trained along     all weights of the module, under their own names; the config's modules_to_save names it

That is what PEFT 0.21 writes and reads. Its layers keep W and the bias in a part of their own, hence the bias's name.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

import torch

from sharp_plugins.files.aliases import check_copies, with_shared
from sharp_plugins.files.tensors import read_safetensors, read_torch
from sharp_plugins.files.text import read_json
from sharp_plugins.lora import decoder_adapters, transformers_names
from sharp_plugins.lora.decoder_names import Published, families
from sharp_plugins.lora.fairseq_checkpoint import about
from sharp_plugins.lora.merge import NO_UPDATES, State, check_finite, lora_names, shape, tied_to
from sharp_plugins.lora.peft_config import CONFIG, check_kind, from_config, is_of_transformers, to_config
from sharp_plugins.lora.peft_names import PREFIX, layers_of, plain_names
from sharp_plugins.lora.promises import check_promises
from sharp_plugins.lora.ranks import as_one, check_patterns, check_ranks, update_of
from sharp_plugins.networks.lora import LoRASettings
from sharp_plugins.networks.module_names import HEADS, above, names_trained_along

WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"  # of older PEFT; read, and never written


class Adapter(NamedTuple):
    """What the two files hold: tensors by PEFT's names, and the config."""

    tensors: State
    config: Dict[str, Any]


# ---------------------------------------------------------------------- names of modules


def _outermost(modules: Set[str]) -> List[str]:
    """*modules* without those that are parts of others."""
    return sorted(module for module in modules if not modules.intersection(above(module)))


def names_for_flag(chosen: Iterable[str], candidates: Iterable[str]) -> str:
    """*chosen* as the target of `LoRASettings`: the ends of the names, where these choose none else of *candidates*."""
    chosen = sorted(chosen)
    ends = sorted({name.rsplit(".", 1)[-1] for name in chosen})
    names = ends if chosen == sorted(name for name in set(candidates) if name.rsplit(".", 1)[-1] in ends) else chosen
    joined = ",".join(names)
    return joined if re.fullmatch(r"[\w.,]*", joined) else "|".join(map(re.escape, names))


# ---------------------------------------------------------------------- to PEFT's names


def to_peft(state: State, settings: LoRASettings) -> Adapter:
    """The update in a model's state dict, and what was trained with it.

    Raises:
        ValueError: there is no update, a tensor is not finite, or PEFT's files have no place for what trained along.
    """
    layers = lora_names(state)
    if not layers:
        raise ValueError(NO_UPDATES)
    along = _trained_along(state, settings, layers)
    tensors = {}
    for key, value in state.items():
        module, _, part = key.rpartition(".")
        if part in ("lora_A", "lora_B"):
            tensors[f"{key}.weight"] = value
        elif not set(along).isdisjoint(above(key)):
            tensors[key] = value
        elif part == "bias" and module in layers and settings.bias != "none":
            tensors[f"{module}.base_layer.bias"] = value
        elif part == "bias" and settings.bias == "all":
            tensors[key] = value
    tensors = {PREFIX + key: value.detach().clone().contiguous() for key, value in tensors.items()}  # none share memory
    check_finite(tensors, "; no adapter is written")
    return Adapter(tensors, to_config(settings, layers, along))


def _trained_along(state: State, settings: LoRASettings, layers: List[str]) -> List[str]:
    """The modules with weights that `sharp_plugins.networks.mark_only_lora_as_trainable` lets train because of their names.

    They are the innermost ones, since PEFT takes no lists and dicts of modules (``classification_heads``) among them;
    and all that share a weight, since it gives each module that it trains a copy.
    """
    keys = names_trained_along(state, settings.also_train)
    keys |= {other for key in keys for other in tied_to(state, key)}
    modules = _outermost({key.rpartition(".")[0] for key in keys})
    for module in modules:
        both = [layer for layer in layers if module in (layer, *above(layer))]
        if both or not module:
            what = f"{both[0]}, which has an update" if both else "a weight that is in no module"
            raise ValueError(f"also_train names {what}: PEFT's files have no place for that")
    return modules


# ---------------------------------------------------------------------- from PEFT's names


def layers_in(adapter: Adapter) -> List[str]:
    """Names of the layers with an update, as far as they are known without the model."""
    return layers_of(plain_names(adapter.tensors, lambda layers: False)[0])


def from_peft(adapter: Adapter, plain: State, decoder: Optional[Published] = None) -> Tuple[State, LoRASettings]:
    """A plain model's state dict with the update, and the settings with which ``--arch lora`` builds a model for it.

    Classification heads, which fairseq adds to pretrained models, may be in the adapter alone; all else is in *plain*. An adapter
    of transformers' BERT or RoBERTa is read for the converted model (`transformers_names`), and so is one of a published decoder
    (`decoder_adapters`). Layers with other ranks or scales than the rest get the same ones (`ranks`).

    Args:
        decoder: which published decoder the model is, if it is one.

    Raises:
        ValueError: the adapter does something that a `LoRALinear` does not, does not fit the model, or is not complete.
    """
    config = adapter.config
    check_kind(config, {"fan_in_fan_out"} if decoder and decoder.family == "gpt2" else set())
    check_patterns(config)
    from_config(config, "all", "")  # r, lora_alpha and lora_dropout are numbers
    check_finite(adapter.tensors, "; the adapter is not used")

    def have_our_names(layers: List[str]) -> bool:
        return all(f"{layer}.weight" in plain for layer in layers) and not (decoder and is_of_transformers(config))

    given, front = plain_names(
        adapter.tensors,
        lambda layers: (
            have_our_names(layers) or transformers_names.fit(plain, layers) or (decoder is not None and bool(families(layers)))
        ),
    )
    if not layers_of(given):
        raise ValueError(f"{WEIGHTS} holds no lora_A and lora_B")
    if transformers_names.fit(plain, layers_of(given)):
        ours, theirs = transformers_names.to_fairseq(given, plain, config)
    elif decoder and not have_our_names(layers_of(given)) and families(layers_of(given)):
        ours, theirs = decoder_adapters.to_fairseq(given, decoder)
    else:
        ours, theirs = given, {key: key for key in (*plain, *given)}

    state = {**plain, **ours}
    replaced = {key for key in ours if not key.endswith((".lora_A", ".lora_B"))}
    for key in ours:
        if key in replaced and key not in plain and not key.startswith(f"{HEADS}."):
            raise ValueError(f"{WEIGHTS} holds {key}, and the model has no {key}")
        if key in plain and plain[key].shape != ours[key].shape:
            raise ValueError(f"{theirs[key]} is {shape(ours[key])}, and the model's {key} is {shape(plain[key])}")
    for name in sorted(replaced & plain.keys()):
        for other in tied_to(plain, name):
            if not torch.equal(state[other], state[name]):
                raise ValueError(f"{name} and {other} are one weight in the model, and two with the adapter")

    layers = lora_names(state)
    check_ranks(given, front, config)
    scales = {layer: update_of(config, front + theirs[f"{layer}.weight"][: -len(".weight")]).scale for layer in layers}
    state, rank, scale = as_one(state, scales)
    tables = [key[: -len(".weight")] for key, value in state.items() if key.endswith(".weight") and value.dim() == 2]
    whole = tuple(config.get("modules_to_save") or ())
    along = _outermost(
        {module for key in replaced & theirs.keys() for module in _inside(whole, key, theirs[key], decoder is not None)}
    )
    every = {module for key in state for module in above(key)}
    settings = from_config(config, names_for_flag(layers, tables), names_for_flag(along, every))
    if (rank, scale) != (settings.rank, settings.alpha / settings.rank):
        settings = replace(settings, rank=rank, alpha=scale * rank)
    for layer in layers:
        if rank > min(state[f"{layer}.weight"].shape):
            raise ValueError(f"{layer}: rank {rank} is larger than the weight, {shape(state[f'{layer}.weight'])}")
    check_promises(config, given, front, {theirs[key]: value for key, value in plain.items() if key in theirs}, WEIGHTS)
    _check_heads(state)
    return state, settings


def _inside(whole: Tuple[str, ...], key: str, theirs: str, innermost: bool) -> List[str]:
    """The module of *whole* that holds the tensor *theirs*, by the model's name, if there is one; *key* is the tensor's."""
    for module in above(theirs):
        if module.endswith(whole):
            if innermost and key != theirs:  # a converted decoder has no module of theirs but the innermost ones
                return [key.rpartition(".")[0]]
            parts = key.split(".")
            own = ".".join(parts[: len(parts) - theirs[len(module) :].count(".")])
            return [f"{transformers_names.HEAD}.dense"] if own == transformers_names.POOLER else [own]
    return []


def _check_heads(state: State) -> None:
    """Raise ValueError where a part of a classification head of fairseq's is missing."""
    for head in sorted({".".join(key.split(".")[:2]) for key in state if key.startswith(f"{HEADS}.")}):
        for part in ("dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias"):
            if f"{head}.{part}" not in state:
                raise ValueError(f"{WEIGHTS} holds no {head}.{part}, and holds the rest of this head")


# ---------------------------------------------------------------------- files


def read_adapter(directory: Path) -> Adapter:
    """The two files in *directory*; the weights may be pickled ones.

    Raises:
        FileNotFoundError: one of them is not there.
        ValueError: one of them cannot be read, or the names in one stand for far more than it holds.
        ImportError: safetensors is not installed.
    """
    pickled = directory / PICKLED
    weights = pickled if pickled.is_file() and not (directory / WEIGHTS).is_file() else directory / WEIGHTS
    for path in (directory / CONFIG, weights):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not there; an adapter is a directory with {CONFIG} and {WEIGHTS}")
    config = read_json(directory / CONFIG)
    tensors, shared = (read_torch(weights), {}) if weights == pickled else read_safetensors(weights)
    if not isinstance(tensors, dict) or not all(isinstance(k, str) and torch.is_tensor(v) for k, v in tensors.items()):
        raise ValueError(f"{weights}: cannot be read: it holds something else than tensors by their names")
    tensors = with_shared(tensors, shared)
    with about(weights):
        check_copies(tensors, weights.stat().st_size)
    return Adapter(tensors, config)


def write_adapter(adapter: Adapter, directory: Path) -> None:
    """Write the two files into *directory*.

    Raises:
        OSError: one of them cannot be written.
        ImportError: safetensors is not installed.
    """
    save_file = _safetensors().save_file
    try:
        save_file(adapter.tensors, str(directory / WEIGHTS), metadata={"format": "pt"})
    except Exception as error:  # safetensors' own error, which is none of Python's
        raise OSError(f"{WEIGHTS}: cannot be written: {error}") from error
    (directory / CONFIG).write_text(json.dumps(adapter.config, indent=2) + "\n", encoding="utf-8")


def _safetensors():
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("adapters are files of the safetensors library: pip install safetensors") from error
    return safetensors.torch
