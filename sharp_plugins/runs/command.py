"""The command that trains a benchmark's runs and writes the tables: the same words for every benchmark.

    OUT/TASK/METHOD/seedN     one run each, see `sharp_plugins.runs.store`
    OUT/table.{md,csv,png}    of all finished runs, renewed after each

A second call does what is missing: finished runs are skipped, an interrupted one goes on where it was. Two calls may share OUT.
"""

import argparse
import signal
import sys
from pathlib import Path
from typing import List, Optional, Sequence

from sharp_plugins.command_line import MENDABLE, be_quiet, output_directory
from sharp_plugins.files.writing import one_at_a_time
from sharp_plugins.runs.benchmark import Benchmark
from sharp_plugins.runs.methods import BASE, CRITERIONS, NETWORKS, OPTIMIZERS

INTERRUPTED = 130
RUNS_FAILED = 3  # all that could be done was
REPORT_LOCK = ".report.lock"


def add_run_arguments(parser, benchmark: Benchmark) -> None:
    """The flags of every benchmark, and then its own."""

    def listed(values):
        return " ".join(map(str, values))

    tasks = list(benchmark.default_tasks or benchmark.tasks)
    words = f"of {', '.join(benchmark.tasks)} (default: {'all' if tasks == list(benchmark.tasks) else listed(tasks)})"
    words = benchmark.tasks_help or words
    parser.add_argument("--tasks", nargs="+", default=tasks, metavar="TASK", help=words)
    words = f"{', '.join(dict.fromkeys((BASE, *benchmark.extra_methods)))}; or parts with hyphens between them: "
    words += f"one of {', '.join(NETWORKS)}, one of {', '.join(OPTIMIZERS)}, "
    words += f"and one of {', '.join(CRITERIONS)}; such as dsam-r3f and lora-nbar"
    words = f"{benchmark.methods_help or words} (default: {listed(benchmark.default_methods)})"
    parser.add_argument("--methods", nargs="+", default=list(benchmark.default_methods), metavar="METHOD", help=words)
    words = f"random seeds, one run each (default: {listed(benchmark.default_seeds)})"
    parser.add_argument("--seeds", nargs="+", type=int, default=list(benchmark.default_seeds), metavar="N", help=words)
    place = Path("runs", benchmark.name)
    parser.add_argument("--out", type=output_directory, default=place, metavar="OUT", help=f"where all goes (default: {place})")
    words = "change a setting of all runs, as optimization.max_update=100; may be given several times"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes", help=words)
    words = "train each value of a setting, as optimizer.sam_rho=0.01,0.05, and report the one that is chosen on the selection "
    words += "split; a method without use for the setting is trained once; may be given several times"
    parser.add_argument("--sweep", action="append", default=[], metavar="KEY=V1,V2,...", dest="sweeps", help=words)
    words = "runs side by side, on the CPU with its threads divided (default: one for each of --devices, else 1)"
    parser.add_argument("--jobs", type=int, metavar="N", help=words)
    parser.add_argument("--devices", metavar="0,1,...", help="GPUs; each run gets one of them (default: what fairseq takes)")
    parser.add_argument("--cpu", action="store_true", help="train on the CPU, without fp16 (default: where there is no GPU)")
    words = f"keep those of finished runs too; they are large{benchmark.kept_help}"
    parser.add_argument("--keep-checkpoints", action="store_true", help=words)
    benchmark.add_arguments(parser)


def main(benchmark: Benchmark, argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> int:
    """Read a command line, do all its runs and write the tables; returns the exit status, as `execute`."""
    parser = argparse.ArgumentParser(prog=prog, description=benchmark.title)
    add_run_arguments(parser, benchmark)
    return execute(benchmark, parser.parse_args(argv))


def execute(benchmark: Benchmark, args) -> int:
    """Do all runs and write the tables.

    Args:
        args: of a parser with `add_run_arguments`.

    Returns:
        0; `RUNS_FAILED` where runs failed and the others are done; 1 where something else is wrong, such as a run that another
        process is at; `INTERRUPTED`.
    """
    be_quiet()
    # Here, and not for --help: these import fairseq.
    import torch

    from sharp_plugins.runs.execution import Worker
    from sharp_plugins.runs.needs import announce
    from sharp_plugins.runs.plan import plan
    from sharp_plugins.runs.processes import Stop
    from sharp_plugins.runs.progress import Screen, give_up_unprintable, say
    from sharp_plugins.runs.schedule import check_workers, gpus, side_by_side, slots
    from sharp_plugins.runs.store import check

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        if args.devices is not None and (args.cpu or not torch.cuda.is_available()):
            raise ValueError(f"--devices {args.devices}: {'--cpu asks for none' if args.cpu else 'there is no GPU'}; leave it out")
        places = slots(args.jobs, args.devices, None if args.devices is None else gpus(torch.cuda.device_count()))
        args.cpu = args.cpu or not torch.cuda.is_available()
        screen, stop = Screen(), Stop()
        runs = plan(benchmark, args, screen.tell)
        missing = [run for run in runs if not run.is_finished]
        check_workers(missing, 0 if args.cpu else 1 if args.devices else torch.cuda.device_count(), benchmark.settings_flag)
        screen.tell(f"{len(runs)} runs, {len(runs) - len(missing)} of them finished before")
        keep = args.keep_checkpoints or benchmark.keep_checkpoints
        announce(runs)
        work = Worker(benchmark, args.out, runs, screen, stop, keep)

        def renew():
            try:
                report(benchmark, args)
            except MENDABLE as error:  # the runs go on; the last report tells it again
                work.tell_error(str(error))

        if not keep:
            for run in runs:
                try:
                    if run.is_finished:
                        work.clean_up(run)  # a killed call may not have done so
                except MENDABLE as error:
                    work.tell_error(str(error))
        side_by_side(missing, work, places, stop, work.cannot, renew)
        for run in runs:
            check(run)  # another call may have done it meanwhile, with other settings
        say("\n".join(str(path) for path in report(benchmark, args)))
        failed = [run.name for run in runs if not run.is_finished]
        if failed:
            say(f"error: {len(failed)} of {len(runs)} runs are not finished; see above", sys.stderr)
        return (1 if work.is_held_up else RUNS_FAILED) if failed else 0
    except KeyboardInterrupt:
        say("interrupted; run the same command again to go on", sys.stderr)
        return INTERRUPTED
    except MENDABLE as error:
        say(f"error: {error}", sys.stderr)
        return 1
    finally:
        give_up_unprintable()
        signal.signal(signal.SIGTERM, before)


def report(benchmark: Benchmark, args) -> List[Path]:
    """Write the tables of all finished runs in the directory; returns the files. Calls that share it do so one after the other: a
    table of one that has looked earlier would take the place of one with more runs."""
    with one_at_a_time(args.out / REPORT_LOCK):
        return _report(benchmark, args)


def _report(benchmark: Benchmark, args) -> List[Path]:
    from sharp_plugins.runs.report import write_report
    from sharp_plugins.runs.selection import choose
    from sharp_plugins.runs.store import load_results
    from sharp_plugins.runs.sweep import read_sweeps, swept

    results = load_results(args.out, benchmark.name, benchmark.tasks)
    if not results:
        return []
    axes = swept([result.record for result in results], read_sweeps(args.sweeps))
    search = choose(results, axes, benchmark.selection) if axes else None
    written = write_report(
        args.out,
        results,
        measures=benchmark.measures,
        methods=args.methods,
        tasks=benchmark.tasks,
        baseline=benchmark.baseline,
        title=benchmark.title,
        about=benchmark.about(results),
        notes=benchmark.remarks(results),
        chosen=search,
        selection=benchmark.selection,
        costs=benchmark.costs,
    )
    kept = [result for result in results if search is None or search.keeps(result.record)]
    return [*written, *benchmark.report(args.out, kept)]
