"""An adapter of a fairseq BERT or RoBERTa, written with transformers' names: for the published model, with PEFT."""

import re
from typing import Any, Dict

from sharp_plugins.lora.merge import State
from sharp_plugins.lora.peft_names import PREFIX
from sharp_plugins.lora.transformers_names import BY_WORD, HEAD, POSITIONS, kind_of, names_of
from sharp_plugins.networks.module_names import HEADS

LM_HEAD = "encoder.lm_head."


def to_transformers(tensors: State, config: Dict[str, Any], state: State, pooler_activation: str) -> State:
    """An adapter's tensors with transformers' names in PEFT's file; *config* gets these names too.

    It is one for ``AutoModelForSequenceClassification`` where the model has a classification head, which is written as a whole;
    for ``AutoModelForMaskedLM`` where the language-model head has an update; and for ``AutoModel`` else.

    Args:
        tensors, config: the adapter with fairseq's names.
        state: the model's state dict, with updates.
        pooler_activation: the activation of the classification head.

    Raises:
        ValueError: the model is no BERT or RoBERTa, or what was trained has no counterpart in transformers.
    """
    kind = kind_of(state)
    if kind is None:
        raise ValueError("names of transformers: it is no BERT or RoBERTa as `python -m sharp_plugins.convert` makes them")
    whole = config["modules_to_save"] or []
    heads = {key.split(".")[1] for key in state if key.startswith(f"{HEADS}.")}
    has_words = any(name.startswith(LM_HEAD) for name in (*config["target_modules"], *whole))
    if len(heads) + has_words > 1:
        raise ValueError(
            f"names of transformers: none of its models has several heads, and this has {', '.join(sorted(heads))}"
            + (" and a language-model head with an update" if has_words else "")
        )
    if heads and pooler_activation != "tanh":
        raise ValueError(f"names of transformers: the head's activation there is tanh, and here {pooler_activation}")
    names = names_of(state, f"{kind}." if heads or has_words else "").theirs()
    if kind == "bert":
        names.update({f"{HEAD}.dense.{end}": f"{kind}.pooler.dense.{end}" for end in ("weight", "bias")})

    tensors = {key[len(PREFIX) :]: value for key, value in tensors.items()}
    if not has_words:  # with bias "all", PEFT's file has the biases of a head that this model does not use
        tensors = {key: value for key, value in tensors.items() if not key.startswith(LM_HEAD)}
    for head in heads:
        front = f"{HEADS}.{head}."
        tensors = {key: value for key, value in tensors.items() if not key.startswith(front)}
        tensors.update({f"{HEAD}.{key[len(front) :]}": value for key, value in state.items() if key.startswith(front)})

    def theirs(key: str) -> str:
        name = names.get(key)
        if name is None or key in BY_WORD or key == POSITIONS:
            raise ValueError(f"names of transformers: {key} was trained, and has no counterpart in the published {kind}")
        return name

    result: State = {}
    for key, value in tensors.items():
        part = re.search(r"\.(?:lora_[AB]\.weight|base_layer\.bias)$", key)
        if part:
            module, end = key[: part.start()], "bias" if part.group().endswith("bias") else "weight"
            name = theirs(f"{module}.{end}")[: -len(end) - 1] + part.group()
        else:
            name = theirs(key)
        result[PREFIX + name] = value.detach().clone().contiguous()

    modules = [theirs(f"{module}.weight")[: -len(".weight")] for module in whole if not module.startswith(f"{HEADS}.")]
    modules += ["classifier"] * len(heads) + ["pooler.dense"] * (len(heads) if kind == "bert" else 0)
    config["modules_to_save"] = modules or None
    config["target_modules"] = sorted(theirs(f"{layer}.weight")[: -len(".weight")] for layer in config["target_modules"])
    config["task_type"] = "SEQ_CLS" if heads else None
    return result
