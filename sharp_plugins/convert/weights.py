"""Published weights of BERT and RoBERTa under the names of fairseq's model."""

from pathlib import Path
from typing import Dict, List, Tuple

import torch
from torch import Tensor

from sharp_plugins.convert.names import WORDS, model_names
from sharp_plugins.convert.published_settings import ROBERTA_OFFSET, Settings
from sharp_plugins.files.aliases import check_copies
from sharp_plugins.files.tensors import is_finite, read_safetensors, read_torch

INSIDE = "encoder.sentence_encoder"
TOKEN_TYPES = f"{INSIDE}.embed_token_types.weight"

# Parts of fairseq's model -> their published names.
EMBEDDINGS = {
    "embed_tokens": "word_embeddings",
    "embed_positions": "position_embeddings",
    "embed_token_types": "token_type_embeddings",
    "layernorm_embedding": "LayerNorm",
}
LAYER = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "output.LayerNorm",
}
LM_HEAD = {
    "bert": {
        "encoder.lm_head.dense": "cls.predictions.transform.dense",
        "encoder.lm_head.layer_norm": "cls.predictions.transform.LayerNorm",
        "encoder.lm_head": "cls.predictions",
    },
    "roberta": {
        "encoder.lm_head.dense": "lm_head.dense",
        "encoder.lm_head.layer_norm": "lm_head.layer_norm",
        "encoder.lm_head": "lm_head",
    },
}


def read_weights(directory: Path) -> Dict[str, Tensor]:
    """The weights in ``model.safetensors`` or ``pytorch_model.bin``, on the CPU.

    Raises:
        FileNotFoundError: neither is there.
        ValueError: the file cannot be read, or not safely, or its names stand for far more than it holds.
        ImportError: safetensors is not installed.
    """
    safe, pickled = directory / "model.safetensors", directory / "pytorch_model.bin"
    if safe.is_file():
        path, (content, shared) = safe, read_safetensors(safe)
    elif pickled.is_file():
        path, content, shared = pickled, read_torch(pickled), {}
    else:
        raise FileNotFoundError(f"{directory}: neither {safe.name} nor {pickled.name} is there (shards are not read)")
    try:
        weights = model_names(content, shared)
        check_copies(weights, path.stat().st_size)
        return weights
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def published_names(kind: str, layers: int, prefix: str) -> Dict[str, str]:
    """fairseq's name of each weight -> its published one.

    Args:
        kind: "bert" or "roberta".
        prefix: what the published names of the encoder's weights begin with.
    """
    parts = {f"{INSIDE}.{own}": f"{prefix}embeddings.{theirs}" for own, theirs in EMBEDDINGS.items()}
    for n in range(layers):
        for own, theirs in LAYER.items():
            parts[f"{INSIDE}.layers.{n}.{own}"] = f"{prefix}encoder.layer.{n}.{theirs}"
    parts.update(LM_HEAD[kind])
    if kind == "bert":  # fairseq's roberta knows no pooler, and RoBERTa's was never trained
        parts["encoder.pooler"] = f"{prefix}pooler.dense"
    return {f"{own}.{end}": f"{theirs}.{end}" for own, theirs in parts.items() for end in ("weight", "bias")}


def fairseq_weights(
    weights: Dict[str, Tensor], settings: Settings, rows: List[int], where="the weights"
) -> Tuple[Dict[str, Tensor], List[str]]:
    """The published weights under fairseq's names, in fp32, and the names of those without a place in fairseq's model.

    Args:
        rows: rows of the published table of words, in the order of the fairseq dictionary.
        where: what messages begin with.

    Raises:
        ValueError: there is no such encoder, or more than one, or not the one that config.json describes.
    """
    prefixes = [name[: -len(WORDS)] for name in weights if name.endswith(WORDS)]
    if len(prefixes) != 1:
        raise ValueError(f"{where}: one {settings.type} encoder is expected; {len(prefixes)} weights end in {WORDS}")
    check_sizes(weights, prefixes[0], settings, where)
    table = weights[prefixes[0] + WORDS]

    names = published_names(settings.type, settings.model["encoder_layers"], prefixes[0])
    decoder = f"{LM_HEAD[settings.type]['encoder.lm_head']}.decoder."  # the table again, and the bias, in some files
    # RoBERTa's head has gelu always; in fairseq's it is the layers' activation.
    is_computed = settings.type == "bert" or settings.model["activation_fn"] == "gelu"
    if is_computed and _has_lm_head(weights, names, table, decoder):
        used = {decoder + "weight", decoder + "bias"}
    else:
        names = {own: theirs for own, theirs in names.items() if not own.startswith("encoder.lm_head.")}
        used = set()
    for name in filter(weights.__contains__, names.values()):
        if not weights[name].is_floating_point() or weights[name].layout != torch.strided:  # quantized, say
            kind = f"{weights[name].dtype}, {weights[name].layout}".replace("torch.", "")
            raise ValueError(f"{where}: {name} is {kind}; plain floating-point weights are expected")
    bias = names.get("encoder.lm_head.bias")
    if bias in weights and weights[bias].shape != table.shape[:1]:
        raise ValueError(f"{where}: {bias} has the shape {list(weights[bias].shape)}, and {len(table)} words want as many numbers")
    state = {own: weights[theirs].float() for own, theirs in names.items() if theirs in weights}
    for own, value in state.items():
        if not is_finite(value):
            raise ValueError(f"{where}: {names[own]} has numbers that are not finite (NaN or infinity), which no model can use")
    used.update(names.values())

    for own in (f"{INSIDE}.embed_tokens.weight", "encoder.lm_head.bias"):
        if own in state:
            state[own] = state[own][torch.tensor(rows)]
    state["encoder.lm_head.weight"] = state[f"{INSIDE}.embed_tokens.weight"]
    if settings.type == "roberta":
        _add_token_type_to_positions(state)

    left_out = sorted(name for name in weights if name not in used and not name.endswith("position_ids"))
    unknown = [name for name in left_out if name.startswith(f"{prefixes[0]}encoder.")]
    if unknown:
        raise ValueError(f"{where}: {unknown[0]} is there, and by config.json there is no such weight")
    return state, left_out


def check_sizes(weights: Dict[str, Tensor], prefix: str, settings: Settings, where) -> None:
    """Raise ValueError where the tables and matrices are not there in the sizes of config.json. A model of these sizes is built
    next: it would take the memory that config.json says, and not what the file holds."""
    layers, width, inner = (settings.model[name] for name in ("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim"))
    there = {name[len(prefix) :].split(".")[2] for name in weights if name.startswith(f"{prefix}encoder.layer.")}
    if len(there) < layers:
        raise ValueError(f"{where}: it has {len(there)} layers, and config.json says num_hidden_layers {layers}")
    positions = settings.model["max_positions"] + (ROBERTA_OFFSET if settings.type == "roberta" else 0)
    tables = {"word": settings.vocabulary, "position": positions, "token_type": settings.token_types}
    shapes = {f"embeddings.{name}_embeddings.weight": (rows, width) for name, rows in tables.items()}
    for n in range(layers):
        for part in LAYER.values():
            if not part.endswith("LayerNorm"):
                shape = {"intermediate.dense": (inner, width), "output.dense": (width, inner)}.get(part, (width, width))
                shapes[f"encoder.layer.{n}.{part}.weight"] = shape
    for name, shape in shapes.items():
        weight = weights.get(prefix + name)
        if weight is None:
            if settings.type == "roberta" and name.startswith("embeddings.token_type"):
                continue
            raise ValueError(f"{where}: its weights have no {prefix}{name}")
        if weight.shape != shape:
            raise ValueError(f"{where}: {prefix}{name} has shape {tuple(weight.shape)}, and by config.json it should have {shape}")


def _has_lm_head(weights: Dict[str, Tensor], names: Dict[str, str], table: Tensor, decoder: str) -> bool:
    """Whether the language-model head is there as a whole, with the table of words as its output layer."""
    head = [own for own in names if own.startswith("encoder.lm_head.") and own != "encoder.lm_head.weight"]
    tied = torch.equal(weights.get(decoder + "weight", table), table)
    return tied and all(names[own] in weights for own in head)


def _add_token_type_to_positions(state: Dict[str, Tensor]) -> None:
    """transformers adds the row of token type 0 to each token of a RoBERTa; fairseq's has no token types, so here each
    position gets it, and that of padding too, which matters where padding is not cleared."""
    types = state.pop(TOKEN_TYPES, None)
    positions = state.get(f"{INSIDE}.embed_positions.weight")
    if types is not None and positions is not None:
        padding = ROBERTA_OFFSET - 1
        state[f"{INSIDE}.embed_positions.weight"] = torch.cat([positions[:padding], positions[padding:] + types[0]])
