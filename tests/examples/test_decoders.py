"""The guide to published decoders: its commands are those that its script runs."""

import re
from pathlib import Path

from shell_commands import commands_with_smollm2, one_line_each

GUIDE = Path(__file__).resolve().parents[2] / "examples" / "decoders"


def test_the_readme_has_the_scripts_commands_word_for_word():
    blocks = re.findall(r"^```\n(.*?)^```", (GUIDE / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    told = [command for block in blocks[1:] for command in one_line_each(block)]
    assert told == commands_with_smollm2(GUIDE / "run.sh")
    assert blocks[0] == "bash examples/decoders/run.sh\n"
    assert sum(command.startswith("fairseq-generate") for command in told) == 2
