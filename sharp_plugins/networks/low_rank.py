"""A linear layer with a low-rank update: y = W x + b + s B A dropout(x), s = α/r (Hu et al. 2022, section 4.1).

    x ──┬── W, b (frozen) ───────────────┬── + ── y
        └── dropout ── A (r × in) ── B (out × r) ── s

An `nn.Linear` becomes one in place (`LoRALinear.convert`), so that everything that holds on to the layer, its name or its
weights keeps them: checkpoints, tied weights, hooks.

**The weight that others read.** fairseq's attention seldom calls its projections. It passes ``q_proj.weight`` straight to torch's
fused `F.multi_head_attention_forward`, in training and evaluation. An update that lives in `forward` alone would be lost there
(and is, in other implementations). So reading ``layer.weight`` gives W + s B A, as a `LowRankSum`: multiplying activations by this
tensor still costs the two thin products above, and not a full one. W itself is in ``state_dict``, ``parameters()`` and
``base_weight``. Writing to ``layer.weight`` raises an error, in whatever way it is written to (read_only.py);
``layer.weight = nn.Parameter(...)`` sets W.
"""

import math
import types
from typing import Any, Callable, Dict, Optional, Tuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharp_plugins.core.pairs import declare_pair
from sharp_plugins.core.setting_error import SettingError
from sharp_plugins.networks.read_only import ReadOnly

INITS = ("kaiming", "gaussian")


# What is asked of a weight without looking at its values.
_METADATA = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "device", "dtype", "ndim", "layout", "is_cuda", "requires_grad")),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point),
}


class LowRankSum(ReadOnly):
    """W + s B A of a layer, never formed where it is multiplied with activations; any other reader gets `plain`.

    Example::

        >>> layer = nn.Linear(4, 3)
        >>> LoRALinear.convert(layer, rank=1, alpha=2)
        >>> _ = nn.init.ones_(layer.lora_B), nn.init.ones_(layer.lora_A)
        >>> torch.equal(layer.weight.plain(), layer.base_weight + 2)
        True
    """

    _layer: "LoRALinear"

    @staticmethod
    def of(layer: "LoRALinear") -> "LowRankSum":
        weight = Tensor._make_subclass(LowRankSum, layer.base_weight)  # on W's memory, which torch.jit.script takes for W
        weight._layer = layer
        return weight

    def plain(self) -> Tensor:
        """The sum as a plain tensor, (out, in), with its graph."""
        layer = self._layer
        return torch.addmm(layer.base_weight, layer.lora_B, layer.lora_A, alpha=layer.lora_scale)

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: Tuple = (), kwargs: Optional[Dict[str, Any]] = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and len(args) > 1 and isinstance(args[1], cls) and not isinstance(args[0], cls):
            return args[1]._layer.product(args[0], *args[2:], **kwargs)
        if func is F.multi_head_attention_forward:
            return _attention(*args, **kwargs)
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)

        return super().__torch_function__(func, types, args, kwargs)


_is_compiling = getattr(torch.compiler, "is_compiling", lambda: False)  # torch 2.1 has none


def _without_dispatch(function: Callable) -> Callable:
    """torch's own *function* without the line that hands calls with tensor-likes over to `__torch_function__`: the linear
    products inside it then reach `LowRankSum` one by one."""
    scope = {**function.__globals__, "has_torch_function": lambda tensors: False}
    copy = types.FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


# Only needed where the output projection is a LoRALinear: torch does not look at the others' types.
_attention = _without_dispatch(F.multi_head_attention_forward)


def is_plain(module: nn.Module) -> bool:
    """Whether *module* is a linear layer as torch makes it: its forward is torch's, and its weight a parameter of its own
    (with ``weight_norm`` it is computed from others)."""
    is_linear = isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
    return is_linear and module._parameters.get("weight") is not None


class LoRALinear(nn.Linear):
    """`nn.Linear` plus a low-rank update. Made by `convert`.

    ``lora_A`` is (r, in) and ``lora_B`` (out, r), of the weight's dtype and device; ``lora_scale`` is α/r.

    Example::

        >>> layer, x = nn.Linear(4, 3), torch.ones(2, 4)
        >>> y = layer(x)
        >>> LoRALinear.convert(layer, rank=2, alpha=4)
        >>> torch.equal(layer(x), y)  # B is 0
        True
        >>> layer
        LoRALinear(in_features=4, out_features=3, bias=True, rank=2, scale=2, dropout=0)
    """

    lora_A: nn.Parameter
    lora_B: nn.Parameter
    lora_scale: float
    lora_dropout: float

    __jit_unused_properties__ = ["weight", "base_weight"]  # torch.jit.script sees the parameter W under its name

    @classmethod
    def convert(cls, layer: nn.Linear, rank: int, alpha: float, dropout: float = 0.0, init: str = INITS[0]) -> None:
        """Turn *layer* into a `LoRALinear` that computes what it computed: B is 0.

        Args:
            layer: a plain `nn.Linear`; changed in place.
            rank: r, from 1 to the smaller side of the weight.
            alpha: α of the scale α/r, positive.
            dropout: its probability, on the input of A.
            init: A's distribution: ``kaiming`` (uniform within ± 1/√in, as in Hu et al.'s code and PEFT) or ``gaussian``
                (standard deviation 1/r, as PEFT's "gaussian").

        Raises:
            ValueError: an argument is out of range.
            TypeError: *layer* is no plain `nn.Linear`.
        """
        if not is_plain(layer):
            raise TypeError(f"{type(layer).__name__} is not a plain nn.Linear")
        if not 1 <= rank <= min(layer.in_features, layer.out_features):
            raise SettingError(
                "rank",
                f"{rank} does not fit a layer with {layer.in_features} inputs and {layer.out_features} outputs: "
                f"it must be from 1 to {min(layer.in_features, layer.out_features)}",
            )
        if not (math.isfinite(alpha) and alpha > 0):
            raise SettingError("alpha", f"must be a positive finite number, and is {alpha}")
        if not 0 <= dropout < 1:
            raise SettingError("dropout", f"must be from 0 to below 1, and is {dropout}")
        if init not in INITS:
            raise SettingError("init", f"{init}: choose one of {', '.join(INITS)}")
        weight = layer.weight
        layer.__class__ = cls
        assert isinstance(layer, LoRALinear)
        layer.lora_A = nn.Parameter(torch.empty(rank, layer.in_features, dtype=weight.dtype, device=weight.device))
        layer.lora_B = nn.Parameter(torch.zeros(layer.out_features, rank, dtype=weight.dtype, device=weight.device))
        layer.lora_scale, layer.lora_dropout = alpha / rank, dropout
        # The global generator is left as it was: what is initialised or shuffled later is what it would be without LoRA.
        kind = weight.device.type
        others = {"devices": []} if kind in ("cpu", "meta") else {"devices": [weight.device], "device_type": kind}
        with torch.random.fork_rng(**others), torch.no_grad():
            if init == "kaiming":
                nn.init.kaiming_uniform_(layer.lora_A, a=math.sqrt(5))
            else:
                nn.init.normal_(layer.lora_A, std=1 / rank)
        declare_pair(layer, "lora_B", "lora_A")  # the update is X Yᵀ with X = B, Y = Aᵀ

    @property
    def base_weight(self) -> nn.Parameter:
        """W, (out, in)."""
        return cast(nn.Parameter, self._parameters["weight"])

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # nn.Linear has an attribute there
        """W + s B A, for reading."""
        weight = LowRankSum.of(self)
        return weight.plain() if _is_compiling() else weight  # torch.compile would take it for W

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        if torch.jit.is_scripting():
            return self.add_update(F.linear(input, self.weight, self.bias), input)
        else:  # not compiled by torch.jit.script
            return self.product(input, self.bias)

    @torch.jit.unused
    def product(self, input: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        """(..., in) to (..., out): (W + s B A) x + bias, with dropout before A in training."""
        return self.add_update(F.linear(input, self.base_weight, bias), input)

    def add_update(self, output: Tensor, input: Tensor) -> Tensor:
        """*output* (..., out) plus s B A dropout(*input*), *input* (..., in)."""
        if self.lora_dropout > 0.0:
            input = F.dropout(input, self.lora_dropout, self.training)
        low = F.linear(input, self.lora_A)
        # One product that adds: no tensor of the output's size in between.
        flat = torch.addmm(
            output.reshape(-1, output.size(-1)), low.reshape(-1, low.size(-1)), self.lora_B.t(), alpha=self.lora_scale
        )
        return flat.view(output.shape)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.lora_A.size(0)}, scale={self.lora_scale:g}, dropout={self.lora_dropout:g}"
