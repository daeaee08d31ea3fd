"""A decoder-only language model: GPT-2 (Radford et al. 2019), OPT (Zhang et al. 2022) and Llama (Touvron et al. 2023).

    h = words (+ positions)
    h = h + attention(norm(h)),  h = h + feed_forward(norm(h))    for each layer
    scores = table_of_words · norm(h)

The three differ in the `DecoderSettings`. The names of the parts are those of fairseq's decoder. q, k and v have projections of
their own, in GPT-2 too, so that LoRA and BAR reach them one by one.

Rows are padded on the right, if at all: what a token is computed from stands before it. A cache (anything with the two methods of
`Attends`) puts its own keys and values before or beside those of the new tokens: what was read before, or a trained prefix.
"""

import functools
import math
from typing import Any, Callable, Dict, Optional, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharp_plugins.networks.decoder_settings import DecoderSettings
from sharp_plugins.networks.grouped_attention import causal_attention
from sharp_plugins.networks.rms_norm import RMSNorm
from sharp_plugins.networks.rotary import Rotation

ACTIVATIONS: Dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_accurate": functools.partial(F.gelu, approximate="tanh"),  # as GPT-2's code computes it
    "silu": F.silu,
}


class Attends(Protocol):
    """What stands before or beside the new tokens: a key-value cache, a prefix.

    It may have a number, ``length``: of the columns that stand before the next tokens. The decoder then refuses tokens for which
    it has no positions; without it, they are the cache's to refuse.

    Example, the simplest one, which adds nothing::

        class Nothing:
            def positions(self, tokens):
                return torch.arange(tokens.size(1), device=tokens.device)

            def attend(self, layer, q, k, v):
                return causal_attention(q, k, v)
    """

    def positions(self, tokens: Tensor) -> Tensor:
        """The positions (T,) or (B, T), int64, of the new *tokens* (B, T)."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The attention's output (B, heads, T, head) of new queries (B, heads, T, head) on all that the new tokens see; *k* and
        *v* (B, kv_heads, T, head) are the new tokens' own, turned by their positions already. *layer* counts from 0."""


class Attention(nn.Module):
    """Causal attention with a projection each for q, k and v; key-value heads serve heads / kv_heads query heads each.

    Example::

        >>> settings = DecoderSettings(vocabulary=9, width=12, heads=6, kv_heads=2)
        >>> Attention(settings, layer=0)(torch.zeros(1, 3, 12), rotation=None, cache=None).shape
        torch.Size([1, 3, 12])
    """

    def __init__(self, settings: DecoderSettings, layer: int):
        super().__init__()
        self.layer, self.heads, self.kv_heads = layer, settings.heads, settings.kv
        self.embed_dim = settings.width  # of what it returns, under fairseq's name
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
            out = causal_attention(q, k, v, self.dropout if self.training else 0.0)
        else:
            out = cache.attend(self.layer, q, k, v)
        return self.out_proj(out.transpose(1, 2).reshape(rows, length, -1))


class Layer(nn.Module):
    """Attention and feed-forward, each with its normalisation and a sum with what came in.

    Example::

        >>> layer = Layer(DecoderSettings(vocabulary=9, width=12, ffn_width=24, heads=2), 0)
        >>> layer(torch.zeros(1, 3, 12)).shape
        torch.Size([1, 3, 12])
    """

    def __init__(self, settings: DecoderSettings, layer: int):
        super().__init__()
        self.normalize_before = settings.pre_norm  # fairseq's name
        self.activation = ACTIVATIONS[settings.activation]
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
        if self.normalize_before:
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

    A new one has random weights as GPT-2's: normal with deviation 0.02, and 0.02 / √(2 · layers) where a sum with what came in
    follows; biases are 0.

    Raises:
        SettingError: a setting is out of range.

    Example::

        >>> model = Decoder(DecoderSettings(vocabulary=50, layers=1, width=8, ffn_width=16, heads=2, max_positions=6)).eval()
        >>> model(torch.tensor([[4, 7, 9]])).shape
        torch.Size([1, 3, 50])
    """

    unused_symbols: Optional[Tensor]

    def __init__(self, settings: DecoderSettings, *others: Any):
        """*others* are for a further base class, such as fairseq's."""
        super().__init__(*others)
        settings.check()
        self.settings = settings
        words, width = settings.words, settings.width
        self.embed_tokens = nn.Embedding(settings.vocabulary, words)
        self.project_in = nn.Linear(words, width, bias=False) if words != width else None
        self.project_out = nn.Linear(width, words, bias=False) if words != width else None
        self.embed_positions = nn.Embedding(settings.max_positions, width) if settings.positions == "learned" else None
        dropout = settings.dropout if settings.embedding_dropout is None else settings.embedding_dropout
        self.embedding_dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(settings, number) for number in range(settings.layers))
        self.layer_norm = norm(settings) if settings.pre_norm and settings.final_norm else None
        # A tied one has no memory of its own.
        self.output_projection = nn.Linear(words, settings.vocabulary, bias=False, device="meta" if settings.tied else None)
        if settings.tied:
            self.output_projection.weight = self.embed_tokens.weight
        self.register_buffer("unused_symbols", torch.tensor(settings.unused) if settings.unused else None, persistent=False)
        self.prefix: Any = None  # a `sharp_plugins.networks.prefix.Prefix` stands before the tokens where there is no cache
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw the weights anew: Radford et al. 2019, section 2.3, and their code."""
        residual = 0.02 / math.sqrt(2 * self.settings.layers)
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Embedding)) and not (module is self.output_projection and self.settings.tied):
                module.weight.normal_(std=residual if name.endswith(("out_proj", "fc2")) else 0.02)
                bias = getattr(module, "bias", None)  # an embedding has none
                if bias is not None:
                    bias.zero_()
        if self.unused_symbols is not None:
            self.embed_tokens.weight[self.unused_symbols] = 0
            self.output_projection.weight[self.unused_symbols] = 0

    def features(self, tokens: Tensor, cache: Optional[Attends] = None, token_embeddings: Optional[Tensor] = None) -> Tensor:
        """The last layer's output (B, T, word_width) for *tokens* (B, T), int64.

        Args:
            token_embeddings: (B, T, word_width) in the place of the tokens' own.

        Raises:
            ValueError: more tokens, with what stands before them, than the model has positions.
        """
        length = tokens.size(1)
        if self.prefix is not None and cache is None:
            cache = self.prefix.before(self.settings.attention_dropout if self.training else 0.0)
        before = getattr(cache, "length", 0)
        if before + length > self.settings.max_positions:
            behind = f" behind {before} others" if before else ""
            raise ValueError(
                f"{length} tokens{behind} are more than the {self.settings.max_positions} positions that the model has"
            )
        positions = None if cache is None else cache.positions(tokens)
        x = self.embed_tokens(tokens) if token_embeddings is None else token_embeddings
        if self.project_in is not None:
            x = self.project_in(x)
        rotation = None
        if self.embed_positions is None:
            rotation = Rotation(self.settings, positions, length)
        elif positions is None:
            x = x + self.embed_positions.weight[:length]
        else:
            x = x + self.embed_positions(positions)
        x = self.embedding_dropout(x)
        for layer in self.layers:
            x = layer(x, rotation, cache)
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return x if self.project_out is None else self.project_out(x)

    def output_layer(self, features: Tensor) -> Tensor:
        """Scores (…, vocabulary) of the next word; −inf for unused symbols, which so get no probability."""
        scores = self.output_projection(features)
        if self.unused_symbols is not None:
            # A softmax gives them the gradient 0, so that writing over them needs none of its own, nor a copy of the scores.
            with torch.no_grad():
                scores.index_fill_(-1, self.unused_symbols, float("-inf"))
        return scores

    def forward(self, tokens: Tensor, cache: Optional[Attends] = None) -> Tensor:
        return self.output_layer(self.features(tokens, cache))
