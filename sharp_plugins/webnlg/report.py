"""What data-to-text reports beside the engine's tables: all scores in a line for each method, and the training curves."""

import json
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Dict, List, Sequence

from sharp_plugins.files.writing import replacing, write_text
from sharp_plugins.runs import curves
from sharp_plugins.runs.record import Measure, Record, Result
from sharp_plugins.runs.statistics import summarize
from sharp_plugins.runs.store import key, stored
from sharp_plugins.runs.table import markdown_table
from sharp_plugins.runs.tables import mean_and_std


def label(record: Record) -> str:
    """A method, with the settings that were swept.

    >>> label(Record("webnlg", "data-to-text", "sam", 1, {"optimizer.sam_rho": 0.1}))
    'sam optimizer.sam_rho=0.1'
    """
    return " ".join([record.method, *(f"{name}={value}" for name, value in record.axes.items())])


def results_table(results: Sequence[Result], measures: Sequence[Measure]) -> str:
    """A line for each method, in Markdown, with means over the seeds. Measures that not all runs have are left out."""
    shown = [one for one in measures if all(one.of(result) is not None for result in results)]
    rows = []
    for name in dict.fromkeys(label(result.record) for result in results):
        runs = [result for result in results if label(result.record) == name]
        scores = [summarize([one.of(run) for run in runs], one.higher_is_better) for one in shown]
        cost = fmean(map(updates_of, runs)), 60 * fmean(run.minutes for run in runs)
        rows.append([name, *map(mean_and_std, scores), *(f"{number:.0f}" for number in cost)])
    return markdown_table(["method", *(one.heading for one in shown), "updates", "training, s"], rows)


def updates_of(result: Result) -> int:
    """The one update of what is untrained has a learning rate of 0."""
    return 0 if result.updates == 1 else result.updates


def write_report(out: Path, results: Sequence[Result], benchmark) -> List[Path]:
    """Write the files into *out*; returns them. Without matplotlib there are no curves.

    Args:
        results: in the order of the lines.
        benchmark: `sharp_plugins.webnlg.benchmark.DataToText`.
    """
    numbers: Dict[str, Dict] = {}
    for result in results:
        one = {"scores": result.metrics, "updates": updates_of(result), "train_seconds": 60 * result.minutes}
        numbers.setdefault(label(result.record), {})[f"seed {result.record.seed}"] = one
    written = [out / "results.md", out / "results.json"]
    write_text(written[0], results_table(results, benchmark.measures(benchmark.tasks[0])))
    write_text(written[1], json.dumps(numbers, indent=2) + "\n")
    places = {key(record): directory / "tensorboard" for directory, record in stored(out, benchmark.name)}
    drawn = [result.record for result in results if updates_of(result) and places[key(result.record)].is_dir()]
    if drawn:
        seeds = {record.seed for record in drawn}
        names = [label(record) + (f", seed {record.seed}" if len(seeds) > 1 else "") for record in drawn]
        with suppress(ImportError), replacing(out / "curves.png") as picture:  # of matplotlib
            curves.draw({name: curves.read_run(places[key(record)]) for name, record in zip(names, drawn)}, picture)
            written.append(out / "curves.png")
    return written
