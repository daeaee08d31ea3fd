"""The commands ``python -m sharp_plugins.candidates prepare | evaluate | answers``."""

import argparse
import json
import sys
from pathlib import Path

from sharp_plugins.command_line import check_input_files, output_directory, output_file, run_command
from sharp_plugins.files.writing import write_text

PROGRAM = "python -m sharp_plugins.candidates"


def tell(line: str) -> None:
    print(line, flush=True)


def run_prepare(args) -> None:
    from sharp_plugins.candidates.prepare import prepare  # here and below, so that --help imports no fairseq
    from sharp_plugins.text.decoder_directory import read_decoder_directory

    files = {split: getattr(args, split) for split in ("train", "valid", "test") if getattr(args, split)}
    if not files:
        raise ValueError("nothing to prepare: --train, --valid or --test names a file")
    for split, path in files.items():
        check_input_files(f"--{split}", [path])
    try:
        backbone = read_decoder_directory(args.backbone)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"--backbone {error}") from error
    prepare(files, backbone, args.out, args.start, args.max_positions, tell=tell)


def run_evaluate(args) -> None:
    from sharp_plugins.candidates.evaluate import Checkpoint, as_json_lines

    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be 1 or larger, and is {args.batch_size}")
    try:
        checkpoint = Checkpoint(args.checkpoint, args.data, args.device, tell)
        choices = {split: checkpoint.choose(split, args.batch_size) for split in checkpoint.splits(args.splits)}
    except RuntimeError as error:  # torch's, for a GPU's memory
        raise ValueError(f"{args.checkpoint}: cannot be evaluated: {error}; a smaller --batch-size takes less memory") from error
    scores = {split: chosen.scores() for split, chosen in choices.items()}
    for split, found in scores.items():  # before a file that may fail to be written
        tell(f"{split}: accuracy {found['accuracy']:.2f}, loss {found['loss']:.4f}, {found['examples']} examples")
    if args.predictions:
        write_text(args.predictions, "".join(as_json_lines(choices)))
    if args.json:
        write_text(args.json, json.dumps(scores, indent=2) + "\n")


def run_answers(args) -> None:
    from sharp_plugins.candidates.answers import score_generated

    scores = score_generated(args.generated, args.data)
    tell(f"test: F1 {scores['f1']:.2f}, exact match {scores['em']:.2f}, {scores['questions']} questions")
    if args.json:
        write_text(args.json, json.dumps({"test": scores}, indent=2) + "\n")


def main(argv=None) -> int:
    """A prompt and its candidate continuations: make the data for --task candidates; choose with a checkpoint; score answers."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=main.__doc__)
    commands = parser.add_subparsers(required=True, metavar="prepare | evaluate | answers")

    words = "Write prompts with their candidates as --task candidates reads them. Where they are already, nothing is done."
    command = commands.add_parser("prepare", help="make the data", description=words, allow_abbrev=False)
    command.set_defaults(run=run_prepare)
    words = "directory that `python -m sharp_plugins.convert` wrote of a decoder"
    command.add_argument("--backbone", type=Path, required=True, metavar="DIR", help=words)
    for split in ("train", "valid", "test"):
        words = 'JSON lines {"prompt": "...", "candidates": ["...", ...], "answers": [index, ...]}; .gz too'
        command.add_argument(f"--{split}", type=Path, metavar="FILE", help=words)
    command.add_argument("--out", type=output_directory, required=True, metavar="DATA", help="directory to write to")
    words = "symbol before a prompt, such as <s>; auto: what the model has seen before a text; none: no symbol (default: auto)"
    command.add_argument("--start", default="auto", metavar="SYMBOL", help=words)
    words = "the most symbols of a sequence; what is longer loses the prompt's beginning (default: the model's positions)"
    command.add_argument("--max-positions", type=int, metavar="N", help=words)

    words = "Choose the likeliest candidate of each example, and print accuracy and loss of every split but the training set."
    command = commands.add_parser(
        "evaluate", help="accuracy and predictions of a checkpoint", description=words, allow_abbrev=False
    )
    command.set_defaults(run=run_evaluate)
    words = "of a trained model, with LoRA or another; or the model.pt of a converted decoder, untrained"
    command.add_argument("checkpoint", metavar="CHECKPOINT.pt", type=Path, help=words)
    command.add_argument("data", metavar="DATA", type=Path, help="directory that `prepare` wrote")
    words = "splits of the data (default: all but train)"
    command.add_argument("--splits", nargs="+", metavar="SPLIT", help=words)
    command.add_argument("--json", metavar="FILE", type=output_file, help='write {"SPLIT": {"accuracy", "loss", "examples"}} there')
    command.add_argument("--predictions", metavar="FILE", type=output_file, help="write choices and scores as JSON lines")
    command.add_argument("--batch-size", metavar="N", type=int, default=16, help="prompts that are read at once (default: 16)")
    command.add_argument("--device", help="cpu or cuda (default: cuda where there is a GPU)")

    words = "Score what `fairseq-generate` wrote against all answers of a test set: SQuAD's F1 and exact match."
    command = commands.add_parser("answers", help="F1 and exact match of generated answers", description=words, allow_abbrev=False)
    command.set_defaults(run=run_answers)
    command.add_argument("generated", metavar="GENERATED", type=Path, help="the output of fairseq-generate")
    words = "directory that `python -m sharp_plugins.prompted prepare` wrote, with a test set"
    command.add_argument("--data", metavar="DATA", type=Path, required=True, help=words)
    command.add_argument("--json", metavar="FILE", type=output_file, help='write {"test": {"f1", "em", "questions"}} into a file')

    args = parser.parse_args(argv)
    return run_command(lambda: args.run(args))


if __name__ == "__main__":
    sys.exit(main())
