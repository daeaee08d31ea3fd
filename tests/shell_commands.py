"""Commands of scripts and guides, to compare them."""

import re


def one_line_each(commands):
    """The commands of a piece of shell, each in one line, with single blanks."""
    joined = re.sub(r"\\\n\s*", "", commands)
    return [re.sub(r"\s+", " ", line).strip() for line in joined.splitlines() if line.strip()]
