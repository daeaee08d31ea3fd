"""A text file in the symbols of a converted model, for ``fairseq-preprocess``: one line for each line."""

from itertools import islice
from pathlib import Path
from typing import NamedTuple

from sharp_plugins.files.text import text_lines
from sharp_plugins.files.writing import replacing
from sharp_plugins.text.converted import load_tokenizer

UNKNOWN = "<unk>"
# Lines that are encoded at once.
BATCH = 1000


class Encoded(NamedTuple):
    """What `encode_file` wrote, for a message."""

    lines: int
    symbols: int
    unknown: int  # of the symbols


def encode_file(directory, source, out) -> Encoded:
    """Write the text in *source* as symbols with spaces between them to *out*, which appears when it is complete.

    Args:
        directory: with the tokenizer, as `sharp_plugins.convert.conversion.convert` writes it.

    Raises:
        OSError: a file is not there, or cannot be written.
        ValueError: *source* is no text in UTF-8 (named with its line), *out* is the same file, or the tokenizer cannot be read.
        ImportError: tokenizers is not installed.

    Example::

        encode_file("backbones/minilm", "train.txt", "train.symbols")
    """
    source, out = Path(source), Path(out)
    if out.exists() and source.exists() and out.samefile(source):
        raise ValueError(f"{out}: choose another name to write to; this is the text")
    tokenizer, lines = load_tokenizer(directory), text_lines(source, is_free=True)
    done, symbols, unknown = 0, 0, 0
    with replacing(out) as new, open(new, "w", encoding="utf-8", newline="\n") as file:
        while texts := [text for _, text in islice(lines, BATCH)]:
            for line in tokenizer.encode_many(texts):
                file.write(" ".join(line) + "\n")
                symbols, unknown = symbols + len(line), unknown + line.count(UNKNOWN)
            done += len(texts)
    return Encoded(done, symbols, unknown)
