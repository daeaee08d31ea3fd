"""What an adapter_config.json promises, against what the file of weights holds: a missing tensor is an error and no zero.

PEFT itself loads what there is. An adapter whose biases or layers were not saved (PEFT 0.19.1 leaves out those of
``bias="lora_only"``) then computes something else than it did in training, without a word.
"""

import re
from typing import Any, Dict

from sharp_plugins.lora.merge import State
from sharp_plugins.lora.peft_config import CONFIG
from sharp_plugins.lora.peft_names import layers_of
from sharp_plugins.networks.module_names import above, matches

Config = Dict[str, Any]

# Heads that PEFT adds to modules_to_save by itself; a model has one of them.
EITHER_HEAD = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score")}


def is_target(config: Config, layer: str) -> bool:
    """Whether the config, as `check_kind` lets it through, gives *layer* an update, by PEFT's rules."""
    targets, excluded, numbers = (config.get(name) for name in ("target_modules", "exclude_modules", "layers_to_transform"))
    if excluded and _names(excluded, layer):
        return False
    if any(re.match(rf"(^|.*\.){re.escape(name)}($|\..*)", layer) for name in config.get("modules_to_save") or ()):
        return False
    if isinstance(targets, str) or layer in (targets or ()) or not _names(targets or (), layer):
        return _names(targets or (), layer)
    if numbers is None or numbers == []:
        return True
    lists = config.get("layers_pattern")
    for name in map(re.escape, [lists] if isinstance(lists, str) else lists) if lists else [r"[^.]*"]:
        found = re.match(rf"(?:^|.*?\.){name}\.(\d+)\.", layer)
        if found:
            return int(found.group(1)) in ([numbers] if isinstance(numbers, int) else numbers)
    return False


def _names(chosen, layer: str) -> bool:
    """Whether a regular expression, or one of a list of names or of their ends, is *layer*."""
    if isinstance(chosen, str):
        return re.fullmatch(chosen, layer) is not None
    return any(matches(re.escape(name), layer) for name in chosen)


def check_promises(config: Config, given: State, front: str, model: State, file: str) -> None:
    """Raise ValueError, naming the setting and the first tensor, where the file lacks one that the config promises, or holds an
    update that the config does not know.

    Args:
        given, front: the file's tensors by the model's names, and what stood before these (`peft_names.plain_names`).
        model: weights and biases of the base model, by the same names.
        file: what messages call the file.
    """
    updated = layers_of(given)
    layers = [key[: -len(".weight")] for key, value in model.items() if key.endswith(".weight") and value.dim() == 2]
    targets, whole = config.get("target_modules"), config.get("modules_to_save") or []
    if targets and targets != "all-linear":
        for layer in layers:
            if is_target(config, front + layer) and layer not in updated:
                raise ValueError(f"{file} holds no update for {layer}, which {CONFIG} names by target_modules")
        for name in targets if isinstance(targets, list) else []:
            if not any(matches(re.escape(name), front + layer) for layer in updated):
                raise ValueError(f"{file} holds no update for {name}, which {CONFIG} names among target_modules")
        for layer in updated:
            if not is_target(config, front + layer):
                raise ValueError(f"{file} holds an update for {layer}, which {CONFIG} does not name by target_modules")

    biases = [key for key in model if key.endswith(".bias")]
    if config.get("bias") != "all":
        biases = [key for key in biases if config.get("bias") == "lora_only" and key[: -len(".bias")] in updated]
    for key in biases:
        if key not in given:
            raise ValueError(
                f"{file} holds no {key}, and {CONFIG} says bias {config['bias']!r}: some versions of PEFT did not save them; "
                "have the adapter saved again, by another one"
            )

    heads = EITHER_HEAD.get(config.get("task_type"), ())
    found = {name for name in whole if any(module.endswith(name) for key in given for module in above(key))}
    for name in whole:
        if name not in found and not (name in heads and found & set(heads)):
            raise ValueError(f"{file} holds nothing of {name}, which {CONFIG} names among modules_to_save")
    for key in model:
        if key not in given and any(module.endswith(tuple(whole)) for module in above(key)):
            raise ValueError(f"{file} holds no {key}, whose module {CONFIG} names among modules_to_save")
