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

    Values that *dtype* has stay as they are. Finite values stay finite: those beyond its largest one (65504 in fp16) become
    that, where the expectation cannot be exact. Infinities stay infinite, and NaN stays NaN.

    Args:
        x: fp32 tensor of any shape; overwritten.
        dtype: ``torch.float16`` or ``torch.bfloat16``; another dtype leaves *x* as it is.
        generator: a generator on the device of *x*.

    Returns:
        *x*, still fp32, of which every finite entry is representable in *dtype* (a cast is then exact).
    """
    bits = _DROPPED_BITS.get(dtype)
    if bits is None:
        return x
    largest = torch.finfo(dtype).max
    # NaN and infinities, put back by addition at the end. Adding -0 changes nothing, while adding 0 would turn -0 into 0.
    special = torch.where(x.isfinite(), torch.full((), -0.0, device=x.device), x)
    x.clamp_(-largest, largest)
    shift = None
    if dtype == torch.float16:
        # Lift subnormal values into the binade [2^-14, 2^-13), whose fp16 spacing is the subnormal one, and back.
        shift = torch.full_like(x, _FP16_SMALLEST_NORMAL).copysign_(x).mul_(x.abs() < _FP16_SMALLEST_NORMAL)
        x.add_(shift)
    pattern = x.view(torch.int32)
    random = torch.empty_like(pattern).random_(0, 2**bits, generator=generator)
    # Adding to the bit pattern carries into the kept bits with probability (dropped part) / 2^bits.
    pattern.add_(random)
    pattern.bitwise_and_(-(2**bits))
    if shift is not None:
        x.sub_(shift).copysign_(shift)  # 0 keeps its sign
    return x.add_(special)
