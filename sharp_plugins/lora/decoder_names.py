"""Names of modules in transformers' GPT-2, OPT and Llama, and in the decoders that they are converted to.

    transformers                                            fairseq
    transformer.h.0.attn.c_attn (GPT-2)                     decoder.layers.0.self_attn.q_proj, k_proj and v_proj
    model.decoder.layers.0.fc1 (OPT)                        decoder.layers.0.fc1
    model.layers.0.mlp.gate_proj (Llama)                    decoder.layers.0.fc_gate, and so on

Tables of words are left out: their rows have another order in fairseq. So are OPT's positions, of which two rows are left out.
"""

import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

OURS = "decoder."
# The attention's parts of which GPT-2's c_attn has all.
PARTS = ("q_proj", "k_proj", "v_proj")


class Kind(NamedTuple):
    """How a published decoder names its parts."""

    front: str  # of the decoder's names in the model for language modelling
    fronts: Tuple[str, ...]  # all that the decoder's names may stand behind
    layers: str  # the list of layers
    inside: Dict[str, Tuple[str, ...]]  # a layer's modules -> ours; several where they are one
    outside: Dict[str, str]  # other modules -> ours


def _same(*names: str) -> Dict[str, Tuple[str, ...]]:
    return {name: (name,) for name in names}


QKV = tuple(f"self_attn.{part}" for part in PARTS)
NORMS = ("self_attn_layer_norm", "final_layer_norm")
KINDS = {
    "gpt2": Kind(
        "transformer.",
        ("transformer.", ""),
        "h",
        {
            "attn.c_attn": QKV,
            "attn.c_proj": ("self_attn.out_proj",),
            "mlp.c_fc": ("fc1",),
            "mlp.c_proj": ("fc2",),
            "ln_1": NORMS[:1],
            "ln_2": NORMS[1:],
        },
        {"ln_f": "layer_norm", "wpe": "embed_positions"},
    ),
    "opt": Kind(
        "model.decoder.",
        ("model.decoder.", "decoder."),
        "layers",
        _same(*QKV, "self_attn.out_proj", "fc1", "fc2", *NORMS),
        {"final_layer_norm": "layer_norm", "project_in": "project_in", "project_out": "project_out"},
    ),
    "llama": Kind(
        "model.",
        ("model.", ""),
        "layers",
        {
            **_same(*QKV),
            "self_attn.o_proj": ("self_attn.out_proj",),
            "mlp.up_proj": ("fc1",),
            "mlp.gate_proj": ("fc_gate",),
            "mlp.down_proj": ("fc2",),
            "input_layernorm": NORMS[:1],
            "post_attention_layernorm": NORMS[1:],
        },
        {"norm": "layer_norm"},
    ),
}


def kind_of(settings: Mapping[str, Any]) -> Optional[str]:
    """Which published decoder a model's settings are of (a key of `KINDS`); None if it is no decoder of this package."""
    if "decoder_positions" not in settings:
        return None
    if str(settings["decoder_positions"]) == "rotary":
        return "llama"
    return "opt" if str(settings.get("activation_fn")) == "relu" else "gpt2"


def fits(layers: Iterable[str]) -> List[str]:
    """The kinds of which *layers* may be some, by their names behind one of the kind's fronts."""
    return [kind for kind in KINDS if front_of(kind, layers) is not None]


def front_of(kind: str, layers: Iterable[str]) -> Optional[str]:
    """What stands before the names of *layers*, of which some are a decoder's; None where none is in one of this *kind*."""
    names = KINDS[kind]
    inside = "|".join(map(re.escape, names.inside))
    for front in names.fronts:
        expression = re.compile(rf"{re.escape(front)}{names.layers}\.\d+\.({inside})")
        if any(expression.fullmatch(layer) for layer in layers):
            return front
    return None


def modules(kind: str, layers: int, front: Optional[str] = None) -> Dict[str, Tuple[str, ...]]:
    """transformers' name of each module -> ours; several where they are one there.

    Args:
        layers: how many there are.
        front: what stands before the names (default: as in the model for language modelling).

    Example::

        >>> modules("gpt2", 1)["transformer.h.0.attn.c_attn"][0]
        'decoder.layers.0.self_attn.q_proj'
    """
    names = KINDS[kind]
    front = names.front if front is None else front
    result = {f"{front}{theirs}": (f"{OURS}{own}",) for theirs, own in names.outside.items()}
    for number in range(layers):
        for theirs, own in names.inside.items():
            result[f"{front}{names.layers}.{number}.{theirs}"] = tuple(f"{OURS}layers.{number}.{part}" for part in own)
    return result
