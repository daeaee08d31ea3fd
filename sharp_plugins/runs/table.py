"""One Markdown table, drawn by the library tabulate."""

from typing import Sequence

from tabulate import tabulate


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence], digits: int = 2) -> str:
    """Return a table with aligned columns; floats get ``digits`` decimals, None an empty cell.

    The first column is aligned left, the others right, as numbers are.

    Raises:
        ValueError: a row has more or fewer cells than there are heads.

    >>> print(markdown_table(["method", "BLEU"], [["adam", 61.257], ["sam", None]]), end="")
    | method   |   BLEU |
    |:---------|-------:|
    | adam     |  61.26 |
    | sam      |        |
    """
    for number, row in enumerate(rows, start=1):
        if len(row) != len(heads):
            raise ValueError(f"row {number} has {len(row)} cells for {len(heads)} columns")
    cells = [[_cell(value, digits) for value in row] for row in rows]
    return _drawn([_cell(head, digits) for head in heads], cells) + "\n"


def _drawn(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    aligned = ["left"] + ["right"] * (len(heads) - 1)
    # Every cell is ready: "007" and "1e5" would be read as numbers otherwise.
    return tabulate(cells, heads, tablefmt="pipe", colalign=aligned if cells else None, disable_numparse=True)


def _cell(value, digits: int) -> str:
    if value is None:
        return ""
    text = f"{value:.{digits}f}" if isinstance(value, float) else str(value)
    # A bar or a line break would end the cell, and tabulate lets both pass.
    return " ".join(text.replace("|", "\\|").split())
