"""Text as sentencepiece's pieces: one BPE model for source and target, so that names can be copied piece by piece.

    python -m sharp_plugins.webnlg.pieces --text TEXT --out PIECES --vocab-size 800

reads ``TEXT/{train,dev,test}.{src,tgt}`` and writes files of the same names, and the model, into PIECES. sentencepiece's own
package has no command; these are its Python calls.
"""

import argparse
import sys
from pathlib import Path

import sentencepiece

from sharp_plugins.command import run_command
from sharp_plugins.files.text import text_lines
from sharp_plugins.webnlg.corpus import OBJECT, PREDICATE, SPLITS, SUBJECT

# One piece each. "▁" is sentencepiece's space; with it inside, no piece is spent on the space before the mark.
MARKS = [f"\u2581{mark}" for mark in (SUBJECT, PREDICATE, OBJECT)]


def write_pieces(text: Path, out: Path, vocab_size: int) -> None:
    """Train a model on the training text, and write all text as pieces with spaces between them.

    Raises:
        OSError: a file is not there.
        ValueError: the text does not have so many pieces, or a line cannot be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    learned_from = [text / f"train.{side}" for side in ("src", "tgt")]
    for path in learned_from:
        path.stat()
    try:
        sentencepiece.SentencePieceTrainer.train(
            input=[str(path) for path in learned_from],
            model_prefix=str(out / "spm"),
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=1.0,
            user_defined_symbols=MARKS,
            minloglevel=1,
        )
    except RuntimeError as error:
        raise ValueError(f"--vocab-size {vocab_size}: {error}") from error
    model = sentencepiece.SentencePieceProcessor(model_file=str(out / "spm.model"))
    for name in [f"{split}.{side}" for split in SPLITS for side in ("src", "tgt")]:
        with open(out / name, "w", encoding="utf-8", newline="\n") as coded:
            for _, line in text_lines(text / name, is_free=True):
                coded.write(" ".join(model.encode(line, out_type=str)) + "\n")


def main(argv=None) -> int:
    """Train a sentencepiece model, and write text as its pieces."""
    parser = argparse.ArgumentParser(prog="python -m sharp_plugins.webnlg.pieces", description=main.__doc__)
    parser.add_argument("--text", type=Path, required=True, metavar="TEXT", help="what `sharp_plugins.webnlg.corpus` wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="PIECES", help="directory to write to")
    parser.add_argument("--vocab-size", type=int, required=True, metavar="N", help="number of pieces")
    args = parser.parse_args(argv)
    return run_command(lambda: write_pieces(args.text, args.out, args.vocab_size))


if __name__ == "__main__":
    sys.exit(main())
