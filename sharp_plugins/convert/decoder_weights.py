"""A published decoder's weights as those of `sharp_plugins.networks.decoder.Decoder`, checked by their shapes, read one by one."""

import functools
from collections import Counter
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from sharp_plugins.convert.decoder_config import DecoderModelSettings
from sharp_plugins.convert.decoder_names import ANCHOR, BUFFERS, HEAD, LAYERS, TABLE, parts_of
from sharp_plugins.convert.stored import FLOATS, Stored
from sharp_plugins.files.tensors import is_finite
from sharp_plugins.files.torch_writer import Later

# Rows of a table that are put into the dictionary's order at once.
ROWS = 1024
# Number formats as --dtype calls them, and those that hold larger numbers.
NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
LARGER = {torch.float32: "fp32", torch.float16: "bf16 or fp32", torch.bfloat16: "fp32"}
EMBEDDING, OUTPUT = "embed_tokens.weight", "output_projection.weight"


class DecoderWeights(NamedTuple):
    """What is to be written.

    weights: ours by their names; where the output layer is the table of words, both are one object.
    left_out: published names without a place here.
    """

    weights: Dict[str, Later]
    left_out: List[str]


def decoder_weights(
    stored: Mapping[str, Stored], settings: DecoderModelSettings, rows: Sequence[int], dtype: Optional[torch.dtype], where
) -> DecoderWeights:
    """Find each weight, and check that it is there in the size that config.json says. No weight is read yet, but for an output
    layer beside a table of words that should be the same.

    Args:
        rows: the published row of each symbol of the dictionary, -1 for zeros.
        dtype: of what is written; None for the published one.
        where: what messages begin with.

    Raises:
        ValueError: there is no such model, or more than one, or not the one that config.json describes.
    """
    front = _front(stored, settings, where)
    _check_layers(stored, settings, front, where)
    parts = parts_of(settings)
    for part in parts.values():
        _check(stored, front + part.name, part.shape, where)
    words = _words(settings)
    table, head = _tables(stored, settings, front, words, where)

    @functools.lru_cache(maxsize=2)  # one layer's
    def shared(name: str) -> Tensor:
        return stored[name].read()

    times = Counter(part.name for part in parts.values())  # GPT-2's queries, keys and values are parts of one

    def later(name: str, shape: Tuple[int, ...], take: Callable[[Tensor], Tensor], is_part: bool = False) -> Later:
        target = dtype or FLOATS[stored[name].kind]
        target = torch.float32 if target == torch.float64 else target
        read = functools.partial(shared, name) if is_part else stored[name].read
        return Later(shape, target, lambda: _converted(read(), take, target, f"{where}: {name}"))

    def in_order(name: str) -> Later:
        return later(name, (len(rows), words[1]), lambda tensor: _reordered(tensor, rows))

    weights = {
        own: later(front + part.name, _shape_of(part), part.take, is_part=times[part.name] > 1) for own, part in parts.items()
    }
    weights[EMBEDDING] = in_order(table)
    weights[OUTPUT] = in_order(head) if settings.model["untied_output"] else weights[EMBEDDING]
    used = {front + part.name for part in parts.values()} | {table, head}
    left_out = sorted(name for name in stored if name not in used and not BUFFERS.search(name))
    unknown = [name for name in left_out if name.startswith(f"{front}{LAYERS[settings.family]}.")]
    if unknown:
        raise ValueError(f"{where}: {unknown[0]} is there, and by config.json there is no such weight")
    return DecoderWeights(weights, left_out)


def check_rows(stored: Mapping[str, Stored], settings: DecoderModelSettings, where) -> None:
    """Raise ValueError where a table of words has another shape than config.json says, before anything is made of that size."""
    front = _front(stored, settings, where)
    for name in (name for name in stored if name == front + TABLE[settings.family] or name == HEAD or name.endswith(f".{HEAD}")):
        _check(stored, name, _words(settings), where)


def _words(settings: DecoderModelSettings) -> Tuple[int, ...]:
    """The shape of the published table of words."""
    return settings.rows, settings.model.get("decoder_input_dim", settings.model["decoder_embed_dim"])


def _shape_of(part) -> Tuple[int, ...]:
    """The shape of our weight."""
    return tuple(part.take(torch.empty(part.shape, device="meta")).shape)


def _front(stored: Mapping[str, Stored], settings: DecoderModelSettings, where) -> str:
    """What stands before the model's own names: ``transformer.``, ``model.decoder.``, or nothing."""
    anchor = ANCHOR[settings.family]
    fronts = [name[: -len(anchor)] for name in stored if name == anchor or name.endswith(f".{anchor}")]
    if len(fronts) != 1:
        raise ValueError(f"{where}: one {settings.family} model is expected; {len(fronts)} weights end in {anchor}")
    return fronts[0]


def _check_layers(stored: Mapping[str, Stored], settings: DecoderModelSettings, front: str, where) -> None:
    """Before names are made for as many layers as config.json says."""
    start = f"{front}{LAYERS[settings.family]}."
    there = {name[len(start) :].partition(".")[0] for name in stored if name.startswith(start)}
    if len(there) != settings.model["decoder_layers"]:
        raise ValueError(
            f"{where}: its weights are of {len(there)} layers, and config.json says {settings.model['decoder_layers']}"
        )


def _check(stored: Mapping[str, Stored], name: str, shape: Tuple[int, ...], where) -> None:
    if name not in stored:
        words = ""
        if name.endswith("decoder.final_layer_norm.weight"):
            words = "; config.json of a model without it, as transformers wrote before 4.20.1, says _remove_final_layer_norm true"
        raise ValueError(f"{where}: its weights have no {name}{words}")
    if stored[name].shape != shape:
        raise ValueError(f"{where}: {name} has shape {stored[name].shape}, and by config.json it should have {shape}")
    if stored[name].kind not in FLOATS:
        raise ValueError(f"{where}: {name} is {stored[name].kind}; plain floating-point weights are expected")


def _tables(
    stored: Mapping[str, Stored], settings: DecoderModelSettings, front: str, shape: Tuple[int, ...], where
) -> Tuple[str, str]:
    """The names of the table of words and of the output layer."""
    table = front + TABLE[settings.family]
    heads = [name for name in stored if name == HEAD or name.endswith(f".{HEAD}")]
    if len(heads) > 1:
        raise ValueError(f"{where}: one output layer is expected, and it has {' and '.join(heads)}")
    if settings.model["untied_output"]:
        head = heads[0] if heads else HEAD
        for name in (table, head):
            _check(stored, name, shape, where)
        return table, head
    if table not in stored and heads:  # written once, under the other name
        table = heads[0]
    for name in dict.fromkeys([table, *heads]):
        _check(stored, name, shape, where)
    if heads and heads[0] != table and not torch.equal(stored[heads[0]].read(), stored[table].read()):
        raise ValueError(
            f"{where}: {heads[0]} is another table than {table}, and by config.json they are one (tie_word_embeddings true)"
        )
    return table, heads[0] if heads else table


def _converted(tensor: Tensor, take: Callable[[Tensor], Tensor], dtype: torch.dtype, where: str) -> Tensor:
    taken = take(tensor)
    result = taken.to(dtype)
    if not is_finite(result):
        if is_finite(taken):
            raise ValueError(f"{where}: it has numbers that are too large for {NAMES[dtype]}; choose --dtype {LARGER[dtype]}")
        raise ValueError(f"{where}: it has numbers that are not finite (NaN or infinity), which no model can compute with")
    return result


def _reordered(table: Tensor, rows: Sequence[int]) -> Tensor:
    """The rows of a *table* in the order of *rows*, zeros for -1."""
    index = torch.tensor(rows)
    result = table.new_zeros(len(rows), table.size(1))
    for start in range(0, len(rows), ROWS):
        some = index[start : start + ROWS]
        result[start : start + ROWS] = table[some.clamp(min=0)] * (some >= 0)[:, None]
    return result
