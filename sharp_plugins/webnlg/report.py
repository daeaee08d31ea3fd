"""What data-to-text reports beside the engine's tables: all scores in a line for each method, and the training curves."""

import json
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Dict, List, Optional, Sequence

from sharp_plugins.files.writing import replacing, write_text
from sharp_plugins.runs import curves
from sharp_plugins.runs.record import Measure, Record, Result
from sharp_plugins.runs.statistics import summarize
from sharp_plugins.runs.store import key, stored
from sharp_plugins.runs.table import markdown_table
from sharp_plugins.runs.tables import mean_and_std
from sharp_plugins.webnlg.results import GROUPS, MEASURES, UNTRAINED, WAYS, name_of_measure

MIB = 2**20
TRAINING = ("seeds", "weights that train", "updates", "best update", "training, min", "memory, MiB")
TRAINING += ("2|B|, first", "2|B|, last")
BALANCEDNESS = (
    "2|B| = |‖B‖² − ‖A‖²| of LoRA's layers that are logged (the first, the middle and the last one), on average: at the first and "
    "at the last update that was logged. Minutes are of training and validation, and memory is the most that one run held."
)


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
    for name, runs in by_label(results).items():
        cost = fmean(map(updates_of, runs)), 60 * fmean(run.minutes for run in runs)
        rows.append([name, *_means(runs, shown), *(f"{number:.0f}" for number in cost)])
    return markdown_table(["method", *(one.heading for one in shown), "updates", "training, s"], rows)


def all_ways_tables(results: Sequence[Result]) -> str:
    """A table for each way to score, and one of what training was and cost; means over the seeds, in Markdown."""
    parts = []
    for way, title in WAYS.items():
        measures = [
            Measure(split, name_of_measure(way, name), heading + where, better)
            for name, heading, better in MEASURES
            for split, where in GROUPS.items()
        ]
        shown = [one for one in measures if all(one.of(result) is not None for result in results)]
        if shown:
            rows = [[name, *_means(runs, shown)] for name, runs in by_label(results).items()]
            parts += [f"## {title}", markdown_table(["method", *(one.heading for one in shown)], rows), _signatures(results, way)]
    rows = [[name, *_training(runs)] for name, runs in by_label(results).items()]
    parts += ["## Training", BALANCEDNESS, markdown_table(["method", *TRAINING], rows)]
    return "\n\n".join(filter(None, (part.strip() for part in parts))) + "\n"


def _signatures(results: Sequence[Result], way: str) -> str:
    """How the numbers of a way to score were made, a line for each measure and form; nothing of runs that tell none."""
    told = [run.notes.get("signatures") for run in results]
    found = [(name, how) for one in told if isinstance(one, dict) for name, how in one.get(way, {}).items()]
    return "\n".join(f"* {name}: `{how}`" for name, how in dict.fromkeys(found))


def _training(runs: Sequence[Result]) -> List[Optional[str]]:
    """The cells of `TRAINING`; empty where no run knows."""
    best = [run.best_update for run in runs if run.best_update is not None]
    held = [run.memory for run in runs if run.memory is not None]
    trained = sorted({number for run in runs for number in [run.notes.get("trained_weights")] if isinstance(number, int)})
    of_layers = [run.notes.get("balancedness") for run in runs]
    ends = [pair for layers in of_layers if isinstance(layers, dict) for pair in layers.values()]
    return [
        f"{len(runs)}",
        " / ".join(f"{number:,}" for number in trained) or None,
        f"{fmean(map(updates_of, runs)):.0f}",
        f"{fmean(best):.0f}" if best else None,
        f"{fmean(run.minutes for run in runs):.1f}",
        f"{max(held) / MIB:.0f}" if held else None,
        *(f"{fmean(pair[end] for pair in ends):.3f}" if ends else None for end in (0, 1)),
    ]


def by_label(results: Sequence[Result]) -> Dict[str, List[Result]]:
    found: Dict[str, List[Result]] = {}
    for result in results:
        found.setdefault(label(result.record), []).append(result)
    return found


def _means(runs: Sequence[Result], measures: Sequence[Measure]) -> List[str]:
    return [mean_and_std(summarize([one.of(run) for run in runs], one.higher_is_better)) for one in measures]


def updates_of(result: Result) -> int:
    """The one update of what is untrained has a learning rate of 0."""
    return 0 if result.record.method == UNTRAINED else result.updates


def write_report(out: Path, results: Sequence[Result], benchmark) -> List[Path]:
    """Write the files into *out*; returns them. Without matplotlib there are no curves.

    Args:
        results: in the order of the lines.
        benchmark: `sharp_plugins.webnlg.benchmark.DataToText`.
    """
    numbers: Dict[str, Dict] = {}
    for result in results:
        one = {"scores": result.metrics, "updates": updates_of(result), "train_seconds": 60 * result.minutes, "notes": result.notes}
        numbers.setdefault(label(result.record), {})[f"seed {result.record.seed}"] = one
    written = [out / "results.md", out / "results.json"]
    write_text(written[0], benchmark.results_table(results))
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
