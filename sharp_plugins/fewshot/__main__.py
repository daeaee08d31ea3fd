"""The commands: ``python -m sharp_plugins.fewshot run | prepare | zero-shot``."""

import argparse
import json
import sys
from pathlib import Path

from sharp_plugins.command_line import MENDABLE, be_quiet, output_directory, output_file, run_command
from sharp_plugins.fewshot.arguments import TASKS, add_data_arguments, source_of
from sharp_plugins.fewshot.benchmark import FewShot
from sharp_plugins.fewshot.sampling import SEEDS
from sharp_plugins.files.writing import write_text
from sharp_plugins.runs.command import add_run_arguments, execute

PROGRAM = "python -m sharp_plugins.fewshot"


def run(args) -> int:
    """Train and score methods."""
    be_quiet()
    try:
        args.benchmark.resolve(args)
    except MENDABLE as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return execute(args.benchmark, args)


def prepare(args) -> None:
    source = source_of(args)
    for name, maker in source.makers.items():
        for seed in args.seeds:
            for size in source.sizes:
                maker.make(args.out / name / f"{source.axis}{size}-seed{seed}", size, seed, lambda line: print(line, flush=True))


def zero_shot(args) -> str:
    from sharp_plugins.fewshot import zero_shot as module  # here, so that --help imports no fairseq

    try:
        scores = module.zero_shot(args.backbone, args.sample, args.device, warn=lambda words: print(f"warning: {words}"))
    except RuntimeError as error:  # torch's, for a GPU's memory
        raise ValueError(f"{args.backbone}: cannot be evaluated: {error}") from error
    if args.json:
        write_text(args.json, json.dumps(scores, indent=2) + "\n")
    return f"test: accuracy {scores['test']['accuracy']:.2f}"


def main(argv=None) -> int:
    """Few-shot tasks in prompts: fine-tune with several methods and compare; make the data; score a backbone untrained."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=main.__doc__)
    commands = parser.add_subparsers(required=True, metavar="run | prepare | zero-shot")

    benchmark = FewShot()
    words = "Train and score methods, and write tables. Called again, it goes on where it stopped."
    command = commands.add_parser("run", help="train and score methods", description=words, allow_abbrev=False)
    add_run_arguments(command, benchmark)
    command.set_defaults(work=run, benchmark=benchmark, tasks=None)

    words = "Write samples of the tasks as fairseq reads them. Where they are already, nothing is done."
    command = commands.add_parser("prepare", help="make the data", description=words, allow_abbrev=False)
    command.add_argument("--tasks", nargs="+", metavar="TASK", help=TASKS)
    add_data_arguments(command)
    words = f"of the samples (default: {' '.join(map(str, SEEDS))})"
    command.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), metavar="N", help=words)
    command.add_argument(
        "--out",
        type=output_directory,
        required=True,
        metavar="OUT",
        help="samples go to OUT/TASK/kK-seedN, of decoders to OUT/TASK/examplesN-seedN",
    )
    command.set_defaults(work=lambda args: run_command(lambda: prepare(args)))

    words = "Print what a backbone scores on a sample's test set without any training. It is computed once, and kept there."
    command = commands.add_parser("zero-shot", help="score a backbone", description=words, allow_abbrev=False)
    command.add_argument("backbone", type=Path, metavar="BACKBONE", help="directory that `python -m sharp_plugins.convert` wrote")
    command.add_argument("sample", type=Path, metavar="SAMPLE", help="directory that prepare wrote, of one sample")
    command.add_argument("--json", type=output_file, metavar="FILE", help="write the scores, not rounded, into a file too")
    command.add_argument("--device", help="cpu or cuda (default: cuda where there is a GPU)")
    command.set_defaults(work=lambda args: run_command(lambda: zero_shot(args)))

    args = parser.parse_args(argv)
    return args.work(args)


if __name__ == "__main__":
    sys.exit(main())
