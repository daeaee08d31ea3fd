"""The core speaks of its own arguments; where a setting was given as a flag, the same error names the flag."""

import ast
import pickle
import re
from pathlib import Path

import pytest

from sharp_plugins.core.setting_error import SettingError, as_flags

PACKAGE = Path(__file__).resolve().parents[2] / "sharp_plugins"
# What is used without fairseq, and so without its command line.
CORE = [
    path
    for path in [path for part in ("core", "networks", "lora", "files") for path in PACKAGE.glob(f"{part}/*.py")]
    if path.name != "__main__.py"
]


def texts_of_errors(path):
    """The strings, and parts of formatted ones, in what a file raises."""
    raised = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Raise)]
    return [
        node.value for one in raised for node in ast.walk(one) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_error_of_the_core_names_a_flag(path):
    assert [text for text in texts_of_errors(path) if re.search(r"--[a-z]", text)] == []


def test_the_search_finds_flags():
    assert any("--base-arch" in text for text in texts_of_errors(PACKAGE / "models" / "base_arch.py"))


def test_an_error_says_the_setting_and_what_is_wrong():
    error = SettingError("also_train", "nosuch: nothing matches")
    assert str(error) == "also_train nosuch: nothing matches" and isinstance(error, ValueError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_flags_are_named_where_there_are_flags():
    with pytest.raises(ValueError, match="^--lora-also-train nosuch: nothing matches$"), as_flags("lora"):
        raise SettingError("also_train", "nosuch: nothing matches")
    with pytest.raises(ValueError, match="^another$"), as_flags("lora"):
        raise ValueError("another")
