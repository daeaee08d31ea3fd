"""The commands: ``python -m sharp_plugins.webnlg run | convert | prepare | score``."""

import argparse
import sys

from sharp_plugins.command_line import output_directory, run_command
from sharp_plugins.webnlg import convert
from sharp_plugins.webnlg.benchmark import add_data_arguments
from sharp_plugins.webnlg.run import add_run
from sharp_plugins.webnlg.scores import command as scores
from sharp_plugins.webnlg.scratch import DEFAULT_SIZE, SIZES


def run_prepare(args) -> None:
    from sharp_plugins.webnlg.prepare import prepare

    prepare(args.data, args.out, SIZES[DEFAULT_SIZE] if args.vocab_size is None else args.vocab_size, replaces=False)


def main(argv=None) -> int:
    """Data-to-text generation: make the data of a corpus, train and score on them."""
    parser = argparse.ArgumentParser(prog="python -m sharp_plugins.webnlg", description=main.__doc__)
    commands = parser.add_subparsers(required=True, metavar="run | convert | prepare | score")

    add_run(commands)

    command = commands.add_parser("convert", help="a corpus in any form as JSON lines", description=convert.DESCRIPTION)
    convert.add_convert_arguments(command)
    command.set_defaults(work=lambda args: run_command(lambda: convert.run_convert(args)))

    words = "Write a corpus's data as --task translation reads them. Where they are already, nothing is done."
    command = commands.add_parser("prepare", help="make the data", description=words)
    add_data_arguments(command)
    command.add_argument("--out", type=output_directory, required=True, metavar="OUT", help="directory to write to")
    command.set_defaults(work=lambda args: run_command(lambda: run_prepare(args)))

    command = commands.add_parser("score", help="score generated texts", description=scores.DESCRIPTION)
    scores.add_score_arguments(command)
    command.set_defaults(work=lambda args: run_command(lambda: scores.run_score(args)))

    args = parser.parse_args(argv)
    return args.work(args)


if __name__ == "__main__":
    sys.exit(main())
