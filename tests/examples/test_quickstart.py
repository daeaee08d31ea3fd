"""The quickstart's script: what it hands on to the engine, from any directory. The environment and the engine are stand-ins."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "quickstart" / "run.sh"
# Tells where it was called, and with what; makes the corpus's last file.
PYTHON = """#!/usr/bin/env bash
printf '%s|' "$PWD" "$@"; echo
case "$1" in *make_corpus.py) mkdir -p "$3" && touch "$3/test.jsonl" ;; esac
"""


@pytest.fixture
def call(tmp_path):
    root, home = tmp_path / "a clone", tmp_path / "a home"
    (root / "examples" / "quickstart").mkdir(parents=True)
    (root / "bin").mkdir()
    home.mkdir()
    shutil.copy(SCRIPT, root / "examples" / "quickstart")
    (root / "examples" / "environment.sh").write_text('[ -f "$PWD/examples/environment.sh" ]; export PATH="$PWD/bin:$PATH"\n')
    (root / "bin" / "python").write_text(PYTHON)
    (root / "bin" / "python").chmod(0o755)

    def call(*flags):
        line = ["bash", str(root / "examples" / "quickstart" / "run.sh"), *flags]
        done = subprocess.run(line, cwd=home, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
        assert done.returncode == 0, done.stderr
        return [line.rstrip("|").split("|") for line in done.stdout.splitlines()]

    call.root, call.home = root, home
    return call


def run(call, *flags):
    return [str(call.home), "-m", "sharp_plugins.webnlg", "run", "--out", *flags]


def test_without_flags_a_corpus_is_made_once(call):
    out = str(call.root / "runs" / "quickstart")
    for made in (True, False):
        lines = call()
        assert lines[-1] == run(call, out, "--data", f"{out}/corpus", "--size", "small") and len(lines) == 1 + made
    assert call("--methods", "base", "lora", "--size", "webnlg")[-1][-5:] == ["--methods", "base", "lora", "--size", "webnlg"]


@pytest.mark.parametrize("flags", [["--out", "of mine"], ["--out=of mine"]])
def test_paths_are_the_users(call, flags):
    made, called = call(*flags)
    assert made == [str(call.home), f"{call.root}/examples/quickstart/make_corpus.py", "--out", "of mine/corpus"]
    assert called == run(call, "of mine", "--data", "of mine/corpus", "--size", "small", *flags)


@pytest.mark.parametrize("flags", [["--data", "my corpus"], ["--data=my corpus"]])
def test_a_corpus_of_the_user_is_taken(call, flags):
    assert call(*flags, "--minutes", "20") == [run(call, str(call.root / "runs" / "quickstart"), *flags, "--minutes", "20")]


def test_help_sets_nothing_up(call):
    (call.root / "examples" / "environment.sh").unlink()
    assert call("--methods", "base", "-h")[0][0].startswith("usage: examples/quickstart/run.sh")


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--rho", "0.1"], "--rho: it is --set optimizer.sam_rho=R now"),
        (["--seed=2"], "--seed: it is --seeds now"),
        (["--methods", "untrained", "adam"], "adam: this method is called base now"),
        (["--methdos", "base"], "unknown option --methdos; see --help"),
        (["--", "--dropout", "0.3"], "flags of fairseq-train are settings now"),
    ],
)
def test_a_wrong_word_is_told_before_the_set_up(call, flags, words):
    (call.root / "examples" / "environment.sh").write_text("echo set up; exit 3\n")
    line = ["bash", str(call.root / "examples" / "quickstart" / "run.sh"), *flags]
    done = subprocess.run(line, cwd=call.home, capture_output=True, text=True)
    assert done.returncode == 1 and words in done.stderr and not done.stdout
