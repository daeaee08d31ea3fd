"""BAR on two real processes over gloo: every rank decides alike, from the gradient of both."""

import pytest
import toy
from processes import BACKENDS, assert_close, assert_ranks_agree, last, stats, train, train_ranks, weights_of

pytestmark = pytest.mark.slow

LORA = ["--arch", "lora", "--base-arch", *toy.MODEL[1:], "--lora-rank", "2", "--lora-alpha", "4"]
FLAGS = "--optimizer bar --base-optimizer sgd --lr 0.2 --bar-alpha 2 --dropout 0".split()
FLAGS += "--batch-size 4 --max-update 6 --bar-monitor all".split()
SHOWN = ("loss", "gnorm", "bar_alpha", "bar_shrinks_x", "bar_as_norms")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", ["nbar", "obar"])
def test_two_ranks_equal_one(translation_data, tmp_path, every_rank, backend, variant):
    flags = [*FLAGS, "--bar-variant", variant]
    one = train(translation_data, tmp_path / "one", *flags, "--update-freq", "2", model=LORA)
    runs = train_ranks(translation_data, tmp_path / "two", *flags, "--ddp-backend", backend, user_dir=every_rank, model=LORA)
    assert_ranks_agree(tmp_path / "two")
    assert_close(weights_of(tmp_path / "two", 1), last(tmp_path / "one")["model"], relative=1e-4)
    entries = stats(one.text)
    balance = [key for key in entries[0] if key.startswith("balancedness_")]
    assert len(entries) == 6 and len(balance) == 6
    for run in runs[:1]:
        for ours, theirs in zip(stats(run.text), entries):
            for name in (*SHOWN, *balance):
                assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=2e-5), name
    # Both decisions occur, so that agreeing means something.
    assert {entry["bar_shrinks_x"] for entry in entries} != {0.0}


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
