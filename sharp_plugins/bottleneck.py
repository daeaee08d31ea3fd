"""Bottleneck adapters: small networks inside a frozen model's layers (Houlsby et al. 2019; Pfeiffer et al. 2021).

    h ← h + W_up σ(W_down h + b_down) + b_up          W_down (m × d), W_up (d × m), m « d

An adapter follows a sublayer's output, before the residual connection. Houlsby et al. put one after the attention and one
after the feed-forward network of every layer and train the layer norms along; Pfeiffer et al. keep the second alone. W_up
starts at 0 and the model as it was, bit for bit (Houlsby et al.: near it, with weights of standard deviation 0.01).

Sources: "Parameter-Efficient Transfer Learning for NLP", section 2.1; "AdapterFusion", section 3.2.1 and appendix A.
"""

from typing import Callable, Dict, List

import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: Dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "tanh": F.tanh}


class Bottleneck(nn.Module):
    """One adapter: (..., width) to the same.

    Args:
        width: d, of the output that it follows.
        size: m.
        activation: σ, a key of `ACTIVATIONS`.

    Raises:
        ValueError: *size* is not positive, or there is no such activation.
    """

    def __init__(self, width: int, size: int, activation: str = "gelu"):
        super().__init__()
        if size < 1:
            raise ValueError(f"--adapter-size must be 1 or larger, and is {size}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"--adapter-activation {activation}: choose one of {', '.join(ACTIVATIONS)}")
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        self.activation = activation
        nn.init.normal_(self.down.weight, std=0.02)
        for zeros in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zeros)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.up(ACTIVATIONS[self.activation](self.down(h)))


def width_of(module: nn.Module) -> int:
    """The width of what *module* returns: a linear layer's or an attention's; 0 for another module."""
    return getattr(module, "out_features", 0) or getattr(module, "embed_dim", 0)


def follow(module: nn.Module, adapter: Bottleneck) -> None:
    """Let *adapter* follow *module*, as its part ``adapter``: its state is found under the module's name, and copies of the
    module have copies of it. Of a tuple (an attention's output and weights) it changes the first."""
    weight = next(module.parameters())
    module.adapter = adapter.to(weight.device, weight.dtype)
    module.register_forward_hook(_through_adapter)


def _through_adapter(module: nn.Module, inputs, output):
    if isinstance(output, tuple):
        return (module.adapter(output[0]), *output[1:])
    return module.adapter(output)


def adapters(model: nn.Module) -> List[Bottleneck]:
    """All adapters of *model*."""
    return [module for module in model.modules() if isinstance(module, Bottleneck)]
