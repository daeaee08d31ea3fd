"""Texts from the output of ``fairseq-generate``."""

import re
from typing import Dict, List

from sharp_plugins.files.text import TextError, text_lines


class GeneratedError(ValueError):
    """The output cannot be used; the message names the file and the line."""


def read_generated(path, count: int) -> List[str]:
    """Read the best hypotheses from the output of ``fairseq-generate``, in the order of the inputs.

    fairseq prints sentences in the order of its batches; the number in ``H-17``/``D-17`` is the input's. ``D-``
    (detokenised) is taken where both are there. With ``--nbest`` above 1 the first of an input is its best.
    Sentencepiece pieces are joined if ``--remove-bpe sentencepiece`` did not do it. ``count`` is the number of inputs.

    Raises:
        OSError: the file cannot be opened.
        GeneratedError: a line cannot be read, an input comes twice, as when two runs were written into one file, or the inputs
            are not *count*.
    """
    found: Dict[str, Dict[int, str]] = {"H": {}, "D": {}}
    line_of: Dict[int, int] = {}  # where each input begins
    current = None
    try:
        for number, line in text_lines(path):
            match = re.match(r"([SHD])-([0-9]+)\t", line)
            if not match:
                continue
            kind, index = match[1], int(match[2])
            if index in line_of and (index != current or kind == "S"):
                raise GeneratedError(
                    f"{path}:{number}: input {index} comes again (first on line {line_of[index]}): the file holds the output of "
                    "two runs; delete it and generate again"
                )
            line_of.setdefault(index, number)
            current = index
            if kind == "S":
                continue
            fields = line.split("\t", 2)
            if len(fields) != 3:
                raise GeneratedError(f"{path}:{number}: {fields[0]}, a score and a text are expected, tab-separated")
            found[kind].setdefault(index, join_pieces(fields[2]))
    except TextError as error:
        raise GeneratedError(str(error)) from error
    hypotheses = {**found["H"], **found["D"]}
    missing = [i for i in range(count) if i not in hypotheses]
    surplus = sorted(i for i in hypotheses if i >= count)
    if missing or surplus:
        detail = f"none for input {missing[0]}" if missing else f"one for input {surplus[0]}"
        raise GeneratedError(f"{path}: {len(hypotheses)} hypotheses for {count} inputs (counted from 0: {detail})")
    return [hypotheses[i] for i in range(count)]


def join_pieces(text: str) -> str:
    """``▁The ▁to wer`` -> ``The tower``; a text without sentencepiece's word mark is returned as it is."""
    return text.replace(" ", "").replace("\u2581", " ").strip() if "\u2581" in text else text
