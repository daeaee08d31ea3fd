"""Keys and values of prompts and of what is generated after them, for several beams of a sentence.

A sentence's keys lie in one row of *slots*, whatever the number of its beams:

    prefix (P) | prompt (T, padded on the right) | step 1: one slot a beam | step 2: one slot a beam | ...

The prompt is read once and stored once, and each generated token is stored once too. A beam that continues another one does not
copy that one's keys: `visible` says which slots each beam descends from. So a step is one attention of all beams of a sentence, as
further queries, to the sentence's slots; like the query heads of one key-value head in grouped-query attention (Ainslie et al.
2023), and together with them. Slots from which no beam descends any more are swept out now and then, which is the only copy.
"""

from typing import List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sharp_plugins.networks.decoder_settings import DecoderSettings
from sharp_plugins.networks.grouped_attention import causal_attention, shared_attention

ALIGNED = 8  # attention kernels on a GPU copy a mask whose rows do not begin at multiples of so many numbers
FIRST_STEPS = 32  # generated tokens a beam for which room is made at first; more as they come


def _aligned(count: int) -> int:
    return -(-count // ALIGNED) * ALIGNED


class BeamCache:
    """What stands before the new tokens of *beam* continuations of each prompt (`sharp_plugins.networks.decoder.Attends`).

    The first call of the decoder reads the prompts: (B, T), or *packed*, their tokens alone and one prompt behind the other,
    (N, 1). Packed, padding is computed for the attention alone; the host waits for the device once. Each further call reads one
    token a beam, (B · beam, 1), the beams of a sentence one after the other; before it comes `step`.

    Args:
        settings: the decoder's.
        lengths: of the prompts, (B,), int64.
        beam: continuations of each prompt.
        steps: most calls after the first.
        dtype: of the keys and values.
        prefix: for each layer keys and values (1, kv_heads, P, head) that stand before all prompts, such as a trained prefix;
            the prompts' positions then begin at P.
        host_lengths: *lengths*, where the host knows them; else it waits for the device.

    Example::

        >>> from sharp_plugins.networks.decoder import Decoder
        >>> model = Decoder(DecoderSettings(vocabulary=9, layers=1, width=8, ffn_width=8, heads=2, max_positions=6)).eval()
        >>> tokens = torch.tensor([[4, 5, 6]])
        >>> cache = BeamCache(model.settings, torch.tensor([2]), beam=1, steps=1, dtype=torch.float32)
        >>> _ = model.features(tokens[:, :2], cache)
        >>> cache.step(None)
        >>> torch.allclose(model.features(tokens[:, 2:], cache)[:, -1], model.features(tokens)[:, -1], atol=1e-6)
        True
    """

    def __init__(
        self,
        settings: DecoderSettings,
        lengths: Tensor,
        beam: int,
        steps: int,
        dtype: torch.dtype,
        prefix: Optional[Sequence[Tuple[Tensor, Tensor]]] = None,
        host_lengths: Optional[List[int]] = None,
    ):
        self.beam, self.kv, self.group = beam, settings.kv, settings.heads // settings.kv
        self.prefix = prefix
        self.before = prefix[0][0].size(2) if prefix else 0
        self.lengths = lengths.clone()
        host_lengths = lengths.tolist() if host_lengths is None else host_lengths
        self.longest = max(host_lengths)
        self.rows = lengths.numel()
        self.base = self.before + self.longest  # slots of prefix and prompts
        self.used = 0  # slots in use; 0: the prompts have not been read
        self.generated = 0  # tokens that were read after the prompts
        self.end = _aligned(self.base + beam * steps)
        self.capacity = min(self.end, _aligned(self.base + beam * FIRST_STEPS))
        shape = (self.rows, self.kv, self.capacity, settings.head_width)
        self.keys = [torch.empty(shape, dtype=dtype, device=lengths.device) for _ in range(settings.layers)]
        self.values = [torch.empty(shape, dtype=dtype, device=lengths.device) for _ in range(settings.layers)]
        # (B, beam, slots): 0 where a beam sees a slot, −inf elsewhere. None as long as all beams see all slots.
        slots = torch.arange(self.base, device=lengths.device)
        seen = (slots < self.before + lengths[:, None]) | (slots < self.before)
        self.visible: Optional[Tensor] = None
        if beam > 1 or min(host_lengths) < self.longest:
            self.visible = torch.full((self.rows, beam, self.capacity), float("-inf"), dtype=dtype, device=lengths.device)
            self.visible[:, :, : self.base].masked_fill_(seen[:, None], 0)
        self.mask: Optional[Tensor] = None  # of this call, for `attend`
        self.packed: Optional[Tuple[Tensor, Tensor]] = None  # the prompt and the place in it of each token, (N,), int64

    def positions(self, tokens: Tensor) -> Tensor:
        """(T,) for the prompts, (N, 1) if they are packed, (B · beam, 1) for one token a beam."""
        if self.generated == 0:
            if self.prefix and self.mask is None:  # a token sees the prefix and, of the prompt, itself and what is before it
                seen = torch.ones(self.longest, _aligned(self.base), dtype=torch.bool, device=tokens.device).tril(self.before)
                self.mask = seen[:, : self.base]
            positions = torch.arange(self.before, self.base, device=tokens.device)
            if tokens.size(1) == self.longest:
                return positions
            prompt, place = (torch.arange(self.longest, device=tokens.device) < self.lengths[:, None]).nonzero(as_tuple=True)
            self.packed = prompt, place
            return positions[place, None]
        positions = self.lengths + (self.before + self.generated - 1)
        return positions.repeat_interleave(self.beam)[:, None]

    def step(self, parents: Optional[Tensor]) -> None:
        """One more token a beam will be read. *parents* (B, beam), int64, has the beam that each of the new beams continues; None
        where each continues itself."""
        if self.used + self.beam > self.capacity:
            if parents is not None:
                self._inherit(parents)
                parents = None
            self._make_room()
        self.generated += 1
        start, self.used = self.used, self.used + self.beam
        if self.visible is None:
            self.mask = None
            return
        if parents is not None:
            self._inherit(parents, start)
        own = self.visible[:, :, start : self.used]
        own.fill_(float("-inf")).diagonal(dim1=1, dim2=2).zero_()
        mask = self.visible[:, :, None, : _aligned(self.used)]
        if self.group > 1:
            mask = mask.expand(-1, -1, self.group, -1)
        self.mask = mask.reshape(self.rows, 1, self.beam * self.group, -1)[..., : self.used]

    def _inherit(self, parents: Tensor, used: Optional[int] = None) -> None:
        """Let each beam see what its parent saw."""
        if self.visible is not None and self.beam > 1:
            own = self.visible[:, :, self.base : self.used if used is None else used]
            own.copy_(own.gather(1, parents[:, :, None].expand_as(own)))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self.keys[layer], self.values[layer]
        if self.generated == 0:
            return self._read_prompts(layer, q, k, v)
        start, used, width = self.used - self.beam, self.used, q.size(3)
        if self.beam == 1:
            keys[:, :, start:used] = k
            values[:, :, start:used] = v
            q = q.reshape(self.rows, self.kv, self.group, width).contiguous()
            out = F.scaled_dot_product_attention(q, keys[:, :, :used], values[:, :, :used], self.mask)
            return out.reshape(self.rows, -1, 1, width)  # some kernels lay it out with the heads inside
        beams = (self.rows, self.beam, self.kv, width)
        keys[:, :, start:used] = k.view(beams).transpose(1, 2)
        values[:, :, start:used] = v.view(beams).transpose(1, 2)
        queries = q.view(self.rows, self.beam, self.kv, self.group, width).transpose(1, 2)
        queries = queries.reshape(self.rows, self.kv, self.beam * self.group, width).contiguous()
        out = F.scaled_dot_product_attention(queries, keys[:, :, :used], values[:, :, :used], self.mask)
        out = out.view(self.rows, self.kv, self.beam, self.group, width).transpose(1, 2)
        return out.reshape(self.rows * self.beam, self.kv * self.group, 1, width)

    def _read_prompts(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the prompts' keys and values; what is attended to is the prefix and, causally, the prompt."""
        keys, values, self.used = self.keys[layer], self.values[layer], self.base
        if self.packed:
            q, k, v = self._padded(q), self._padded(k), self._padded(v)
        keys[:, :, self.before : self.base] = k
        values[:, :, self.before : self.base] = v
        if self.prefix:
            keys[:, :, : self.before], values[:, :, : self.before] = self.prefix[layer]
            out = shared_attention(q, keys[:, :, : self.base], values[:, :, : self.base], self.mask)
        else:
            out = causal_attention(q, k, v)
        return out.transpose(1, 2)[self.packed][:, :, None] if self.packed else out

    def _padded(self, x: Tensor) -> Tensor:
        """(N, heads, 1, head) of packed tokens to (B, heads, T, head)."""
        rows = x.new_zeros(self.rows, self.longest, x.size(1), x.size(3))
        rows[self.packed] = x[:, :, 0]
        return rows.transpose(1, 2)

    def _make_room(self) -> None:
        """Sweep out the slots that no beam sees any more, and make the buffers larger where they are still more than half full."""
        if self.visible is not None and self.beam > 1:
            own = self.visible[:, :, self.base : self.used]
            live = own.eq(0).any(1)  # (B, slots)
            left = int(live.sum(1).max())
            order = live.int().argsort(dim=1, descending=True, stable=True)[:, :left]
            for buffers in (self.keys, self.values):
                for buffer in buffers:
                    slots = buffer[: self.rows, :, self.base : self.used]
                    index = order[:, None, :, None].expand(-1, slots.size(1), -1, slots.size(3))
                    buffer[: self.rows, :, self.base : self.base + left] = slots.gather(2, index)
            own[:, :, :left] = own.gather(2, order[:, None].expand(-1, self.beam, -1))
            own[:, :, left:] = float("-inf")
            self.used = self.base + left
        if 2 * (self.used + self.beam - self.base) > self.capacity - self.base and self.capacity < self.end:
            self.capacity = min(self.end, _aligned(self.base + 2 * (self.capacity - self.base)))
            self.keys, self.values = self._larger(self.keys), self._larger(self.values)
            if self.visible is not None:
                [self.visible] = self._larger([self.visible])

    def _larger(self, buffers: List[Tensor]) -> List[Tensor]:
        """Room for `capacity` slots in each; one after the other, so that no more than one old one is there beside its copy."""
        for number, old in enumerate(buffers):
            new = old.new_empty(self.rows, old.size(1), self.capacity, *old.shape[3:])
            new[:, :, : self.used] = old[: self.rows, :, : self.used]
            buffers[number] = new
        return buffers

    def keep(self, rows: List[int]) -> None:
        """Leave only these sentences, in this order. A sentence stays where it is or moves to the place of one that is dropped
        (``rows[i] == i or rows[i] >= len(rows)``): nothing else is copied."""
        for to, row in enumerate(rows):
            if row != to:
                for buffer in (*self.keys, *self.values):
                    buffer[to, :, : self.used] = buffer[row, :, : self.used]
                if self.visible is not None:
                    self.visible[to] = self.visible[row]
                self.lengths[to] = self.lengths[row]
        self.rows = len(rows)
        self.keys = [buffer[: self.rows] for buffer in self.keys]
        self.values = [buffer[: self.rows] for buffer in self.values]
        self.lengths = self.lengths[: self.rows]
        self.visible = None if self.visible is None else self.visible[: self.rows]
