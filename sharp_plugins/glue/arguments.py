"""The flags that ``prepare`` and ``run`` have in common, and those of a part of the training set."""

from pathlib import Path
from typing import List, Optional


def add_data_arguments(parser) -> None:
    """Add them to an argparse parser."""
    words = "directory with GLUE's files: RTE/train.tsv, RTE/dev.tsv and so on, as published, or gzip-compressed"
    parser.add_argument("--data", metavar="DIR", type=Path, required=True, help=words)
    parser.add_argument("--backbone", metavar="DIR", type=Path, required=True, help="what `python -m sharp_plugins.convert` wrote")
    words = "longest input with its special symbols; longer ones lose words at the end (default: 512, the most)"
    parser.add_argument("--max-positions", metavar="N", type=int, default=512, help=words)
    parser.add_argument("--skip-malformed", action="store_true", help="leave out, and count, rows that cannot be read")
    parser.add_argument("--download", action="store_true", help="fetch the published files that are missing in --data")


def add_sample_arguments(parser) -> None:
    """Add the flags of `sharp_plugins.glue.sample` to an argparse parser."""
    words = "train on so many rows of the training set, drawn so that each class has its share; each N is a row of the table"
    parser.add_argument("--train-rows", metavar="N", type=int, nargs="+", help=f"{words} (default: all)")
    words = "give this share of the training rows a wrong label, from 0 to below 1; each P is a row of the table (default: 0)"
    parser.add_argument("--label-noise", metavar="P", type=float, nargs="+", help=words)
    words = "let so many other rows of the training set choose the epoch, and the values of --sweep; the development set is then "
    words += "only reported (default: 0, the development set chooses, as in the papers)"
    parser.add_argument("--selection-rows", metavar="N", type=int, default=0, help=words)
    words = "give the same share of the rows that choose a wrong label (default: they are clean)"
    parser.add_argument("--selection-noise", action="store_true", help=words)
    words = "draw all runs' rows and wrong labels with this seed, and let --seeds be of the training alone (default: both are the "
    parser.add_argument("--data-seed", metavar="N", type=int, help=f"{words}run's)")


def check_sample(args) -> None:
    """Raise ValueError where one of these flags is out of range."""

    def check(flag: str, values: Optional[List], fits, words: str) -> None:
        for value in values or ():
            if not fits(value):
                raise ValueError(f"{flag} {value}: {words}")
        if len(set(values or ())) < len(values or ()):
            raise ValueError(f"{flag}: a value is given more than once")

    check("--train-rows", args.train_rows, lambda rows: rows > 0, "give a number of rows, 1 or more")
    check("--label-noise", args.label_noise, lambda share: 0 <= share < 1, "give a share, from 0 to below 1")
    check("--selection-rows", [args.selection_rows], lambda rows: rows >= 0, "give a number of rows, 0 or more")
    if args.data_seed is not None and args.data_seed < 0:
        raise ValueError(f"--data-seed {args.data_seed}: give a number from 0")
    is_part = args.train_rows or args.label_noise or args.selection_rows
    if args.submission and is_part:
        raise ValueError(
            "--submission is of models of the whole training set: leave --train-rows, --label-noise, --selection-rows out"
        )
    if args.selection_noise and not (args.selection_rows and args.label_noise):
        raise ValueError("--selection-noise makes labels of the rows of --selection-rows wrong, by --label-noise: give both")
    if args.data_seed is not None and not is_part:
        raise ValueError("--data-seed draws a part of the training set: give --train-rows, --label-noise or --selection-rows")
