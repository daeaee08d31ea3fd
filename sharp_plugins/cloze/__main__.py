"""The commands ``python -m sharp_plugins.cloze prepare | evaluate``."""

import argparse
import json
import sys
from pathlib import Path

from sharp_plugins.cloze.layout import find_layout, named_layouts
from sharp_plugins.command_line import check_input_files, output_directory, output_file, run_command
from sharp_plugins.files.writing import write_text

SPLITS = ("train", "valid", "test")


def run_prepare(args) -> None:
    from sharp_plugins.cloze.prepare import prepare  # here, so that --help imports no fairseq
    from sharp_plugins.text.encoder_directory import load_backbone

    files = {split: getattr(args, split) for split in SPLITS if getattr(args, split)}
    if not files:
        raise ValueError("nothing to prepare: --train, --valid or --test names a file")
    for split, path in files.items():
        check_input_files(f"--{split}", [path])
    layout = find_layout(args.layout)
    try:
        backbone = load_backbone(args.backbone)
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(f"--backbone {error}") from error
    prepare(files, backbone, layout, args.out, args.too_long, lambda line: print(line, flush=True), args.max_length)


def run_evaluate(args) -> None:
    from sharp_plugins.cloze.evaluate import Checkpoint, as_json_lines
    from sharp_plugins.cloze.prepared import read_prepared

    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be 1 or larger, and is {args.batch_size}")
    prepared = read_prepared(args.data)
    splits = args.splits or [split for split in prepared.facts if split != "train"]
    absent = [split for split in splits if split not in prepared.facts]
    if absent:
        raise ValueError(f"--splits {' '.join(absent)}: {args.data} has {', '.join(prepared.facts)}")
    if not splits:
        raise ValueError(f"{args.data} has training data alone: --splits train evaluates on them")
    try:
        checkpoint = Checkpoint(
            args.checkpoint, prepared, args.device, lambda words: print(f"warning: {words}"), lambda line: print(line, flush=True)
        )
        for split in splits:  # before any is scored
            checkpoint.check_lengths(split)
        predictions = {split: checkpoint.predict(split, args.batch_size) for split in splits}
    except RuntimeError as error:  # torch's, for a GPU's memory
        raise ValueError(f"{args.checkpoint}: cannot be evaluated: {error}; a smaller --batch-size takes less memory") from error
    scores = {split: found.scores() for split, found in predictions.items()}
    for split, found in scores.items():  # before a file that may fail to be written
        print(f"{split}: accuracy {found['accuracy']:.2f}, loss {found['loss']:.4f}, {found['examples']} examples", flush=True)
    if args.predictions:
        write_text(args.predictions, "".join(as_json_lines(predictions, prepared.layout.classes)))
    if args.json:
        write_text(args.json, json.dumps(scores, indent=2) + "\n")


def main(argv=None) -> int:
    """Cloze prompts: make the data for --task cloze; score a checkpoint, or a backbone as it is (zero-shot)."""
    parser = argparse.ArgumentParser(prog="python -m sharp_plugins.cloze", description=main.__doc__)
    commands = parser.add_subparsers(required=True, metavar="prepare | evaluate")

    words = "Write sentences in prompts as --task cloze reads them. Where they are already, nothing is done."
    command = commands.add_parser("prepare", help="make the data", description=words, allow_abbrev=False)
    command.set_defaults(run=run_prepare)
    words = "directory that `python -m sharp_plugins.convert` wrote of an encoder with its language-model head"
    command.add_argument("--backbone", type=Path, required=True, metavar="DIR", help=words)
    words = f"{', '.join(named_layouts())}, or a YAML file: template, words and max_length"
    command.add_argument("--layout", required=True, metavar="NAME", help=words)
    for split in SPLITS:
        words = 'a file of JSON lines, {"sentences": ["..."], "label": "..."} each; .gz too'
        command.add_argument(f"--{split}", type=Path, metavar="FILE", help=words)
    command.add_argument("--out", type=output_directory, required=True, metavar="DATA", help="directory to write to")
    words = "the most tokens of a sequence (default: the layout's)"
    command.add_argument("--max-length", type=int, metavar="N", help=words)
    words = "lines of the training set whose mask would be cut away: an error, or left out and named (default: refuse)"
    command.add_argument("--too-long", choices=("refuse", "skip"), default="refuse", help=words)

    words = "Predict the class of each row by the most likely of the label words, and count the right ones."
    command = commands.add_parser("evaluate", help="score a checkpoint or a backbone", description=words, allow_abbrev=False)
    command.set_defaults(run=run_evaluate)
    command.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a trained one, or a backbone's model.pt (zero-shot)")
    command.add_argument("data", type=Path, metavar="DATA", help="directory that prepare wrote")
    command.add_argument("--splits", nargs="+", metavar="SPLIT", help="what to score (default: all but train)")
    command.add_argument("--json", type=output_file, metavar="FILE", help='write {"SPLIT": {"accuracy", "loss", "examples"}} there')
    words = "write JSON lines: of each row the label, the prediction and the logits of all classes"
    command.add_argument("--predictions", type=output_file, metavar="FILE", help=words)
    command.add_argument("--batch-size", type=int, default=64, metavar="N", help="rows at once (default: 64)")
    command.add_argument("--device", help="cpu or cuda (default: cuda where there is a GPU)")
    args = parser.parse_args(argv)
    return run_command(lambda: args.run(args))


if __name__ == "__main__":
    sys.exit(main())
