"""The keys and values of tokens that were read before, so that each new token is computed once (`KVCache`)."""

from typing import List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sharp_plugins.networks.decoder import causal_attention

BLOCK = 64  # tokens for which memory is taken at once, at least


class KVCache:
    """Keys and values of all layers, for `sharp_plugins.networks.decoder.Decoder.features`. Not for training.

    A row of the batch has its tokens' keys at columns 0, 1, …, in the order of their positions. Rows of different lengths are
    read padded on the right, and `keep` then says how long each is: what is read next stands behind that.

    Example::

        >>> from sharp_plugins.networks.decoder import Decoder
        >>> from sharp_plugins.networks.decoder_settings import DecoderSettings
        >>> model = Decoder(DecoderSettings(vocabulary=50, layers=2, width=8, ffn_width=16, heads=2, max_positions=6)).eval()
        >>> cache, tokens = KVCache(), torch.tensor([[4, 7, 9, 5]])
        >>> parts = [model(tokens[:, :3], cache), model(tokens[:, 3:], cache)]
        >>> torch.allclose(torch.cat(parts, dim=1), model(tokens), atol=1e-6)
        True
        >>> cache.length
        4
    """

    def __init__(self, prefix: Sequence[Tuple[Tensor, Tensor]] = ()):
        """
        Args:
            prefix: keys and values (B, kv_heads, P, head) for each layer, turned by their positions, that stand before the first
                token. It then has position P.
        """
        self.keys: List[Tensor] = []  # of each layer, (B, kv_heads, capacity, head)
        self.values: List[Tensor] = []
        self.length = 0  # columns that are filled, of the longest row
        self.lengths: Optional[Tensor] = None  # (B,) of each row, where they differ
        self.before = 0  # columns before the tokens being read
        self._visible: Optional[Tensor] = None
        for layer, (k, v) in enumerate(prefix):
            self._write(layer, k, v, 0)
            self.length = k.size(2)
        self.prefix = self.length

    @property
    def read(self) -> int:
        """The number of tokens that were read, of the longest row."""
        return self.length - self.prefix

    # ------------------------------------------------------------------ Attends

    def positions(self, tokens: Tensor) -> Tensor:
        """The positions of the new *tokens* (B, T): (T,), or (B, T) where rows differ in length. From here on they are read."""
        count = tokens.size(1)
        self.before, self.length = self.length, self.length + count
        steps = torch.arange(count, device=tokens.device)
        if self.lengths is None:
            positions = self.before + steps
            columns = torch.arange(self.length, device=tokens.device)
            self._visible = columns <= positions[:, None] if self.before and count > 1 else None  # (T, length)
            return positions
        positions = self.lengths[:, None] + steps
        self.lengths = self.lengths + count
        columns = torch.arange(self.length, device=tokens.device)
        self._visible = (columns <= positions[..., None])[:, None]  # (B, 1, T, length)
        self._columns = positions
        return positions

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `sharp_plugins.networks.decoder.Attends`."""
        if self.lengths is None:
            self._write(layer, k, v, self.before)
            if not self.before:
                return causal_attention(q, k, v)
        else:
            self._grow(layer, k, v)
            index = self._columns[:, None, :, None].expand_as(k)
            self.keys[layer].scatter_(2, index, k.to(self.keys[layer].dtype))
            self.values[layer].scatter_(2, index, v.to(self.values[layer].dtype))
        seen_k, seen_v = self.keys[layer][:, :, : self.length], self.values[layer][:, :, : self.length]
        return shared_attention(q, seen_k.to(q.dtype), seen_v.to(q.dtype), self._visible)

    # ------------------------------------------------------------------ rows

    def keep(self, lengths: Tensor) -> None:
        """Say how long each row is, with its prefix: (B,) int64. What lies behind is padding, and will be written over."""
        self.lengths = lengths.to(self.keys[0].device)
        self.length = int(lengths.max())

    def reorder(self, rows: Tensor) -> None:
        """Let row i go on from what was row ``rows[i]``: (N,) int64. Rows may be left out, and occur more than once."""
        for store in (self.keys, self.values):
            for layer, old in enumerate(store):
                new = old.new_empty(len(rows), *old.shape[1:])
                torch.index_select(old[:, :, : self.length], 0, rows, out=new[:, :, : self.length])
                store[layer] = new
        if self.lengths is not None:
            self.lengths = self.lengths[rows]

    # ------------------------------------------------------------------ memory

    def _write(self, layer: int, k: Tensor, v: Tensor, start: int) -> None:
        self._grow(layer, k, v, start + k.size(2))
        self.keys[layer][:, :, start : start + k.size(2)] = k
        self.values[layer][:, :, start : start + k.size(2)] = v

    def _grow(self, layer: int, k: Tensor, v: Tensor, length: int = 0) -> None:
        """Have memory for *length* columns of a layer whose new keys and values are *k* and *v*."""
        length = max(length, self.length)
        for store, like in ((self.keys, k), (self.values, v)):
            if layer == len(store):
                store.append(like.new_empty(like.size(0), like.size(1), 0, like.size(3)))
            old = store[layer]
            if old.size(2) < length:
                # Half as much again, so that a long text is not copied time and again.
                capacity = -(-max(length, old.size(2) * 3 // 2) // BLOCK) * BLOCK
                new = old.new_zeros(*old.shape[:2], capacity, old.size(3))  # a masked NaN would still be one
                new[:, :, : old.size(2)] = old
                store[layer] = new


def shared_attention(q: Tensor, k: Tensor, v: Tensor, visible: Optional[Tensor]) -> Tensor:
    """softmax(q kᵀ / √head) v, (B, heads, T, head). A head of keys serves heads / kv_heads consecutive ones of queries, without
    a copy for each: these queries become further tokens of one head.

    Args:
        q: (B, heads, T, head). k, v: (B, kv_heads, S, head).
        visible: (T, S) or (B, 1, T, S), True where a token sees a key; None where all see all.
    """
    rows, heads, count, width = q.shape
    times = heads // k.size(1)
    if times > 1:
        q = q.reshape(rows, k.size(1), times * count, width)
        if visible is not None:
            visible = visible.repeat(*(1,) * (visible.dim() - 2), times, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible).reshape(rows, heads, count, width)
