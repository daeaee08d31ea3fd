"""BAR on two real processes over gloo: every rank decides alike, from the gradient of both."""

import pytest
import toy
from processes import assert_ranks_agree, stats, train_ranks

pytestmark = pytest.mark.slow

LORA = ["--arch", "lora", "--base-arch", *toy.MODEL[1:], "--lora-rank", "2", "--lora-alpha", "4"]
FLAGS = "--optimizer bar --base-optimizer sgd --lr 0.2 --bar-alpha 2 --dropout 0".split()
FLAGS += "--batch-size 4 --max-update 6 --bar-monitor all".split()


@pytest.mark.parametrize(
    "flags",
    [
        "--fp16 --fp16-no-flatten-grads --fp16-init-scale 131072",
        "--memory-efficient-fp16 --fp16-init-scale 4 --base-optimizer adam --lr 0.01",
        "--bf16",
    ],
    ids=["fp16", "memory-efficient", "bf16"],
)
def test_ranks_agree_in_half_precision(translation_data, tmp_path, every_rank, flags):
    runs = train_ranks(translation_data, tmp_path, *FLAGS, *flags.split(), user_dir=every_rank, model=LORA)
    assert_ranks_agree(tmp_path)
    assert stats(runs[0].text)[-1]["num_updates"] == 6
    if "131072" in flags:
        assert "gradient overflow detected" in runs[0].text
