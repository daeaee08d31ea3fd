"""Updates of q, k and v as one update of GPT-2's c_attn, whose outputs are q | k | v; and back.

Here each of the three has an A and a B of its own (Hu et al. 2022 train q and v so). PEFT gives c_attn one A. The same update with
one A is that of a larger rank, n r for n of the three:

    [q; k; v] += s [B_q  0 ]  [A_q]
                   [ 0   0 ]  [A_v] x        here for q and v: A is (2 r, in), B (3 out, 2 r)
                   [ 0  B_v]

The other way round is simpler: an update B A of c_attn is those of q, k and v with A, each, and with the rows of B that are theirs.
"""

from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor

Pair = Tuple[Tensor, Tensor]  # A (r, in) and B (out, r)


def stack(pairs: Sequence[Optional[Pair]], kept: Sequence[bool]) -> Pair:
    """One A and B for the updates *pairs* of parts of equal size; None for a part without one.

    Args:
        kept: which parts get a block of ranks, if only of zeros; the others have no update.

    Example::

        >>> q, v = (torch.ones(1, 2), torch.ones(2, 1)), (2 * torch.ones(1, 2), 3 * torch.ones(2, 1))
        >>> a, b = stack([q, None, v], kept=[True, False, True])
        >>> a.tolist(), b.tolist()
        ([[1.0, 1.0], [2.0, 2.0]], [[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 3.0], [0.0, 3.0]])
    """
    some_a, some_b = next(pair for pair in pairs if pair is not None)
    (rank, _), out = some_a.shape, len(some_b)
    a = [torch.zeros_like(some_a) if pair is None else pair[0] for pair, keep in zip(pairs, kept) if keep]
    b = some_b.new_zeros(len(pairs) * out, len(a) * rank)
    block = 0
    for part, (pair, keep) in enumerate(zip(pairs, kept)):
        if pair is not None:
            b[part * out : (part + 1) * out, block : block + rank] = pair[1]
        block += rank * keep
    return torch.cat(a), b


def split(a: Tensor, b: Tensor, parts: int) -> List[Pair]:
    """The updates of *parts* parts of equal size: all have A.

    Raises:
        ValueError: B has no such parts.
    """
    if len(b) % parts:
        raise ValueError(f"a lora_B of {len(b)} rows is not one of q, k and v")
    return [(a.clone(), rows.clone()) for rows in b.chunk(parts)]


def own_blocks(pairs: Sequence[Sequence[Pair]]) -> List[List[Optional[Pair]]]:
    """Updates as they were before `stack`, layer by layer, where that is what *pairs* are; else those that do something.

    Args:
        pairs: for each layer the pairs of its parts, as `split` gives them.

    Example::

        >>> q, v = (torch.ones(1, 2), torch.ones(2, 1)), (2 * torch.ones(1, 2), 3 * torch.ones(2, 1))
        >>> ((q, k, v),) = own_blocks([split(*stack([q, None, v], [True, False, True]), 3)])
        >>> q[0].tolist(), k, v[1].tolist()
        ([[1.0, 1.0]], None, [[3.0], [3.0]])
    """
    parts, rank = range(len(pairs[0])), len(pairs[0][0][0])
    used = [part for part in parts if any(bool(layer[part][1].any()) for layer in pairs)]
    if not used:
        return [list(layer) for layer in pairs]  # not trained yet
    each, rest = divmod(rank, len(used))
    blocks = {part: slice(each * i, each * (i + 1)) for i, part in enumerate(used)}

    def is_inside(b: Tensor, block: slice) -> bool:
        return not (b[:, : block.start].any() or b[:, block.stop :].any())

    alike = all(len(layer[0][0]) == rank for layer in pairs)
    if rest or not alike or not all(is_inside(layer[part][1], block) for layer in pairs for part, block in blocks.items()):
        blocks = {part: slice(None) for part in used}
    found: List[List[Optional[Pair]]] = []
    for layer in pairs:
        own = {part: (layer[part][0][block].clone(), layer[part][1][:, block].clone()) for part, block in blocks.items()}
        # An A of zeros stands for no update: one begins with random numbers.
        found.append([own[part] if part in own and bool(own[part][0].any()) else None for part in parts])
    return found
