"""Balancedness of scale-invariant pairs: the measure, as pure functions on tensors. `sharp_plugins.core.balancing` restores it.

A pair (X, Y) is scale-invariant where the loss depends on a product of the two, as f(X Yᵀ) (NOP) or f(Xᵀ Y) (OP): LoRA's
B and A, the query and key projections of an attention, two linear layers in a row. Its balancedness

    B = ½ (‖X‖² − ‖Y‖²)

is constant under gradient descent with small steps; SAM drives it to 0.

Everything works on all pairs of a model at once: norms are (P,) tensors for P pairs, and no function moves data to the
host.

Source: "Implicit Regularization of Sharpness-Aware Minimization for Scale-Invariant Problems" (arXiv 2410.14802), section 3
(Theorems 2 and 3).
"""

from typing import Optional, Sequence

import torch
from torch import Tensor

from sharp_plugins.core import flat


def squared_norms(tensors: Sequence[Tensor], lengths: Optional[Tensor] = None) -> Tensor:
    """Squared Frobenius norms, in fp32 at least.

    Args:
        tensors: one tensor for each side of a pair, or several in a row that count as one.
        lengths: (P,) int64 on the tensors' device: how many of *tensors* make up each side. By default one each.

    Returns:
        (P,) fp32 (fp64 for fp64 tensors).

    Example::

        >>> squared_norms([torch.ones(2, 2), torch.ones(3, 3)]).tolist()
        [4.0, 9.0]
        >>> squared_norms([torch.ones(2, 2), torch.ones(3, 3)], torch.tensor([2])).tolist()
        [13.0]
    """
    # Half precision is widened first: the norm of a gradient that is multiplied by the loss scale may exceed its range.
    wide = [t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors]
    squares = torch.stack(flat.norms(wide)).square()
    return squares if lengths is None else torch.segment_reduce(squares, "sum", lengths=lengths, unsafe=True)


def balancedness(x_squared: Tensor, y_squared: Tensor) -> Tensor:
    """B = ½ (‖X‖² − ‖Y‖²) from the squared norms, (P,).

    Example::

        >>> x, y = torch.ones(3, 3), torch.ones(1, 1)
        >>> balancedness(squared_norms([x]), squared_norms([y])).tolist()
        [4.0]
    """
    return 0.5 * (x_squared - y_squared)
