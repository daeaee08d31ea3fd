"""A decoder-only language model: GPT-2 (Radford et al. 2019), OPT (Zhang et al. 2022) and Llama (Touvron et al. 2023).

    h = words (+ positions)
    h = h + attention(norm(h)),  h = h + feed_forward(norm(h))    for each layer
    scores = table_of_words · norm(h)

The three differ in the `DecoderSettings`. The names of the parts are those of fairseq's decoder. q, k and v have projections of
their own, in GPT-2 too, so that LoRA and BAR reach them one by one.

Rows are padded on the right, if at all: what a token is computed from stands before it. A cache (anything with the two methods of
`Attends`) puts its own keys and values before or beside those of the new tokens: what was read before, or a trained prefix.
"""

from typing import Optional, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharp_plugins.networks.decoder_settings import DecoderSettings

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "gelu_accurate": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu}


class Attends(Protocol):
    """What stands before or beside the new tokens: a key-value cache, a prefix."""

    def positions(self, tokens: Tensor) -> Tensor:
        """The positions (T,) or (B, T), int64, of the new *tokens* (B, T)."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The attention's output (B, heads, T, head) of new queries (B, heads, T, head) on all that the new tokens see; *k* and
        *v* (B, kv_heads, T, head) are the new tokens' own, turned by their positions already. *layer* counts from 0."""


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight over the last dimension, the quotient in fp32 (Zhang and Sennrich 2019).

    Example::

        >>> RMSNorm(2, eps=0.0)(torch.tensor([3.0, 4.0])).detach()
        tensor([0.8485, 1.1314])
    """

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class Rotation:
    """Rotary positions (Su et al. 2021): the pair (i, i + head/2) of a query or key turns by position · θ^(-2i/head).

    Args:
        cos, sin: (T, head) or (B, 1, T, head), each half twice.
    """

    def __init__(self, positions: Tensor, head_width: int, theta: float, dtype: torch.dtype):
        inverse = theta ** (-torch.arange(0, head_width, 2, device=positions.device, dtype=torch.float32) / head_width)
        angles = positions[..., None].float() * inverse
        angles = torch.cat([angles, angles], dim=-1)
        if positions.dim() == 2:
            angles = angles[:, None]  # the same for all heads
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([-second, first], dim=-1) * self.sin


class Attention(nn.Module):
    """Causal attention with a projection each for q, k and v; key-value heads serve heads / kv_heads query heads each."""

    def __init__(self, settings: DecoderSettings, layer: int):
        super().__init__()
        self.layer, self.heads, self.kv_heads = layer, settings.heads, settings.kv
        self.dropout = settings.attention_dropout
        inner, kv_inner = settings.heads * settings.head_width, settings.kv * settings.head_width
        self.q_proj = nn.Linear(settings.width, inner, settings.attention_bias)
        self.k_proj = nn.Linear(settings.width, kv_inner, settings.attention_bias)
        self.v_proj = nn.Linear(settings.width, kv_inner, settings.attention_bias)
        self.out_proj = nn.Linear(inner, settings.width, settings.attention_bias)

    def forward(self, x: Tensor, rotation: Optional[Rotation], cache: Optional[Attends]) -> Tensor:
        rows, length, _ = x.shape
        q = self.q_proj(x).view(rows, length, self.heads, -1).transpose(1, 2)
        k = self.k_proj(x).view(rows, length, self.kv_heads, -1).transpose(1, 2)
        v = self.v_proj(x).view(rows, length, self.kv_heads, -1).transpose(1, 2)
        if rotation is not None:
            q, k = rotation(q), rotation(k)
        if cache is None:
            dropout = self.dropout if self.training else 0.0
            out = F.scaled_dot_product_attention(q, *repeat(k, v, self.heads), dropout_p=dropout, is_causal=True)
        else:
            out = cache.attend(self.layer, q, k, v)
        return self.out_proj(out.transpose(1, 2).reshape(rows, length, -1))


def repeat(k: Tensor, v: Tensor, heads: int) -> tuple:
    """Keys and values (B, kv_heads, T, head) for *heads* of queries: each for heads / kv_heads consecutive ones."""
    times = heads // k.size(1)
    return (k, v) if times == 1 else (k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1))


class Layer(nn.Module):
    """Attention and feed-forward, each with its normalisation and a sum with what came in."""

    def __init__(self, settings: DecoderSettings, layer: int):
        super().__init__()
        self.pre_norm, self.activation = settings.pre_norm, ACTIVATIONS[settings.activation]
        self.dropout, self.activation_dropout = nn.Dropout(settings.dropout), nn.Dropout(settings.activation_dropout)
        self.self_attn = Attention(settings, layer)
        self.self_attn_layer_norm = norm(settings)
        self.fc1 = nn.Linear(settings.width, settings.ffn_width, settings.ffn_bias)
        self.fc_gate = nn.Linear(settings.width, settings.ffn_width, settings.ffn_bias) if settings.gated else None
        self.fc2 = nn.Linear(settings.ffn_width, settings.width, settings.ffn_bias)
        self.final_layer_norm = norm(settings)

    def feed_forward(self, x: Tensor) -> Tensor:
        h = self.fc1(x)
        h = self.activation(h) if self.fc_gate is None else self.activation(self.fc_gate(x)) * h
        return self.fc2(self.activation_dropout(h))

    def forward(self, x: Tensor, rotation: Optional[Rotation] = None, cache: Optional[Attends] = None) -> Tensor:
        if self.pre_norm:
            x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), rotation, cache))
            return x + self.dropout(self.feed_forward(self.final_layer_norm(x)))
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, rotation, cache)))
        return self.final_layer_norm(x + self.dropout(self.feed_forward(x)))


def norm(settings: DecoderSettings) -> nn.Module:
    if settings.norm == "rms":
        return RMSNorm(settings.width, settings.norm_eps)
    return nn.LayerNorm(settings.width, settings.norm_eps)


class Decoder(nn.Module):
    """The language model.

    Example::

        >>> model = Decoder(DecoderSettings(vocabulary=50, layers=1, width=8, ffn_width=16, heads=2, max_positions=6)).eval()
        >>> model(torch.tensor([[4, 7, 9]])).shape
        torch.Size([1, 3, 50])
    """

    def __init__(self, settings: DecoderSettings, *others):
        """*others* are for a further base class, such as fairseq's."""
        super().__init__(*others)
        settings.check()
        self.settings = settings
        words = settings.word_width or settings.width
        self.embed_tokens = nn.Embedding(settings.vocabulary, words)
        self.project_in = nn.Linear(words, settings.width, bias=False) if words != settings.width else None
        self.project_out = nn.Linear(settings.width, words, bias=False) if words != settings.width else None
        self.embed_positions = nn.Embedding(settings.max_positions, settings.width) if settings.positions == "learned" else None
        dropout = settings.dropout if settings.embedding_dropout is None else settings.embedding_dropout
        self.embedding_dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(settings, number) for number in range(settings.layers))
        self.layer_norm = norm(settings) if settings.pre_norm and settings.final_norm else None
        self.output_projection = nn.Linear(words, settings.vocabulary, bias=False)
        if settings.tied:
            self.output_projection.weight = self.embed_tokens.weight
        mask = torch.zeros(settings.vocabulary)
        mask[list(settings.unused)] = float("-inf")
        self.register_buffer("unused_mask", mask if settings.unused else None, persistent=False)
        self.prefix: Optional[nn.Module] = None  # `sharp_plugins.networks.prefix.Prefix`

    def features(self, tokens: Tensor, cache: Optional[Attends] = None) -> Tensor:
        """The last layer's output (B, T, word_width) for *tokens* (B, T), int64."""
        if cache is None and self.prefix is not None:
            cache = self.prefix.before(self.settings.attention_dropout if self.training else 0.0)
        positions = torch.arange(tokens.size(1), device=tokens.device) if cache is None else cache.positions(tokens)
        x = self.embed_tokens(tokens)
        if self.project_in is not None:
            x = self.project_in(x)
        rotation = None
        if self.embed_positions is not None:
            x = x + self.embed_positions(positions)
        else:
            rotation = Rotation(positions, self.settings.head_width, self.settings.rope_theta, x.dtype)
        x = self.embedding_dropout(x)
        for layer in self.layers:
            x = layer(x, rotation, cache)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return x if self.project_out is None else self.project_out(x)

    def output_layer(self, features: Tensor) -> Tensor:
        """Scores (…, vocabulary) of the next word; −inf for unused symbols, which so get no probability and no gradient."""
        return F.linear(features, self.output_projection.weight, self.unused_mask)

    def forward(self, tokens: Tensor, cache: Optional[Attends] = None) -> Tensor:
        return self.output_layer(self.features(tokens, cache))
