"""The flags that ``prepare`` and ``run`` have in common: what the data are made of, and how."""

from pathlib import Path


def add_data_arguments(parser) -> None:
    """Add them to an argparse parser."""
    words = "directory with GLUE's files: RTE/train.tsv, RTE/dev.tsv and so on, as published, or gzip-compressed"
    parser.add_argument("--data", metavar="DIR", type=Path, required=True, help=words)
    parser.add_argument("--backbone", metavar="DIR", type=Path, required=True, help="what `python -m sharp_plugins.convert` wrote")
    words = "longest input with its special symbols; longer ones lose words at the end (default: 512, the most)"
    parser.add_argument("--max-positions", metavar="N", type=int, default=512, help=words)
    parser.add_argument("--skip-malformed", action="store_true", help="leave out, and count, rows that cannot be read")
    parser.add_argument("--download", action="store_true", help="fetch the published files that are missing in --data")
