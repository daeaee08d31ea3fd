"""Climb from w to w + ε and come back bit for bit, in any precision. Knows tensors, not fairseq.

    ε* = ρ g / ‖g‖₂                                   SAM (Foret et al. 2021, Eq. 2)
    ε* = ρ T_w² g / ‖T_w g‖₂,  T_w = |w| + η           adaptive SAM (Kwon et al. 2021, Eq. 9)
    ε̂  = ρ z / ‖z‖₂,  z ~ N(0, I)                      the random perturbation of δ-SAM's Eq. 3

One norm runs over all parameters that have a gradient. It and ε are computed in fp32 whatever the weights' precision, or in
fp64 for fp64 weights; `sharp_plugins.core.flat` does the arithmetic.

Two ways to come back, and in both w itself is never recomputed:

- *Without an fp32 master copy* (fp32, autocast, memory-efficient fp16) the perturbed weights are written to a buffer that
  is kept from step to step, and the parameters are pointed at it; coming back points them at w again, which nothing has
  touched. This costs one copy of the trainable weights, and both perturbations share it. During the ascent ``p.data`` points
  to another tensor: code that kept the ``p.data`` of before sees the unperturbed weight.
- *With an fp32 master copy* (fp16, bf16) the perturbed weights overwrite the half-precision ones, and coming back rounds the
  master copy again, as the mixed-precision optimizer did before. This costs no memory that grows with the model.
"""

import math
from contextlib import contextmanager
from typing import Any, Iterable, Iterator, List, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from sharp_plugins.core import flat
from sharp_plugins.core.noise import draw_seed, fill_normal_, mix
from sharp_plugins.core.perturbable import check_masters, check_params

ROUNDINGS = ("nearest", "stochastic")


class Ascent(NamedTuple):
    """What a climb did; 0-dimensional fp32 (with fp64 weights: fp64) tensors on the first parameter's device, so that reading
    them is the caller's choice.

    Example::

        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> w.square().sum().backward()
        >>> with Perturbation([w], rho=0.5).climb(measure=True) as ball:
        ...     [round(number.item(), 3) for number in ball.ascent]
        [10.0, 0.0, 0.5, 1.0]
    """

    grad_norm: Tensor  # ‖g‖₂ of the gradient as given (‖T_w g‖₂ when adaptive)
    skipped: Tensor  # 1 where there was no direction to climb in (zero or non-finite norm), else 0
    radius: Optional[Tensor]  # ‖Δ‖₂ of the realised Δ = (weights the model sees now) − (weights it saw at w); if measured
    projection: Optional[Tensor]  # ⟨Δ, ε⟩ / ‖ε‖₂²: 1 where rounding lost nothing of ε; if measured


class Perturbation:
    """The trainable weights w of a model, and the way to w + ε and back.

    Used by hand, in a training loop of one's own (``tests/plain.py`` has a slow plain twin)::

        >>> model, loss_fn = torch.nn.Linear(2, 1), torch.nn.MSELoss()
        >>> x, y = torch.randn(8, 2), torch.randn(8, 1)
        >>> base_optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> ball = Perturbation(model.parameters(), rho=0.05)

        >>> loss_fn(model(x), y).backward()
        >>> with ball.climb():  # uses the gradients, and clears them
        ...     loss_fn(model(x), y).backward()
        >>> base_optimizer.step()

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
        self.masters = list(masters) if masters is not None else None
        check_params(self.params)
        for name, value in (("rho", rho), ("eta", eta)):
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a finite number that is 0 or larger, and is {value}")
        if rounding not in ROUNDINGS:
            raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)} and is {rounding!r}")
        if self.masters is not None:
            check_masters(self.masters, self.params)
        self.rho, self.adaptive, self.eta, self.rounding = rho, adaptive, eta, rounding
        self.ascent: Optional[Ascent] = None
        self._buffer: List[Tensor] = []  # holds w + ε where there is no master copy
        self._home: List[Tensor] = []  # ``p.data`` of each parameter at w, while it is not there; empty at w
        self._scratch = flat.Scratch()
        self._dtype = torch.float64 if any(p.dtype == torch.float64 for p in self.params) else torch.float32  # of norms

    # ------------------------------------------------------------------ the algorithm

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
        with self._leaving_w():
            seed = draw_seed() if seed is None else seed
            z = self._buffer if self.masters is None else self._home
            for group in flat.by_kind(z):
                fill_normal_([z[i] for i in group], mix(seed, group[0]))
            scale = self.rho / flat.norm(z, self._zero(), self._scratch)
            self._write(range(len(z)), z, scale, from_rounded=self.masters is not None)
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
        with self._leaving_w():
            given = {i: p.grad for i, p in enumerate(self.params) if p.grad is not None}
            indices, g = list(given), [flat.own_entries(gradient) for gradient in given.values()]
            if self.adaptive:
                norm = flat.scaled_norm(self._w(indices), g, self.eta, self._zero(), self._scratch)
            else:
                norm = flat.norm(g, self._zero(), self._scratch)
            scale = torch.where(norm > 0, self.rho / norm, torch.zeros_like(norm))
            scale = torch.where(norm.isfinite(), scale, torch.full_like(norm, math.nan))
            # Stochastic rounding starts from the half-precision weight that the model sees, and not from its fp32 master copy: the
            # two differ by up to half a step of the format, far more than ε, and rounding at random would add that difference as
            # noise. Rounding to the nearest gains from the master's further digits.
            is_stochastic = self.rounding == "stochastic"
            rounding_seed = None
            if is_stochastic and any(p.dtype in flat.HALF for p in self.params):
                rounding_seed = mix(draw_seed() if seed is None else seed, -2)
            eta = self.eta if self.adaptive else None
            moments = self._write(indices, g, scale, measure, eta=eta, seed=rounding_seed, from_seen=is_stochastic)
            radius = projection = None
            if moments is not None:
                radius = moments.realised.sqrt()
                projection = torch.where(moments.intended > 0, moments.along / moments.intended, torch.ones_like(moments.along))
            skipped = (~norm.isfinite() | (norm == 0)).to(norm.dtype)
            self.ascent = Ascent(norm, skipped, radius, projection)
            for p in self.params:
                p.grad = None
        return self

    @torch.no_grad()
    def descend(self) -> None:
        """Come back to w, bit for bit. Does nothing at w."""
        if not self.climbed:
            return
        if self.masters is None:
            for p, w in zip(self.params, self._home):
                p.data = w
        else:
            # Kind by kind: on a GPU some versions of torch copy to destinations of several dtypes as if all had the first one's.
            for group in flat.by_kind(self.params):
                torch._foreach_copy_([self.params[i].data for i in group], [self.masters[i] for i in group])
        torch.clear_autocast_cache()  # has the perturbed weights in half precision, if its block is around the whole step
        self._home = []

    @property
    def climbed(self) -> bool:
        """Whether the parameters hold perturbed weights now."""
        return bool(self._home)

    def __enter__(self) -> "Perturbation":
        return self

    def __exit__(self, *exception: object) -> None:
        self.descend()

    # ------------------------------------------------------------------ whose memory

    @contextmanager
    def _leaving_w(self) -> Iterator[None]:
        """Note where to come back to, before anything is written; and come back if the way fails, as no with statement is entered
        then that would."""
        if self.climbed:
            raise RuntimeError("the weights are perturbed already: descend() first")
        if self.masters is None and not self._buffer:
            # With each weight's strides: some optimizers pair a weight's memory with that of its gradient, which is as w + ε is.
            with torch.inference_mode(False):  # they are kept, and may be written in training later
                self._buffer = [torch.empty_like(p) for p in self.params]
        self._home = [p.data for p in self.params]
        try:
            yield
        except BaseException:
            self.descend()
            raise

    def _w(self, indices: Iterable[int]) -> List[Tensor]:
        """The tensors that hold w in the best precision there is."""
        return [(self._home if self.masters is None else self.masters)[i] for i in indices]

    def _zero(self) -> Tensor:
        """What norms are like."""
        return torch.zeros((), device=self.params[0].device, dtype=self._dtype)

    def _write(
        self,
        indices: Sequence[int],
        direction: Sequence[Tensor],
        scale: Tensor,
        measure: bool = False,
        from_seen: bool = False,
        **how: Any,
    ) -> Optional[flat.Moments]:
        """Write w + scale · direction and let the parameters read it; `flat.write_sum` says how. It starts from the master
        copies where there are some, or *from_seen*, from the half-precision weights that the model reads."""
        home = [self._home[i] for i in indices]
        out = [self._buffer[i] for i in indices] if self.masters is None else home
        w = [seen if from_seen and seen.dtype in flat.HALF else best for seen, best in zip(home, self._w(indices))]
        moments = flat.write_sum(out, w, direction, scale, self._scratch, seen=home if measure else None, **how)
        if self.masters is None:
            for i in indices:
                self.params[i].data = self._buffer[i]
        torch.clear_autocast_cache()  # has w in half precision, if its block is around the whole step
        return moments
