"""Tables and a picture of finished GLUE runs."""

import csv
import io
import json
import math
from pathlib import Path
from statistics import mean, stdev
from typing import Dict, List, NamedTuple, Optional, Sequence

from sharp_plugins.files.text import read_json
from sharp_plugins.files.writing import replacing, write_text
from sharp_plugins.glue.tasks import TASKS, Task
from sharp_plugins.runs.table import markdown_table

RESULT = "result.json"
LABELS = {"accuracy": "accuracy", "f1": "F1", "mcc": "Matthews", "pearson": "Pearson", "spearman": "Spearman"}


class Result(NamedTuple):
    """A finished run, as its ``result.json`` holds it.

    metrics: in percent, of the best epoch, by split and name.
    minutes: of training and validation, by fairseq's own clock, which goes on where an interrupted run does.
    checkpoints: "kept", or "deleted", which may have been interrupted; None in files of older versions.
    """

    task: str
    method: str
    seed: int
    metrics: Dict[str, Dict[str, float]]
    minutes: float
    best_epoch: int
    updates: int
    files: Dict[str, str]
    checkpoints: Optional[str] = None

    def save(self, directory) -> None:
        write_text(Path(directory) / RESULT, json.dumps(self._asdict(), indent=2) + "\n")


def load_results(out) -> List[Result]:
    """All finished runs below *out*, ``OUT/TASK/METHOD/seedN``, tasks as in `TASKS` and seeds in their order.

    Raises:
        ValueError: a file cannot be read.
    """
    results = []
    for path in sorted(Path(out).glob(f"*/*/seed*/{RESULT}")):
        try:
            results.append(Result(**read_json(path)))
        except TypeError as error:
            raise ValueError(f"{path}: not a run's result: {error}; delete it to run it again") from error
        except ValueError as error:
            raise ValueError(f"{error}; delete it to run it again") from error
        if not _has_numbers(results[-1]):
            raise ValueError(f"{path}: not a run's result: its metrics are no numbers by split and name; delete it to run it again")
        if not _has_names(results[-1]):
            raise ValueError(f"{path}: not a run's result: its method or files are no names; delete it to run it again")
        if results[-1].task not in TASKS:
            raise ValueError(f"{path}: a result of {results[-1].task!r}, which is no task; delete it")
    order = list(TASKS)
    return sorted(results, key=lambda result: (order.index(result.task), result.method, result.seed))


def _has_numbers(result: Result) -> bool:
    splits = result.metrics.values() if isinstance(result.metrics, dict) else [None]
    numbers = [value for split in splits for value in (split.values() if isinstance(split, dict) else [None])]
    return all(isinstance(value, (int, float)) for value in (*numbers, result.minutes, result.seed))


def _has_names(result: Result) -> bool:
    names = result.files.values() if isinstance(result.files, dict) else [None]
    return all(isinstance(name, str) for name in (*names, result.task, result.method))


class Line(NamedTuple):
    """A method's runs on a task, in one metric.

    std: sample standard deviation; None of one run.
    """

    task: str
    metric: str
    method: str
    runs: int
    mean: float
    std: Optional[float]
    best: float
    minutes: float


def metrics_of(task: Task) -> List:
    """(split, metric, heading) of what a task is measured by, the paper's own first."""
    names = sorted(task.metrics, key=lambda name: name != task.selected)
    result = [("valid", name, LABELS[name]) for name in names]
    return result + [("valid1", name, f"{LABELS[name]}, mismatched") for name in names if "valid1" in task.splits]


def summarize(results: Sequence[Result], methods: Sequence[str]) -> List[Line]:
    """A line for each task, metric and method of which there are runs; *methods* tells their order."""
    lines = []
    for task in TASKS.values():
        for split, name, heading in metrics_of(task):
            for method in methods:
                runs = [run for run in results if (run.task, run.method) == (task.name, method)]
                runs = [run for run in runs if name in run.metrics.get(split, {})]
                if runs:
                    values = [run.metrics[split][name] for run in runs]
                    spread = stdev(values) if len(values) > 1 else None
                    minutes = mean(run.minutes for run in runs)
                    about = (task.name, heading, method, len(runs))
                    lines.append(Line(*about, mean(values), spread, max(values), minutes))
    return lines


def best_table(lines: Sequence[Line], methods: Sequence[str]) -> str:
    """Methods by tasks, the best of the runs in the paper's metric, as its Table 1."""
    tasks = list(dict.fromkeys(line.task for line in lines))
    heading = {task: LABELS[TASKS[task].selected] for task in tasks}
    rows = []
    for method in methods:
        best = {line.task: line.best for line in lines if line.method == method and line.metric == heading[line.task]}
        if best:
            rows.append([method, *(best.get(task) for task in tasks)])
            if len(tasks) > 1:
                # Of some of the tasks it would not compare.
                rows[-1].append(mean(best.values()) if len(best) == len(tasks) else None)
    average = ["average"] if len(tasks) > 1 else []
    return markdown_table(["method", *(f"{task}, {heading[task]}" for task in tasks), *average], rows)


def overheads(lines: Sequence[Line]) -> List[List]:
    """[task, SAM's minutes, δ-SAM's minutes, how many percent more] as in the paper's Table 4."""
    rows = []
    for task in TASKS:
        minutes = {line.method: line.minutes for line in lines if line.task == task}
        if {"sam", "dsam"} <= minutes.keys():
            rows.append([task, minutes["sam"], minutes["dsam"], 100 * (minutes["dsam"] / minutes["sam"] - 1)])
    return rows


def write_report(out, methods: Sequence[str], about: str) -> List[Path]:
    """Write ``table.md``, ``table.csv`` and, where matplotlib is installed, ``table.png``, of the finished runs.

    Args:
        methods: in the order of the table; those of other runs follow.
        about: a line on what the runs are of.

    Returns:
        the files written; none where no run is finished.
    """
    out = Path(out)
    results = load_results(out)
    if not results:
        return []
    methods = list(dict.fromkeys([*methods, *(result.method for result in results)]))
    lines = summarize(results, methods)
    write_text(out / "table.md", _markdown(results, lines, methods, about))
    cells = io.StringIO()
    table = csv.writer(cells, lineterminator="\n")
    table.writerow(Line._fields)
    table.writerows(lines)
    write_text(out / "table.csv", cells.getvalue())
    written = [out / "table.md", out / "table.csv"]
    try:
        draw(lines, methods, out / "table.png")
    except ImportError:
        return written
    return [*written, out / "table.png"]


def _markdown(results: Sequence[Result], lines: Sequence[Line], methods: Sequence[str], about: str) -> str:
    parts = [f"# GLUE, development sets\n\n{about}\n"]
    standing = sorted(
        {
            f"{result.task}'s {split} set is {name}"
            for result in results
            for split, name in result.files.items()
            if name.split(".")[0] != TASKS[result.task].splits[split].names[0]
        }
    )
    if standing:
        parts.append("Not the published sets: " + "; ".join(standing) + ".\n")
    parts.append("## Best of the runs\n\n" + best_table(lines, methods))
    parts.append(
        "## All runs\n\nOf the epoch with the best value of the task's first metric; of equal ones the last. Minutes "
        "are of one run, on average.\n\n" + markdown_table(Line._fields, lines)
    )
    over = overheads(lines)
    if over:
        if len(over) > 1:
            over.append(["average", None, None, mean(row[3] for row in over)])
        heads = ["task", "SAM, min", "δ-SAM, min", "more, %"]
        parts.append("## What δ-SAM costs over SAM\n\n" + markdown_table(heads, over))
    return "\n".join(parts)


def draw(lines: Sequence[Line], methods: Sequence[str], path) -> None:
    """A panel for each task: mean, standard deviation and best of each method, in the paper's metric.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    from matplotlib import pyplot

    tasks = list(dict.fromkeys(line.task for line in lines))
    columns = min(4, len(tasks))
    rows = -(-len(tasks) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(1.5 + 3.2 * columns, 0.8 + 3.0 * rows), squeeze=False)
    for axis, task in zip(axes.flat, tasks):
        heading = LABELS[TASKS[task].selected]
        chosen = {line.method: line for line in lines if line.task == task and line.metric == heading}
        names = [method for method in methods if method in chosen]
        places = range(len(names))
        # No bar for a single run.
        spread = [math.nan if chosen[name].std is None else chosen[name].std for name in names]
        axis.errorbar(places, [chosen[name].mean for name in names], spread, fmt="o", capsize=4, label="mean and std")
        axis.plot(places, [chosen[name].best for name in names], "x", color="C1", label="best")
        axis.set_xticks(list(places), names, rotation=45, ha="right", fontsize=8)
        axis.set_xlim(-0.6, len(names) - 0.4)
        axis.set_title(f"{task}, {heading}", fontsize=10)
        axis.grid(axis="y", alpha=0.3)
    axes.flat[0].legend(fontsize=8)
    for axis in axes.flat[len(tasks) :]:
        axis.set_visible(False)
    figure.tight_layout()
    with replacing(Path(path)) as new:
        figure.savefig(new, dpi=120, format="png")
    pyplot.close(figure)
