"""The commands: ``python -m sharp_plugins.webnlg run | convert | prepare | score``."""

import argparse
import json
import sys
from pathlib import Path

from sharp_plugins.command_line import run_command
from sharp_plugins.files.writing import write_text
from sharp_plugins.webnlg.benchmark import add_data_arguments
from sharp_plugins.webnlg.convert import DESCRIPTION, add_convert_arguments, run_convert
from sharp_plugins.webnlg.corpus import find_split, read_split
from sharp_plugins.webnlg.run import add_run
from sharp_plugins.webnlg.scratch import DEFAULT_SIZE, SIZES


def run_prepare(args) -> None:
    from sharp_plugins.webnlg.prepare import prepare

    prepare(args.data, args.out, SIZES[DEFAULT_SIZE] if args.vocab_size is None else args.vocab_size)


def run_score(args) -> str:
    from sharp_plugins.runs.generated import read_generated
    from sharp_plugins.webnlg.scores.evaluation import all_scores

    inputs = read_split(find_split(args.data, "test"))
    scores = all_scores(read_generated(args.generated, len(inputs)), inputs)
    if args.json:
        write_text(args.json, json.dumps(scores, indent=2) + "\n")
    return json.dumps(scores["sacrebleu"])


def main(argv=None) -> int:
    """Data-to-text generation: make the data of a corpus, train and score on them."""
    parser = argparse.ArgumentParser(prog="python -m sharp_plugins.webnlg", description=main.__doc__)
    commands = parser.add_subparsers(required=True, metavar="run | convert | prepare | score")

    add_run(commands)

    command = commands.add_parser("convert", help="a corpus in any form as JSON lines", description=DESCRIPTION)
    add_convert_arguments(command)
    command.set_defaults(work=lambda args: run_command(lambda: run_convert(args)))

    words = "Write a corpus's data as --task translation reads them. Where they are already, nothing is done."
    command = commands.add_parser("prepare", help="make the data", description=words)
    add_data_arguments(command)
    command.add_argument("--out", type=Path, required=True, metavar="OUT", help="directory to write to")
    command.set_defaults(work=lambda args: run_command(lambda: run_prepare(args)))

    words = "Print BLEU, chrF++ and TER of texts that fairseq-generate wrote for a corpus's test inputs."
    command = commands.add_parser("score", help="score generated texts", description=words)
    command.add_argument("generated", type=Path, metavar="GENERATED", help="the output of fairseq-generate")
    command.add_argument("--data", type=Path, required=True, metavar="DIR", help="the corpus")
    command.add_argument("--split", default="test")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the scores, not rounded, into a file too")
    command.set_defaults(work=lambda args: run_command(lambda: run_score(args)))

    args = parser.parse_args(argv)
    return args.work(args)


if __name__ == "__main__":
    sys.exit(main())
