"""The guide to WebNLG: its commands are those that its script runs, and what it says of settings is in the files of settings."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "examples" / "webnlg"
sys.path[:0] = [str(ROOT / "tests" / "examples")]
from shell_commands import commands_with_smollm2, one_line_each

from sharp_plugins.webnlg.fine_tuning import SETTINGS, read_family


def text():
    return (GUIDE / "README.md").read_text(encoding="utf-8")


def test_the_readme_has_the_scripts_commands_word_for_word():
    first, *blocks = re.findall(r"^```\n(.*?)^```", text().split("\n## WebNLG 2017")[0], re.M | re.S)
    told = [command for block in blocks for command in one_line_each(block)]
    assert told == commands_with_smollm2(GUIDE / "run.sh")
    assert first == "bash examples/webnlg/run.sh\n" and told[-1].startswith("python -m sharp_plugins.webnlg run --backbone")


@pytest.mark.parametrize("network, column", [("lora", 1), ("prefix", 2), (None, 3)])
def test_the_table_of_gpt2s_settings(network, column):
    settings, prompts = read_family(SETTINGS / "gpt2", {})
    table = text().split("\n| GPT-2 |")[1].split("\n\n")[0]
    told = {cells[0]: cells[column] for cells in ([c.strip() for c in row.split("|")[1:-1]] for row in table.splitlines()[2:])}
    of = settings.of(network)

    def value(part, name):
        return {**settings.task[part], **of.get(part, {})}[name]

    def number(name):
        return float(re.match(r"[\de.-]+", told[name])[0])

    assert number("learning rate") == value("optimization", "lr")[0] and number("epochs") == value("optimization", "max_epoch")
    assert number("batch") == value("dataset", "batch_size") and number("warm-up") == value("lr_scheduler", "warmup_updates")
    assert number("label smoothing") == value("criterion", "label_smoothing")
    assert number("beam") == value("generation", "beam") and number("length penalty") == value("generation", "lenpen")
    assert number("longest text") == value("generation", "max_len_b")
    assert told["format"] == f"`{prompts[network].format}`" and (prompts[network].linearise == "lora") == (network == "lora")
