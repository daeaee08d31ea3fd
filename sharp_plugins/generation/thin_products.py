"""Linear layers on a processor, for few rows: x Wᵀ by other products than torch's own.

In a step of a generation a linear layer multiplies one row for each output: 4 to 48 rows, say. torch gives MKL the product x Wᵀ,
and MKL seems to copy W into an order of its own first, which takes longer than the product.

* For up to 12 rows W is cut into blocks of 32 outputs, and one batched product multiplies all of them. It takes 0.4 to 0.7
  times as long as x Wᵀ.
* For more rows, W xᵀ takes 0.5 to 0.8 times as long. The result is a transposed view.

(fp32, one and two cores of a Xeon with AVX-512, widths 576 to 4096. For 1 to 3 rows and for many it does not matter.)

In bf16, where the processor has it, torch gives oneDNN the product. There a product of the matrix with one vector takes 0.6 to 0.9
times as long, and for 2 to 64 rows W xᵀ takes 0.4 to 0.9 times as long. A matrix as large as an output layer's is faster with
eight equal rows than with one: 2.2 ms in place of 3.6 for 49152 x 576 (two cores of a Xeon with AMX).

In all forms a number is the same sum, added up in another order.
"""

import functools
from contextlib import contextmanager
from typing import Callable, Iterator, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharp_plugins.networks.low_rank import LoRALinear, is_plain

BY_BLOCKS = range(4, 13)  # rows for which it is the fastest
BY_COLUMNS = {torch.float32: range(13, 49), torch.bfloat16: range(2, 65)}
BLOCK = 32  # outputs
LARGE, AS_ROWS = 1 << 23, 8  # numbers of a weight that multiplies one vector in bf16 as so many equal rows
SMALL = 1 << 19  # numbers of a weight for which blocks are not worth the calls


def thin_product(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """`torch.nn.functional.linear`, (..., in) to (..., out); the memory of the result may be (out, ...)."""
    rows = x.numel() // x.size(-1)
    if x.device.type == "cpu":
        if rows in BY_COLUMNS.get(x.dtype, ()):
            columns = x.reshape(rows, -1).t()
            out = torch.mm(weight, columns) if bias is None else torch.addmm(bias[:, None], weight, columns)
            return out.t().view(*x.shape[:-1], -1)
        if x.dtype == torch.bfloat16 and rows == 1 and weight.numel() >= LARGE:
            return thin_product(x.reshape(1, -1).expand(AS_ROWS, -1), weight, bias)[:1].view(*x.shape[:-1], -1)
        if x.dtype == torch.bfloat16 and rows == 1:
            out = torch.mv(weight, x.flatten()) if bias is None else torch.addmv(bias, weight, x.flatten())
            return out.view(*x.shape[:-1], -1)
        if x.dtype == torch.float32 and rows in BY_BLOCKS and weight.numel() >= SMALL:
            return by_blocks(x.reshape(rows, -1), weight, bias).view(*x.shape[:-1], -1)
    return F.linear(x, weight, bias)


def by_blocks(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """(rows, in) to (rows, out).

    Example::

        >>> x, weight = torch.randn(4, 3), torch.randn(70, 3)
        >>> torch.allclose(by_blocks(x, weight), x @ weight.t(), atol=1e-6)
        True
    """
    blocks = weight.size(0) // BLOCK
    whole = blocks * BLOCK
    each = weight[:whole].view(blocks, BLOCK, weight.size(1)).transpose(1, 2)
    out = x.new_empty(x.size(0), weight.size(0))
    out[:, :whole].view(x.size(0), blocks, BLOCK).copy_(torch.bmm(x.expand(blocks, -1, -1), each).transpose(0, 1))
    if whole < weight.size(0):
        out[:, whole:] = F.linear(x, weight[whole:])
    return out if bias is None else out.add_(bias)


@contextmanager
def thin_products(module: nn.Module) -> Iterator[None]:
    """Let the linear layers in *module*, LoRA's too, multiply so where their weights are on a processor, in fp32 or in bf16 that it
    has. Without gradients, and without dropout.

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
    if weight is None or weight.device.type != "cpu":
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and has_bf16())


@functools.cache
def has_bf16() -> bool:
    """Whether oneDNN multiplies in bf16 here. Elsewhere torch's own products do, which were not measured."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


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
