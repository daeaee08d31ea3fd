"""The commands: ``python -m sharp_plugins.webnlg run | prepare | score``."""

import argparse
import sys
from pathlib import Path

from sharp_plugins.command_line import run_command
from sharp_plugins.runs.command import add_run_arguments, execute
from sharp_plugins.webnlg.benchmark import SIZES, DataToText, add_data_arguments
from sharp_plugins.webnlg.scores.command import DESCRIPTION, add_score_arguments, run_score


def run(args) -> int:
    status = execute(args.benchmark, args)
    table = args.out / "results.md"
    if status == 0 and table.is_file():
        print(f"\n{table.read_text(encoding='utf-8')}")
    return status


def run_prepare(args) -> None:
    from sharp_plugins.webnlg.prepare import prepare

    prepare(args.data, args.out, SIZES["webnlg"] if args.vocab_size is None else args.vocab_size)


def main(argv=None) -> int:
    """Data-to-text generation: make the data of a corpus, train and score on them."""
    parser = argparse.ArgumentParser(prog="python -m sharp_plugins.webnlg", description=main.__doc__)
    commands = parser.add_subparsers(required=True, metavar="run | prepare | score")

    benchmark = DataToText()
    words = "Train and score methods, and write tables. Called again, it goes on where it stopped."
    command = commands.add_parser("run", help="train and score methods", description=words, allow_abbrev=False)
    add_run_arguments(command, benchmark)
    command.set_defaults(work=run, benchmark=benchmark)

    words = "Write a corpus's data as --task translation reads them. Where they are already, nothing is done."
    command = commands.add_parser("prepare", help="make the data", description=words)
    add_data_arguments(command)
    command.add_argument("--out", type=Path, required=True, metavar="OUT", help="directory to write to")
    command.set_defaults(work=lambda args: run_command(lambda: run_prepare(args)))

    command = commands.add_parser("score", help="score generated texts", description=DESCRIPTION)
    add_score_arguments(command)
    command.set_defaults(work=lambda args: run_command(lambda: run_score(args)))

    args = parser.parse_args(argv)
    return args.work(args)


if __name__ == "__main__":
    sys.exit(main())
