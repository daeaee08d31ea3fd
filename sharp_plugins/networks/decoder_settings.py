"""The choices in which GPT-2, OPT and Llama differ, as one set of settings (`DecoderSettings`)."""

from dataclasses import dataclass
from typing import Optional, Tuple

from sharp_plugins.core.setting_error import SettingError

POSITIONS = ("learned", "rotary")
NORMS = ("layer", "rms")
ACTIVATIONS = ("relu", "gelu", "gelu_accurate", "silu")


@dataclass(frozen=True)
class DecoderSettings:
    """What `sharp_plugins.networks.decoder.Decoder` is built from; the flags of `sharp_plugins.models.decoder` say more.

    The defaults are GPT-2's smallest model. Widths count numbers of a vector, positions count tokens.

    Raises:
        SettingError: by `check`, if a setting is out of range or two contradict each other.

    Example, a small Llama with three key-value heads for nine of queries::

        >>> settings = DecoderSettings(
        ...     vocabulary=100, layers=2, width=36, ffn_width=96, heads=9, kv_heads=3, positions="rotary", norm="rms",
        ...     activation="silu", gated=True, attention_bias=False, ffn_bias=False,
        ... )
        >>> settings.check()
        >>> settings.head_width
        4
    """

    vocabulary: int  # rows of the table of words, fairseq's special symbols among them
    layers: int = 12
    width: int = 768
    ffn_width: int = 3072
    heads: int = 12
    kv_heads: Optional[int] = None  # heads of keys and values (default: as many as of queries)
    head_size: Optional[int] = None  # numbers of a head (default: width / heads)
    max_positions: int = 1024
    positions: str = "learned"
    rope_theta: float = 10000.0
    norm: str = "layer"
    norm_eps: float = 1e-5
    pre_norm: bool = True  # normalise before attention and feed-forward, and once at the end; else after each (OPT-350m)
    final_norm: bool = True  # with pre_norm: the one at the end (the first OPT files have none)
    activation: str = "gelu_accurate"
    gated: bool = False  # down(activation(gate x) * up x), else down(activation(up x))
    attention_bias: bool = True
    ffn_bias: bool = True
    word_width: Optional[int] = None  # of the table of words, where projections lie around the layers (default: width)
    tied: bool = True  # the output layer is the table of words
    dropout: float = 0.1
    embedding_dropout: Optional[float] = None  # (default: dropout)
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    unused: Tuple[int, ...] = ()  # rows of symbols that the published model has not; they get no probability

    @property
    def kv(self) -> int:
        return self.kv_heads or self.heads

    @property
    def head_width(self) -> int:
        return self.head_size or self.width // self.heads

    def check(self) -> None:
        for name in ("vocabulary", "layers", "width", "ffn_width", "heads", "max_positions"):
            if getattr(self, name) < 1:
                raise SettingError(name, f"must be 1 or larger, and is {getattr(self, name)}")
        for name, known in (("positions", POSITIONS), ("norm", NORMS), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in known:
                raise SettingError(name, f"{getattr(self, name)}: choose one of {', '.join(known)}")
        if self.head_size is None and self.width % self.heads:
            raise SettingError("heads", f"{self.heads} do not divide the width {self.width}")
        if self.heads % self.kv:
            raise SettingError("kv_heads", f"{self.kv} do not divide the {self.heads} heads of queries")
        if self.positions == "rotary" and self.head_width % 2:
            raise SettingError("positions", f"rotary positions turn pairs of numbers, and a head has {self.head_width}")
