"""fairseq's own programs with a trained prefix: train from a converted model, resume, generate; as a plain table too."""

import prompts
import pytest
import toy
from processes import assert_same_training, console, line, start, stats

from sharp_plugins.lora.commands import load_adapter, save_adapter

pytestmark = pytest.mark.slow

MODEL = ["--arch", "prefix", "--base-arch", "sharp_decoder", *prompts.MODEL[2:], "--prefix-length", "4", "--prefix-hidden", "16"]
FLAGS = "--task prompted_generation --optimizer adam --lr 0.03 --batch-size 8 --prefix-dropout 0.1".split()


def train(data, backbone, save_dir, *flags):
    flags = [*FLAGS, "--finetune-from-model", backbone / "model.pt", *flags]
    words = line(data, save_dir, *flags, model=MODEL, criterion=["--criterion", "cross_entropy"])
    return start(words, save_dir / "train.log").succeed()


def texts_of(data, path, directory):
    flags = ["--user-dir", toy.PLUGIN, "--path", path, "--cpu", "--task", "prompted_generation", "--beam", "3", "--max-len-b", "12"]
    output = console("fairseq-generate", data, *flags, directory=directory)
    return sorted(text for text in output.splitlines() if text.startswith(("H-", "D-")))


def test_a_prefix_trains_resumes_and_generates(data, backbone, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(data, backbone, halves, "--max-update", "3")
    train(data, backbone, halves, "--max-update", "30")
    losses = [entry["loss"] for entry in stats(train(data, backbone, whole, "--max-update", "30").text)]
    assert_same_training(halves, whole)
    assert min(losses[-3:]) < losses[0] - 0.05
    trained = texts_of(data, whole / "checkpoint_last.pt", tmp_path)
    assert len(trained) == 2 * 5 and trained != texts_of(data, backbone / "model.pt", tmp_path)
    save_adapter(whole / "checkpoint_last.pt", tmp_path / "adapter")
    load_adapter(tmp_path / "adapter", backbone / "model.pt", tmp_path / "table.pt")
    assert texts_of(data, tmp_path / "table.pt", tmp_path) == trained
