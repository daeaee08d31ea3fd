"""Going on from a checkpoint on two ranks, of which one reads it and sends it to the other."""

import pytest
from processes import assert_same_training, train_ranks

pytestmark = pytest.mark.slow

FLAGS = "--optimizer sam --base-optimizer sgd --momentum 0.9 --lr 0.1 --batch-size 8 --dropout 0".split()
FLAGS += ["--ddp-backend", "legacy_ddp"]


def test_both_ranks_go_on(translation_data, tmp_path):
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    train_ranks(translation_data, parts, *FLAGS, "--max-update", "2")
    first, _ = train_ranks(translation_data, parts, *FLAGS, "--max-update", "4")
    assert "@ 2 updates" in first.text
    train_ranks(translation_data, whole, *FLAGS, "--max-update", "4")
    assert_same_training(parts, whole)
