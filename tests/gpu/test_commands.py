"""The main path on a GPU: fairseq's own commands."""

import subprocess
import sys

import pytest
import toy
from on_gpu import needs_gpu
from processes import LIMIT, last, stats

pytestmark = [needs_gpu("fairseq's commands take it where there is one"), pytest.mark.slow]


def run(entry, directory, *arguments):
    command = [sys.executable, "-m", f"fairseq_cli.{entry}", *map(str, arguments)]
    done = subprocess.run(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


@pytest.mark.parametrize("precision", ["--fp16", "--bf16", "--amp"])
def test_train_resume_and_generate(translation_data, tmp_path, precision):
    flags = [translation_data, "--user-dir", toy.PLUGIN, "--task", "translation", *toy.MODEL, *toy.CRITERION]
    flags += "--optimizer dsam --lr 0.01 --clip-norm 0.5 --batch-size 4 --seed 7 --num-workers 0".split()
    flags += ["--log-format", "json", "--log-interval", "1", "--save-dir", tmp_path, "--no-epoch-checkpoints", precision]
    first = run("train", tmp_path, *flags, "--max-update", 5)
    second = run("train", tmp_path, *flags, "--max-update", 10)
    assert [entry["num_updates"] for entry in stats(first)][-1] == 5 and "@ 5 updates" in second
    entries = stats(second)
    assert {entry["sam_skipped"] for entry in entries} == {0.0} and all(entry["sam_radius"] > 0 for entry in entries)
    assert all(value.isfinite().all() for value in last(tmp_path)["model"].values())
    generated = run(
        "generate",
        tmp_path,
        translation_data,
        "--user-dir",
        toy.PLUGIN,
        "--path",
        tmp_path / "checkpoint_last.pt",
        "--beam",
        2,
        "--batch-size",
        8,
    )
    assert "Generate test with beam=2: BLEU" in generated
