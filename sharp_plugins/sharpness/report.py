"""``python -m sharp_plugins.runs sharpness CHECKPOINT``: how flat the loss is around a checkpoint, and how robust its predictions.

rise of the ascent     L(w + ρ ∇L/‖∇L‖) − L(w), which SAM minimises (Foret et al. 2021, Eq. 1 and 2)
random perturbations   L(w + ε), where ε has a share of each tensor's own norm
curvature              the largest eigenvalue of the Hessian, see `sharp_plugins.core.sharpness`
rounding               the matrices in integers of 8 and 4 bits
calibration            the expected calibration error, of classifiers
"""

import json
import math
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

from sharp_plugins.core.sharpness import calibration_error, norm, random_direction, rounded, top_eigenvalue
from sharp_plugins.files.writing import replacing, write_text
from sharp_plugins.sharpness.choices import Choices
from sharp_plugins.sharpness.landscape import Landscape, Point

BITS = (8, 4)
POINTS = 21  # of a curve

Found = Dict[str, Any]


def measure(
    land: Landscape, choices: Choices, tell: Callable[[str], None] = print, save: Callable[[Found], None] = lambda found: None
) -> Found:
    """All of it, in JSON's types; losses in `Landscape.unit`, accuracies in percent.

    Args:
        tell: is given a line for each thing that was measured.
        save: is given what was found so far, after each part.

    Raises:
        ValueError: the loss at the weights is no finite number.

    Example::

        measure(Landscape("checkpoint_best.pt"), Choices(radii=[0.05]))["ascent"]["0.05"]["rise"]
    """
    choices.check()
    here = land.point()
    if not math.isfinite(here.loss):
        raise ValueError(f"the loss at the checkpoint's weights is {here.loss}: its training diverged")
    rows = len(land.rows)
    found: Found = {**land.about, "rows": rows, "unit": land.unit, **_shown(here)}
    found.update(weights=sum(weight.numel() for weight in land.weights), norm=norm(land.weights))
    shard = f", shard {land.about['shard']}" if "shard" in land.about else ""
    left_out = f", {land.about['rows_left_out']} longer than the model left out" if land.about["rows_left_out"] else ""
    tell(f"{rows} rows of {land.about['split']}{shard}{left_out}: loss {here.loss:.4f}{_accuracy(here)}")
    save(found)
    for part in (_ascent, _random, _rounding, _calibration, _curvature):  # the last one takes the most time and memory
        part(land, choices, here, found, tell)
        save(found)
    return found


def _ascent(land: Landscape, choices: Choices, here: Point, found: Found, tell: Callable[[str], None]) -> None:
    gradient = land.gradient()
    found["gradient_norm"] = size = norm(gradient)
    found["ascent"] = {}
    for radius in choices.radii if size else ():
        with land.moved(gradient, radius / size):
            there = land.point()
        found["ascent"][repr(radius)] = {"rise": there.loss - here.loss, **_shown(there)}
        tell(f"up the gradient by {radius!r}: loss {there.loss - here.loss:+.4f}{_accuracy(there)}")


def _random(land: Landscape, choices: Choices, here: Point, found: Found, tell: Callable[[str], None]) -> None:
    found["random"] = {}
    for share in choices.shares:
        points = []
        for draw in range(choices.draws):
            with land.moved(random_direction(land.weights, choices.seed + draw, relative=True), share):
                points.append(land.point())
        mean, rises = _mean(points), [point.loss - here.loss for point in points]
        found["random"][repr(share)] = {"rise": statistics.fmean(rises), "rises": rises, **_shown(mean)}
        tell(f"random, {100 * share:g} % of each tensor's norm: loss {statistics.fmean(rises):+.4f}{_accuracy(mean)}")


def _rounding(land: Landscape, choices: Choices, here: Point, found: Found, tell: Callable[[str], None]) -> None:
    found["rounded"] = {}
    matrices = [weight for weight in land.model.parameters() if weight.dim() > 1]  # frozen ones too
    for bits in BITS:
        with land.replaced([rounded(weight, bits) for weight in matrices], matrices):
            there = land.point()
        found["rounded"][str(bits)] = _shown(there)
        tell(f"matrices in {bits} bits: loss {there.loss:.4f}{_accuracy(there)}")


def _calibration(land: Landscape, choices: Choices, here: Point, found: Found, tell: Callable[[str], None]) -> None:
    sure = land.probabilities()
    if sure is not None:
        found["calibration_error"] = 100 * calibration_error(*sure)
        tell(f"expected calibration error: {found['calibration_error']:.2f} %")


def _curvature(land: Landscape, choices: Choices, here: Point, found: Found, tell: Callable[[str], None]) -> None:
    if choices.hessian_steps:
        top = top_eigenvalue(land.product, land.weights, choices.hessian_steps, seed=choices.seed)
        found["hessian"] = {**top._asdict(), "products": land.products}
        how = f"residual {top.residual:.3f}, {top.steps} products: {land.products}"
        tell(f"largest eigenvalue of the Hessian: {top.value:.3f} ({how})")


def curves(land: Landscape, reach: float, seed: int = 1) -> Dict[str, List[float]]:
    """The loss along the gradient and along a random direction at a right angle to it, *reach* to both sides.

    Where the gradient is 0 there is nothing to go along: "along" is the loss at the weights.

    Returns:
        "distance", "along" and "across", `POINTS` numbers each.
    """
    gradient, across = land.gradient(), random_direction(land.weights, seed)
    size = norm(gradient)
    along = [part / size for part in gradient] if size else gradient
    share = float(sum((a * b).sum() for a, b in zip(along, across)))
    across = [b - share * a for a, b in zip(along, across)]
    length = norm(across)
    distances = [reach * (2 * place / (POINTS - 1) - 1) for place in range(POINTS)]
    found: Dict[str, List[float]] = {"distance": distances, "along": [], "across": []}
    for name, direction, scale in (("along", along, 1.0), ("across", across, 1 / length)):
        for distance in distances:
            with land.moved(direction, distance * scale):
                found[name].append(land.point().loss)
    return found


def draw(found: Dict[str, List[float]], path: Path, title: str, unit: str) -> None:
    """The picture of `curves`, whose losses are in *unit*.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5, 3.4))
    axis.plot(found["distance"], found["along"], label="along the gradient")
    axis.plot(found["distance"], found["across"], label="across, a random direction")
    axis.set(xlabel="distance from the weights", ylabel=f"loss, {unit}", title=title)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format=path.suffix.lstrip("."))
    pyplot.close(figure)


def write(found: Found, choices: Choices, path: Path) -> None:
    write_text(path, json.dumps(_finite({**found, "choices": asdict(choices)}), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    """*value* with None for numbers that JSON has no name for: a loss far from the weights may be infinite."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(point: Point) -> Dict[str, float]:
    return {"loss": point.loss, **({} if point.accuracy is None else {"accuracy": point.accuracy})}


def _mean(points: Sequence[Point]) -> Point:
    right = [point.accuracy for point in points if point.accuracy is not None]
    return Point(statistics.fmean(point.loss for point in points), statistics.fmean(right) if right else None)


def _accuracy(point: Point) -> str:
    return "" if point.accuracy is None else f", accuracy {point.accuracy:.2f}"
