"""Fine-tune a backbone on GLUE with several methods and seeds, and compare: the logic of ``examples/glue/run.py``.

    OUT/data/TASK             the tasks' data
    OUT/TASK/METHOD/seedN     one run each, see `sharp_plugins.glue.training`
    OUT/table.{md,csv,png}    of all finished runs, renewed after each

A second call does what is missing: finished runs are skipped, an interrupted one goes on from its last checkpoint.
"""

import argparse
import signal
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Tuple

import torch

from sharp_plugins.command import MENDABLE, be_quiet
from sharp_plugins.glue.arguments import add_data_arguments, message
from sharp_plugins.glue.backbone import load_backbone
from sharp_plugins.glue.binarize import prepare, source_of
from sharp_plugins.glue.download import download
from sharp_plugins.glue.methods import ALL_PARTS, Method, check_config, config, find_method, read_settings
from sharp_plugins.glue.results import Result, write_report
from sharp_plugins.glue.tasks import TASKS, Task, find_task
from sharp_plugins.glue.training import SUBMISSION, Run, RunBusy, RunFailed, check, check_made_of, clean_up, finish, locked, train

INTERRUPTED = 130


def parse_arguments(argv, configs):
    """The command line's arguments."""
    words = "Fine-tune an encoder on GLUE with several methods and seeds, and compare."
    parser = argparse.ArgumentParser(description=words)
    add_data_arguments(parser)
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["base", "sam", "dsam"],
        metavar="METHOD",
        help="base; or parts with hyphens between them: one of lora, houlsby, pfeiffer, one of sam, dsam, obar, nbar, "
        "and one of r3f, rdrop, freelb, smart; such as dsam-r3f and lora-nbar (default: base sam dsam)",
    )
    seeds = "random seeds, one run each (default: 1 to 5, the paper's five runs)"
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5], metavar="N", help=seeds)
    words = "where all goes (default: runs/glue)"
    parser.add_argument("--out", type=Path, default=Path("runs/glue"), metavar="OUT", help=words)
    words = "directory with FAMILY/TASK.yaml (default: beside run.py)"
    parser.add_argument("--configs", type=Path, default=configs, metavar="DIR", help=words)
    words = "change a setting of all runs, as optimization.max_update=100; may be given several times"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes", help=words)
    parser.add_argument("--keep-checkpoints", action="store_true", help="of finished runs too; they are large")
    words = "write the test sets' predictions as gluebenchmark.com takes them, into each run's directory"
    parser.add_argument("--submission", action="store_true", help=words)
    parser.add_argument("--cpu", action="store_true", help="train on the CPU, in fp32 (default: where there is no GPU)")
    args = parser.parse_args(argv)
    args.cpu = args.cpu or not torch.cuda.is_available()
    return args


def plan(args) -> List[Run]:
    """All runs that are asked for, with their data made and their settings checked.

    Raises:
        ValueError, OSError, ImportError: something does not fit or is not there; nothing was trained.
    """
    for flag, values in (("--tasks", args.tasks), ("--methods", args.methods), ("--seeds", args.seeds)):
        twice = [str(value) for value in dict.fromkeys(values) if values.count(value) > 1]
        if twice:
            raise ValueError(f"{flag}: {', '.join(twice)} given more than once")
    tasks: Sequence[Task] = [find_task(name) for name in args.tasks]
    methods: Sequence[Method] = [find_method(name) for name in args.methods]
    backbone = load_backbone(args.backbone)
    settings = {task.name: read_settings(args.configs, backbone.family, task) for task in tasks}
    if args.download:
        for task in tasks:
            download(task, args.data)
    data = args.data, backbone
    how = args.max_positions, args.skip_malformed
    # Before the data are made, which would replace those of the runs that are there.
    sources = {task.name: source_of(*data, task, *how) for task in tasks}
    there = list(stored(args.out))
    for directory, task, _, _ in there:
        check_made_of(directory, backbone.checksums, sources.get(task))
    runs = []
    for task in tasks:
        prepared = prepare(*data, task, args.out / "data" / task.name, *how)
        print(message(prepared), flush=True)

        def make(method: Method, seed: int) -> Run:
            directory = args.out / task.name / method.name / f"seed{seed}"
            own = config(settings[task.name], method, backbone, prepared, seed, directory, args.changes, args.cpu)
            return Run(task, method, seed, directory, own, backbone, prepared)

        # All of a change is in one of these, and in the others what they have use for.
        for method in dict.fromkeys([*methods, *map(find_method, ALL_PARTS)]):
            check_config(make(method, args.seeds[0]).config, f"{task.name} {method.name}")
        for _, name, method, seed in there:
            if name == task.name:
                check(make(method, seed))
        runs += [make(method, seed) for seed in args.seeds for method in methods]
    if args.submission:
        check_submissions(runs)
    return runs


def stored(out: Path) -> Iterator[Tuple[Path, str, Method, int]]:
    """Runs below *out*, finished or not: directory, the task's name, method and seed.

    Raises:
        ValueError: a directory is in the place of a run, and is of no method.
    """
    for directory in sorted(out.glob("*/*/seed*")):
        task, method, seed = directory.parts[-3:]
        if task in TASKS and seed[4:].isdigit():
            try:
                known = find_method(method)
            except ValueError:
                raise ValueError(f"{directory}: in a run's place, and {method} is no method; move it away") from None
            yield directory, task, known, int(seed[4:])


def check_submissions(runs: Sequence[Run]) -> None:
    """Raise ValueError where a run could not write what --submission asks for."""
    for run in runs:
        if not any(split.startswith("test") for split in run.prepared.rows):
            raise ValueError(f"--submission: there is no test set of {run.task.name} in --data")
        if run.is_finished and not (run.directory / SUBMISSION).is_dir():
            raise ValueError(
                f"--submission: {run.directory} was finished without it, and its checkpoint may be gone; leave the flag "
                "out, or delete the directory to run it again"
            )


class Progress:
    """Shows a run: one changing line on a terminal; else a line for each validation."""

    def __init__(self, start: str, run: Run, stream=None):
        self.start, self.stream = start, stream or sys.stdout
        self.updates = run.config["optimization"]["max_update"]
        self.metric = run.config["checkpoint"]["best_checkpoint_metric"]
        self.value, self.width = "", 0

    def __call__(self, entry: Dict) -> None:
        validated = entry.get(f"valid_{self.metric}")
        if validated is not None:
            self.value = f", {self.metric} {validated}"
        number = next((entry[key] for key in ("num_updates", "valid_num_updates") if key in entry), None)
        if number is None:
            return
        line = f"{self.start}: epoch {entry['epoch']}, update {number} of {self.updates}{self.value}"
        if self.stream.isatty():
            self.stream.write("\r" + line.ljust(self.width))
            self.width = len(line)
        elif validated is not None:
            self.stream.write(line + "\n")
        self.stream.flush()

    def end(self) -> None:
        if self.width:
            self.stream.write("\r" + " " * self.width + "\r")


def describe(result: Result, start: str) -> str:
    """A line on a finished run."""
    metrics = ", ".join(f"{name} {value:.2f}" for name, value in result.metrics["valid"].items())
    return f"{start}: {metrics} in epoch {result.best_epoch}; {result.updates} updates, {result.minutes:.1f} min"


def do(runs: Sequence[Run], args) -> List[str]:
    """Do what is missing; returns the runs that are not finished then."""
    for number, run in enumerate(runs, start=1):
        if run.is_finished:
            if not args.keep_checkpoints:
                clean_up(run)
            continue
        start = f"[{number}/{len(runs)}] {run.name}"
        print(f"{start}: log in {run.directory / 'train.log'}", flush=True)
        progress = Progress(start, run)
        try:
            with locked(run) as lock:
                if not run.is_finished:  # another call may have done it meanwhile
                    try:
                        train(run, progress, lock)
                    finally:
                        progress.end()
                    print(describe(finish(run, lock, args.keep_checkpoints, args.submission), start), flush=True)
        except (RunFailed, RunBusy, OSError) as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
        report(args)
    return [run.name for run in runs if not run.is_finished]


def report(args) -> List[Path]:
    about = f"Backbone: {args.backbone.name}. Runs and settings: {args.out}/TASK/METHOD/seedN/run.yaml."
    return write_report(args.out, args.methods, about)


def main(argv=None, configs=None) -> int:
    """Do all runs and write the tables.

    Args:
        configs: default of --configs.

    Returns:
        0; 1 where something is wrong or a run failed; `INTERRUPTED`.
    """
    args = parse_arguments(argv, configs)
    be_quiet()

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        runs = plan(args)
        finished = sum(run.is_finished for run in runs)
        print(f"{len(runs)} runs, {finished} of them finished before", flush=True)
        failed = do(runs, args)
        print("\n".join(str(path) for path in report(args)))
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    except MENDABLE as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    if failed:
        print(f"error: {len(failed)} of {len(runs)} runs are not finished; see above", file=sys.stderr)
    return 1 if failed else 0
