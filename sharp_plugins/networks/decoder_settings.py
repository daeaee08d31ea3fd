"""The choices in which GPT-2, OPT and Llama differ, as one set of settings (`DecoderSettings`)."""

import math
from dataclasses import dataclass
from typing import Dict, Optional, Tuple

from sharp_plugins.core.setting_error import SettingError

POSITIONS = ("learned", "rotary")
ROPE_SCALINGS = ("none", "linear", "llama3")
# Settings that some scalings alone read.
SCALED_BY: Dict[str, Tuple[str, ...]] = {
    "rope_factor": ("linear", "llama3"),
    **dict.fromkeys(("rope_low_freq_factor", "rope_high_freq_factor", "rope_original_positions"), ("llama3",)),
}
NORMS = ("layer", "rms")
ACTIVATIONS = ("relu", "gelu", "gelu_accurate", "silu")
DROPOUTS = ("dropout", "embedding_dropout", "attention_dropout", "activation_dropout")


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
    rope_scaling: str = "none"  # how rotary positions were stretched for longer texts: see networks/rotary.py
    rope_factor: float = 1.0  # by how much
    rope_low_freq_factor: float = 1.0  # llama3: waves longer than rope_original_positions / this are stretched
    rope_high_freq_factor: float = 4.0  # llama3: waves shorter than rope_original_positions / this are not
    rope_original_positions: int = 8192  # llama3: longest sequence before the stretching
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
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_width(self) -> int:
        return self.width // self.heads if self.head_size is None else self.head_size

    @property
    def words(self) -> int:
        """The width of the table of words."""
        return self.width if self.word_width is None else self.word_width

    def check(self) -> None:
        self._check_sizes()
        self._check_choices()
        self._check_rope()

    def _check_sizes(self) -> None:
        for name in ("vocabulary", "layers", "width", "ffn_width", "heads", "kv_heads", "head_size", "word_width", "max_positions"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise SettingError(name, f"must be 1 or larger, and is {size}")
        if self.head_size is None and self.width % self.heads:
            raise SettingError("heads", f"{self.heads} do not divide the width {self.width}")
        if self.heads % self.kv:
            raise SettingError("kv_heads", f"{self.kv} do not divide the {self.heads} heads of queries")
        for name in DROPOUTS:
            p = getattr(self, name)
            if p is not None and not 0 <= p < 1:
                raise SettingError(name, f"must be from 0 to below 1, and is {p}")

    def _check_choices(self) -> None:
        choices = (("positions", POSITIONS), ("rope_scaling", ROPE_SCALINGS), ("norm", NORMS), ("activation", ACTIVATIONS))
        for name, known in choices:
            if getattr(self, name) not in known:
                raise SettingError(name, f"{getattr(self, name)}: choose one of {', '.join(known)}")
        if not 0 < self.norm_eps < math.inf:
            raise SettingError("norm_eps", f"must be a number larger than 0, and is {self.norm_eps}")
        outside = [row for row in self.unused if not 0 <= row < self.vocabulary]
        if outside or len(set(self.unused)) >= self.vocabulary:
            problem = f"has row {outside[0]}" if outside else "leaves no symbol that could be predicted"
            raise SettingError("unused", f"{problem}, and there are {self.vocabulary} rows")

    def _check_rope(self) -> None:
        if self.positions != "rotary" and self.rope_scaling != "none":
            raise SettingError("rope_scaling", f"{self.rope_scaling} is for rotary positions, and these are {self.positions}")
        for name, scalings in SCALED_BY.items():
            value, usual = getattr(self, name), getattr(type(self), name)
            if value != usual and self.rope_scaling not in scalings:
                raise SettingError(name, f"{value} is for rope_scaling {' or '.join(scalings)}, and it is {self.rope_scaling}")
        if self.positions != "rotary":
            return
        if self.head_width % 2:
            raise SettingError("positions", f"rotary turn pairs of numbers, and a head has {self.head_width}")
        if not 0 < self.rope_theta < math.inf:
            raise SettingError("rope_theta", f"must be a number larger than 0, and is {self.rope_theta}")
        if self.rope_scaling == "none":
            return
        if not 1 <= self.rope_factor < math.inf:
            raise SettingError("rope_factor", f"must be a number of 1 or more, and is {self.rope_factor}")
        if self.rope_scaling == "llama3" and not 0 < self.rope_low_freq_factor < self.rope_high_freq_factor:
            raise SettingError(
                "rope_low_freq_factor",
                f"must be between 0 and rope_high_freq_factor, and they are {self.rope_low_freq_factor} and "
                f"{self.rope_high_freq_factor}",
            )
        if self.rope_original_positions < 1:
            raise SettingError("rope_original_positions", f"must be 1 or larger, and is {self.rope_original_positions}")
