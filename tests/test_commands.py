"""What all commands have in common: they say what they did, and nothing of other libraries' start-up."""

import os
import subprocess
import sys
from pathlib import Path

import published
import pytest

ROOT = Path(__file__).resolve().parents[1]
HELP = ["sharp_plugins.convert", "sharp_plugins.lora", "sharp_plugins.glue", "sharp_plugins.webnlg"]
HELP += ["sharp_plugins.webnlg.parallel", "sharp_plugins.text.pieces", "sharp_plugins.prompted", "sharp_plugins.cloze"]
HELP += ["sharp_plugins.candidates", "sharp_plugins.fewshot", "sharp_plugins.sts"]


def run(*arguments, status=0, **environment):
    """(output, errors) of ``python -m`` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("module", HELP)
def test_help_is_help_alone(module):
    output, errors = run(module, "--help")
    assert output.startswith("usage: ") and errors == ""


@pytest.mark.parametrize("command", ["webnlg.parallel --data nowhere", "text.pieces --text nowhere --vocab-size 9"])
def test_a_file_in_the_place_of_a_directory_is_told_without_a_traceback(tmp_path, command):
    path = tmp_path / "file"
    path.touch()
    output, errors = run(*f"sharp_plugins.{command} --out".split(), path, status=2)
    assert output == "" and errors.splitlines()[-1].endswith(f"argument --out: {path}: {path} is a file, and no directory")


def test_a_command_that_imports_fairseq_prints_its_own_lines_alone(tmp_path):
    """fairseq logs, on import, that tensorboardX is missing, and with it hydra's DEBUG lines come out."""
    pytest.importorskip("tokenizers")
    published.write_bert(tmp_path / "published")
    output, errors = run("sharp_plugins.convert", tmp_path / "published", tmp_path / "out")
    assert (
        errors == ""
        and [line.split(":")[0] for line in output.splitlines()]
        == [str(tmp_path / "out"), "language-model head", output.splitlines()[-1]]
        and output.splitlines()[-1].startswith("fairseq-train DATA")
    )
    (tmp_path / "text").write_text("the cat\n")
    output, errors = run("sharp_plugins.convert", "encode", tmp_path / "out", tmp_path / "text", tmp_path / "symbols")
    assert errors == "" and len(output.splitlines()) == 2
    output, errors = run("sharp_plugins.convert", tmp_path / "nowhere", tmp_path / "out", status=1)
    assert output == "" and errors.startswith("error: ") and len(errors.splitlines()) == 1


@pytest.mark.slow
def test_loglevel_shows_them(tmp_path):
    """Else the test above could not fail."""
    pytest.importorskip("tokenizers")
    published.write_bert(tmp_path / "published")
    output, errors = run("sharp_plugins.convert", tmp_path / "published", tmp_path / "out", LOGLEVEL="INFO")
    assert "tensorboardX" in output + errors
