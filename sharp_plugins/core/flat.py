"""Arithmetic on many tensors as on one long vector: norms, and w + scale · direction written in the precision of the weights.

A model's weights are hundreds of tensors of several devices and dtypes. What is done here goes over them kind by kind (one
device and dtype), with one call for many tensors where torch has one. Half precision is computed in fp32, a chunk at a time,
in scratch memory that is kept from step to step and does not grow with the model. Nothing here waits for a GPU.
"""

from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from sharp_plugins.core.noise import mix, seeded_generator
from sharp_plugins.core.rounding import round_stochastically_

HALF = (torch.float16, torch.bfloat16)

# Elements that the conversions to and from fp32 handle at a time: enough to keep a GPU busy, 3 x 16 MiB of scratch.
CHUNK = 2**22


# ---------------------------------------------------------------------- kinds and chunks


def by_kind(tensors: Sequence[Tensor]) -> List[List[int]]:
    """Positions of the tensors, those of one device and dtype together."""
    groups: Dict[Tuple[torch.device, torch.dtype], List[int]] = {}
    for position, tensor in enumerate(tensors):
        groups.setdefault((tensor.device, tensor.dtype), []).append(position)
    return list(groups.values())


def chunks(*lists: Sequence[Tensor]) -> Iterator[List[List[Tensor]]]:
    """Cut lists of tensors, which have the same shapes in the same places, into runs of about `CHUNK` elements and of one kind:
    that of the last list. Contiguous tensors are cut themselves where they are long; others are passed whole."""
    for group in by_kind(lists[-1]):
        run: List[List[Tensor]] = [[] for _ in lists]
        filled = 0
        for tensors in ([tensors[position] for tensors in lists] for position in group):
            pieces = [tensors]
            if all(t.is_contiguous() for t in tensors):
                pieces = [list(piece) for piece in zip(*(t.view(-1).split(CHUNK) for t in tensors))]
            for piece in pieces:
                if filled and filled + piece[0].numel() > CHUNK:
                    yield run
                    run, filled = [[] for _ in lists], 0
                for part, one in zip(run, piece):
                    part.append(one)
                filled += piece[0].numel()
        if filled:
            yield run


def like(vector: Tensor, chunk: Sequence[Tensor]) -> List[Tensor]:
    """Views of *vector*, (n,), with the shapes of *chunk*, n elements in all."""
    return [part.view(t.shape) for part, t in zip(vector.split([t.numel() for t in chunk]), chunk)]


class Scratch:
    """Vectors for the elements of a chunk, in fp32 (fp64 for fp64), from memory that is kept.

    Example::

        >>> scratch = Scratch()
        >>> scratch.load("weights", [torch.ones(2).half(), torch.zeros(1).half()])
        tensor([1., 1., 0.])
    """

    def __init__(self) -> None:
        self._kept: Dict[Tuple[str, torch.device, torch.dtype], Tensor] = {}

    def load(self, name: str, chunk: Sequence[Tensor]) -> Tensor:
        """A copy of the elements of *chunk*, (n,). The next call with the same *name* overwrites it."""
        size, device = sum(t.numel() for t in chunk), chunk[0].device
        dtype = torch.float64 if chunk[0].dtype == torch.float64 else torch.float32
        kept = self._kept.get((name, device, dtype))
        if kept is None or kept.numel() < size:
            with torch.inference_mode(False):  # it is kept, and may be written in training later
                kept = self._kept[name, device, dtype] = torch.empty(size, device=device, dtype=dtype)
        vector = kept[:size]
        torch._foreach_copy_(like(vector, chunk), list(chunk))
        return vector


def own_entries(gradient: Tensor) -> Tensor:
    """*gradient* as a dense tensor whose entries have memory of their own: it may be multiplied in place."""
    if gradient.layout != torch.strided:
        return gradient.to_dense()
    return gradient.contiguous() if 0 in gradient.stride() else gradient


# ---------------------------------------------------------------------- norms


def norms(tensors: Sequence[Tensor]) -> List[Tensor]:
    """‖·‖₂ of each of *tensors* of one kind, 0-dimensional and of their dtype.

    On a CPU torch's norm of a long fp32 tensor loses digits: it is 0.3 % too small with 40 million entries, as GPT-2's embeddings
    have, and 1 % with 100 million. So long ones are cut here.
    """
    if not any(t.numel() > CHUNK for t in tensors) or tensors[0].device.type != "cpu":
        return list(torch._foreach_norm(list(tensors)))
    cut = [t.view(-1).split(CHUNK) if t.numel() > CHUNK and t.is_contiguous() else [t] for t in tensors]
    found = iter(torch._foreach_norm([piece for pieces in cut for piece in pieces]))
    return [
        next(found) if len(pieces) == 1 else torch.linalg.vector_norm(torch.stack([next(found) for _ in pieces])) for pieces in cut
    ]


def norm(tensors: Sequence[Tensor], zero: Tensor, scratch: Scratch) -> Tensor:
    """‖·‖₂ over all entries of *tensors*, 0-dimensional, of the device and dtype of *zero*. Half precision is squared in fp32."""
    parts: List[Tensor] = []
    for group in by_kind(tensors):
        of_kind = [tensors[i] for i in group]
        if of_kind[0].dtype in HALF:
            parts += [torch.linalg.vector_norm(scratch.load("direction", chunk)) for (chunk,) in chunks(of_kind)]
        else:
            parts += norms(of_kind)
    return _norm_of_parts(parts, zero)


def scaled_norm(w: Sequence[Tensor], tensors: Sequence[Tensor], eta: float, zero: Tensor, scratch: Scratch) -> Tensor:
    """‖T_w ·‖₂ with T_w = |w| + η, as `norm`; *w* has the shapes of *tensors*."""
    parts = []
    for weights, chunk in chunks(w, tensors):
        g, t = scratch.load("direction", chunk), scratch.load("weights", weights)
        parts.append(torch.linalg.vector_norm(t.abs_().add_(eta).mul_(g)))
    return _norm_of_parts(parts, zero)


def _norm_of_parts(norms: Sequence[Tensor], zero: Tensor) -> Tensor:
    """The 2-norm of a vector, from the 2-norms of its parts. Where each process holds some of them, their squares would be summed
    over the processes here."""
    return torch.linalg.vector_norm(torch.stack([zero, *(part.to(zero) for part in norms)]))


# ---------------------------------------------------------------------- w + scale · direction


class Moments(NamedTuple):
    """What became of ε: Δ is the change of the weights that the model sees. 0-dimensional tensors."""

    realised: Tensor  # ‖Δ‖²
    along: Tensor  # ⟨Δ, ε⟩
    intended: Tensor  # ‖ε‖²


def write_sum(
    out: Sequence[Tensor],
    w: Sequence[Tensor],
    direction: Sequence[Tensor],
    scale: Tensor,
    scratch: Scratch,
    eta: Optional[float] = None,
    seed: Optional[int] = None,
    from_rounded: bool = False,
    seen: Optional[Sequence[Tensor]] = None,
) -> Optional[Moments]:
    """Write w + ε into *out*, rounded to its precision, for ε = scale · direction.

    Args:
        out: may be the tensors of *direction*, which are lost in any case, or those of half-precision *w* or *seen*.
        w: the weights in the best precision there is.
        scale: 0-dimensional, fp32 or fp64.
        eta: for adaptive SAM's ε = scale · T_w² direction, T_w = |w| + η.
        seed: round half precision at random, as this seed says; by default it is rounded to the nearest.
        from_rounded: start from *w* rounded to the precision of *out*.
        seen: the weights that the model sees at w; given where the moments are wanted, which is one more sweep.
    """
    if eta is None and all(o.dtype == s.dtype not in HALF for o, s in zip(out, w)):
        # By the same call whether it is measured or not: another one may round otherwise, and the training would differ.
        for group in by_kind(out):
            ws, directions, outs = ([tensors[i] for i in group] for tensors in (w, direction, out))
            in_place, measured = directions[0] is outs[0], seen is not None
            _add_scaled(ws, directions, outs, scale.to(outs[0]), in_place=in_place, epsilon=measured)
        return None if seen is None else _moments(w, direction, out, scale, scratch)
    moments = None if seen is None else _no_moments(scale)
    for number, (home, weights, towards, target) in enumerate(chunks(out if seen is None else seen, w, direction, out)):
        epsilon, point = scratch.load("direction", towards), scratch.load("weights", weights)
        dtype = target[0].dtype
        if from_rounded:
            point.copy_(point.to(dtype))
        if eta is not None:
            epsilon.mul_(point.abs().add_(eta).square_())
        epsilon.mul_(scale.to(epsilon))
        if moments is not None:  # before the write, which may be to the same memory
            before = scratch.load("home", home)
        point.add_(epsilon)
        if dtype in HALF:
            if seed is not None:
                point = round_stochastically_(point, dtype, seeded_generator(point.device, mix(seed, number)))
            if moments is not None:
                point = point.to(dtype).float()
        torch._foreach_copy_(target, like(point, target))
        if moments is not None:
            _add_to(moments, point - before, epsilon)
    return moments


def _no_moments(scale: Tensor) -> Moments:
    return Moments(*(torch.zeros_like(scale) for _ in range(3)))


def _add_to(moments: Moments, delta: Tensor, epsilon: Tensor) -> None:
    for moment, value in zip(moments, (delta.dot(delta), delta.dot(epsilon), epsilon.dot(epsilon))):
        moment.add_(value.to(moment))


def _moments(w: Sequence[Tensor], epsilon: Sequence[Tensor], out: Sequence[Tensor], scale: Tensor, scratch: Scratch) -> Moments:
    """Of the step from *w*, which the model has seen in the same precision, to *out*; *scale* says where they are."""
    moments = _no_moments(scale)
    for weights, steps, points in chunks(w, epsilon, out):
        delta = scratch.load("weights", points).sub_(scratch.load("home", weights))
        _add_to(moments, delta, scratch.load("direction", steps))
    return moments


def _add_scaled(
    w: List[Tensor], direction: List[Tensor], out: List[Tensor], scale: Tensor, in_place: bool, epsilon: bool = False
) -> None:
    """out = w + scale · direction for tensors of one device and dtype, fp32 or fp64.

    Args:
        direction: is lost; with *in_place* it is *out* itself.
        scale: 0-dimensional, on the same device.
        epsilon: leave scale · direction in *direction*; not with *in_place*.
    """
    if scale.device.type == "cpu":
        # No _foreach_ function writes to given memory, and one sweep instead of three is what a CPU is short of.
        alpha = scale.item()
        for a, d, o in zip(w, direction, out):
            torch.add(a, d, alpha=alpha, out=o)
        if epsilon:
            torch._foreach_mul_(direction, scale)
    else:  # it is there in any case
        _add_scaled_at_once(w, direction, out, scale, in_place)


def _add_scaled_at_once(w: List[Tensor], direction: List[Tensor], out: List[Tensor], scale: Tensor, in_place: bool) -> None:
    """`_add_scaled` where a sweep costs less than a call for each tensor."""
    torch._foreach_mul_(direction, scale)
    if in_place:
        torch._foreach_add_(out, w)
    else:
        torch._foreach_copy_(out, w)
        torch._foreach_add_(out, direction)
