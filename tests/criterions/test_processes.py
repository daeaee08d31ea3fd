"""Real `fairseq-train` processes with the criterions: two ranks, validation, resuming."""

import math

import processes
import pytest
import sentences
import torch
from methods import METHODS, METRICS, SETTINGS

pytestmark = pytest.mark.slow

LINE = ["--task", "sentence_prediction", "--clip-norm", "0", "--attention-dropout", "0"]


def line(sentence_data, method, *flags):
    """The parts of a real command line."""
    criterion = ["--criterion", f"{method}_sentence_prediction", *SETTINGS[method]]
    model = [*sentences.MODEL, "--num-classes", str(sentences.CLASSES)]
    return [sentence_data / "classes", *map(str, flags), *LINE], {"model": model, "criterion": criterion}


@pytest.mark.parametrize("backend", ["legacy_ddp", "pytorch_ddp"])
@pytest.mark.parametrize("method", ["rdrop", "freelb"])
def test_two_ranks_equal_one(sentence_data, tmp_path, method, backend):
    """Without dropout and noise two ranks make the updates of one with twice the micro-batches."""
    flags = "--optimizer sgd --lr 0.2 --batch-size 6 --max-update 4 --dropout 0 --find-unused-parameters".split()
    flags += ["--ddp-backend", backend, *(["--freelb-init", "0"] if method == "freelb" else [])]
    (data, *rest), parts = line(sentence_data, method, *flags)
    processes.train(data, tmp_path / "one", *rest, "--update-freq", "2", **parts)
    processes.train_ranks(data, tmp_path / "two", *rest, **parts)
    one, two = (processes.last(tmp_path / name)["model"] for name in ("one", "two"))
    processes.assert_close(one, two, relative=1e-4)


@METHODS
def test_two_ranks_with_delta_sam(sentence_data, tmp_path, method, every_rank):
    """Two ranks with pytorch_ddp, dropout and noise; the last update has a dummy batch on one of them."""
    flags = "--optimizer dsam --lr 0.01 --batch-size 10 --max-epoch 2 --dropout 0.2 --find-unused-parameters".split()
    (data, *rest), parts = line(sentence_data, method, *flags, "--ddp-backend", "pytorch_ddp")
    runs = processes.train_ranks(data, tmp_path, *rest, **parts, user_dir=every_rank)
    processes.assert_ranks_agree(tmp_path)
    entries = processes.stats(runs[0].text)
    assert len(entries) == 6  # 5 batches an epoch
    assert all(math.isfinite(entry[key]) for entry in entries for key in ("loss", "sam_gap", METRICS[method]))


@METHODS
def test_a_command_line_trains_validates_and_resumes(sentence_data, tmp_path, method):
    flags = "--optimizer sam --lr 0.01 --batch-size 8 --dropout 0.2 --update-freq 2".split()
    (data, *rest), parts = line(sentence_data, method, *flags)
    arguments = processes.line(data, tmp_path / "run", *rest, "--max-epoch", "2", **parts)
    arguments.remove("--disable-validation")
    run = processes.start(arguments, tmp_path / "log").succeed()
    assert all(METRICS[method] in entry and "accuracy" in entry for entry in processes.stats(run.text))
    valid = processes.stats(run.text, "valid")
    assert len(valid) == 2
    assert all(f"valid_{METRICS[method]}" not in entry and "valid_accuracy" in entry for entry in valid)
    for epochs in (1, 2):
        processes.train(data, tmp_path / "resumed", *rest, "--max-epoch", str(epochs), **parts)
    processes.assert_same_training(tmp_path / "run", tmp_path / "resumed")


def test_smarts_averages_start_from_a_pretrained_checkpoint_and_resume(sentence_data, tmp_path):
    flags = "--lr 0.01 --batch-size 8 --dropout 0.2 --store-ema --ema-decay 0.9 --smart-mu 1".split()
    (data, *rest), parts = line(sentence_data, "smart", *flags)
    plain, stock = line(sentence_data, "rdrop", "--optimizer", "sgd", "--lr", "0.1", "--batch-size", "8")
    processes.train(*plain[:1], tmp_path / "pretrained", *plain[1:], "--max-update", "2", **stock)
    start = ["--finetune-from-model", tmp_path / "pretrained" / "checkpoint_last.pt", "--optimizer", "sam"]
    for name, stops in (("whole", (3,)), ("parts", (1, 3))):
        for epochs in stops:
            run = processes.train(data, tmp_path / name, *rest, *start, "--max-epoch", str(epochs), **parts)
    assert all("smart_bregman" in entry for entry in processes.stats(run.text))
    processes.assert_same_training(tmp_path / "whole", tmp_path / "parts")
    whole, resumed = (processes.last(tmp_path / name)["extra_state"]["ema"] for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
