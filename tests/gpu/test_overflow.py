"""Overflows of fp16 arithmetic itself, in the ascent and in the descent, with fairseq's loss scaler and with torch's."""

import on_gpu
import pytest
import torch
import toy
from on_gpu import CLIMBING, OURS, ball, build, everything, needs_gpu, scale_of, updates
from processes import assert_equal
from torch import nn

from sharp_plugins.host.weights import registered_optimizer

pytestmark = needs_gpu("AMP's scaler works on a GPU alone")

FP16 = ["fp16", "fp16-not-flat", "memory-efficient-fp16"]
WHERE = [("sam", "ascent"), ("sam", "descent"), ("dsam", "ascent"), ("dsam", "descent"), ("bar", "descent")]


def overflow(monkeypatch, trainer, phase, times=1):
    """Make the loss of the next backward passes of *phase* so large that its gradients overflow."""
    fired, backward = [], trainer.optimizer.backward

    def larger(loss):
        there = getattr(registered_optimizer(trainer), "perturbation", None)
        in_descent = there is None or there.climbed
        if len(fired) < times and in_descent == (phase == "descent"):
            fired.append(phase)
            loss = loss * on_gpu.LARGER
        backward(loss)

    monkeypatch.setattr(trainer.optimizer, "backward", larger)
    return fired


@pytest.mark.parametrize("method, phase", WHERE)
@pytest.mark.parametrize("precision", FP16)
def test_an_overflow_skips_the_update_and_lowers_the_scale(translation_data, monkeypatch, deterministic, precision, method, phase):
    trainer = build(translation_data, method, precision)
    twin = build(translation_data, method, precision, "--fp16-init-scale", "2")
    samples = updates(trainer, 3)
    before = everything(trainer)
    with monkeypatch.context() as patch:
        fired = overflow(patch, trainer, phase)
        assert trainer.train_step(samples[0][:1]) is None
    assert fired and scale_of(trainer) == 2
    assert_equal(everything(trainer), before)
    for each in (trainer, twin):
        for update in samples:
            assert each.train_step(update) is not None
    assert_equal(everything(trainer), everything(twin))


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize("precision", FP16)
def test_training_finds_its_scale(translation_data, precision, method):
    """From a scale at which all overflows, with nothing injected."""
    trainer = build(translation_data, method, precision, "--fp16-init-scale", str(2**24))
    skipped = 0
    for update in updates(trainer, 1) * 24:
        before = everything(trainer)
        if trainer.train_step(update) is None:
            skipped += 1
            assert_equal(everything(trainer), before)
    assert skipped > 3 and trainer.get_num_updates() == 24 - skipped > 3
    assert scale_of(trainer) == 2.0 ** (24 - skipped)


@pytest.mark.parametrize("method, phase", WHERE)
def test_amp_repeats_an_overflowed_update_from_w(translation_data, monkeypatch, deterministic, method, phase):
    trainer = build(translation_data, method, "amp")
    twin = build(translation_data, method, "amp", "--fp16-init-scale", "2")
    samples = updates(trainer, 3)
    with monkeypatch.context() as patch:
        fired = overflow(patch, trainer, phase)
        assert trainer.train_step(samples[0]) is not None
    assert fired and scale_of(trainer) == 2 and trainer.get_num_updates() == 1
    twin.train_step(samples[0])
    assert_equal(everything(trainer), everything(twin))
    for each in (trainer, twin):
        for update in samples[1:]:
            each.train_step(update)
    assert_equal(everything(trainer), everything(twin))


@pytest.mark.parametrize("method, phase", WHERE)
def test_amp_gives_an_update_up_after_its_retries(translation_data, monkeypatch, deterministic, method, phase):
    trainer = build(translation_data, method, "amp", "--amp-batch-retries", "1")
    samples = updates(trainer, 2)
    trainer.train_step(samples[0])
    before = everything(trainer)
    with monkeypatch.context() as patch:
        fired = overflow(patch, trainer, phase, times=4)  # two micro-batches, twice
        trainer.train_step(samples[1])
    assert len(fired) == 4 and scale_of(trainer) == 1
    assert_equal(everything(trainer), before)
    trainer.train_step(samples[1])
    assert trainer.get_num_updates() == 2


class Norm(nn.BatchNorm1d):
    """A batch norm over all positions of all sentences."""

    def forward(self, x):
        return super().forward(x.reshape(-1, x.size(-1))).view(x.shape)


def build_with_norm(monkeypatch, *parts):
    build_model = toy.tasks.FairseqTask.build_model

    def build_model_with_norm(task, *args, **kwargs):
        model = build_model(task, *args, **kwargs)
        model.encoder.layers[0].final_layer_norm = Norm(16)
        return model

    with monkeypatch.context() as patch:
        patch.setattr(toy.tasks.FairseqTask, "build_model", build_model_with_norm)
        return build(*parts)


def statistics(trainer):
    return [buffer.clone() for buffer in trainer.get_model().encoder.layers[0].final_layer_norm.buffers()]


@pytest.mark.parametrize("phase", ["ascent", "descent", "none"])
@pytest.mark.parametrize("method", CLIMBING)
def test_the_statistics_of_batch_norms_move_once(translation_data, monkeypatch, deterministic, method, phase):
    """With AMP's repeat too; they are the descent's, which a twin without an overflow has."""
    trainer = build_with_norm(monkeypatch, translation_data, method, "amp")
    twin = build_with_norm(monkeypatch, translation_data, method, "amp", "--fp16-init-scale", "4" if phase == "none" else "2")
    samples = updates(trainer, 1, sizes=[6])[0]
    with monkeypatch.context() as patch:
        if phase != "none":
            overflow(patch, trainer, phase)
        trainer.train_step(samples)
    twin.train_step(samples)
    assert trainer.get_num_updates() == 1
    *moments, count = statistics(trainer)
    assert count.item() == 1 and all(m.isfinite().all() for m in moments)
    assert_equal(statistics(trainer), statistics(twin))


def test_a_climb_to_nan_is_undone(translation_data):
    """What an overflowed ascent leaves in the weights."""
    trainer = build(translation_data, "sam", "fp16")
    trainer.train_step(updates(trainer, 1)[0])
    before, there = toy.weights(trainer), ball(trainer)
    for p in there.params:
        p.grad = torch.full_like(p, torch.inf)
    assert there.climb().ascent.skipped.item() == 1
    assert all(p.isnan().all() for p in there.params)
    there.descend()
    toy.assert_same(toy.weights(trainer), before)
