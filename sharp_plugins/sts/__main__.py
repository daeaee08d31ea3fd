"""The commands: ``python -m sharp_plugins.sts run | evaluate``."""

import argparse
import json
import sys
from pathlib import Path

from sharp_plugins.command_line import output_file, run_command
from sharp_plugins.files.writing import write_text
from sharp_plugins.sts.sets import DEV, SETS, read_set

PROGRAM = "python -m sharp_plugins.sts"


def run_evaluate(args) -> None:
    from sharp_plugins.sts.evaluate import SentenceEncoder, correlations  # here, so that --help imports no fairseq

    sets = {name: read_set(args.data, name) for name in args.sets}
    for one in sets.values():
        for warning in one.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    try:
        encoder = SentenceEncoder(args.checkpoint, args.pooling, args.max_length, args.tokenizer, args.device)
        print(f"pooling {encoder.pooling}, at most {encoder.length} symbols", flush=True)
        found = correlations(encoder, sets, args.subsets, lambda line: print(line, flush=True))
    except RuntimeError as error:  # torch's, for a GPU's memory
        raise ValueError(f"{args.checkpoint}: cannot be evaluated: {error}") from error
    if "average" in found:
        print(f"average: {found['average']:.2f}", flush=True)  # before a file that may fail to be written
    if args.json:
        write_text(args.json, json.dumps(found, indent=2) + "\n")


def main(argv=None) -> int:
    """Sentence similarity without labels: train with several methods and compare; evaluate any encoder on seven test sets."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["run"]:  # its flags are the engine's, which --help of the other command does not import
        from sharp_plugins.runs.command import main as run
        from sharp_plugins.sts.benchmark import SentenceSimilarity

        return run(SentenceSimilarity(), argv[1:], prog=f"{PROGRAM} run")

    parser = argparse.ArgumentParser(prog=PROGRAM, description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="run | evaluate")
    commands.add_parser("run", help="train with several methods and seeds, and compare")

    words = "Print 100 times Spearman's correlation of an encoder's cosines with people's scores, for each set."
    command = commands.add_parser("evaluate", help="an encoder's correlations on the test sets", description=words)
    command.set_defaults(run=run_evaluate)
    command.add_argument("checkpoint", metavar="CHECKPOINT.pt", type=Path)
    words = "directory with STS12.tsv to STS16.tsv, STS-B/test.tsv and SICK/test.tsv, or with them as they are published"
    command.add_argument("--data", metavar="DIR", type=Path, required=True, help=words)
    words = "a sentence's vector: cls, mean, or mean-padded, over all positions of a padded row (default: as trained, or mean)"
    command.add_argument("--pooling", choices=("cls", "mean", "mean-padded"), help=words)
    words = "the most symbols of a sentence (default: 64 with cls and with mean-padded, which pads to it, as Mirror-BERT does; "
    words += "else 256)"
    command.add_argument("--max-length", metavar="N", type=int, help=words)
    command.add_argument(
        "--sets", nargs="+", default=list(SETS), metavar="SET", help=f"of {', '.join([*SETS, DEV])} (default: the tests)"
    )
    words = "a year's mean over its subsets (default: one correlation over all pairs of a year, as published)"
    command.add_argument("--subsets", action="store_true", help=words)
    words = "directory of the converted encoder (default: the checkpoint's own, or the one in its config)"
    command.add_argument("--tokenizer", metavar="DIR", type=Path, help=words)
    command.add_argument("--json", metavar="FILE", type=output_file, help="write the numbers, not rounded, into a file too")
    command.add_argument("--device", help="cpu or cuda (default: cuda where there is a GPU)")

    args = parser.parse_args(argv)
    return run_command(lambda: args.run(args))


if __name__ == "__main__":
    sys.exit(main())
