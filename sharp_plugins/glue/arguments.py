"""What the commands have in common."""

from pathlib import Path
from typing import TYPE_CHECKING

from sharp_plugins.glue.tasks import TASKS

if TYPE_CHECKING:  # the commands say how they are called without importing fairseq
    from sharp_plugins.glue.binarize import Prepared


def add_data_arguments(parser) -> None:
    """The flags that the data are made with."""
    words = f"of {', '.join(TASKS)} (default: all)"
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), metavar="TASK", help=words)
    parser.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        required=True,
        help="directory with GLUE's files: RTE/train.tsv, RTE/dev.tsv and so on, as published, or gzip-compressed",
    )
    parser.add_argument("--backbone", metavar="DIR", type=Path, required=True, help="what `python -m sharp_plugins.convert` wrote")
    parser.add_argument(
        "--max-positions",
        metavar="N",
        type=int,
        default=512,
        help="longest input with its special symbols; longer ones lose words at the end (default: 512, the most)",
    )
    parser.add_argument("--skip-malformed", action="store_true", help="leave out, and count, rows that cannot be read")
    parser.add_argument("--download", action="store_true", help="fetch the published files that are missing in --data")


def message(prepared: "Prepared") -> str:
    """What `prepare` did, for the user."""
    lines = [f"warning: {warning}" for warning in prepared.warnings]
    for split, rows in prepared.rows.items():
        notes = [f"shortened {prepared.shortened[split]}"] if prepared.shortened[split] else []
        notes += ["not the published file"] if split in prepared.stand_ins else []
        lines.append(f"{split}: {rows} rows of {prepared.files[split]}" + "".join(f", {note}" for note in notes))
    done = "nothing to do, all was there" if prepared.done_before else "written"
    return "\n".join([*lines, f"{prepared.directory}: {done}"])
