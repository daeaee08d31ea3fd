"""What `sharp_plugins.sharpness.report` measures. The command's --help reads it, so that it imports no torch."""

from dataclasses import dataclass
from typing import Sequence


@dataclass
class Choices:
    """What is measured.

    Attributes:
        radii: ρ of ascents.
        shares: norms of random perturbations, as shares of each tensor's own.
        draws: random perturbations for each share.
        hessian_steps: products with the Hessian at most; 0: it is left out.
        seed: of all that is drawn.
    """

    radii: Sequence[float] = (0.01, 0.02, 0.05, 0.1, 0.2)  # the papers search among the first four
    shares: Sequence[float] = (0.01, 0.02, 0.05, 0.1)
    draws: int = 3
    hessian_steps: int = 20
    seed: int = 1

    def check(self) -> None:
        """Raise ValueError, naming the flag, where one is out of range."""
        for flag, values in (("--radii", self.radii), ("--shares", self.shares)):
            if not all(0 < value < float("inf") for value in values):
                raise ValueError(f"{flag}: give numbers above 0, and not {' '.join(map(str, values))}")
        if self.draws < 1 or self.hessian_steps < 0:
            raise ValueError(f"--draws must be 1 or larger and --hessian-steps 0 or larger: {self.draws}, {self.hessian_steps}")
