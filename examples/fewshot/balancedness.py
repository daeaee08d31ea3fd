"""Balancedness over the updates of few-shot runs, from their logs: Figure 3 of the BAR paper, of any backbone and task.

    python examples/fewshot/balancedness.py runs/fewshot/COPA --out figure.png

A curve is 2|B| = |‖B‖² − ‖A‖²| of LoRA's layers that are logged, on average over these layers and over a method's finished runs
with the same settings. Where the runs' settings differ, as of a grid, each of them is a curve.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Dict, List, Tuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

from sharp_plugins.runs.processes import parse
from sharp_plugins.runs.store import RESULT

NAME = "balancedness_"


def curve(log: Path) -> Dict[int, float]:
    """Update -> mean over the layers that a training log tells of."""
    found = {}
    with open(log, errors="replace") as file:
        for entry in filter(None, map(parse, file)):
            values = [float(value) for name, value in entry.items() if name.startswith(NAME)]
            if values:
                found[int(entry["num_updates"])] = sum(values) / len(values)
    return found


def curves(task: Path) -> Dict[str, Dict[int, float]]:
    """Method, with the settings that not all have -> update -> mean over its finished runs, of the updates that all of them tell
    of; TASK/METHOD/SETTING=VALUE/.../seedN."""
    logs: Dict[Tuple[str, ...], List[Dict[int, float]]] = defaultdict(list)
    for log in sorted(task.glob("*/**/train.log")):
        if (log.parent / RESULT).is_file():
            logs[log.relative_to(task).parts[:-2] or (task.name,)].append(curve(log))
    told = {key: runs for key, runs in logs.items() if any(runs)}  # of LoRA
    common = set.intersection(*(set(settings) for _, *settings in told)) if told else set()
    means = {}
    for (method, *settings), runs in told.items():
        updates = sorted(set.intersection(*map(set, runs)))
        if updates:
            name = ", ".join([method, *(setting for setting in settings if setting not in common)])
            means[name] = {update: sum(run[update] for run in runs) / len(runs) for update in updates}
    return means


def draw(found: Dict[str, Dict[int, float]], path: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.5, 3.6))
    for method, points in found.items():
        # Where two methods are alike the later one's dashes let the other be seen.
        axes.plot(list(points), list(points.values()), "--" if "nbar" in method else "-", label=method)
    axes.set(xlabel="update", ylabel="2|B|, mean of the logged layers", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main(given=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path, help="directory of a task's runs, OUT/TASK")
    parser.add_argument("--out", type=Path, default=Path("balancedness.png"), help="the picture (default: %(default)s)")
    args = parser.parse_args(given)
    found = curves(args.task)
    if not found:
        print(f"error: {args.task}: no finished run of a method with LoRA has logged balancedness", file=sys.stderr)
        return 1
    for method, points in found.items():
        first, last = min(points), max(points)
        print(f"{method}: {points[first]:.3f} at update {first}, {points[last]:.3f} at update {last}")
    draw(found, args.out, args.task.name)
    print(f"{args.out}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
