"""The keys and values of tokens that were read before, so that each new token is computed once (`KVCache`)."""

from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from sharp_plugins.networks.grouped_attention import causal_attention, shared_attention

BLOCK = 64  # tokens for which memory is taken at once, at least


class KVCache:
    """Keys and values of all layers, for `sharp_plugins.networks.decoder.Decoder.features`. Not for training.

    All rows of the batch are of one length, as fairseq's own search reads them. A token's keys are at the column of its position.
    For prompts of different lengths there is `sharp_plugins.generation.beam_cache.BeamCache`.

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
        self.length = 0  # columns that are filled
        self.before = 0  # columns before the tokens being read
        self._visible: Optional[Tensor] = None
        for layer, (k, v) in enumerate(prefix):
            self._write(layer, k, v, 0)
            self.length = k.size(2)
        self.prefix = self.length

    @property
    def read(self) -> int:
        """The number of tokens that were read."""
        return self.length - self.prefix

    # ------------------------------------------------------------------ Attends

    def positions(self, tokens: Tensor) -> Tensor:
        """The positions (T,) of the new *tokens* (B, T). From here on they are read."""
        count = tokens.size(1)
        self.before, self.length = self.length, self.length + count
        positions = torch.arange(self.before, self.length, device=tokens.device)
        self._visible = None
        if self.before and count > 1:
            self._visible = torch.arange(self.length, device=tokens.device) <= positions[:, None]  # (T, length)
        return positions

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `sharp_plugins.networks.decoder.Attends`."""
        self._write(layer, k, v, self.before)
        if not self.before:
            return causal_attention(q, k, v)
        seen_k, seen_v = self.keys[layer][:, :, : self.length], self.values[layer][:, :, : self.length]
        return shared_attention(q, seen_k.to(q.dtype), seen_v.to(q.dtype), self._visible)

    def reorder(self, rows: Tensor) -> None:
        """Let row i go on from what was row ``rows[i]``: (N,) int64. Rows may be left out, and occur more than once."""
        for store in (self.keys, self.values):
            for layer, old in enumerate(store):
                new = old.new_empty(len(rows), *old.shape[1:])
                torch.index_select(old[:, :, : self.length], 0, rows, out=new[:, :, : self.length])
                store[layer] = new

    def forget(self, count: int) -> None:
        """Take the last *count* tokens back, as if they had not been read."""
        self.length -= count

    # ------------------------------------------------------------------ memory

    def _write(self, layer: int, k: Tensor, v: Tensor, start: int) -> None:
        """Put a layer's new keys and values at the columns from *start* on; what lies behind them is not looked at."""
        end = start + k.size(2)
        for store, new in ((self.keys, k), (self.values, v)):
            if layer == len(store):
                store.append(new.new_empty(new.size(0), new.size(1), 0, new.size(3)))
            old = store[layer]
            if old.size(2) < end:
                # Half as much again, so that a long text is not copied time and again.
                capacity = -(-max(end, old.size(2) * 3 // 2) // BLOCK) * BLOCK
                store[layer] = old.new_empty(*old.shape[:2], capacity, old.size(3))
                store[layer][:, :, :start] = old[:, :, :start]
            store[layer][:, :, start:end] = new
