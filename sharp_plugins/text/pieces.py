"""Text as sentencepiece's pieces: one BPE model for source and target, so that names can be copied piece by piece.

    python -m sharp_plugins.text.pieces --text TEXT --out PIECES --vocab-size 800

learns from ``TEXT/train.{src,tgt}``, reads all ``TEXT/*.{src,tgt}`` and writes files of the same names, and the model, into
PIECES. sentencepiece's own package has no command; these are its Python calls.
"""

import argparse
import io
import sys
from pathlib import Path
from typing import Sequence

import sentencepiece

from sharp_plugins.command_line import output_directory, run_command
from sharp_plugins.files.text import text_lines
from sharp_plugins.files.writing import filling


def write_pieces(text: Path, out: Path, vocab_size: int, marks: Sequence[str] = ()) -> None:
    """Train a model on the training text, and write all text as pieces with spaces between them.

    Args:
        marks: words that are one piece each, whatever the text.

    Raises:
        OSError: a file is not there.
        ValueError: *out* is the text's own directory, the text does not have so many pieces, or a line cannot be read.
    """
    if text.is_dir() and out.is_dir() and out.samefile(text):
        raise ValueError(f"--out {out}: it is the directory of the text, whose files would be replaced; choose another one")
    learned_from = [text / f"train.{side}" for side in ("src", "tgt")]
    for path in learned_from:
        path.stat()
    written = io.BytesIO()
    with filling(out, last="spm.model") as unfinished:
        try:
            sentencepiece.SentencePieceTrainer.train(
                input=[str(path) for path in learned_from],
                model_writer=written,  # a file's name would be kept in the model
                model_type="bpe",
                vocab_size=vocab_size,
                character_coverage=1.0,
                # "▁" is sentencepiece's space; with it inside, no piece is spent on the space before the mark.
                user_defined_symbols=[f"\u2581{mark}" for mark in marks],
                minloglevel=1,
            )
        except RuntimeError as error:
            raise ValueError(f"--vocab-size {vocab_size}: {error}") from error
        (unfinished / "spm.model").write_bytes(written.getvalue())
        model = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
        entries = [f"{model.id_to_piece(index)}\t{model.get_score(index):g}\n" for index in range(len(model))]
        (unfinished / "spm.vocab").write_text("".join(entries), encoding="utf-8")
        for path in sorted([*text.glob("*.src"), *text.glob("*.tgt")]):
            with open(unfinished / path.name, "w", encoding="utf-8", newline="\n") as coded:
                for _, line in text_lines(path, is_free=True):
                    coded.write(" ".join(model.encode(line, out_type=str)) + "\n")


def main(argv=None) -> int:
    """Train a sentencepiece model, and write text as its pieces."""
    parser = argparse.ArgumentParser(prog="python -m sharp_plugins.text.pieces", description=main.__doc__)
    parser.add_argument("--text", type=Path, required=True, metavar="TEXT", help="directory with train.src, train.tgt and so on")
    words = "words that are one piece each"
    parser.add_argument("--marks", nargs="+", default=[], metavar="MARK", help=words)
    parser.add_argument("--out", type=output_directory, required=True, metavar="PIECES", help="directory to write to")
    parser.add_argument("--vocab-size", type=int, required=True, metavar="N", help="number of pieces")
    args = parser.parse_args(argv)
    return run_command(lambda: write_pieces(args.text, args.out, args.vocab_size, args.marks))


if __name__ == "__main__":
    sys.exit(main())
