"""E2E NLG's CSV: a row for each text, with the columns ``mr`` ("name[The Vaults], eatType[pub]") and ``ref``.

A slot is a triple without a subject. Rows with the same meaning representation are one entry, as in LoRA's scoring.
"""

import csv
import re
from pathlib import Path
from typing import List, Tuple

from sharp_plugins.files.text import text_lines
from sharp_plugins.webnlg.entry import CorpusError, Entry, Triple, one_line
from sharp_plugins.webnlg.texts import group_by_input

CATEGORY = "E2E"
SLOT = r"([^\[\],][^\[\]]*)\[([^\[\]]+)\]"
REPRESENTATION = re.compile(rf"{SLOT}(?:, {SLOT})*")


def read_e2e(path: Path) -> List[Entry]:
    """The entries of a file. LoRA's copy of the data has the texts tokenised ("pub ."); these are as published.

    Raises:
        OSError: it cannot be opened.
        TextError: it is no text.
        CorpusError: it has other columns, or a row is malformed; names file and line.

    Example::

        entries = read_e2e(Path("devset.csv"))
    """
    rows = csv.reader((f"{line}\n" for _, line in text_lines(path)), strict=True)
    entries = []
    try:
        names = [name.strip().lower() for name in next(rows, [])]
        if not {"mr", "ref"} <= set(names):
            found = ", ".join(names) or "none"
            raise CorpusError(
                f"{path}:1: the columns should be mr and ref; there are {found} (of the test set take testset_w_refs.csv)"
            )
        for row in rows:
            where = f"{path}:{rows.line_num}"
            if len(row) != len(names):
                raise CorpusError(f"{where}: {len(row)} fields, and the first line has {len(names)}")
            fields = dict(zip(names, row))
            text = one_line(fields["ref"])
            if not text:
                raise CorpusError(f"{where}: the text is empty")
            entries.append(Entry(f"Id{len(entries) + 1}", CATEGORY, None, slots_of(fields["mr"], where), (text,)))
    except csv.Error as error:
        raise CorpusError(f"{path}:{rows.line_num}: not CSV: {error}") from None
    return group_by_input(entries)


def slots_of(representation: str, where: str) -> Tuple[Triple, ...]:
    """The slots of a meaning representation.

    >>> slots_of("name[The Vaults], customer rating[5 out of 5]", "devset.csv:2")
    (('', 'name', 'The Vaults'), ('', 'customer rating', '5 out of 5'))
    """
    text = representation.strip()
    if not REPRESENTATION.fullmatch(text):
        raise CorpusError(f"{where}: a meaning representation such as 'name[The Vaults], eatType[pub]' is expected, got {text!r}")
    return tuple(("", name.strip(), value.strip()) for name, value in re.findall(SLOT, text))
