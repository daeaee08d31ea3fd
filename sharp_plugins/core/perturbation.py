"""Climb from w to w + ε and come back bit for bit, in any precision. Knows tensors, not fairseq.

    ε* = ρ g / ‖g‖₂                                   SAM (Foret et al. 2021, Eq. 2)
    ε* = ρ T_w² g / ‖T_w g‖₂,  T_w = |w| + η           adaptive SAM (Kwon et al. 2021, Eq. 9)
    ε̂  = ρ z / ‖z‖₂,  z ~ N(0, I)                      the random perturbation of δ-SAM's Eq. 3

One norm runs over all parameters that have a gradient. It and ε are computed in fp32 whatever the weights' precision, or in
fp64 for fp64 weights.

Two ways to come back, and in both w itself is never recomputed:

- *Without an fp32 master copy* (fp32, autocast, memory-efficient fp16) the perturbed weights are written to a buffer that
  is kept from step to step, and the parameters are pointed at it; coming back points them at w again, which nothing has
  touched. This costs one copy of the trainable weights, and both perturbations share it.
- *With an fp32 master copy* (fp16, bf16) the perturbed weights overwrite the half-precision ones, and coming back rounds the
  master copy again, as the mixed-precision optimizer did before. This costs no memory that grows with the model.
"""

import math
from typing import Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from sharp_plugins.core.noise import draw_seed, fill_normal_, mix, seeded_generator
from sharp_plugins.core.rounding import round_stochastically_
from sharp_plugins.core.sharded import refuse_sharded

ROUNDINGS = ("nearest", "stochastic")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_HALF = DTYPES[:2]

# Elements that the conversions to and from fp32 handle at a time: enough to keep a GPU busy, 3 x 16 MiB of scratch.
_CHUNK = 2**22


class Ascent(NamedTuple):
    """What a climb did; 0-dimensional fp32 (with fp64 weights: fp64) tensors on the first parameter's device, so that reading
    them is the caller's choice."""

    grad_norm: Tensor  # ‖g‖₂ of the gradient as given (‖T_w g‖₂ when adaptive)
    skipped: Tensor  # 1 where there was no direction to climb in (zero or non-finite norm), else 0
    radius: Optional[Tensor]  # ‖Δ‖₂ of the realised Δ = (weights the model sees now) − (weights it saw at w); if measured
    projection: Optional[Tensor]  # ⟨Δ, ε⟩ / ‖ε‖₂²: 1 where rounding lost nothing of ε; if measured


class Perturbation:
    """The trainable weights w of a model, and the way to w + ε and back.

    Used by hand, in a training loop of one's own::

        ball = Perturbation(model.parameters(), rho=0.05)
        loss_fn(model(x), y).backward()
        with ball.climb():  # uses the gradients, and clears them
            loss_fn(model(x), y).backward()
        base_optimizer.step()

    Args:
        params: the parameters that the model's forward reads, in fp16, bf16, fp32 or fp64; those with ``requires_grad=False``
            are left out, and one that is named twice counts once.
        rho: the radius ρ ≥ 0.
        masters: for half-precision *params*, the fp32 tensors that the base optimizer updates: as many, of the same shapes
            (views of one flat tensor will do). Only for parameters that are the master copy rounded to their own precision,
            each named once.
        rounding: how w + ε is rounded to half-precision parameters: "nearest" or "stochastic".
        adaptive: use adaptive SAM's ε, which scales with the weights.
        eta: adaptive SAM's η ≥ 0 in T_w = |w| + η.

    Raises:
        ValueError: an argument is outside its range, nothing is trainable, or a parameter cannot be perturbed: it is sharded
            over processes (fully_shard, FullyShardedDataParallel), or of another dtype.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        rho: float,
        masters: Optional[Sequence[Tensor]] = None,
        rounding: str = "stochastic",
        adaptive: bool = False,
        eta: float = 0.01,
    ):
        self.params = list(dict.fromkeys(p for p in params if p.requires_grad))
        if not self.params:
            raise ValueError("there is no parameter with requires_grad=True to perturb")
        refuse_sharded(self.params)
        others = sorted({str(p.dtype) for p in self.params} - {str(dtype) for dtype in DTYPES})
        if others:
            raise ValueError(f"params must be of {', '.join(map(str, DTYPES))}, and some are of {', '.join(others)}")
        if not (rho >= 0 and math.isfinite(rho)):
            raise ValueError(f"rho must be a finite number that is 0 or larger, and is {rho}")
        if not (eta >= 0 and math.isfinite(eta)):
            raise ValueError(f"eta must be a finite number that is 0 or larger, and is {eta}")
        if rounding not in ROUNDINGS:
            raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)} and is {rounding!r}")
        if masters is not None and [m.shape for m in masters] != [p.shape for p in self.params]:
            raise ValueError("masters must have the shapes of the trainable params, in their order")
        if masters is not None and any(m.dtype != torch.float32 for m in masters):
            raise ValueError("masters must be fp32 tensors")
        if masters is not None and any(m.numel() and m.data_ptr() == p.data_ptr() for m, p in zip(masters, self.params)):
            raise ValueError("masters must have memory of their own: fp32 params are their own master copy, and need none")
        self.rho, self.adaptive, self.eta, self.rounding = rho, adaptive, eta, rounding
        self.masters = list(masters) if masters is not None else None
        self.ascent: Optional[Ascent] = None
        self._buffer: Optional[List[Tensor]] = None  # holds w + ε where there is no master copy
        self._home: Optional[List[Tuple[torch.nn.Parameter, Tensor]]] = None  # where to come back to; None at w
        self._scratch: dict = {}
        self._dtype = torch.float64 if any(p.dtype == torch.float64 for p in self.params) else torch.float32  # of norms

    # ------------------------------------------------------------------ going and coming back

    @property
    def climbed(self) -> bool:
        """Whether the parameters hold perturbed weights now."""
        return self._home is not None

    @torch.no_grad()
    def perturb_randomly(self, seed: Optional[int] = None) -> "Perturbation":
        """Go to w + ρ z/‖z‖₂ with z ~ N(0, I) over all trainable weights (the first term of δ-SAM's Eq. 3).

        The noise is drawn into the very memory that will hold the perturbed weights. In half precision z is therefore
        a Gaussian rounded to that precision, and w + ρ z/‖z‖₂ is rounded to the nearest from the weights that the model
        sees: rounding at random would make the perturbation longer (bf16: about 4 ρ), and no direction is to be kept here.

        Args:
            seed: the noise depends on it and on the shapes alone; by default each call takes one number from torch's global
                generator for a seed, so that ``torch.manual_seed`` decides the noise. To give a forward pass the dropout masks
                of another one, put the generator back after this call and not before it, or give a seed.
        """
        self._leave_w()
        try:
            seed = draw_seed() if seed is None else seed
            targets = self._targets(range(len(self.params)))
            for _, group in self._by_kind(targets):
                fill_normal_([targets[i] for i in group], mix(seed, group[0]))
            self._write(range(len(self.params)), targets, self.rho / self._norm(targets))
        except BaseException:  # no with statement is entered then, which would come back
            self.descend()
            raise
        return self

    @torch.no_grad()
    def climb(self, seed: Optional[int] = None, measure: bool = False) -> "Perturbation":
        """Go to w + ε* along the gradients in ``.grad``, and clear them.

        A zero norm gives ε* = 0. A norm that is not finite gives NaN weights: the pass at them then fails in the way in
        which the training loop (loss scaler, overflow check, all workers alike) already deals with such gradients, with
        no host-device synchronisation here.

        Args:
            seed: for stochastic rounding; by default each call that rounds so takes one number from torch's global generator.
            measure: compute the realised radius and projection, one more sweep over the weights.

        Returns:
            self, as a context manager whose exit comes back to w; ``self.ascent`` says what was done.
        """
        self._leave_w()
        try:
            self.ascent = self._climb(seed, measure)
            for p in self.params:
                p.grad = None
        except BaseException:  # no with statement is entered then, which would come back
            self.descend()
            raise
        return self

    def _climb(self, seed: Optional[int], measure: bool) -> Ascent:
        if seed is None:
            rounds = self.rounding == "stochastic" and any(p.dtype in _HALF for p in self.params)
            seed = draw_seed() if rounds else 0
        indices = [i for i, p in enumerate(self.params) if p.grad is not None]
        grads = [_own_entries(self.params[i].grad) for i in indices]
        norm = self._ascent_norm(indices, grads)
        scale = torch.where(norm > 0, self.rho / norm, torch.zeros_like(norm))
        scale = torch.where(norm.isfinite(), scale, torch.full_like(norm, math.nan))
        moments = self._write(indices, grads, scale, self.adaptive, mix(seed, -2), measure)
        radius = projection = None
        if measure:
            realised, along, intended = moments
            radius = realised.sqrt()
            projection = torch.where(intended > 0, along / intended, torch.ones_like(along))
        skipped = (~norm.isfinite() | (norm == 0)).to(norm.dtype)
        return Ascent(norm, skipped, radius, projection)

    @torch.no_grad()
    def descend(self) -> None:
        """Come back to w, bit for bit. Does nothing at w."""
        if self._home is None:
            return
        if self.masters is None:
            for p, w in self._home:
                p.data = w
        else:
            torch._foreach_copy_([p.data for p in self.params], self.masters)
        self._home = None

    def __enter__(self) -> "Perturbation":
        return self

    def __exit__(self, *exc) -> None:
        self.descend()

    def _leave_w(self) -> None:
        """Note where to come back to, before anything is written."""
        if self.climbed:
            raise RuntimeError("the weights are perturbed already: descend() first")
        if self.masters is None and self._buffer is None:
            self._buffer = [torch.empty_like(p, memory_format=torch.contiguous_format) for p in self.params]
        self._home = [(p, p.data) for p in self.params]

    # ------------------------------------------------------------------ the arithmetic

    def _targets(self, indices: Iterable[int]) -> List[Tensor]:
        """The tensors that w + ε is written to."""
        if self.masters is None:
            return [self._buffer[i] for i in indices]
        return [self.params[i].data for i in indices]

    def _sources(self, indices: Iterable[int]) -> List[Tensor]:
        """The tensors that hold w in the best precision there is."""
        if self.masters is None:
            return [self._home[i][1] for i in indices]
        return [self.masters[i] for i in indices]

    def _by_kind(self, tensors: Sequence[Tensor]) -> List[Tuple[Tuple[torch.device, torch.dtype], List[int]]]:
        """Positions of the tensors, grouped by device and dtype."""
        groups: dict = {}
        for position, tensor in enumerate(tensors):
            groups.setdefault((tensor.device, tensor.dtype), []).append(position)
        return list(groups.items())

    def _norm(self, tensors: Sequence[Tensor]) -> Tensor:
        """‖·‖₂ over all entries of the tensors, in fp32 at least."""
        norms = []
        for (_, dtype), group in self._by_kind(tensors):
            of_kind = [tensors[i] for i in group]
            if dtype in _HALF:
                norms += [torch.linalg.vector_norm(self._load("direction", chunk)) for (chunk,) in _chunks([of_kind])]
            else:
                norms += torch._foreach_norm(of_kind)
        return self._norm_of_norms(norms)

    def _ascent_norm(self, indices: Sequence[int], grads: Sequence[Tensor]) -> Tensor:
        """‖g‖₂, or ‖T_w g‖₂ where adaptive."""
        if not self.adaptive:
            return self._norm(grads)
        norms = []
        for sources, chunk in self._chunks_by_kind(indices, self._sources(indices), grads):
            g, w = self._load("direction", chunk), self._load("weights", sources)
            norms.append(torch.linalg.vector_norm(w.abs_().add_(self.eta).mul_(g)))
        return self._norm_of_norms(norms)

    def _norm_of_norms(self, norms: Sequence[Tensor]) -> Tensor:
        """The 2-norm of a vector, from the 2-norms of its parts."""
        zero = torch.zeros((), device=self.params[0].device, dtype=self._dtype)
        return torch.linalg.vector_norm(torch.stack([zero, *(norm.to(zero) for norm in norms)]))

    def _write(
        self,
        indices: Sequence[int],
        directions: Sequence[Tensor],
        scale: Tensor,
        adaptive: bool = False,
        seed: Optional[int] = None,
        measure: bool = False,
    ) -> Optional[Tuple[Tensor, Tensor, Tensor]]:
        """Write round(w + scale · direction) and let the parameters read it.

        A *seed* is given when climbing. The random point needs none, being rounded to the nearest, and its directions lie in the
        memory that is written to.

        Returns:
            where *measure*: ‖Δ‖², ⟨Δ, ε⟩ and ‖ε‖² of the realised Δ and the intended ε, 0-dimensional, of the dtype of *scale*.
        """
        targets, sources, climbing = self._targets(indices), self._sources(indices), seed is not None
        moments = [torch.zeros_like(scale) for _ in range(3)]
        if not adaptive and not measure and all(t.dtype == s.dtype not in _HALF for t, s in zip(targets, sources)):
            for (device, dtype), group in self._by_kind(targets):
                of_kind = ([tensors[i] for i in group] for tensors in (sources, directions, targets))
                _add_scaled(*of_kind, scale.to(device, dtype), in_place=not climbing)
        else:
            homes = [self._home[i][1] for i in indices]
            chunks = self._chunks_by_kind(indices, directions, sources, targets, homes)
            for number, (direction, source, target, home) in enumerate(chunks):
                epsilon, w = self._load("direction", direction), self._load("weights", source)
                dtype = target[0].dtype
                if self.masters is not None and not (climbing and self.rounding == "nearest"):
                    # From the weights that the model sees. From the master copy, stochastic rounding would move every weight,
                    # most by far more than ε; only rounding ε itself to the nearest gains from the master's further digits.
                    w.copy_(w.to(dtype))
                if adaptive:
                    epsilon.mul_(w.abs().add_(self.eta).square_())
                epsilon.mul_(scale.to(epsilon))
                if measure:  # before the write: with a master copy, home is the target's own memory
                    delta = self._load("home", home)
                w.add_(epsilon)
                if dtype in _HALF:
                    if climbing and self.rounding == "stochastic":
                        generator = seeded_generator(w.device, mix(seed, number))
                        w = round_stochastically_(w, dtype, generator)
                    if measure:
                        w = w.to(dtype).float()
                torch._foreach_copy_(target, _like(w, target))
                if measure:
                    delta = w - delta
                    for moment, value in zip(moments, (delta.dot(delta), delta.dot(epsilon), epsilon.dot(epsilon))):
                        moment.add_(value.to(moment))
        if self.masters is None:
            for i in indices:
                self.params[i].data = self._buffer[i]
        return tuple(moments) if measure else None

    # ------------------------------------------------------------------ scratch in fp32, or fp64

    def _flat(self, name: str, chunk: Sequence[Tensor]) -> Tensor:
        """A flat tensor for the elements of *chunk*, from memory that is kept."""
        size, place = sum(t.numel() for t in chunk), (chunk[0].device, _wide(chunk[0].dtype))
        kept = self._scratch.get((name, *place))
        if kept is None or kept.numel() < size:
            kept = self._scratch[(name, *place)] = torch.empty(size, device=place[0], dtype=place[1])
        return kept[:size]

    def _load(self, name: str, chunk: Sequence[Tensor]) -> Tensor:
        """The elements of *chunk* as one flat copy."""
        flat = self._flat(name, chunk)
        torch._foreach_copy_(_like(flat, chunk), list(chunk))
        return flat

    def _chunks_by_kind(self, indices: Sequence[int], *lists: Sequence[Tensor]) -> Iterator[List[List[Tensor]]]:
        kinds = [self.params[i] for i in indices]
        for _, group in self._by_kind(kinds):
            yield from _chunks([[tensors[position] for position in group] for tensors in lists])


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The precision to compute in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _own_entries(gradient: Tensor) -> Tensor:
    """*gradient* as a dense tensor whose entries have memory of their own: off the CPU it is multiplied in place."""
    if gradient.layout != torch.strided:
        return gradient.to_dense()
    return gradient.contiguous() if 0 in gradient.stride() else gradient


def _add_scaled(w: Sequence[Tensor], direction: Sequence[Tensor], out: Sequence[Tensor], scale: Tensor, in_place: bool) -> None:
    """out = w + scale · direction for tensors of one device and dtype, fp32 or fp64.

    Args:
        direction: is lost; with *in_place* it is *out* itself.
        scale: 0-dimensional, on the same device.
    """
    if scale.device.type == "cpu":
        # No _foreach_ function writes to given memory, and one sweep instead of three is what a CPU is short of.
        alpha = scale.item()
        for a, d, o in zip(w, direction, out):
            torch.add(a, d, alpha=alpha, out=o)
    else:
        _add_scaled_at_once(w, direction, out, scale, in_place)


def _add_scaled_at_once(w, direction, out, scale, in_place) -> None:
    """`_add_scaled` where a sweep costs less than a call for each tensor."""
    torch._foreach_mul_(direction, scale)
    if in_place:
        torch._foreach_add_(out, w)
    else:
        torch._foreach_copy_(out, w)
        torch._foreach_add_(out, direction)


def _like(flat: Tensor, chunk: Sequence[Tensor]) -> List[Tensor]:
    """Views of *flat* with the shapes of *chunk*."""
    return [part.view(t.shape) for part, t in zip(flat.split([t.numel() for t in chunk]), chunk)]


def _chunks(lists: Sequence[Sequence[Tensor]]) -> Iterator[List[List[Tensor]]]:
    """Cut lists of tensors of the same shapes in the same places, into runs of about `_CHUNK` elements.

    Contiguous tensors are cut themselves where they are long; others are passed whole.
    """
    run: List[List[Tensor]] = [[] for _ in lists]
    filled = 0
    for tensors in zip(*lists):
        pieces = [tensors]
        if all(t.is_contiguous() for t in tensors):
            pieces = list(zip(*(t.view(-1).split(_CHUNK) for t in tensors)))
        for piece in pieces:
            if filled and filled + piece[0].numel() > _CHUNK:
                yield run
                run, filled = [[] for _ in lists], 0
            for part, one in zip(run, piece):
                part.append(one)
            filled += piece[0].numel()
    if filled:
        yield run
