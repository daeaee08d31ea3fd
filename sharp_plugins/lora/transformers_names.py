"""Adapters of transformers' BERT and RoBERTa on converted models, and back: names as `sharp_plugins.convert` has them.

    transformers                                            fairseq
    bert.encoder.layer.0.attention.self.query               encoder.sentence_encoder.layers.0.self_attn.q_proj, and so on
    bert.pooler.dense                                       encoder.pooler, and the head's dense
    classifier (BERT), classifier.out_proj (RoBERTa)        classification_heads.sentence_classification_head.out_proj
    classifier.dense (RoBERTa)                              classification_heads.sentence_classification_head.dense

fairseq's head is RoBERTa's; of BERT's, its first half is the pooler. The pooler is no layer of a fairseq model before there is a
head: an update of it goes into its weight. What depends on the order of the vocabulary, which conversion changes, is refused.
"""

import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch

from sharp_plugins.convert.weights import INSIDE, TOKEN_TYPES, published_names
from sharp_plugins.lora.merge import State
from sharp_plugins.lora.peft_names import layers_of
from sharp_plugins.lora.ranks import update_of
from sharp_plugins.networks.module_names import HEADS

# fairseq's own name of the one head of its task sentence_prediction.
HEAD = f"{HEADS}.sentence_classification_head"
POOLER = "encoder.pooler"
# RoBERTa's get the token type's row added.
POSITIONS = f"{INSIDE}.embed_positions.weight"
# Each row of these is a word's, and conversion sorts the words anew.
BY_WORD = (f"{INSIDE}.embed_tokens.weight", "encoder.lm_head.bias", "encoder.lm_head.weight")


class Names(NamedTuple):
    """How a converted model and its adapter name things."""

    kind: str  # "bert" or "roberta"
    prefix: str  # of the encoder in transformers' names: "bert.", "roberta." or none
    ours: Dict[str, str]  # transformers' name of a weight or bias -> fairseq's

    def theirs(self) -> Dict[str, str]:
        """The other way round."""
        return {ours: theirs for theirs, ours in self.ours.items()}


def kind_of(plain: State) -> Optional[str]:
    """Which published encoder a fairseq model's state dict is of; None if of none."""
    if f"{INSIDE}.layers.0.self_attn.q_proj.weight" not in plain:
        return None
    return "bert" if TOKEN_TYPES in plain else "roberta"


def names_of(plain: State, prefix: str) -> Names:
    """The names of all weights and biases of a converted model, with those of a head."""
    kind = kind_of(plain)
    layers = {key.split(".")[3] for key in plain if key.startswith(f"{INSIDE}.layers.")}
    ours = {theirs: own for own, theirs in published_names(kind, len(layers), prefix).items() if own in plain}
    head = {"classifier": "out_proj"} if kind == "bert" else {"classifier.dense": "dense", "classifier.out_proj": "out_proj"}
    for theirs, own in head.items():
        ours.update({f"{theirs}.{end}": f"{HEAD}.{own}.{end}" for end in ("weight", "bias")})
    return Names(kind, prefix, ours)


def fit(plain: State, layers: List[str]) -> bool:
    """Whether *layers*, by their names, are some of transformers' encoder, and *plain* may be its converted model."""
    return kind_of(plain) is not None and _prefix(layers) in ("", "bert.", "roberta.")


def _prefix(layers: List[str]) -> Optional[str]:
    """What stands before the encoder's names; None where no layer of an encoder is among *layers*."""
    found = {match.group(1) for layer in layers if (match := re.match(r"(.*?)encoder\.layer\.\d+\.", layer))}
    return found.pop() if len(found) == 1 else None


def to_fairseq(given: State, plain: State, config: Dict[str, Any]) -> Tuple[State, Dict[str, str]]:
    """An adapter's tensors by fairseq's names; and the names in transformers of these and of the encoder's weights and biases.

    Args:
        given: the adapter's tensors by transformers' names.
        plain: the converted model.
        config: the adapter's.

    Raises:
        ValueError: a tensor has no counterpart in a converted model.
    """
    names = names_of(plain, _prefix(layers_of(given)))
    if names.prefix not in ("", f"{names.kind}."):
        raise ValueError(f"it is an adapter of a {names.prefix[:-1]}, and the model is a converted {names.kind}")
    state: State = {}
    for key, value in given.items():
        layer, update, part = key.rpartition(".lora_")
        own = names.ours.get(f"{layer}.weight" if update else key)
        if own is None and update and not given.get(f"{layer}.lora_B", value).any():
            continue  # trained of nothing, such as RoBERTa's pooler beside a head that does not use it
        if own is None or own in BY_WORD or (own == POSITIONS and names.kind == "roberta"):
            why = "there is no such weight" if own is None else "its counterpart has other rows"
            raise ValueError(f"{key}: in a converted {names.kind} {why}; such an adapter is not read")
        state[f"{own[: -len('.weight')]}.lora_{part}" if update else own] = value
    _fold_pooler(state, plain, update_of(config, f"{names.prefix}pooler.dense").scale)
    if any(key.startswith("classifier.") for key in given):
        _complete_head(state, names, plain, config)
    # The pooler and the language-model head are not in every model that has the encoder.
    theirs = {
        own: key
        for own, key in names.theirs().items()
        if own in state or own.startswith(f"{INSIDE}.") or own.removesuffix(".weight") + ".lora_A" in state
    }
    return state, theirs


def _fold_pooler(state: State, plain: State, scale: float) -> None:
    """An update of the pooler becomes part of its weight."""
    a, b = (state.pop(f"{POOLER}.lora_{part}", None) for part in "AB")
    if a is None and b is None:
        return
    w = state.get(f"{POOLER}.weight", plain[f"{POOLER}.weight"])
    if a is None or b is None or a.dim() != 2 or b.dim() != 2 or len(a) != b.size(1) or w.shape != (len(b), a.size(1)):
        raise ValueError("pooler.dense: its lora_A and lora_B are not whole, or do not fit the pooler's weight")
    state[f"{POOLER}.weight"] = torch.addmm(w.double(), b.double(), a.double(), alpha=scale).to(w.dtype)


def _complete_head(state: State, names: Names, plain: State, config: Dict[str, Any]) -> None:
    """Check that the classifier is one of sequences and whole, and put BERT's pooler into it."""
    model = str((config.get("auto_mapping") or {}).get("base_model_class"))
    if config.get("task_type") != "SEQ_CLS" and not model.endswith("ForSequenceClassification"):
        raise ValueError(
            f"classifier: it is one of task_type {config.get('task_type')}, and fairseq's heads are those of sequence "
            "classification (SEQ_CLS)"
        )
    if names.kind == "bert":
        for end in ("weight", "bias"):
            value = state.get(f"{POOLER}.{end}", plain.get(f"{POOLER}.{end}"))
            if value is None:
                raise ValueError(f"classifier: it comes after the pooler, and the model has no {POOLER}.{end}")
            state[f"{HEAD}.dense.{end}"] = value.clone()
    theirs = names.theirs()
    for own in (f"{HEAD}.{part}.{end}" for part in ("dense", "out_proj") for end in ("weight", "bias")):
        if own not in state:
            raise ValueError(f"the file holds no {theirs[own]}, which the head needs")
