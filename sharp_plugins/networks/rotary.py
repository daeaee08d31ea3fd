"""Rotary positions (Su et al. 2021, arXiv 2104.09864, section 3.2.2): a query or key turns by an angle that grows with its
position.

    (x_i, x_{i+h}) -> (x_i cos a - x_{i+h} sin a,  x_{i+h} cos a + x_i sin a)        a = position · f_i,  i = 0 … h-1

h is half the head's width, and f_i = θ^(-i/h). Pairs lie half a head apart, as in the published Llama files.

Models for longer texts than they began with have other f_i:

* ``linear``: f_i / factor;
* ``llama3``: of the wave length λ = 2π / f_i and the original length n, waves with λ > n / low have f_i / factor, those with
  λ < n / high have f_i, and those between a mixture of the two. (The code of Llama 3.1; transformers' ``rope_type: llama3``.)
"""

import functools
import math
from typing import Any, Optional, Tuple

import torch
from torch import Tensor

from sharp_plugins.networks.decoder_settings import DecoderSettings


def frequencies(settings: DecoderSettings) -> Tensor:
    """f (head_width / 2,), fp32, in radians per position."""
    f = 1.0 / settings.rope_theta ** (torch.arange(0, settings.head_width, 2, dtype=torch.float32) / settings.head_width)
    if settings.rope_scaling == "linear":
        return f / settings.rope_factor
    if settings.rope_scaling == "llama3":
        low, high = settings.rope_low_freq_factor, settings.rope_high_freq_factor
        waves = settings.rope_original_positions * f / (2 * math.pi)  # how many fit into the original length: n / λ
        kept = ((waves - low) / (high - low)).clamp(0, 1)
        return (1 - kept) * f / settings.rope_factor + kept * f
    return f


@functools.lru_cache(maxsize=16)
def table(settings: DecoderSettings, device: torch.device, dtype: torch.dtype) -> Tuple[Tensor, Tensor]:
    """Cosines and sines, each (max_positions, head_width / 2): computed once, with the angles in fp32, then rounded to *dtype*."""
    with torch.inference_mode(False), torch.no_grad():  # for trainings too, whoever asks first
        positions = torch.arange(settings.max_positions, dtype=torch.float32)
        angles = (positions[:, None] * frequencies(settings)).to(device)
        return angles.cos().to(dtype), angles.sin().to(dtype)


class Rotation:
    """Turns queries and keys by given positions.

    Args:
        positions: (T,) or (B, T), int64; None stands for 0, 1, …, *length* - 1.

    Example::

        >>> settings = DecoderSettings(vocabulary=9, width=2, heads=1, positions="rotary", max_positions=4)
        >>> turn = Rotation(settings, torch.tensor([0, 1]))
        >>> turn(torch.tensor([[1.0, 0.0], [1.0, 0.0]])[None, None])  # one radian at position 1
        tensor([[[[1.0000, 0.0000],
                  [0.5403, 0.8415]]]])
    """

    def __init__(self, settings: DecoderSettings, positions: Optional[Tensor], length: int = 0):
        self.settings, self.positions, self.length = settings, positions, length
        self._found: Optional[Tuple[Tensor, Tensor]] = None
        self._doubled: Optional[Tuple[Tensor, Tensor]] = None  # of both halves

    def _of(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        """Cosines and sines for *x*: looked up once for all layers."""
        if self._found is None or self._found[0].dtype != x.dtype:
            cos, sin = table(self.settings, x.device, x.dtype)
            if self.positions is None:
                cos, sin = cos[: self.length], sin[: self.length]
            else:
                cos, sin = cos[self.positions], sin[self.positions]
                if self.positions.dim() == 2:  # the same for all heads
                    cos, sin = cos[:, None], sin[:, None]
            self._found = cos, sin
        return self._found

    def __call__(self, x: Tensor) -> Tensor:
        """(B, heads, T, head_width) to the same."""
        if torch.is_grad_enabled():
            return _Turn.apply(x, *self._of(x))
        # For few tokens, as in a generation, the number of calls counts.
        if self._doubled is None or self._doubled[0].dtype != x.dtype:
            cos, sin = self._of(x)
            self._doubled = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)
        cos, sin = self._doubled
        return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, -1), sin)


class _Turn(torch.autograd.Function):
    """The rotation in three passes over the memory instead of five. Its gradient is turned back by the same angles."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        cos, sin = ctx.saved_tensors
        return _turn(gradients[0], cos, sin, -1), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    turned = torch.empty_like(x)
    to_first, to_second = turned.chunk(2, dim=-1)
    torch.mul(first, cos, out=to_first).addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=to_second).addcmul_(first, sin, value=sign)
    return turned
