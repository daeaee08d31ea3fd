"""The flags of ``--arch sharp_decoder``, and the `DecoderSettings` that they stand for."""

from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II

from sharp_plugins.core.setting_error import as_flags
from sharp_plugins.networks.decoder_settings import ACTIVATIONS, NORMS, POSITIONS, ROPE_SCALINGS, DecoderSettings


@dataclass
class DecoderConfig(FairseqDataclass):
    """The flags; their defaults are the smallest GPT-2.

    Example::

        >>> from fairseq.data import Dictionary
        >>> settings = settings_of(DecoderConfig(decoder_layers=2, max_target_positions=64), Dictionary())
        >>> settings.layers, settings.width
        (2, 768)
    """

    decoder_layers: int = field(default=12, metadata={"help": "number of layers (default: the smallest GPT-2's)"})
    decoder_embed_dim: int = field(default=768, metadata={"help": "width of the layers"})
    decoder_ffn_embed_dim: int = field(default=3072, metadata={"help": "width inside the feed-forward parts"})
    decoder_attention_heads: int = field(default=12, metadata={"help": "number of heads of queries"})
    decoder_kv_heads: Optional[int] = field(
        default=None, metadata={"help": "number of heads of keys and values (default: as many as of queries)"}
    )
    decoder_head_dim: Optional[int] = field(
        default=None, metadata={"help": "width of a head (default: width of the layers / number of heads)"}
    )
    decoder_input_dim: Optional[int] = field(
        default=None, metadata={"help": "width of the table of words, where it is another than the layers' (OPT-350m)"}
    )
    max_target_positions: Optional[int] = field(
        default=None, metadata={"help": "longest sequence in tokens (default: --tokens-per-sample)"}
    )
    activation_fn: ChoiceEnum(list(ACTIVATIONS)) = field(
        default="gelu_accurate", metadata={"help": "activation of the feed-forward parts (gelu_accurate: GPT-2's)"}
    )
    decoder_gated_ffn: bool = field(default=False, metadata={"help": "gate the feed-forward parts (SwiGLU with silu; Llama)"})
    decoder_norm: ChoiceEnum(list(NORMS)) = field(default="layer", metadata={"help": "normalisation: LayerNorm or RMSNorm"})
    decoder_norm_eps: float = field(default=1e-5, metadata={"help": "epsilon of the normalisations"})
    decoder_post_norm: bool = field(default=False, metadata={"help": "normalise after attention and feed-forward (OPT-350m)"})
    no_decoder_final_norm: bool = field(default=False, metadata={"help": "no normalisation after the last layer"})
    decoder_positions: ChoiceEnum(list(POSITIONS)) = field(default="learned", metadata={"help": "positions: a table or rotary"})
    rope_theta: float = field(default=10000.0, metadata={"help": "base of the rotary positions"})
    rope_scaling: ChoiceEnum(list(ROPE_SCALINGS)) = field(
        default="none", metadata={"help": "how rotary positions were stretched for longer texts: linear or llama3 (Llama 3.1)"}
    )
    rope_factor: float = field(default=1.0, metadata={"help": "with --rope-scaling: by how much"})
    rope_low_freq_factor: float = field(
        default=1.0, metadata={"help": "with llama3: waves longer than the original positions over this are stretched"}
    )
    rope_high_freq_factor: float = field(
        default=4.0, metadata={"help": "with llama3: waves shorter than the original positions over this are not stretched"}
    )
    rope_original_positions: int = field(default=8192, metadata={"help": "with llama3: longest sequence before the stretching"})
    no_attention_bias: bool = field(default=False, metadata={"help": "no biases in the attention's projections"})
    no_ffn_bias: bool = field(default=False, metadata={"help": "no biases in the feed-forward parts"})
    untied_output: bool = field(default=False, metadata={"help": "the output layer is a table of its own"})
    dropout: float = field(default=0.1, metadata={"help": "dropout probability (default: GPT-2's)"})
    embedding_dropout: Optional[float] = field(
        default=None, metadata={"help": "dropout probability of the embeddings (default: --dropout)"}
    )
    attention_dropout: float = field(default=0.1, metadata={"help": "dropout probability of attention weights"})
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout probability after the activation"})
    unused_symbols: str = field(
        default="",
        metadata={
            "help": "symbols of the dictionary that the published model has not, with blanks between them: they get no probability"
        },
    )
    checkpoint_activations: bool = field(
        default=False, metadata={"help": "keep a layer's input alone, and compute the layer again in the backward pass"}
    )
    offload_activations: bool = field(default=False, metadata={"help": "checkpoint activations, and keep them in the CPU's memory"})
    tokens_per_sample: int = II("task.tokens_per_sample")


# What a flag that is not given stands for.
DEFAULTS: Dict[str, Any] = {
    name: declared.default
    for name, declared in DecoderConfig.__dataclass_fields__.items()
    if name != "tokens_per_sample" and not name.startswith("_")
}
# The fields of `DecoderSettings` by the flags that set them, and by those that set their opposites.
FLAGS = {
    "layers": "decoder_layers",
    "width": "decoder_embed_dim",
    "ffn_width": "decoder_ffn_embed_dim",
    "heads": "decoder_attention_heads",
    "kv_heads": "decoder_kv_heads",
    "head_size": "decoder_head_dim",
    "word_width": "decoder_input_dim",
    "max_positions": "max_target_positions",
    "activation": "activation_fn",
    "gated": "decoder_gated_ffn",
    "norm": "decoder_norm",
    "norm_eps": "decoder_norm_eps",
    "positions": "decoder_positions",
    "rope_theta": "rope_theta",
    "rope_scaling": "rope_scaling",
    "rope_factor": "rope_factor",
    "rope_low_freq_factor": "rope_low_freq_factor",
    "rope_high_freq_factor": "rope_high_freq_factor",
    "rope_original_positions": "rope_original_positions",
    "dropout": "dropout",
    "embedding_dropout": "embedding_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
}
OPPOSITES = {
    "pre_norm": "decoder_post_norm",
    "final_norm": "no_decoder_final_norm",
    "attention_bias": "no_attention_bias",
    "ffn_bias": "no_ffn_bias",
    "tied": "untied_output",
}


def settings_of(args, dictionary) -> DecoderSettings:
    """The `DecoderSettings` of a model's config (a Namespace or a DictConfig).

    Raises:
        ValueError: a flag is out of range, two contradict each other, or ``--unused-symbols`` names what *dictionary* has not.
    """
    strange = [symbol for symbol in args.unused_symbols.split() if symbol not in dictionary]
    if strange:
        raise ValueError(f"--unused-symbols {args.unused_symbols}: {strange[0]} is no symbol of the dictionary")
    flags = {flag: getattr(args, flag) for flag in (*FLAGS.values(), *OPPOSITES.values())}
    with as_flags(names={**FLAGS, **OPPOSITES, "unused": "unused_symbols"}):
        settings = DecoderSettings(
            vocabulary=len(dictionary),
            unused=tuple(dictionary.index(symbol) for symbol in args.unused_symbols.split()),
            **fields_of(flags),
        )
        settings.check()
    return settings


def fields_of(flags: Mapping[str, Any]) -> Dict[str, Any]:
    """The fields of `DecoderSettings` that *flags* set; *flags* may be some of them alone.

    >>> fields_of({"decoder_layers": 2, "untied_output": True})
    {'layers': 2, 'tied': False}
    """
    plain = {setting: flags[flag] for setting, flag in FLAGS.items() if flag in flags}
    plain = {setting: value if isinstance(value, (int, float, type(None))) else str(value) for setting, value in plain.items()}
    return {**plain, **{setting: not flags[flag] for setting, flag in OPPOSITES.items() if flag in flags}}
