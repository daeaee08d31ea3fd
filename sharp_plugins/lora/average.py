"""The mean of several models with updates of one base, as one model with an update.

The mean of W + s B A over N models is W + (s/N) [B₁ … B_N] [A₁; …; A_N]: an update of rank N r, exactly. The mean of the Bs times
the mean of the As is another matrix. So the factors are stacked and what trained beside them is averaged; memory is that of one
model, and of the one that is being added.

Averaging checkpoints: "Averaging Weights Leads to Wider Optima and Better Generalization" (Izmailov et al. 2018, arXiv 1803.05407).
"""

from typing import Dict, List, Tuple

import torch
from torch import Tensor

from sharp_plugins.lora.merge import State, lora_names, shape, tied_to
from sharp_plugins.networks.lora import LoRASettings
from sharp_plugins.networks.module_names import names_trained_along

# What moves in training without being trained.
STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")
# fairseq keeps this one for its dtype, and 0.12.2 never gives it a value.
UNUSED = "_float_tensor"


class Mean:
    """The mean of models, of which the first is given here and the others to `add`.

    Args:
        state: the first model's state dict; it is kept.
        settings: which of its tensors were trained.

    Example, two models of one base with updates of 1 and of 3::

        >>> from sharp_plugins.lora.merge import merge
        >>> w, a, b = torch.zeros(2, 2), torch.ones(1, 2), torch.ones(2, 1)
        >>> mean = Mean({"q.weight": w, "q.lora_A": a, "q.lora_B": b}, LoRASettings(rank=1, alpha=1))
        >>> mean.add({"q.weight": w, "q.lora_A": 3 * a, "q.lora_B": b})
        >>> plain, agreement = merge(mean.state(), mean.scale)
        >>> plain["q.weight"].tolist()
        [[2.0, 2.0], [2.0, 2.0]]
    """

    def __init__(self, state: State, settings: LoRASettings):
        self.first, self.settings, self.count = state, settings, 1
        self.layers = lora_names(state)
        self.factors: Dict[str, List[Tensor]] = {
            f"{layer}.{part}": [state[f"{layer}.{part}"]] for layer in self.layers for part in ("lora_A", "lora_B")
        }
        self.sums: Dict[str, Tensor] = {}  # of what trained beside the factors, in fp64

    @property
    def scale(self) -> float:
        """s of the update in `state`."""
        return self.settings.alpha / self.settings.rank / self.count

    def add(self, state: State) -> None:
        """Add another model.

        Raises:
            ValueError: it has other tensors than the first, or other frozen weights.
        """
        if self.count == 1:
            self.sums = {name: self.first[name].double() for name in self._trained()}
        for name in sorted(self.first.keys() ^ state.keys()):
            raise ValueError(f"it has {'no' if name in self.first else 'a'} {name}, unlike the first")
        for name, value in state.items():
            first = self.first[name]
            if value.shape != first.shape:
                raise ValueError(f"{name} is {shape(value)}, and {shape(first)} in the first")
            if name in self.factors:
                self.factors[name].append(value.clone())  # the file's memory goes
            elif name in self.sums:
                self.sums[name] += value
            elif not name.endswith((UNUSED, *STATISTICS)) and not torch.equal(value, first):
                raise ValueError(f"{name} is not the first's, although it was frozen: they were trained from different models")
        self.count += 1

    def state(self) -> State:
        """The mean: the update has rank N r, and `scale`."""
        state = dict(self.first)
        for name, parts in self.factors.items():
            state[name] = torch.cat(parts, dim=0 if name.endswith("A") else 1)
        means: Dict[Tuple, Tensor] = {}  # what shares memory goes on sharing it
        for name, sum_ in self.sums.items():
            first = self.first[name]
            memory = (first.data_ptr(), first.shape, first.stride())
            state[name] = means.setdefault(memory, (sum_ / self.count).to(first.dtype))
        return state

    def _trained(self) -> List[str]:
        """Names of what is averaged as it is: what was trained beside the factors, and statistics."""
        trained = {name for name in self.first if name.endswith(STATISTICS)}
        along = names_trained_along(self.first, self.settings.also_train)
        trained |= along | {other for name in along for other in tied_to(self.first, name)}
        for name in self.first:
            layer, _, part = name.rpartition(".")
            if part == "bias" and (self.settings.bias == "all" or self.settings.bias == "lora_only" and layer in self.layers):
                trained.add(name)
        return sorted(name for name in trained if self.first[name].is_floating_point())
