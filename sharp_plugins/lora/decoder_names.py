"""Names of modules in transformers' GPT-2, OPT and Llama, and in the decoders that they are converted to.

    transformers                                            fairseq
    transformer.h.0.attn.c_attn (GPT-2)                     decoder.layers.0.self_attn.q_proj, k_proj and v_proj
    model.decoder.layers.0.fc1 (OPT)                        decoder.layers.0.fc1
    model.layers.0.mlp.gate_proj (Llama)                    decoder.layers.0.fc_gate, and so on

The table is conversion's (`sharp_plugins.convert.decoder_names`). It has no tables of words: their rows have another order here.
"""

import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from sharp_plugins.convert.decoder_names import FAMILIES, Part, with_derived

OURS = "decoder."
# What models of OPT's kind may have and GPT-2 has not.
OPT_HAS = ("no_attention_bias", "no_ffn_bias", "decoder_post_norm", "no_decoder_final_norm")
# What stands before the decoder's names: in the model for language modelling, and in the decoder alone.
FRONTS = {"gpt2": ("transformer.", ""), "opt": ("model.decoder.", "decoder."), "llama": ("model.", "")}
# Linear modules of layers.
LINEAR = {
    "gpt2": r"h\.\d+\.(attn|mlp)\.c_\w+",
    "opt": r"layers\.\d+\.(self_attn\.\w+_proj|fc[12])",
    "llama": r"layers\.\d+\.(self_attn|mlp)\.\w+_proj",
}


class Published(NamedTuple):
    """Which published decoder a model is, and its names.

    family: "gpt2", "opt" or "llama".
    parts: our name of each weight and bias -> the published one that it is, or is a part of, by its name in the decoder alone.
    how: why it is taken for one of this family, for a message.
    """

    family: str
    parts: Dict[str, Part]
    how: str

    def modules(self, front: Optional[str] = None) -> Dict[str, Tuple[str, ...]]:
        """transformers' name of each module -> ours; several where they are one there.

        Args:
            front: what stands before transformers' names (default: as in the model for language modelling).
        """
        front = FRONTS[self.family][0] if front is None else front
        found: Dict[str, List[str]] = {}
        for own, part in self.parts.items():
            if own.endswith(".weight"):
                found.setdefault(front + part.name.removesuffix(".weight"), []).append(own.removesuffix(".weight"))
        return {theirs: tuple(names) for theirs, names in found.items()}


def published(settings: Mapping[str, Any]) -> Optional[Published]:
    """Which published decoder a model's settings are of; None if of none.

    Example::

        >>> sizes = dict(decoder_layers=1, decoder_embed_dim=8, decoder_ffn_embed_dim=32, decoder_attention_heads=2)
        >>> model = published(dict(sizes, max_target_positions=16, decoder_positions="learned", activation_fn="gelu_accurate"))
        >>> model.modules()["transformer.h.0.attn.c_attn"][0]
        'decoder.layers.0.self_attn.q_proj'
    """
    if "decoder_positions" not in settings:
        return None
    model = with_derived({**dict.fromkeys(("decoder_gated_ffn", *OPT_HAS), False), **settings})
    if bool(model["decoder_gated_ffn"]) != (str(model["decoder_positions"]) == "rotary"):
        return None
    family, how = _family(model)
    return Published(family, {OURS + own: part for own, part in FAMILIES[family](model)}, how)


def _family(model: Mapping[str, Any]) -> Tuple[str, str]:
    """A model's family, and how it is known."""
    if model["decoder_gated_ffn"]:
        return "llama", "its feed-forward parts are gated"
    if model["decoder_input_dim"] != model["decoder_embed_dim"]:
        return "opt", "its table of words has a width of its own"
    for setting in OPT_HAS:
        if model[setting]:
            return "opt", f"--{setting.replace('_', '-')}"
    # Both may be the same network. Conversion writes an architecture of the model's own family.
    arch = str(model.get("base_arch") or model.get("_name"))
    for family in ("gpt2", "opt"):
        if arch.startswith(f"sharp_{family}"):
            return family, f"--arch {arch}"
    activation = str(model["activation_fn"])
    return "opt" if activation == "relu" else "gpt2", f"a guess by --activation-fn {activation}: --arch {arch} does not tell"


def families(layers: Iterable[str]) -> List[str]:
    """The families of which *layers* may be some, by transformers' names."""
    return [family for family in FRONTS if front_of(family, layers) is not None]


def front_of(family: str, layers: Iterable[str]) -> Optional[str]:
    """What stands before the names of *layers*, of which some are a decoder's; None where none is in one of this *family*."""
    for front in FRONTS[family]:
        expression = re.compile(re.escape(front) + LINEAR[family])
        if any(expression.fullmatch(layer) for layer in layers):
            return front
    return None
