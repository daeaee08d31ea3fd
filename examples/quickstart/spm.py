"""sentencepiece on the command line: train a model on text files, and encode text files with it.

The pip package of sentencepiece has no command of its own; these are its Python calls.
"""

import argparse
import sys
from pathlib import Path

import sentencepiece

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from sharp_plugins.files.text import TextError, text_lines

# One piece each. "▁" is sentencepiece's space; with it inside, no piece is spent on the space before the mark.
MARKS = ["\u2581<S>", "\u2581<P>", "\u2581<O>"]


def train(args) -> None:
    """Train a BPE model; source and target texts share it, so that names can be copied piece by piece."""
    sentencepiece.SentencePieceTrainer.train(
        input=args.input,
        model_prefix=args.model,
        model_type="bpe",
        vocab_size=args.vocab_size,
        character_coverage=1.0,
        user_defined_symbols=MARKS,
        minloglevel=1,
    )


def encode(args) -> None:
    """Write ``DIR/NAME`` as pieces separated by spaces, for each input file ``.../NAME``."""
    model = sentencepiece.SentencePieceProcessor(model_file=args.model + ".model")
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for path in map(Path, args.input):
        with open(out / path.name, "w", encoding="utf-8", newline="\n") as coded:
            for _, line in text_lines(path):
                coded.write(" ".join(model.encode(line, out_type=str)) + "\n")


def main(argv=None) -> int:
    """Dispatch the two subcommands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train", help=train.__doc__)
    command.add_argument("--vocab-size", type=int, required=True)
    command.set_defaults(run=train)
    command.add_argument("--model", required=True, help="path without .model")
    command.add_argument("input", nargs="+")
    command = commands.add_parser("encode", help=encode.__doc__)
    command.add_argument("--out", required=True, help="directory to write to")
    command.set_defaults(run=encode)
    command.add_argument("--model", required=True, help="path without .model")
    command.add_argument("input", nargs="+")
    args = parser.parse_args(argv)
    for path in args.input:
        if not Path(path).is_file():
            print(f"error: {path}: no such file", file=sys.stderr)
            return 1
    try:
        args.run(args)
    except (OSError, TextError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
