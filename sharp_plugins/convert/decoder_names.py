"""Published weights of GPT-2, OPT and Llama, and where they are in `sharp_plugins.networks.decoder.Decoder`.

A weight of ours is a published one, or a part of it. GPT-2's matrices are stored (in, out), and its queries, keys and values in
one; OPT's table of positions begins with two rows that no position uses.
"""

import re
from typing import Any, Callable, Dict, Iterator, Mapping, NamedTuple, Tuple

from torch import Tensor

from sharp_plugins.convert.decoder_config import OPT_OFFSET, DecoderModelSettings

# A weight of the first layer that every file of the family has, by which the model is found in it.
ANCHOR = {"gpt2": "h.0.ln_1.weight", "opt": "layers.0.fc1.weight", "llama": "layers.0.mlp.down_proj.weight"}
LAYERS = {"gpt2": "h", "opt": "layers", "llama": "layers"}
TABLE = {"gpt2": "wte.weight", "opt": "embed_tokens.weight", "llama": "embed_tokens.weight"}
HEAD = "lm_head.weight"
# Settings of a model that others stand for where they are not given.
DERIVED: Dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "decoder_kv_heads": lambda s: s["decoder_attention_heads"],
    "decoder_head_dim": lambda s: s["decoder_embed_dim"] // s["decoder_attention_heads"],
    "decoder_input_dim": lambda s: s["decoder_embed_dim"],
    "embedding_dropout": lambda s: s.get("dropout"),
}
# What old files hold beside the weights: masks, and the frequencies of rotary positions.
BUFFERS = re.compile(r"(^|\.)(attn\.bias|attn\.masked_bias|rotary_emb\.inv_freq)$")


class Part(NamedTuple):
    """A published weight that one of ours is made of.

    name: without what stands before the model's own names.
    take: makes ours of it.
    """

    name: str
    shape: Tuple[int, ...]
    take: Callable[[Tensor], Tensor]


def with_derived(settings: Mapping[str, Any]) -> Dict[str, Any]:
    """A model's settings with those that others stand for.

    >>> with_derived({"decoder_embed_dim": 12, "decoder_attention_heads": 3, "dropout": 0.1})["decoder_head_dim"]
    4
    """
    found = dict(settings)
    found.update({name: derive(found) for name, derive in DERIVED.items() if found.get(name) is None})
    return found


def parts_of(settings: DecoderModelSettings) -> Dict[str, Part]:
    """Our name of each weight -> what it is made of; but for the table of words and the output layer."""
    return dict(FAMILIES[settings.family](settings.model))


def _whole(tensor: Tensor) -> Tensor:
    return tensor


def _norm(own: str, theirs: str, width: int, has_bias: bool = True) -> Iterator[Tuple[str, Part]]:
    for end in ("weight", "bias") if has_bias else ("weight",):
        yield f"{own}.{end}", Part(f"{theirs}.{end}", (width,), _whole)


def _linear(own: str, theirs: str, out: int, into: int, has_bias: bool) -> Iterator[Tuple[str, Part]]:
    yield f"{own}.weight", Part(f"{theirs}.weight", (out, into), _whole)
    if has_bias:
        yield f"{own}.bias", Part(f"{theirs}.bias", (out,), _whole)


def _conv1d(own: str, theirs: str, out: int, into: int, part: int = 0, parts: int = 1) -> Iterator[Tuple[str, Part]]:
    """transformers' Conv1D: a matrix (in, out), of whose columns ours is one of several equal parts."""

    def weight(tensor: Tensor) -> Tensor:
        return tensor[:, part * out : (part + 1) * out].t()

    def bias(tensor: Tensor) -> Tensor:
        return tensor[part * out : (part + 1) * out]

    yield f"{own}.weight", Part(f"{theirs}.weight", (into, parts * out), weight)
    yield f"{own}.bias", Part(f"{theirs}.bias", (parts * out,), bias)


def _gpt2(model: Dict[str, Any]) -> Iterator[Tuple[str, Part]]:
    width, inner = model["decoder_embed_dim"], model["decoder_ffn_embed_dim"]
    yield "embed_positions.weight", Part("wpe.weight", (model["max_target_positions"], width), _whole)
    for n in range(model["decoder_layers"]):
        own, theirs = f"layers.{n}", f"h.{n}"
        yield from _norm(f"{own}.self_attn_layer_norm", f"{theirs}.ln_1", width)
        for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
            yield from _conv1d(f"{own}.self_attn.{name}", f"{theirs}.attn.c_attn", width, width, part, parts=3)
        yield from _conv1d(f"{own}.self_attn.out_proj", f"{theirs}.attn.c_proj", width, width)
        yield from _norm(f"{own}.final_layer_norm", f"{theirs}.ln_2", width)
        yield from _conv1d(f"{own}.fc1", f"{theirs}.mlp.c_fc", inner, width)
        yield from _conv1d(f"{own}.fc2", f"{theirs}.mlp.c_proj", width, inner)
    yield from _norm("layer_norm", "ln_f", width)


def _opt(model: Dict[str, Any]) -> Iterator[Tuple[str, Part]]:
    """The published names are fairseq's."""
    width, inner, words = model["decoder_embed_dim"], model["decoder_ffn_embed_dim"], model["decoder_input_dim"]
    has_bias, positions = not model["no_attention_bias"], model["max_target_positions"] + OPT_OFFSET
    yield "embed_positions.weight", Part("embed_positions.weight", (positions, width), lambda table: table[OPT_OFFSET:])
    if words != width:
        yield from _linear("project_in", "project_in", width, words, has_bias=False)
        yield from _linear("project_out", "project_out", words, width, has_bias=False)
    for n in range(model["decoder_layers"]):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            part = f"layers.{n}.self_attn.{name}"
            yield from _linear(part, part, width, width, has_bias)
        yield from _linear(f"layers.{n}.fc1", f"layers.{n}.fc1", inner, width, has_bias)
        yield from _linear(f"layers.{n}.fc2", f"layers.{n}.fc2", width, inner, has_bias)
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            yield from _norm(f"layers.{n}.{name}", f"layers.{n}.{name}", width)
    if not (model["decoder_post_norm"] or model["no_decoder_final_norm"]):
        yield from _norm("layer_norm", "final_layer_norm", width)


def _llama(model: Dict[str, Any]) -> Iterator[Tuple[str, Part]]:
    width, inner, head = model["decoder_embed_dim"], model["decoder_ffn_embed_dim"], model["decoder_head_dim"]
    heads = {"q_proj": model["decoder_attention_heads"], **dict.fromkeys(("k_proj", "v_proj"), model["decoder_kv_heads"])}
    attention_bias, ffn_bias = not model["no_attention_bias"], not model["no_ffn_bias"]
    for n in range(model["decoder_layers"]):
        own, theirs = f"layers.{n}.self_attn", f"layers.{n}.self_attn"
        for name, count in heads.items():
            yield from _linear(f"{own}.{name}", f"{theirs}.{name}", count * head, width, attention_bias)
        yield from _linear(f"{own}.out_proj", f"{theirs}.o_proj", width, heads["q_proj"] * head, attention_bias)
        for name, published, out, into in (
            ("fc1", "up_proj", inner, width),
            ("fc_gate", "gate_proj", inner, width),
            ("fc2", "down_proj", width, inner),
        ):
            yield from _linear(f"layers.{n}.{name}", f"layers.{n}.mlp.{published}", out, into, ffn_bias)
        yield from _norm(f"layers.{n}.self_attn_layer_norm", f"layers.{n}.input_layernorm", width, has_bias=False)
        yield from _norm(f"layers.{n}.final_layer_norm", f"layers.{n}.post_attention_layernorm", width, has_bias=False)
    yield from _norm("layer_norm", "norm", width, has_bias=False)


FAMILIES: Dict[str, Callable[[Dict[str, Any]], Iterator[Tuple[str, Part]]]] = {"gpt2": _gpt2, "opt": _opt, "llama": _llama}
