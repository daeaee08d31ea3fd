"""The two problems behind Figures 1 and 2 of the BAR paper, and SGD, SAM, oBAR and nBAR on them.

    NOP   E ‖x yᵀ − (A + α N)‖²     A = diag(0.5, 0, 0),  N = diag(1.0, 0.8, 0.5) U,  U a 3 x 3 standard normal matrix
    OP    E (xᵀ y − (a + α n))²     a = 0.5,  n standard normal

x and y are in R³ and start at (0.2, −0.1, 0.3) and at −3 times that. Each step draws one sample of the noise, as
stochastic gradient descent does, and takes the gradient of this sample's loss; SAM takes both of its gradients on the
same sample.

All methods, noise levels and repeats are one batch of numpy arrays, because 100,000 steps of a few numbers each would
otherwise be spent in Python: *w* is (2, 3, ..., K, C), with x and y along its first axis, K methods, and C noise levels
times repeats. All methods of a column see the same noise. Everything is fp64.

Theorem 2's slope dB/dt of B = ½ (‖x‖² − ‖y‖²) is in gradient-flow time, t = η · step. With G the derivative of the loss
by the product, which holds the factor 2 of the square (NOP: G = 2 (x yᵀ − M), OP: G = 2 (xᵀ y − b)), g_x = G y and
g_y = Gᵀ x. SAM moves x by −η G̃ (y + u g_y) and y by −η G̃ᵀ (x + u g_x), where u = ρ / √(‖g_x‖² + ‖g_y‖²) and G̃ is
G at (x + u g_x, y + u g_y). In xᵀ dx/dt − yᵀ dy/dt the terms xᵀ G̃ y cancel (hence nothing changes for SGD), and

    dB/dt = u (g_xᵀ G̃ y − xᵀ G̃ g_y),   exactly.

Theorem 2 sets G̃ = G, which gives u (‖g_x‖² − ‖g_y‖²) and leaves out O(ρ² L). Both problems are quadratic in the
product, so G̃ is known, and `exact_slope` has the terms that are left out. The gradients are those of the sample: with
noise the slope is the mean over samples of this ratio, and not the ratio at the mean gradient.

Source: arXiv 2410.14802, Figures 1 and 2, Theorems 2 and 3. The noise levels and BAR's α are ours, and so is the
reading that U is a matrix.
"""

import math
from typing import NamedTuple, Optional, Sequence

import numpy as np

X0 = np.array([0.2, -0.1, 0.3])
START = np.stack([X0, -3 * X0])
# name -> (takes SAM's ascent, BAR's variant)
METHODS = {"SGD": (False, None), "SAM": (True, None), "oBAR": (False, "obar"), "nBAR": (False, "nbar")}
BLOCK = 500  # steps between two records


class NOP:
    """E ‖x yᵀ − (A + α N)‖². With *scalar_noise*, U is one normal number instead of a matrix of them."""

    name, rho = "NOP", 0.1
    signal = np.diag([0.5, 0.0, 0.0])
    scales = np.array([1.0, 0.8, 0.5])

    def __init__(self, scalar_noise: bool = False):
        self.scalar_noise = scalar_noise
        self.noise_power = (1 if scalar_noise else 3) * float(np.sum(self.scales**2))  # E ‖N‖²

    def noise(self, rng: np.random.Generator, steps: int, repeats: int) -> np.ndarray:
        """N for each step and repeat, (3, 3, steps, repeats)."""
        if self.scalar_noise:
            return np.diag(self.scales)[:, :, None, None] * rng.standard_normal((steps, repeats))
        return self.scales[:, None, None, None] * rng.standard_normal((3, 3, steps, repeats))

    @staticmethod
    def gradients(w: np.ndarray, target: np.ndarray) -> np.ndarray:
        """g_x and g_y, in the shape of *w*, for *target* = A + α N, (3, 3, ...)."""
        x, y = w
        derivative = x[:, None] * y - target
        derivative *= 2
        g = np.empty_like(w)
        np.add.reduce(derivative * y, axis=1, out=g[0])
        np.add.reduce(derivative * x[:, None], axis=0, out=g[1])
        return g

    @staticmethod
    def exact_slope(w: np.ndarray, g: np.ndarray, rho) -> np.ndarray:
        """SAM's dB/dt on these samples: Theorem 2 with nothing left out.

        With G̃ = G + 2u (g_x yᵀ + x g_yᵀ) + 2u² g_x g_yᵀ and k = g_xᵀ x = g_yᵀ y = xᵀ G y it is

            u (1 + 2u² k) (‖g_x‖² − ‖g_y‖²) + 2u² (‖g_x‖² ‖y‖² − ‖g_y‖² ‖x‖²)
        """
        (x2, y2), (gx2, gy2) = squares(w), squares(g)
        u, k = climb(gx2 + gy2, rho), np.sum(g[0] * w[0], axis=0)
        return u * (1 + 2 * u**2 * k) * (gx2 - gy2) + 2 * u**2 * (gx2 * y2 - gy2 * x2)


class OP:
    """E (xᵀ y − (a + α n))²."""

    name, rho = "OP", 0.2
    signal, noise_power = 0.5, 1.0

    @staticmethod
    def noise(rng: np.random.Generator, steps: int, repeats: int) -> np.ndarray:
        """n for each step and repeat, (steps, repeats)."""
        return rng.standard_normal((steps, repeats))

    @staticmethod
    def gradients(w: np.ndarray, target: np.ndarray) -> np.ndarray:
        """g_x = c y and g_y = c x with c = 2 (xᵀ y − b), in the shape of *w*, for b = *target* = a + α n."""
        x, y = w
        return 2 * (np.add.reduce(x * y) - target) * w[::-1]

    @staticmethod
    def exact_slope(w: np.ndarray, g: np.ndarray, rho) -> np.ndarray:
        """SAM's dB/dt on these samples: Theorem 3 with nothing left out.

        At (x + u c y, y + u c x) and with k = g_xᵀ x = c xᵀ y, c̃ = c (1 + 2u (‖x‖² + ‖y‖²) + 2u² k), and so dB/dt is

            u (‖g_x‖² − ‖g_y‖²) (1 + 2u (‖x‖² + ‖y‖²) + 2u² k)

        In S² = ‖x‖² + ‖y‖² and s = sign c this is −2ρ B (|c| / S + 2ρ + 2s ρ² xᵀ y / S³), as u = ρ / (|c| S) and
        ‖g_x‖² − ‖g_y‖² = −2c² B. As |xᵀ y| ≤ S² / 2, the bracket is positive and |B| shrinks where |c| + 2ρS > ρ².
        """
        (x2, y2), (gx2, gy2) = squares(w), squares(g)
        u, k = climb(gx2 + gy2, rho), np.sum(g[0] * w[0], axis=0)
        return u * (gx2 - gy2) * (1 + 2 * u * (x2 + y2) + 2 * u**2 * k)


def squares(pair: np.ndarray) -> np.ndarray:
    """Squared norms of x and y, or of their gradients: (2, 3, ...) -> (2, ...)."""
    return np.add.reduce(pair * pair, axis=1)


def climb(g_squared: np.ndarray, rho) -> np.ndarray:
    """u = ρ / ‖(g_x, g_y)‖: one norm over both, as SAM has it; finite for a zero gradient, which so makes no ascent."""
    return rho / np.sqrt(np.maximum(g_squared, np.finfo(g_squared.dtype).tiny))


def first_order_slope(g: np.ndarray, rho) -> np.ndarray:
    """Theorem 2's dB/dt without its O(ρ² L): ρ (‖g_x‖² − ‖g_y‖²) / √(‖g_x‖² + ‖g_y‖²)."""
    gx2, gy2 = squares(g)
    return climb(gx2 + gy2, rho) * (gx2 - gy2)


def alpha_at(problem, snr: float) -> float:
    """The noise level α at which the signal-to-noise ratio ‖A‖² / E ‖α N‖² is *snr* (inf: no noise)."""
    return math.sqrt(float(np.sum(problem.signal**2)) / (snr * problem.noise_power))


def step(problem, w: np.ndarray, target: np.ndarray, eta: float, rho, strength, by_gradients) -> None:
    """One step of all methods, in place.

    BAR is `obar_sign`, `nbar_sign` and `factors` of `sharp_plugins.core.balancing` in numpy, with the gradients at w, and
    comes before the update.

    Args:
        w: (2, 3, K, C).
        target: one sample for each column: (3, 3, 1, C) for NOP, (1, C) for OP.
        rho, strength, by_gradients: (K, 1): SAM's ρ (0: no ascent), BAR's η α (0: none), whether the sign is nBAR's.
    """
    g = problem.gradients(w, target)
    (gx2, gy2), (x2, y2) = squares(g), squares(w)
    update = problem.gradients(w + climb(gx2 + gy2, rho) * g, target)
    x_shrinks = np.where(by_gradients, gx2 < gy2, x2 >= y2)
    signed = np.where(x_shrinks, strength, -strength)
    w[0] *= 1 - signed
    w[1] *= 1 + signed
    w -= eta * update


class Record(NamedTuple):
    """What is seen along a run: arrays (R, K, L, S) of R blocks, K methods, L noise levels, S repeats."""

    steps: np.ndarray  # (R + 1,): where the blocks begin, and the end
    difference: np.ndarray  # (R + 1, K, L, S): ‖x‖² − ‖y‖², which is 2B
    gradient_difference: np.ndarray  # | ‖g_x‖² − ‖g_y‖² | of the samples, mean of the block's steps
    measured_slope: np.ndarray  # the block's change of B over its time
    first_order_slope: np.ndarray  # Theorem 2's, mean of the block's steps; 0 for methods without an ascent
    exact_slope: np.ndarray  # the same with the terms in ρ² and ρ³
    w: np.ndarray  # (2, 3, K, L, S): x and y at the end


def run(
    problem,
    alphas: Sequence[float],
    methods: Sequence[str] = tuple(METHODS),
    steps: int = 100_000,
    repeats: int = 1,
    eta: float = 1e-4,
    rho: Optional[float] = None,
    strength: Optional[float] = None,
    seed: int = 0,
) -> Record:
    """Run the methods on a problem at the noise levels *alphas*, with *repeats* draws of the noise.

    Args:
        rho: SAM's; by default the problem's. strength: BAR's α, constant; by default the number that SAM's ρ is.
        steps: rounded up to whole blocks.
    """
    rho = problem.rho if rho is None else rho
    strength = rho if strength is None else strength
    ascends, variants = zip(*(METHODS[name] for name in methods))
    rhos = np.array([[rho if ascend else 0.0] for ascend in ascends])
    strengths = np.array([[eta * strength if variant else 0.0] for variant in variants])
    by_gradients = np.array([[variant == "nbar"] for variant in variants])

    shape = (len(methods), len(alphas), repeats)
    columns = len(alphas) * repeats
    w = np.tile(START[:, :, None, None], (1, 1, len(methods), columns))
    rng = np.random.default_rng(seed)
    seen = {name: [] for name in Record._fields}
    path = np.empty((2, 3, BLOCK, len(methods), columns))
    blocks = -(-steps // BLOCK)
    for _ in range(blocks):
        noise = problem.noise(rng, BLOCK, repeats)
        # Noise levels differ in the factor α alone. One axis more for the methods, which share a sample.
        noise = (np.asarray(alphas)[:, None] * noise[..., None, :]).reshape(*noise.shape[:-1], 1, columns)
        targets = np.reshape(problem.signal, np.shape(problem.signal) + (1, 1, 1)) + noise
        for i in range(BLOCK):
            path[:, :, i] = w
            step(problem, w, targets[..., i, :, :], eta, rhos, strengths, by_gradients)
        # The gradients once more, for all steps of the block at once: cheaper than keeping them.
        g = problem.gradients(path, targets)
        (gx2, gy2), (x2, y2), (end_x2, end_y2) = squares(g), squares(path[:, :, 0]), squares(w)
        seen["difference"].append(x2 - y2)
        seen["gradient_difference"].append(np.abs(gx2 - gy2).mean(axis=0))
        seen["measured_slope"].append(0.5 * ((end_x2 - end_y2) - (x2 - y2)) / (BLOCK * eta))
        seen["first_order_slope"].append(first_order_slope(g, rhos).mean(axis=0))
        seen["exact_slope"].append(problem.exact_slope(path, g, rhos).mean(axis=0))
    seen["difference"].append(end_x2 - end_y2)
    arrays = {name: np.stack(values).reshape(-1, *shape) for name, values in seen.items() if values}
    return Record(steps=BLOCK * np.arange(blocks + 1), w=w.reshape(2, 3, *shape), **arrays)
