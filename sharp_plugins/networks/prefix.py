"""Prefix tuning: trained keys and values before those of the tokens, in every attention of a frozen decoder (Li and Liang 2021).

    attention(q, [P_k; k], [P_v; v])        P_k, P_v: (length, kv_heads · head_width) of this layer

Section 4.2 makes them the model's as if *length* tokens stood before the text: all tokens see the whole prefix, and the first
token has the position *length*. The prefix's keys are trained where they are used, and so rotary positions do not turn them.

Training P itself is unstable (section 4.3). P is therefore computed by a small network while it trains:

    P = W_2 tanh(W_1 E + b_1) + b_2         E: (length, width), W_1: (hidden, width)

Once it has trained, P is all that is needed (`Prefix.fold`). A row of P has the numbers in PEFT's order: for each layer the key,
then the value, head by head.

Source: "Prefix-Tuning: Optimizing Continuous Prompts for Generation" (arXiv 2101.00190), and the authors' code where the paper
leaves it open (the size of E, the way everything begins).
"""

from typing import Any, List, Mapping, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sharp_plugins.core.setting_error import SettingError
from sharp_plugins.networks.decoder import Decoder
from sharp_plugins.networks.grouped_attention import shared_attention

Pairs = List[Tuple[Tensor, Tensor]]

# Names of a prefix's parameters in a model's state dict.
NAMES = r"(.*\.)?prefix\.(table|embedding|fc[12]\.(weight|bias))"


def check_settings(length: int, hidden: int, dropout: float) -> None:
    """Raise SettingError where one is out of range whatever the model; they are `Prefix`'s."""
    if length < 1:
        raise SettingError("length", f"must be 1 or larger, and is {length}")
    if hidden < 0:
        raise SettingError("hidden", f"must be 0 (none) or larger, and is {hidden}")
    if not 0 <= dropout < 1:
        raise SettingError("dropout", f"must be from 0 to below 1, and is {dropout}")


class Prefix(nn.Module):
    """The prefix of all layers.

    Args:
        length: P, in tokens.
        layers: of the decoder.
        kv_heads: heads of keys and values in each of them; with grouped queries these are fewer than the queries'.
        head_width: numbers of a head.
        width: of E, the decoder's.
        hidden: width inside the network that computes P; 0 to train P itself.
        dropout: probability with which a number of the prefix is 0 in training, for each row of a batch anew.

    Raises:
        SettingError: one of them is out of range.

    Example, for a decoder with 2 layers of 3 key-value heads::

        >>> prefix = Prefix(length=5, layers=2, kv_heads=3, head_width=4, width=36, hidden=8)
        >>> key, value = prefix.keys_and_values()[0]  # of the first layer
        >>> key.shape
        torch.Size([1, 3, 5, 4])
        >>> prefix.fold()
        >>> {name: tuple(p.shape) for name, p in prefix.named_parameters()}
        {'table': (5, 48)}
    """

    def __init__(
        self, length: int, layers: int, kv_heads: int, head_width: int, width: int = 0, hidden: int = 0, dropout: float = 0.0
    ):
        super().__init__()
        check_settings(length, hidden, dropout)
        self.length, self.layers, self.kv_heads, self.head_width, self.dropout = length, layers, kv_heads, head_width, dropout
        self.width = layers * 2 * kv_heads * head_width  # of P
        # The global generator is left as it was: what is initialised or shuffled later is what it would be without the prefix.
        with torch.random.fork_rng(devices=[]):
            if hidden:
                self.embedding = nn.Parameter(torch.randn(length, width))
                self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, self.width)
            else:
                self.table = nn.Parameter(torch.randn(length, self.width))

    @classmethod
    def of(cls, decoder: Decoder, length: int, hidden: int = 0, dropout: float = 0.0) -> "Prefix":
        """One that fits *decoder*; SettingError if it leaves the decoder no position for a token."""
        settings = decoder.settings
        if length >= settings.max_positions:
            raise SettingError("length", f"{length} leaves no room: the model has {settings.max_positions} positions in all")
        prefix = cls(length, settings.layers, settings.kv, settings.head_width, settings.width, hidden, dropout)
        weight = decoder.embed_tokens.weight
        return prefix.to(weight.device, weight.dtype).train(decoder.training)

    def numbers(self) -> Tensor:
        """P, (length, layers · 2 · kv_heads · head_width), computed in fp32 and rounded once to the parameters' dtype."""
        if "table" in self._parameters:
            return self.table
        with torch.autocast(self.embedding.device.type, enabled=False):
            return compute(dict(self.named_parameters())).to(self.embedding.dtype)

    def keys_and_values(self) -> Pairs:
        """Each layer's, (1, kv_heads, length, head_width): what a key-value cache begins with."""
        return pairs(self.numbers(), self.layers, self.kv_heads)

    def before(self, attention_dropout: float = 0.0) -> "BehindPrefix":
        """What the decoder attends to in one pass without a cache; dropout of attention weights is for training."""
        dropout = self.dropout if self.training else 0.0
        return BehindPrefix(self.numbers(), self.layers, self.kv_heads, dropout, attention_dropout)

    def fold(self) -> None:
        """Keep P in the place of the network that computes it."""
        if "table" not in self._parameters:
            self.table = nn.Parameter(self.numbers().detach(), requires_grad=self.embedding.requires_grad)
            del self.embedding, self.fc1, self.fc2

    def make_generation_fast_(self, **unused: Any) -> None:
        """fairseq calls it before it generates: the network runs once, and not once for each batch."""
        self.fold()


def compute(parts: Mapping[str, Tensor]) -> Tensor:
    """P in fp32, (length, layers · 2 · kv_heads · head), from the parameters of a `Prefix` that has its network.

    Half precision would round in the middle too, and P is all that is left of the network in the end.
    """
    inner = torch.tanh(F.linear(parts["embedding"].float(), parts["fc1.weight"].float(), parts["fc1.bias"].float()))
    return F.linear(inner, parts["fc2.weight"].float(), parts["fc2.bias"].float())


def pairs(numbers: Tensor, layers: int, kv_heads: int) -> Pairs:
    """P, (length, layers · 2 · kv_heads · head), as each layer's keys and values, (1, kv_heads, length, head)."""
    parts = numbers.view(len(numbers), layers, 2, kv_heads, -1).permute(1, 2, 3, 0, 4)
    return [(key, value) for key, value in parts.unsqueeze(2)]


class BehindPrefix:
    """`sharp_plugins.networks.decoder.Attends` for tokens behind a prefix, with no cache.

    Args:
        numbers: P, (length, layers · 2 · kv_heads · head).
        layers, kv_heads: the decoder's.
        dropout, attention_dropout: probabilities, of the prefix's numbers and of attention weights.

    Example, keys of 0 and values of 1 in one layer::

        >>> behind = BehindPrefix(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), layers=1, kv_heads=1)
        >>> behind.positions(torch.zeros(1, 3))
        tensor([2, 3, 4])
        >>> behind.attend(0, *torch.zeros(3, 1, 1, 2, 1).unbind())[..., 0]  # the second token sees one zero more
        tensor([[[0.6667, 0.5000]]])
    """

    def __init__(self, numbers: Tensor, layers: int, kv_heads: int, dropout: float = 0.0, attention_dropout: float = 0.0):
        self.numbers, self.layers, self.kv_heads, self.length = numbers, layers, kv_heads, len(numbers)
        self.dropout, self.attention_dropout = dropout, attention_dropout
        self.pairs = pairs(numbers, layers, kv_heads)
        self.mask = torch.empty(0)

    def positions(self, tokens: Tensor) -> Tensor:
        return torch.arange(self.length, self.length + tokens.size(1), device=tokens.device)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (torch.cat([self._rows(mine, theirs), theirs], dim=2) for mine, theirs in zip(self.pairs[layer], (k, v)))
        if self.mask.size(-1) != k.size(2):  # once for all layers
            self.mask = torch.ones(q.size(2), k.size(2), dtype=torch.bool, device=q.device).tril(self.length)
        return shared_attention(q, k, v, self.mask, self.attention_dropout)

    def _rows(self, part: Tensor, like: Tensor) -> Tensor:
        """A part of the prefix for each row of a batch, in the dtype that autocasting gave the tokens' own."""
        part = part.to(like.dtype).expand(like.size(0), -1, -1, -1)
        return F.dropout(part, self.dropout) if self.dropout > 0.0 else part

    def enter(self, x: Tensor) -> Tensor:
        """Let the prefix enter the model with the first layer's input *x*, where layers are computed again in the backward pass.

        fairseq's checkpointed layers run a backward pass of their own, each through all that it was computed from. The prefix
        is then a leaf for them, in which their gradients add up; behind the first layer the sum goes on to what computes P.
        """
        if not self.numbers.requires_grad:
            return x
        leaf = self.numbers.detach().requires_grad_()
        self.pairs = pairs(leaf, self.layers, self.kv_heads)
        return _Enter.apply(x, self.numbers, [leaf])


class _Enter(torch.autograd.Function):
    """*x*, and the gradient that a leaf has got by the time that of *x* is known, for what the leaf is a copy of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, numbers: Tensor, leaf: List[Tensor]) -> Tensor:
        ctx.leaf = leaf
        return x.view_as(x)

    @staticmethod
    @once_differentiable  # the leaf's gradient has no graph
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], ctx.leaf[0].grad, None
