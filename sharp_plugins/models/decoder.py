"""``--arch sharp_gpt2``, ``sharp_opt_1_3b``, ``sharp_smollm2_135m``, ...: published decoders as fairseq language models.

The network is `sharp_plugins.networks.decoder.Decoder`. ``python -m sharp_plugins.convert`` makes checkpoints of it.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Dict, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import FairseqIncrementalDecoder, FairseqLanguageModel, register_model, register_model_architecture
from fairseq.utils import safe_getattr
from omegaconf import II, OmegaConf, open_dict
from torch import Tensor

from sharp_plugins.networks.decoder import Decoder
from sharp_plugins.networks.decoder_settings import ACTIVATIONS, NORMS, POSITIONS, DecoderSettings


@dataclass
class DecoderConfig(FairseqDataclass):
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
    tokens_per_sample: int = II("task.tokens_per_sample")


def settings_of(args, dictionary) -> DecoderSettings:
    """The `DecoderSettings` of a model's config (a Namespace or a DictConfig)."""
    return DecoderSettings(
        vocabulary=len(dictionary),
        layers=args.decoder_layers,
        width=args.decoder_embed_dim,
        ffn_width=args.decoder_ffn_embed_dim,
        heads=args.decoder_attention_heads,
        kv_heads=args.decoder_kv_heads,
        head_size=args.decoder_head_dim,
        max_positions=args.max_target_positions,
        positions=str(args.decoder_positions),
        rope_theta=args.rope_theta,
        norm=str(args.decoder_norm),
        norm_eps=args.decoder_norm_eps,
        pre_norm=not args.decoder_post_norm,
        final_norm=not args.no_decoder_final_norm,
        activation=str(args.activation_fn),
        gated=args.decoder_gated_ffn,
        attention_bias=not args.no_attention_bias,
        ffn_bias=not args.no_ffn_bias,
        word_width=args.decoder_input_dim,
        tied=not args.untied_output,
        dropout=args.dropout,
        embedding_dropout=args.embedding_dropout,
        attention_dropout=args.attention_dropout,
        activation_dropout=args.activation_dropout,
        unused=tuple(dictionary.index(symbol) for symbol in args.unused_symbols.split()),
    )


class TextDecoder(Decoder, FairseqIncrementalDecoder):
    """`Decoder` as fairseq calls its decoders."""

    def __init__(self, args, dictionary):
        super().__init__(settings_of(args, dictionary), dictionary)

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out=None,
        incremental_state: Optional[Dict] = None,
        features_only: bool = False,
        src_lengths: Optional[Tensor] = None,
        cache=None,
        **unused,
    ):
        """Scores (B, T, symbols), or features (B, T, width) for *features_only*, and a dict.

        Args:
            cache: what stands before these tokens (`sharp_plugins.networks.decoder.Attends`).
        """
        x = self.features(prev_output_tokens, cache)
        return (x if features_only else self.output_layer(x)), {}

    def max_positions(self) -> int:
        return self.settings.max_positions - (0 if self.prefix is None else self.prefix.length)


@register_model("sharp_decoder", dataclass=DecoderConfig)
class DecoderModel(FairseqLanguageModel):
    """A published decoder for fairseq's language-model tasks."""

    @classmethod
    def hub_models(cls):
        return {}

    @classmethod
    def build_model(cls, args, task):
        with open_dict(args) if OmegaConf.is_config(args) else nullcontext():
            if safe_getattr(args, "max_target_positions") is None:
                args.max_target_positions = safe_getattr(args, "tokens_per_sample") or task.max_positions()
        return cls(TextDecoder(args, task.target_dictionary))


def _architecture(name: str, **settings):
    """Register ``--arch NAME`` with *settings* where no flag says otherwise."""

    def apply(args):
        for key, declared in DecoderConfig.__dataclass_fields__.items():
            if key != "tokens_per_sample" and not key.startswith("_"):
                setattr(args, key, safe_getattr(args, key, settings.get(key, declared.default)))

    register_model_architecture("sharp_decoder", name)(apply)


def _gpt2(layers: int, width: int, heads: int) -> dict:
    """Radford et al. 2019, table 2."""
    return {
        "decoder_layers": layers,
        "decoder_embed_dim": width,
        "decoder_ffn_embed_dim": 4 * width,
        "decoder_attention_heads": heads,
        "max_target_positions": 1024,
    }


_architecture("sharp_gpt2", **_gpt2(12, 768, 12))
_architecture("sharp_gpt2_medium", **_gpt2(24, 1024, 16))
_architecture("sharp_gpt2_large", **_gpt2(36, 1280, 20))
_architecture("sharp_gpt2_xl", **_gpt2(48, 1600, 25))
_architecture(
    "sharp_smollm2_135m",
    decoder_layers=30,
    decoder_embed_dim=576,
    decoder_ffn_embed_dim=1536,
    decoder_attention_heads=9,
    decoder_kv_heads=3,
    max_target_positions=8192,
    decoder_positions="rotary",
    rope_theta=100000.0,
    decoder_norm="rms",
    activation_fn="silu",
    decoder_gated_ffn=True,
    no_attention_bias=True,
    no_ffn_bias=True,
    dropout=0.0,
    attention_dropout=0.0,
)
