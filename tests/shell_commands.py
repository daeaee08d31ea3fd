"""Commands of scripts and guides, to compare them."""

import re


def one_line_each(commands):
    """The commands of a piece of shell, each in one line, with single blanks."""
    joined = re.sub(r"\\\n\s*", "", commands)
    return [re.sub(r"\s+", " ", line).strip() for line in joined.splitlines() if line.strip()]


def commands_with_smollm2(script):
    """What a script of the examples with SmolLM2 runs, as `one_line_each` has it: the shared beginning, then its own commands.

    Args:
        script: the script's path. It sources examples/smollm2.sh, which lies above its folder.
    """
    shared = (script.parents[1] / "smollm2.sh").read_text(encoding="utf-8").split("set -x\n")[1]
    own = script.read_text(encoding="utf-8").split("source examples/smollm2.sh\n")[1]
    return [line for line in one_line_each(shared + own) if not line.startswith(("if is_missing", "fi"))]
