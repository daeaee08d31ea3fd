"""Seeing the weights of every rank."""

import pytest

# fairseq saves the weights of rank 0 alone; this writes those of every rank beside each checkpoint.
EVERY_RANK = """
import os
import sharp_plugins
import torch
from fairseq import checkpoint_utils

sharp_plugins.register()

stock = checkpoint_utils.save_checkpoint


def save_checkpoint(cfg, trainer, *args):
    os.makedirs(cfg.save_dir, exist_ok=True)
    path = os.path.join(cfg.save_dir, f"weights{trainer.data_parallel_rank}.pt")
    torch.save(trainer.get_model().state_dict(), path)
    return stock(cfg, trainer, *args)


if not hasattr(checkpoint_utils, "_every_rank"):
    checkpoint_utils._every_rank = True
    checkpoint_utils.save_checkpoint = save_checkpoint
"""


@pytest.fixture(scope="module")
def every_rank(tmp_path_factory):
    directory = tmp_path_factory.mktemp("user_dir") / "every_rank"
    directory.mkdir()
    (directory / "__init__.py").write_text(EVERY_RANK)
    return directory
