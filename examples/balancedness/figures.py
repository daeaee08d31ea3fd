"""Figures 1 and 2 of the BAR paper, and SAM's drift of balancedness beside Theorems 2 and 3.

    python examples/balancedness/figures.py --out DIR

writes figure1.png (SGD and SAM), figure2.png (with oBAR and nBAR) and theory.png to DIR, and prints tables of the
balancedness at the end and of SAM's drift. `testbeds.py` has the problems and the methods. The curves are means over
repeats with different noise; those of gradients also over the 500 steps of a block, because single samples would fill
the picture.
"""

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import Dict, Optional, Sequence

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import testbeds
from testbeds import METHODS, NOP, OP, Record

from sharp_plugins.runs.table import markdown_table

# nBAR is dashed and lies on oBAR on OP, where the two are one method.
METHOD_STYLES = {"SGD": ("0.5", ":", 1.5), "SAM": ("C0", "-", 1.2), "oBAR": ("C2", "-", 1.8), "nBAR": ("C1", "--", 1.8)}
ITERATION = "iteration, thousands"
WEIGHTS, GRADIENTS = r"$|\,\|x\|^2-\|y\|^2\,|$", r"$|\,\|g_x\|^2-\|g_y\|^2\,|$"
# Where the axes end. A step of BAR changes ‖x‖² − ‖y‖² by 2 η α (‖x‖² + ‖y‖²), here 2e-5 or 4e-5, and so stops there.
LOWEST = 1e-6
RADII = 0.4 * 0.5 ** np.arange(7)


def curves(record: Record, gradients: bool) -> np.ndarray:
    """Mean over repeats of | ‖x‖² − ‖y‖² | or of the same for the gradients, (blocks, K, L)."""
    values = record.gradient_difference if gradients else np.abs(record.difference[:-1])
    return values.mean(axis=-1)


def panel(axis, title: str, label: str) -> None:
    """What all panels have."""
    axis.set_title(title, fontsize=10)
    axis.set_ylabel(label)
    axis.grid(alpha=0.3)


def log_axis(axis) -> None:
    axis.set_yscale("log")
    axis.set_ylim(bottom=max(min(axis.get_ylim()[0], 0.1), LOWEST))


def draw_sam(pyplot, records: Dict[str, Record], snrs, path: Path) -> None:
    """Figure 1: a row for each problem, weights left and gradients right; colours are noise levels."""
    figure, axes = pyplot.subplots(2, 2, figsize=(9.5, 6.6))
    for row, (name, record) in zip(axes, records.items()):
        for axis, gradients in zip(row, (False, True)):
            lines = curves(record, gradients)
            for level, snr in enumerate(snrs):
                for method, style in (("SGD", "--"), ("SAM", "-")):
                    values, label = lines[:, list(METHODS).index(method), level], f"{method}, SNR {snr:g}"
                    axis.plot(record.steps[:-1] / 1000, values, style, color=f"C{level}", lw=1.3, label=label)
            panel(axis, name, GRADIENTS if gradients else WEIGHTS)
            log_axis(axis)
    for axis in axes[-1]:
        axis.set_xlabel(ITERATION)
    finish(figure, axes[0, 0], path, columns=3)


def draw_all(pyplot, records: Dict[str, Record], snrs, path: Path) -> None:
    """Figure 2: a column for each noise level; weights, then gradients, of each problem; colours are methods."""
    size = (1 + 3 * len(snrs), 10)
    figure, axes = pyplot.subplots(4, len(snrs), figsize=size, sharex=True, sharey="row", squeeze=False)
    rows = [(name, record, gradients) for name, record in records.items() for gradients in (False, True)]
    for row, (name, record, gradients) in zip(axes, rows):
        lines = curves(record, gradients)
        for level, (axis, snr) in enumerate(zip(row, snrs)):
            for method, (colour, style, width) in METHOD_STYLES.items():
                values = lines[:, list(METHODS).index(method), level]
                axis.plot(record.steps[:-1] / 1000, values, style, color=colour, lw=width, label=method)
            panel(axis, f"{name}, SNR {snr:g}", (GRADIENTS if gradients else WEIGHTS) if level == 0 else "")
        log_axis(row[0])  # the row shares it
    for axis in axes[-1]:
        axis.set_xlabel(ITERATION)
    finish(figure, axes[0, 0], path, columns=4)


def draw_theory(pyplot, records: Dict[str, Record], snrs, errors: Dict[str, np.ndarray], path: Path) -> None:
    """dB/dt of SAM along the runs, and the error of Theorem 2's formula at one sample for several ρ."""
    figure, axes = pyplot.subplots(2, 2, figsize=(9.5, 7.4))
    sam = list(METHODS).index("SAM")
    for axis, (name, record) in zip(axes[0], records.items()):
        middle = 0.5 * (record.steps[:-1] + record.steps[1:]) / 1000
        for level, snr in enumerate(snrs):
            measured, first, exact = (
                values[:, sam, level].mean(axis=-1)
                for values in (record.measured_slope, record.first_order_slope, record.exact_slope)
            )
            every = slice(None, None, 8)
            axis.plot(middle[every], measured[every], "o", color=f"C{level}", ms=3.5, label=f"measured, SNR {snr:g}")
            axis.plot(middle, exact, "-", color=f"C{level}", lw=1, label="all terms")
            axis.plot(middle, first, ":", color=f"C{level}", lw=1.3, label=r"first order in $\rho$")
        panel(axis, f"{name}: SAM's $dB/dt$ along the run", r"$dB/dt$")
        axis.set_xlabel(ITERATION)
        axis.legend(fontsize=7.5)
    for axis, (name, (first, exact)) in zip(axes[1], errors.items()):
        axis.loglog(RADII, first, "o-", color="C4", label=r"first order in $\rho$ (Theorem 2)")
        axis.loglog(RADII, exact, "s-", color="C2", label=r"all terms; what is left is $O(\eta)$")
        axis.loglog(RADII, 0.5 * first[0] * (RADII / RADII[0]) ** 2, "k--", lw=0.8, label=r"$\propto\rho^2$")
        panel(axis, f"{name}: error of the formula, one step on one sample", r"$|dB/dt$ measured $-$ formula$|$")
        axis.set_xlabel(r"$\rho$")
        axis.legend(fontsize=8)
    figure.tight_layout()
    save(figure, path)


def finish(figure, axis, path: Path, columns: int) -> None:
    """One legend above all panels, which have the same curves."""
    handles, labels = axis.get_legend_handles_labels()
    height = figure.get_size_inches()[1]
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.28 * -(-len(labels) // columns) / height))
    figure.legend(handles, labels, loc="upper center", ncols=columns, fontsize=9, frameon=False)
    save(figure, path)


def save(figure, path: Path) -> None:
    from matplotlib import pyplot
    from PIL import Image  # matplotlib brings it

    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    with Image.open(path) as picture:
        palette = picture.convert("RGB").quantize(64)  # a third of the bytes
    palette.save(path, optimize=True)


def formula_errors(problem, snr: float = 1.0, eta: float = 1e-7, seed: int = 0):
    """|ΔB/η − formula| of one step of SAM from the start, on one sample, for each ρ: the first order's, all terms'."""
    rho = RADII[:, None]
    noise = testbeds.alpha_at(problem, snr) * problem.noise(np.random.default_rng(seed), 1, 1)
    target = np.reshape(problem.signal, np.shape(problem.signal) + (1, 1)) + noise
    w = np.tile(testbeds.START[:, :, None, None], (1, 1, len(RADII), 1))
    g, before = problem.gradients(w, target), testbeds.squares(w)
    first, exact = testbeds.first_order_slope(g, rho), problem.exact_slope(w, g, rho)
    testbeds.step(problem, w, target, eta, rho, strength=0.0, by_gradients=False)
    change = testbeds.squares(w) - before
    measured = 0.5 * (change[0] - change[1]) / eta
    return np.abs(measured - first)[:, 0], np.abs(measured - exact)[:, 0]


def final_table(problem, record: Record, snrs) -> str:
    """| ‖x‖² − ‖y‖² | at the end, mean (range of the repeats), and ‖x‖² + ‖y‖² there."""
    heads = ["method"] + [f"SNR {snr:g} (α = {testbeds.alpha_at(problem, snr):.3f})" for snr in snrs]
    heads += [f"size, SNR {snr:g}" for snr in snrs]
    final, size = np.abs(record.difference[-1]), testbeds.squares(record.w).sum(axis=0).mean(axis=-1)
    rows = []
    for number, method in enumerate(METHODS):
        cells = [f"{one.mean():.3g} ({one.min():.3g} to {one.max():.3g})" for one in final[number]]
        rows.append([method] + cells + [f"{value:.3g}" for value in size[number]])
    return markdown_table(heads, rows)


def drift_table(records: Dict[str, Record], snrs, eta: float) -> str:
    """How much B of SAM changes in the whole run, and what the formulas say along the same path."""
    sam, rows = list(METHODS).index("SAM"), []
    for name, record in records.items():
        time_of_block = eta * np.diff(record.steps)[:, None, None]
        slopes = (record.measured_slope, record.first_order_slope, record.exact_slope)
        measured, first, exact = ((one[:, sam] * time_of_block).sum(axis=0).mean(axis=-1) for one in slopes)
        for level, snr in enumerate(snrs):
            ratios = [f"{measured[level] / one[level]:.4f}" for one in (first, exact)]
            rows.append([f"{name}, SNR {snr:g}", f"{measured[level]:.4f}"] + ratios)
    heads = ["problem", "change of B", "over first order in ρ", "over all terms"]
    return markdown_table(heads, rows)


def main(argv: Optional[Sequence[str]] = None) -> Dict[str, Record]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="the pictures' directory")
    parser.add_argument("--steps", type=int, default=100_000, help="default: the paper's 100,000")
    parser.add_argument("--repeats", type=int, default=5, help="draws of the noise")
    parser.add_argument("--snr", type=float, nargs="+", default=[10.0, 1.0, 0.1], help="‖A‖² / E ‖α N‖²; inf: no noise")
    parser.add_argument("--scalar-noise", action="store_true", help="NOP's U is one normal number instead of a matrix")
    args = parser.parse_args(argv)
    if args.steps < 1 or args.repeats < 1:
        parser.error("--steps and --repeats must be 1 or larger")
    if not min(args.snr) > 0:
        parser.error("--snr must be larger than 0; inf is no noise")
    # With fairseq imported, other libraries' debug messages would be printed too.
    logging.getLogger().setLevel(logging.WARNING)
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    from matplotlib import pyplot

    args.out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    eta, records = 1e-4, {}
    problems = [NOP(args.scalar_noise), OP()]
    for problem in problems:
        alphas = [testbeds.alpha_at(problem, snr) for snr in args.snr]
        records[problem.name] = testbeds.run(problem, alphas, steps=args.steps, repeats=args.repeats, eta=eta)
    computed = time.perf_counter()
    draw_sam(pyplot, records, args.snr, args.out / "figure1.png")
    draw_all(pyplot, records, args.snr, args.out / "figure2.png")
    errors = {problem.name: formula_errors(problem) for problem in problems}
    draw_theory(pyplot, records, args.snr, errors, args.out / "theory.png")
    for problem in problems:
        print(f"{problem.name}: | ‖x‖² − ‖y‖² | at the end, mean (range) of the repeats; size: ‖x‖² + ‖y‖²\n")
        print(final_table(problem, records[problem.name], args.snr))
    print("SAM: change of B in the whole run, measured, and over what the formulas say\n")
    print(drift_table(records, args.snr, eta))
    print(f"{computed - begin:.1f} s for the runs, {time.perf_counter() - computed:.1f} s for the pictures")
    return records


if __name__ == "__main__":
    main()
