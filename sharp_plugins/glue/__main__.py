"""The commands: ``python -m sharp_plugins.glue run | prepare | evaluate``."""

import argparse
import json
import sys
from pathlib import Path
from typing import Dict, Optional

from sharp_plugins.command_line import output_directory, output_file, run_command
from sharp_plugins.files.writing import write_text
from sharp_plugins.glue.arguments import add_data_arguments
from sharp_plugins.glue.tasks import TASKS, find_task

PROGRAM = "python -m sharp_plugins.glue"


def run_prepare(args) -> None:
    from sharp_plugins.glue.binarize import prepare
    from sharp_plugins.glue.download import download
    from sharp_plugins.glue.reader import find_files
    from sharp_plugins.text.encoder_directory import load_backbone  # here and below, so that --help imports no fairseq

    if not 0 <= args.typos <= 1:
        raise ValueError(f"--typos {args.typos}: give a share of the words, from 0 to 1")
    tasks, backbone = [find_task(name) for name in args.tasks], load_backbone(args.backbone)
    for task in tasks:  # before any is written
        if args.download:
            download(task, args.data)
        find_files(args.data, task)
    for task in tasks:
        how = args.max_positions, args.skip_malformed
        print(prepare(args.data, backbone, task, args.out / task.name, *how, typos=args.typos, replaces=False).in_words, flush=True)


def run_evaluate(args) -> Optional[str]:
    from sharp_plugins.glue.binarize import read_prepared
    from sharp_plugins.glue.evaluate import Checkpoint

    try:
        checkpoint = Checkpoint(args.checkpoint, read_prepared(args.prepared), args.device, lambda line: print(line, flush=True))
        if args.submission:
            checkpoint.check_submission()  # before anything is scored
        scores = checkpoint.score()
        print(in_words(scores, checkpoint.prepared.source.get("typos")), flush=True)  # before a file that may fail to be written
        written = checkpoint.write_submissions(args.submission) if args.submission else []
    except RuntimeError as error:  # torch's, for a GPU's memory
        raise ValueError(f"{args.checkpoint}: cannot be evaluated: {error}") from error
    if args.json:
        write_text(args.json, json.dumps(scores, indent=2) + "\n")
    return "\n".join(map(str, written)) if written else None


def in_words(scores: Dict[str, Dict[str, float]], typos: Optional[float]) -> str:
    """The metrics of each split, a line each.

    >>> in_words({"valid": {"accuracy": 50.0}}, None)
    'valid: accuracy 50.00'
    """
    lines = [f"with typing errors in {100 * typos:g} % of the words of four letters or more:"] if typos else []
    for split, metrics in scores.items():
        lines.append(f"{split}: " + ", ".join(f"{name} {value:.2f}" for name, value in metrics.items()))
    return "\n".join(lines)


def main(argv=None) -> int:
    """GLUE's tasks for fairseq's sentence_prediction: fine-tune with several methods and compare; make the data; evaluate."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["run"]:  # its flags are the engine's, which --help of the other commands does not import
        from sharp_plugins.glue.benchmark import Glue
        from sharp_plugins.runs.command import main as run

        return run(Glue(), argv[1:], prog=f"{PROGRAM} run")

    parser = argparse.ArgumentParser(prog=PROGRAM, description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="run | prepare | evaluate")
    commands.add_parser("run", help="fine-tune with several methods and seeds, and compare")

    words = "Write the tasks' data as --task sentence_prediction reads them. Where they are already, nothing is done."
    command = commands.add_parser("prepare", help="binarize the tasks' files", description=words)
    command.set_defaults(run=run_prepare)
    words = f"of {', '.join(TASKS)} (default: all)"
    command.add_argument("--tasks", nargs="+", default=list(TASKS), metavar="TASK", help=words)
    add_data_arguments(command)
    command.add_argument("--out", metavar="OUT", type=output_directory, required=True, help="each task's go to OUT/TASK")
    words = "give this share of the words of four letters or more a typing error, in all sets but the training set (default: none)"
    command.add_argument("--typos", metavar="P", type=float, default=0.0, help=words)

    words = "Print GLUE's metrics of a fine-tuned checkpoint, on every set that has labels but the training set."
    command = commands.add_parser("evaluate", help="metrics and predictions of a checkpoint", description=words)
    command.set_defaults(run=run_evaluate)
    command.add_argument("checkpoint", metavar="CHECKPOINT.pt", type=Path)
    command.add_argument("prepared", metavar="DATA", type=Path, help="directory that `prepare` wrote")
    words = "write the test sets' predictions as gluebenchmark.com takes them"
    command.add_argument("--submission", metavar="DIR", type=output_directory, help=words)
    command.add_argument("--json", metavar="FILE", type=output_file, help="write the metrics, not rounded, into a file too")
    command.add_argument("--device", help="cpu or cuda (default: cuda where there is a GPU)")

    args = parser.parse_args(argv)
    return run_command(lambda: args.run(args))


if __name__ == "__main__":
    sys.exit(main())
