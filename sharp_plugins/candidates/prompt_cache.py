"""The keys and values of prompts that were read once, for the candidates that follow them."""

from typing import List, Sequence, Tuple

import torch
from torch import Tensor

from sharp_plugins.networks.grouped_attention import causal_attention, shared_attention


class PromptCache:
    """What stands before the candidates of several prompts (`sharp_plugins.networks.decoder.Attends`). Not for training.

    The first call of the decoder reads the prompts (B, T), padded on the right. Each further call reads symbols of some candidates
    (S, R), padded on the right too; before it comes `follow`. The candidates see their prompt and themselves, and not each other.

    Args:
        lengths: of the prompts, (B,), int64; 0 for none.
        most: positions of the model.
        prefix: for each layer keys and values (1, kv_heads, P, head) that stand before all prompts, such as a trained prefix.

    Example, two candidates of one prompt::

        >>> from sharp_plugins.networks.decoder import Decoder
        >>> from sharp_plugins.networks.decoder_settings import DecoderSettings
        >>> model = Decoder(DecoderSettings(vocabulary=9, layers=2, width=8, ffn_width=8, heads=2, max_positions=6)).eval()
        >>> cache = PromptCache(torch.tensor([2]), most=6)
        >>> with torch.no_grad():
        ...     _ = model.features(torch.tensor([[4, 5]]), cache)
        ...     cache.follow(torch.tensor([0, 0]))
        ...     after = model.features(torch.tensor([[6], [7]]), cache)
        ...     whole = model.features(torch.tensor([[4, 5, 6], [4, 5, 7]]))
        >>> torch.allclose(after[:, 0], whole[:, 2], atol=1e-6)
        True
    """

    def __init__(self, lengths: Tensor, most: int, prefix: Sequence[Tuple[Tensor, Tensor]] = ()):
        self.lengths, self.most, self.prefix = lengths, most, prefix
        self.before = prefix[0][0].size(2) if prefix else 0
        self.columns = self.before  # of prefix and prompts
        self.keys: List[Tensor] = []  # of each layer, (B, kv_heads, columns, head)
        self.values: List[Tensor] = []
        self.rows = torch.empty(0)  # the prompts of the candidates that are being read
        self.visible = torch.empty(0)
        self.is_prompt = True

    def follow(self, rows: Tensor) -> None:
        """The candidates that are read next are those of the prompts *rows*, (S,), int64."""
        self.rows, self.is_prompt = rows, False

    def positions(self, tokens: Tensor) -> Tensor:
        """(T,) for the prompts, (S, R) for candidates."""
        count = tokens.size(1)
        if self.is_prompt:
            self.columns = self.before + count
            seen = torch.ones(count, self.columns, dtype=torch.bool, device=tokens.device)
            self.visible = seen.tril(self.before)
            return torch.arange(self.before, self.columns, device=tokens.device)
        first = self.before + self.lengths[self.rows]
        columns = torch.arange(self.columns, device=tokens.device)
        of_prompt = (columns < first[:, None])[:, None].expand(-1, count, -1)  # (S, R, columns)
        own = torch.ones(count, count, dtype=torch.bool, device=tokens.device).tril().expand(len(first), -1, -1)
        self.visible = torch.cat([of_prompt, own], dim=-1)[:, None]
        # Padding may reach beyond the last position; what is computed there is not looked at.
        return (first[:, None] + torch.arange(count, device=tokens.device)).clamp(max=self.most - 1)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not self.is_prompt:
            k, v = (torch.cat([store[layer][self.rows], new], dim=2) for store, new in ((self.keys, k), (self.values, v)))
            return shared_attention(q, k, v, self.visible)
        if self.prefix:
            pairs = zip(self.prefix[layer], (k, v))
            k, v = (torch.cat([part.to(new.dtype).expand(len(new), -1, -1, -1), new], dim=2) for part, new in pairs)
        self.keys.append(k)
        self.values.append(v)
        return shared_attention(q, k, v, self.visible) if self.prefix else causal_attention(q, k, v)
