"""W + s B A as plain weights: a state dict with updates becomes one without.

The sum is computed in fp64 and rounded once, to the dtype that is asked for. What rounding does to the layers is
measured (`Agreement`), because half precision can lose an update that is small beside W: where s B A is below half a
unit in the last place of W, nothing of it is left.

Source: "LoRA: Low-Rank Adaptation of Large Language Models" (Hu et al. 2022, arXiv 2106.09685), section 4.1.
"""

from typing import Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

State = Dict[str, Tensor]

NO_UPDATES = "has no LoRA updates; it is plain or was merged before"

# Rows of the random inputs on which merged and unmerged layers are compared.
ROWS = 32
# Rounding to nearest changes no number by more than half of the dtype's epsilon (unless it is too small for the dtype).
# A layer's output may change by twice that, and by this much for the comparison's own arithmetic in fp64.
SLACK = 1e-12


class Agreement(NamedTuple):
    """How merged and unmerged layers compare: the layer that is closest to its tolerance, and all updates."""

    layers: int
    name: str  # of the layer
    difference: float  # ‖x W'ᵀ - (x Wᵀ + s x Aᵀ Bᵀ)‖ / ‖x Wᵀ + s x Aᵀ Bᵀ‖, W' the merged weight, x random
    tolerance: float  # what it must not exceed
    survived: Tuple[float, float]  # smallest and largest share of an update that is in its merged weight


def lora_names(state: State) -> List[str]:
    """Names of the layers with an update.

    Raises:
        ValueError: W, A or B of a layer is not there, or their shapes do not fit together.
    """
    names = [key[: -len(".lora_A")] for key in state if key.endswith(".lora_A")]
    names += [key[: -len(".lora_B")] for key in state if key.endswith(".lora_B") and f"{key[:-1]}A" not in state]
    for name in names:
        for part in ("weight", "lora_A", "lora_B"):
            if f"{name}.{part}" not in state:
                raise ValueError(f"{name} has an update, but there is no {name}.{part}")
        w, a, b = (state[f"{name}.{part}"] for part in ("weight", "lora_A", "lora_B"))
        if a.dim() != 2 or b.dim() != 2 or len(a) != b.size(1) or w.shape != (len(b), a.size(1)):
            raise ValueError(f"{name}: lora_B {shape(b)} times lora_A {shape(a)} does not fit the weight {shape(w)}")
    return names


def shape(tensor: Tensor) -> str:
    """For messages: 32 x 16."""
    return " x ".join(map(str, tensor.shape)) or "()"


def check_finite(state: State, why: str) -> None:
    """Raise ValueError with the name of the first tensor that holds NaN or infinity, and *why* that is not wanted."""
    for name, value in state.items():
        # fairseq keeps this one for its dtype, and 0.12.2 never gives it a value.
        if value.is_floating_point() and not name.endswith("_float_tensor") and not value.isfinite().all():
            raise ValueError(f"{name} holds {'NaN' if value.isnan().any() else 'infinity'}{why}")


def merge(state: State, scale: float, dtype: Optional[torch.dtype] = None) -> Tuple[State, Agreement]:
    """The state dict of the plain model.

    Args:
        state: that of a model with updates.
        scale: s = α/r.
        dtype: of all floating-point tensors of the result; by default each has the dtype that it has in *state*.

    Raises:
        ValueError: there is no update, a tensor is not finite, a merged layer is farther from the unmerged one than
            rounding may take it, or its weight is tied to one that has no such update.

    Example::

        >>> state = {"q.weight": torch.eye(2), "q.lora_A": torch.ones(1, 2), "q.lora_B": torch.ones(2, 1)}
        >>> plain, agreement = merge(state, scale=2.0)
        >>> plain["q.weight"].tolist()
        [[3.0, 2.0], [2.0, 3.0]]
    """
    names = lora_names(state)
    if not names:
        raise ValueError(NO_UPDATES)
    check_finite(state, "; there is nothing sensible to merge")

    merged: State = {}
    copies: Dict[tuple, Tensor] = {}  # what shares memory goes on sharing it
    for key, value in state.items():
        if key.endswith((".lora_A", ".lora_B")):
            continue
        memory = (value.data_ptr(), value.shape, value.stride())
        if dtype is not None and value.is_floating_point():
            value = copies.setdefault(memory, value.to(dtype))
        merged[key] = value
    for name in names:
        w, a, b = _parts(state, name)
        merged[f"{name}.weight"] = torch.addmm(w, b, a, alpha=scale).to(merged[f"{name}.weight"].dtype)
    check_finite(merged, " after rounding: choose a dtype with a larger range (bf16, fp32)")
    _check_ties(state, merged, names)
    return merged, _compare(state, merged, names, scale)


def _parts(state: State, name: str) -> Tuple[Tensor, Tensor, Tensor]:
    """W (out, in), A (r, in) and B (out, r) in fp64."""
    w, a, b = (state[f"{name}.{part}"].double() for part in ("weight", "lora_A", "lora_B"))
    return w, a, b


def tied_to(state: State, name: str) -> List[str]:
    """Names under which *state* holds the same weight as under *name*.

    Memory tells of ties only in files that were written without a copy (fairseq copies from a GPU, and from half
    precision); equal values do for tables of embeddings, the only weights to which fairseq's models tie others.
    """
    weight = state[name]
    return [
        other
        for other, value in state.items()
        if other != name
        and value.shape == weight.shape
        and (value.data_ptr() == weight.data_ptr() or (value.dim() == 2 and "embed" in other + name and torch.equal(value, weight)))
    ]


def _check_ties(state: State, merged: State, names: List[str]) -> None:
    """Raise ValueError where the plain model has one weight for two names and the updated one needs two."""
    for name in names:
        for other in tied_to(state, f"{name}.weight"):
            if not torch.equal(merged[other], merged[f"{name}.weight"]):
                raise ValueError(
                    f"{name}.weight and {other} are one weight, and the plain model cannot add it to one alone: "
                    "use the checkpoint unmerged, or train without this layer in the target"
                )


def _compare(state: State, merged: State, names: List[str], scale: float) -> Agreement:
    """Compare in fp64, so that rounding of the weights alone makes a difference."""
    generator = torch.Generator().manual_seed(0)
    worst, survived = ("", 0.0, SLACK), []
    for name in names:
        w, a, b = _parts(state, name)
        result = merged[f"{name}.weight"]
        x = torch.randn(ROWS, w.size(1), generator=generator, dtype=torch.float64)
        expected = x @ w.t() + scale * ((x @ a.t()) @ b.t())
        norm = expected.norm().item()
        difference = (x @ result.double().t() - expected).norm().item() / norm if norm else 0.0
        tolerance = torch.finfo(result.dtype).eps + SLACK
        if difference > tolerance:
            raise ValueError(
                f"{name}: merged in {result.dtype}, its output differs from the unmerged layer's by {difference:.1e} "
                f"of its norm, and at most {tolerance:.1e} is rounding to that dtype: choose fp32"
            )
        if not worst[0] or difference / tolerance > worst[1] / worst[2]:
            worst = (name, difference, tolerance)
        update = scale * (b @ a)
        if update.any():
            survived.append((((result.double() - w) * update).sum() / update.square().sum()).item())
    return Agreement(len(names), *worst, (min(survived, default=1.0), max(survived, default=1.0)))
