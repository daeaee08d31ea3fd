"""On one GPU: resuming equals never having stopped, bit for bit, under torch's deterministic operations."""

import pytest
import torch
import toy
from on_gpu import METHODS, OURS, PRECISIONS, build, everything, needs_gpu, scale_of, updates
from processes import assert_equal

pytestmark = needs_gpu("whether a run repeats itself is a matter of a GPU's kernels")


def train(data, method, precision, count, *flags):
    trainer = build(data, method, precision, *flags)
    for samples in updates(trainer, count):
        trainer.train_step(samples)
    return trainer


@pytest.mark.parametrize("precision", PRECISIONS)
def test_fairseq_itself_repeats_itself(translation_data, deterministic, precision):
    """What the other tests rest on, without the plugin's optimizers."""
    assert_equal(*(everything(train(translation_data, "adam", precision, 4)) for _ in range(2)))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", METHODS)
def test_a_run_repeats_itself_with_torchs_default_operations(translation_data, precision, method):
    """Nothing promises this: it is skipped, and says so, where it does not hold."""
    first, second = (toy.weights(train(translation_data, method, precision, 4)) for _ in range(2))
    different = [name for name in first if not torch.equal(first[name], second[name])]
    if different:
        pytest.skip(f"{method}, {precision}: two runs differ with torch's default operations: {', '.join(different[:3])}")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", OURS)
def test_resuming_equals_never_having_stopped(translation_data, tmp_path, deterministic, method, precision):
    flags = []
    if "fp16" in precision:  # overflows at first, and then the scale doubles after every second update
        flags = ["--fp16-init-scale", str(2**17), "--fp16-scale-window", "2"]
    whole, parts = (build(translation_data, method, precision, *flags) for _ in range(2))
    samples = updates(whole, 4) * 3
    for update in samples[:7]:
        whole.train_step(update)
    file = str(tmp_path / "checkpoint.pt")
    whole.consolidate_optimizer()
    whole.save_checkpoint(file, {"train_iterator": {"epoch": 1}})
    parts.load_checkpoint(file)
    assert parts.get_num_updates() == whole.get_num_updates() > 0
    scales = []
    for update in samples[7:]:
        for each in (whole, parts):
            each.train_step(update)
        scales.append([scale_of(each) for each in (whole, parts)] if "fp16" in precision else [1, 1])
    assert_equal(everything(whole), everything(parts))
    assert all(one == other for one, other in scales)
    if "fp16" in precision:
        assert len({one for one, _ in scales}) > 1
