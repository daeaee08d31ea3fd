"""The guide to published decoders: its commands are those that its script runs."""

import re
from pathlib import Path

from shell_commands import one_line_each

GUIDE = Path(__file__).resolve().parents[2] / "examples" / "decoders"


def test_the_readme_has_the_scripts_commands_word_for_word():
    blocks = re.findall(r"^```\n(.*?)^```", (GUIDE / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    told = [command for block in blocks[1:] for command in one_line_each(block)]
    script = one_line_each((GUIDE / "run.sh").read_text(encoding="utf-8").split("set -x\n")[1])
    run = [command for command in script if not command.startswith(("if is_missing", "fi"))]
    assert told == run
    assert blocks[0] == "bash examples/decoders/run.sh\n"
    assert sum(command.startswith("fairseq-generate") for command in told) == 2
