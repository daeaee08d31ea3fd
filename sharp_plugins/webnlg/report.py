"""What data-to-text reports beside the engine's tables: ``results.md`` with all scores in a line for each method, the same numbers in
``results.json``, and the training curves."""

import json
from pathlib import Path
from statistics import fmean
from typing import Dict, List, Sequence, Tuple

from sharp_plugins.files.writing import replacing, write_text
from sharp_plugins.runs import curves
from sharp_plugins.runs.record import Measure, Result
from sharp_plugins.runs.statistics import summarize
from sharp_plugins.runs.store import key, stored
from sharp_plugins.runs.table import markdown_table
from sharp_plugins.runs.tables import mean_and_std


def label(result: Result) -> str:
    """A method, with the settings that were swept.

    >>> from sharp_plugins.runs.record import Record
    >>> label(Result(Record("webnlg", "data-to-text", "sam", 1, {"optimizer.sam_rho": 0.1}), {}, 1.0, 9, None, None, [], {}))
    'sam optimizer.sam_rho=0.1'
    """
    return " ".join([result.record.method, *(f"{name}={value}" for name, value in result.record.axes.items())])


def results_table(results: Sequence[Result], measures: Sequence[Measure]) -> str:
    """A line for each method, in Markdown: means over the seeds. Groups of inputs that the corpus does not tell apart are left out."""
    shown = [one for one in measures if all(one.name in result.metrics.get(one.split, {}) for result in results)]
    methods: Dict[str, List[Result]] = {}
    for result in results:
        methods.setdefault(label(result), []).append(result)
    rows = []
    for name, runs in methods.items():
        scores = [summarize([run.metrics[one.split][one.name] for run in runs], one.higher_is_better) for one in shown]
        rows.append([name, *map(mean_and_std, scores), *(f"{fmean(part):.0f}" for part in zip(*map(_cost, runs)))])
    return markdown_table(["method", *(one.heading for one in shown), "updates", "training, s"], rows)


def _cost(result: Result) -> Tuple[int, float]:
    # The one update of what is untrained has a learning rate of 0.
    return (0 if result.updates == 1 else result.updates), 60 * result.minutes


def write_report(out: Path, results: Sequence[Result], benchmark) -> List[Path]:
    """Write the files into *out*; returns them. Without matplotlib there are no curves.

    Args:
        results: in the order of the lines.
        benchmark: `sharp_plugins.webnlg.benchmark.DataToText`.
    """
    table = results_table(results, benchmark.measures(benchmark.tasks[0]))
    numbers: Dict[str, Dict] = {}
    for result in results:
        updates, seconds = _cost(result)
        scores = {"scores": result.metrics, "updates": updates, "train_seconds": seconds}
        numbers.setdefault(label(result), {})[f"seed {result.record.seed}"] = scores
    written = [out / "results.md", out / "results.json"]
    write_text(written[0], table)
    write_text(written[1], json.dumps(numbers, indent=2) + "\n")
    places = {key(record): directory / "tensorboard" for directory, record in stored(out, benchmark.name)}
    lines = {
        f"{label(result)}, seed {result.record.seed}": curves.read_run(places[key(result.record)])
        for result in results
        if result.updates > 1 and places[key(result.record)].is_dir()
    }
    if lines:
        try:
            with replacing(out / "curves.png") as picture:
                curves.draw(lines, picture)
            written.append(out / "curves.png")
        except ImportError:
            pass  # of matplotlib
    return written
