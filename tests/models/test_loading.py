"""Checkpoints as models to compute with: what is none."""

import pytest
import torch

from sharp_plugins.models.loading import read_state


@pytest.mark.parametrize("content", [[1], torch.ones(2)])
def test_a_file_of_torch_without_parts_is_told(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    words = f"x.pt: no checkpoint of fairseq's, which has parts by their names: it holds a {type(content).__name__}$"
    with pytest.raises(ValueError, match=words):
        read_state(tmp_path / "x.pt")
