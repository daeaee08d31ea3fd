"""Adapters that PEFT made of transformers' GPT-2, OPT and Llama, for the converted decoders; and ours for the published ones.

The names are those of `decoder_names`. In GPT-2 q, k and v are one layer, c_attn, and its weights lie the other way round (PEFT's
fan_in_fan_out, which says nothing of A and B).
"""

import re
from typing import Any, Dict, List, Optional, Tuple

import torch

from sharp_plugins.lora.decoder_names import Published, families, front_of
from sharp_plugins.lora.fused import Pair, own_blocks, split, stack
from sharp_plugins.lora.merge import State, shape
from sharp_plugins.lora.peft_names import PREFIX, layers_of

Modules = Dict[str, Tuple[str, ...]]


# ---------------------------------------------------------------------- from transformers' names


def to_fairseq(given: State, model: Published) -> Tuple[State, Dict[str, str]]:
    """An adapter's tensors by fairseq's names; and the names in transformers of these and of the decoder's weights and biases.

    Args:
        given: the adapter's tensors by transformers' names.
        model: the converted one.

    Raises:
        ValueError: the adapter is another model's, or a tensor has no counterpart in the converted model.
    """
    layers = layers_of(given)
    front = front_of(model.family, layers)
    if front is None:
        raise ValueError(
            f"it is an adapter of a {' or '.join(families(layers))}, and the model is a converted {model.family} ({model.how})"
        )
    names = model.modules(front)
    state: State = {}
    pairs: Dict[str, List[Pair]] = {}  # of modules that are several here
    for key, value in given.items():
        layer, update, part = key.rpartition(".lora_")
        module, _, end = (layer, "", "weight") if update else key.rpartition(".")
        own = names.get(module, ())
        if not own or f"{own[0]}.{end}" not in model.parts or (update and part not in ("A", "B")):
            raise ValueError(
                f"{key}: in a converted {model.family} it has no counterpart{_why(module)}; such an adapter is not read"
            )
        if update and len(own) == 1:
            state[f"{own[0]}.lora_{part}"] = value
        elif update:
            a, b = (given.get(f"{layer}.lora_{one}") for one in "AB")
            if a is None or b is None or a.dim() != 2 or b.dim() != 2 or len(a) != b.size(1):
                raise ValueError(f"{layer}: its lora_A and lora_B are not whole, or do not fit together")
            pairs[layer] = split(a, b, len(own))
        else:
            for name in own:
                expected, take = model.parts[f"{name}.{end}"][1:]
                if value.shape != expected:
                    raise ValueError(f"{key} is {shape(value)}, and the model's is {' x '.join(map(str, expected))}")
                state[f"{name}.{end}"] = take(value).clone()
    for layer, kept in zip(pairs, own_blocks(list(pairs.values())) if pairs else ()):
        for name, pair in zip(names[layer], kept):
            if pair is not None:
                state[f"{name}.lora_A"], state[f"{name}.lora_B"] = pair
    return state, {own: front + part.name for own, part in model.parts.items()}


def _why(module: str) -> str:
    is_words = re.search(r"(wte|embed_tokens|lm_head)(\.|$)", module)
    return ", because tables of words have their rows in another order" if is_words else ""


# ---------------------------------------------------------------------- to transformers' names


def to_transformers(tensors: State, config: Dict[str, Any], state: State, model: Published) -> Tuple[State, Optional[str]]:
    """An adapter's tensors with transformers' names in PEFT's file, for ``AutoModelForCausalLM``; *config* gets these names too.

    Args:
        tensors, config: the adapter with fairseq's names.
        state: the model's state dict, with updates.
        model: which published decoder it is.

    Returns:
        the tensors; and a sentence about what is not as it was, or None.

    Raises:
        ValueError: what was trained has no counterpart in transformers.
    """
    names = model.modules()
    theirs = {name: module for module, own in names.items() for name in own}
    result: State = {}
    for key, value in tensors.items():
        found = re.fullmatch(r"(.*?)((?:\.base_layer)?\.(?:weight|bias)|\.lora_[AB]\.weight)", key[len(PREFIX) :])
        name, part = found.groups() if found else (key[len(PREFIX) :], "")
        module, end = theirs.get(name), part.rpartition(".")[2]
        if module is None or (model.family == "opt" and name.endswith("embed_positions")):
            raise ValueError(
                f"names of transformers: {name} was trained, and has no counterpart in the published {model.family}{_why(name)}"
            )
        own = names[module]
        if ".lora_" in part:
            if len(own) == 1:
                result[module + part] = value
            continue
        whole = value if len(own) == 1 else torch.cat([state[f"{one}.{end}"] for one in own])
        # What lies the other way round: all linear layers of GPT-2.
        whole = whole.t() if whole.dim() == 2 and re.search(r"\.c_\w+$", module) else whole
        has_update = any(f"{one}.lora_A" in state for one in own)
        result[f"{module}{'.base_layer' * (has_update and end == 'bias')}.{end}"] = whole
    said = _stack_all(result, config, state, names)
    config["target_modules"] = sorted({theirs[layer] for layer in config["target_modules"]})
    config["modules_to_save"] = sorted({theirs[module] for module in config["modules_to_save"] or ()}) or None
    both = sorted({*config["target_modules"]} & {*(config["modules_to_save"] or ())})
    if both:  # q, k and v of GPT-2
        raise ValueError(
            f"names of transformers: {both[0]} has an update in one of its parts, and another part was trained as a whole; "
            "there they are one layer, and PEFT's files have no place for both"
        )
    config["task_type"], config["fan_in_fan_out"] = "CAUSAL_LM", model.family == "gpt2"
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
