"""Adapters that PEFT made of transformers' GPT-2, OPT and Llama, for the converted decoders; and ours for the published ones.

The names are those of `decoder_names`. In GPT-2 q, k and v are one layer, c_attn, and its weights lie the other way round (PEFT's
fan_in_fan_out, which says nothing of A and B).
"""

import re
from typing import Any, Dict, List, Optional, Tuple

import torch

from sharp_plugins.lora.decoder_names import OURS, fits, front_of, modules
from sharp_plugins.lora.fused import Pair, own_blocks, split, stack
from sharp_plugins.lora.merge import State
from sharp_plugins.lora.peft_names import PREFIX, layers_of

Modules = Dict[str, Tuple[str, ...]]


def _layers(state: State) -> int:
    return 1 + max(int(key.split(".")[2]) for key in state if key.startswith(f"{OURS}layers."))


def _is_turned(kind: str, module: str) -> bool:
    """Whether the weight of transformers' *module* is (in, out): all linear ones of GPT-2."""
    return kind == "gpt2" and re.search(r"\.c_\w+$", module) is not None


# ---------------------------------------------------------------------- from transformers' names


def to_fairseq(given: State, plain: State, kind: str) -> Tuple[State, Dict[str, str]]:
    """An adapter's tensors by fairseq's names; and the names in transformers of these and of the decoder's weights and biases.

    Args:
        given: the adapter's tensors by transformers' names.
        plain: the converted model.
        kind: which published decoder the model is.

    Raises:
        ValueError: the adapter is another model's, or a tensor has no counterpart in the converted model.
    """
    layers = layers_of(given)
    front = front_of(kind, layers)
    if front is None:
        raise ValueError(f"it is an adapter of a {' or '.join(fits(layers))}, and the model is a converted {kind}")
    names = modules(kind, _layers(plain), front)
    state: State = {}
    pairs: Dict[str, List[Pair]] = {}  # of modules that are several here
    for key, value in given.items():
        layer, update, part = key.rpartition(".lora_")
        module, _, end = (layer, "", "") if update else key.rpartition(".")
        own = names.get(module)
        if own is None or any(f"{name}.{end or 'weight'}" not in plain for name in own):
            raise ValueError(f"{key}: in a converted {kind} it has no counterpart{_why(module)}; such an adapter is not read")
        if update and len(own) == 1:
            state[f"{own[0]}.lora_{part}"] = value
        elif update:
            a, b = (given.get(f"{layer}.lora_{one}") for one in "AB")
            if a is None or b is None or a.dim() != 2 or b.dim() != 2 or len(a) != b.size(1):
                raise ValueError(f"{layer}: its lora_A and lora_B are not whole, or do not fit together")
            pairs[layer] = split(a, b, len(own))
        else:
            value = value.t() if end == "weight" and _is_turned(kind, module) else value
            state.update({f"{name}.{end}": rows.clone() for name, rows in zip(own, value.chunk(len(own)))})
    for layer, kept in zip(pairs, own_blocks(list(pairs.values())) if pairs else ()):
        for name, pair in zip(names[layer], kept):
            if pair is not None:
                state[f"{name}.lora_A"], state[f"{name}.lora_B"] = pair
    theirs = {f"{name}.{end}": f"{module}.{end}" for module, own in names.items() for name in own for end in ("weight", "bias")}
    return state, {name: module for name, module in theirs.items() if name in plain}


def _why(module: str) -> str:
    if re.search(r"(wte|embed_tokens|lm_head)(\.|$)", module):
        return ", because its rows stand in another order (tables of words)"
    return ", because it has two rows less (OPT's positions)" if "embed_positions" in module else ""


# ---------------------------------------------------------------------- to transformers' names


def to_transformers(tensors: State, config: Dict[str, Any], state: State, kind: str) -> Tuple[State, Optional[str]]:
    """An adapter's tensors with transformers' names in PEFT's file, for ``AutoModelForCausalLM``; *config* gets these names too.

    Args:
        tensors, config: the adapter with fairseq's names.
        state: the model's state dict, with updates.
        kind: which published decoder the model is.

    Returns:
        the tensors; and a sentence about what is not as it was, or None.

    Raises:
        ValueError: what was trained has no counterpart in transformers.
    """
    names = modules(kind, _layers(state))
    theirs = {name: module for module, own in names.items() for name in own}
    tensors = {key[len(PREFIX) :]: value for key, value in tensors.items()}
    result: State = {}
    for key, value in tensors.items():
        name, part = re.fullmatch(r"(.*?)((?:\.base_layer)?\.(?:weight|bias)|\.lora_[AB]\.weight)", key).groups()
        module = theirs.get(name)
        if module is None:
            raise ValueError(
                f"names of transformers: {name} was trained, and has no counterpart in the published {kind}{_why(name)}"
            )
        own = names[module]
        if len(own) == 1:
            result[module + part] = value.t() if part == ".weight" and _is_turned(kind, module) else value
        elif ".lora_" not in part:
            end = part.rpartition(".")[2]
            whole = torch.cat([state[f"{one}.{end}"] for one in own])
            has_update = any(f"{one}.lora_A" in state for one in own)
            result[f"{module}{'.base_layer' * (end == 'bias' and has_update)}.{end}"] = whole.t() if whole.dim() == 2 else whole
    said = _stack_all(result, config, state, names)
    config["target_modules"] = sorted({theirs[layer] for layer in config["target_modules"]})
    config["modules_to_save"] = sorted({theirs[module] for module in config["modules_to_save"] or ()}) or None
    config["task_type"], config["fan_in_fan_out"] = "CAUSAL_LM", kind == "gpt2"
    return {PREFIX + key: value.detach().clone().contiguous() for key, value in result.items()}, said


def _stack_all(result: State, config: Dict[str, Any], state: State, names: Modules) -> Optional[str]:
    """Add the updates of modules that are several here, with the rank that they have as one."""
    fused = {module: own for module, own in names.items() if len(own) > 1}
    updated = [[f"{name}.lora_A" in state for name in own] for own in fused.values()]
    kept = [any(layer[part] for layer in updated) for part in range(3)] if fused else []
    if not any(kept):
        return None
    for module, own in fused.items():
        pairs = [(state[f"{one}.lora_A"], state[f"{one}.lora_B"]) if f"{one}.lora_A" in state else None for one in own]
        if any(pair is not None for pair in pairs):
            result[f"{module}.lora_A.weight"], result[f"{module}.lora_B.weight"] = stack(pairs, kept)
    times = sum(kept)
    if times == 1:
        return None
    rank, alpha = times * config["r"], times * config["lora_alpha"]
    others = [layer for layer in config["target_modules"] if not any(layer in own for own in fused.values())]
    if others:
        config["rank_pattern"], config["alpha_pattern"] = {"c_attn": rank}, {"c_attn": alpha}
    else:
        config["r"], config["lora_alpha"] = rank, alpha
    parts = [part[0] for part, keep in zip(("query", "key", "value"), kept) if keep]
    return (
        f"in transformers' GPT-2 {', '.join(parts)} are parts of one layer, c_attn, which has one A in PEFT: their updates of rank "
        f"{rank // times} are written as one of rank {rank} with alpha {alpha:g}, which computes the same"
    )
