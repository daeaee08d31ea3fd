"""Rounding fp32 values to half precision so that small steps survive on average.

A weight of 0.05 has fp16 neighbours 3e-5 away and bf16 neighbours 2.4e-4 away, while a SAM perturbation moves it by about
ρ/√n (1e-5 for 22 M weights at ρ = 0.05). Rounding to the nearest loses most such moves; stochastic rounding goes up with
the probability that makes the expectation exact, E[round(x)] = x.
"""

import torch
from torch import Tensor

# Bits of an fp32 mantissa that the narrower format does not have.
_DROPPED_BITS = {torch.float16: 13, torch.bfloat16: 16}
# fp16 is subnormal below 2^-14: its spacing there stays that of the binade above.
_FP16_SMALLEST_NORMAL = 2.0**-14


def round_stochastically_(x: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Round *x* in place to values of *dtype*, up or down at random so that the expectation is *x*.

    Args:
        x: fp32 tensor of any shape; overwritten. NaN and infinities stay what they are.
        dtype: ``torch.float16`` or ``torch.bfloat16``; another dtype leaves *x* as it is.
        generator: a generator on the device of *x*.

    Returns:
        *x*, still fp32, of which every finite entry is representable in *dtype* (a cast is then exact).
    """
    bits = _DROPPED_BITS.get(dtype)
    if bits is None:
        return x
    shift = None
    if dtype == torch.float16:
        # Lift subnormal values into the binade [2^-14, 2^-13), whose fp16 spacing is the subnormal one, and back.
        lift = torch.full_like(x, _FP16_SMALLEST_NORMAL).copysign_(x)
        shift = torch.where(x.abs() < _FP16_SMALLEST_NORMAL, lift, torch.zeros_like(x))
        x.add_(shift)
    finite = x.isfinite()
    pattern = x.view(torch.int32)
    random = torch.empty_like(pattern).random_(0, 2**bits, generator=generator)
    # Adding to the bit pattern carries into the kept bits with probability (dropped part) / 2^bits. Not for NaN and
    # infinity, whose patterns would turn into other values.
    pattern.add_(random.mul_(finite))
    pattern.bitwise_and_(-(2**bits))
    return x if shift is None else x.sub_(shift)
