"""Bottleneck adapters: small networks inside a frozen model's layers (Houlsby et al. 2019; Pfeiffer et al. 2021).

    f(h) = W_up σ(W_down h + b_down) + b_up          W_down (m × d), W_up (d × m), m « d

Houlsby et al. put one after the attention and one after the feed-forward network of every layer, h ← h + f(h), before the
residual connection, and train the layer norms along. Here that is before the layer's dropout; in their code it is after.

Pfeiffer et al. have one a layer, at its end. With z the sum of the feed-forward network's output and its residual, the
layer's output is LN(z + f(LN(z))), the layer norm being used twice; in layers that end without one it is z + f(z).

W_up starts at 0 and the model as it was, bit for bit (Houlsby et al.: near it, with weights of standard deviation 0.01).

Sources: "Parameter-Efficient Transfer Learning for NLP", section 2.1; "AdapterFusion", section 3.2.1 and appendix A, and
where that leaves it open the authors' AdapterHub (PfeifferConfig: its places of layer norms, relu, m = d/16).
"""

from typing import Any, Callable, Dict, List, Tuple

import torch.nn.functional as F
from torch import Tensor, nn

from sharp_plugins.core.setting_error import SettingError

ACTIVATIONS: Dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "tanh": F.tanh}


class Bottleneck(nn.Module):
    """One adapter, h + f(h): (..., width) to the same.

    Args:
        width: d, of the output that it changes.
        size: m.
        activation: σ, a key of `ACTIVATIONS`.

    Raises:
        ValueError: *size* is not positive, or there is no such activation.

    Example::

        >>> import torch
        >>> layer = nn.Linear(4, 4)
        >>> before = layer(torch.ones(4))
        >>> follow(layer, Bottleneck(width_of(layer), size=2))
        >>> torch.equal(layer(torch.ones(4)), before)  # until it has trained
        True
        >>> len(adapters(layer))
        1
    """

    def __init__(self, width: int, size: int, activation: str = "gelu"):
        super().__init__()
        if size < 1:
            raise SettingError("size", f"must be 1 or larger, and is {size}")
        if activation not in ACTIVATIONS:
            raise SettingError("activation", f"{activation}: choose one of {', '.join(ACTIVATIONS)}")
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        self.activation = activation
        nn.init.normal_(self.down.weight, std=0.02)
        for zeros in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zeros)

    def f(self, h: Tensor) -> Tensor:
        return self.up(ACTIVATIONS[self.activation](self.down(h)))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.f(h)


def width_of(module: nn.Module) -> int:
    """The width of what *module* returns: a linear layer's or an attention's; 0 for another module."""
    return getattr(module, "out_features", 0) or getattr(module, "embed_dim", 0)


def follow(module: nn.Module, adapter: Bottleneck) -> None:
    """Let *adapter* follow *module*, as its part ``adapter``: its state is found under the module's name, and copies of the
    module have copies of it. Of a tuple (an attention's output and weights) it changes the first."""
    _take(module, adapter)
    module.register_forward_hook(_through_adapter)


def close(layer: Any, adapter: Bottleneck) -> None:
    """Put *adapter* at the end of a Transformer layer of fairseq, as Pfeiffer et al. do: as the part ``adapter`` of its
    ``final_layer_norm``, or of the layer itself where the norm comes first."""
    if getattr(layer, "normalize_before", getattr(layer, "layer_norm_first", False)):  # the latter in wav2vec 2.0
        follow(layer, adapter)
    else:
        _take(layer.final_layer_norm, adapter)
        layer.final_layer_norm.register_forward_pre_hook(_before_norm)


def is_layer(module: nn.Module) -> bool:
    """Whether `close` knows *module*'s end."""
    return isinstance(getattr(module, "final_layer_norm", None), nn.Module) and hasattr(module, "fc2")


def _take(module: nn.Module, adapter: Bottleneck) -> None:
    weight = next(module.parameters())
    module.adapter = adapter.to(weight.device, weight.dtype)


def _before_norm(norm: Any, inputs: Tuple[Tensor]) -> Tensor:
    (z,) = inputs
    return z + norm.adapter.f(norm.forward(z))  # forward: without this hook


def _through_adapter(module: Any, inputs: Tuple, output: Any) -> Any:
    if isinstance(output, tuple):
        return (module.adapter(output[0]), *output[1:])
    return module.adapter(output)


def adapters(model: nn.Module) -> List[Bottleneck]:
    """All adapters of *model*."""
    return [module for module in model.modules() if isinstance(module, Bottleneck)]
