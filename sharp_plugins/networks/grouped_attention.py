"""Attention in which a head of keys and values serves several consecutive heads of queries (Ainslie et al. 2023).

    softmax(q kᵀ / √head) v

Nothing is copied for each head of queries where a kernel can do without, and no kernel is asked for what it only does with all
weights in memory.
"""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

# torch 2.5 and later let several heads of queries share a head of keys.
SHARES_KEYS = "enable_gqa" in (F.scaled_dot_product_attention.__doc__ or "")


def causal_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """(B, heads, T, head), where query t sees the keys 0 … t, without a mask in memory.

    Args:
        q: (B, heads, T, head). k, v: (B, kv_heads, T, head), each head for heads / kv_heads consecutive ones of queries.
    """
    times = q.size(1) // k.size(1)
    # In fp32 a GPU's only kernel that shares them has all weights in memory.
    if times > 1 and (not SHARES_KEYS or (q.is_cuda and q.dtype == torch.float32)):
        k, v = k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)
        times = 1
    if times > 1:  # torch before 2.5 knows no such word
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, enable_gqa=True)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)


def shared_attention(q: Tensor, k: Tensor, v: Tensor, visible: Optional[Tensor], dropout: float = 0.0) -> Tensor:
    """(B, heads, T, head), where a mask says what a query sees. The queries that share a head of keys become further tokens of one
    head: so no kernel need know of sharing.

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
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout)
    return out.reshape(rows, heads, count, width)
