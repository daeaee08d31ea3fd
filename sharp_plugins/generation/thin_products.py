"""Linear layers on a processor, for few rows: W xᵀ in the place of x Wᵀ.

In a step of a generation a linear layer multiplies one row for each output: 8 to 48 rows, say, for a batch. MKL then takes 1.3 to 2
times as long for x Wᵀ as for W xᵀ (fp32, two cores of a Xeon with AVX-512, widths 576 to 4096). For fewer rows and for many more it
does not matter. The result is a transposed view. In both forms a number is the same sum, added up in another order.
"""

from contextlib import contextmanager
from typing import Callable, Iterator, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharp_plugins.networks.low_rank import LoRALinear, is_plain

FEWEST, MOST = 8, 48  # rows for which it is faster


def thin_product(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """`torch.nn.functional.linear`, (..., in) to (..., out); the memory of the result is (out, ...)."""
    rows = x.numel() // x.size(-1)
    if not (FEWEST <= rows <= MOST and x.dtype == torch.float32 and x.device.type == "cpu"):
        return F.linear(x, weight, bias)
    columns = x.reshape(rows, -1).t()
    out = torch.mm(weight, columns) if bias is None else torch.addmm(bias[:, None], weight, columns)
    return out.t().view(*x.shape[:-1], -1)


@contextmanager
def thin_products(module: nn.Module) -> Iterator[None]:
    """Let the linear layers in *module*, LoRA's too, multiply so where their weights are fp32 on a processor. Without gradients,
    and without dropout.

    Example::

        >>> layer, x = nn.Linear(4, 3), torch.ones(9, 4)
        >>> y = layer(x)
        >>> with thin_products(layer):
        ...     torch.allclose(layer(x), y)
        True
    """
    layers = [each for each in module.modules() if (is_plain(each) or type(each) is LoRALinear) and _is_served(each)]
    for layer in layers:
        layer.__dict__["forward"] = _forward(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]


def _is_served(layer: nn.Linear) -> bool:
    weight = layer._parameters["weight"]
    return weight is not None and weight.dtype == torch.float32 and weight.device.type == "cpu"


def _forward(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    bias = layer.bias
    if not isinstance(layer, LoRALinear):
        weight = layer.weight
        return lambda x: thin_product(x, weight, bias)
    base, a, b, scale = layer.base_weight, layer.lora_A.t(), layer.lora_B.t(), layer.lora_scale

    def with_update(x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.size(-1))
        return thin_product(rows, base, bias).addmm_(rows.mm(a), b, alpha=scale).view(*x.shape[:-1], -1)

    return with_update
