"""Markdown tables."""

from typing import Sequence


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence], digits: int = 2) -> str:
    """Return a table with aligned columns; floats get ``digits`` decimals, None an empty cell.

    The first column is aligned left, the others right, as numbers are.
    """
    for number, row in enumerate(rows, start=1):
        if len(row) != len(heads):
            raise ValueError(f"row {number} has {len(row)} cells for {len(heads)} columns")
    cells = [[_cell(head, digits) for head in heads]] + [[_cell(value, digits) for value in row] for row in rows]
    widths = [max(3, *(len(line[column]) for line in cells)) for column in range(len(heads))]
    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    lines = [_line(cells[0], widths), "| " + " | ".join(rule) + " |"]
    return "\n".join(lines + [_line(line, widths) for line in cells[1:]]) + "\n"


def _cell(value, digits: int) -> str:
    if value is None:
        return ""
    text = f"{value:.{digits}f}" if isinstance(value, float) else str(value)
    # A bar or a line break would end the cell.
    return " ".join(text.replace("|", "\\|").split())


def _line(cells, widths) -> str:
    padded = [cells[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:])]
    return "| " + " | ".join(padded) + " |"
