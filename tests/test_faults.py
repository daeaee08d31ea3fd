"""A step that fails anywhere leaves the weights, the optimizer and the random numbers as if it had not begun."""

import copy
import random

import numpy
import pytest
import toy
import torch
from fairseq.optim import FairseqOptimizer
from processes import assert_equal

from sharp_plugins.host import passes
from sharp_plugins.host.trainer import registered_optimizer
from sharp_plugins.perturbation import Perturbation

PRECISIONS = {
    "fp32": [],
    "fp16": ["--fp16", "--fp16-no-flatten-grads", "--fp16-init-scale", "4"],
    "memory-efficient fp16": ["--memory-efficient-fp16", "--fp16-init-scale", "4"],
}
PHASES = [
    "random forward",
    "ascent forward",
    "ascent backward",
    "climb",
    "descent forward",
    "descent backward",
    "clipping",
    "base update",
]


class Fault(Exception):
    """Stands for any exception of a criterion."""


def build(data, tmp_path, precision, *flags):
    trainer = toy.build_trainer(
        data, "--optimizer", "dsam", "--base-optimizer", "adam", "--lr", "0.01", "--sam-rho", "0.5", "--clip-norm", "1",
        "--save-dir", tmp_path, *PRECISIONS[precision], *flags,
    )
    trainer.train_step(toy.batches(trainer, [4, 4]))  # so that the optimizer has a state to lose
    return trainer


def inject(monkeypatch, trainer, phase, fault):
    """Make *phase* of the next update call *fault* once, after whatever the phase does first."""
    fired = []

    def fire():
        if not fired:
            fired.append(phase)
            fault()

    def after(owner, name, condition=lambda: True):
        original = getattr(owner, name)

        def replacement(*args, **kwargs):
            result = original(*args, **kwargs)
            if condition():
                fire()
            return result

        monkeypatch.setattr(owner, name, replacement)

    ball = registered_optimizer(trainer).perturbation
    in_ascent = lambda: getattr(trainer, "_sharp_stats", None) is None  # noqa: E731
    if phase in ("random forward", "ascent forward"):
        original_losses = passes.sentence_losses_of

        def losses_of(criterion):
            def losses(model, sample):
                result = original_losses(criterion)(model, sample)
                if ball.climbed == (phase == "random forward"):
                    fire()
                return result

            return losses

        monkeypatch.setattr(passes, "sentence_losses_of", losses_of)
    elif phase == "ascent backward":
        after(trainer.optimizer, "backward", in_ascent)
    elif phase == "climb":
        after(Perturbation, "_write", lambda: ball.params[0].grad is not None)
    elif phase == "descent forward":
        after(trainer.get_criterion(), "forward", lambda: ball.climbed)
    elif phase == "descent backward":
        after(trainer.optimizer, "backward", lambda: not in_ascent())
    elif phase == "clipping":
        after(trainer, "clip_grad_norm")
    elif phase == "base update":
        # The base optimizer fails before it changes anything; what it leaves half done is its own affair.
        def fail(*args, **kwargs):
            fire()

        monkeypatch.setattr(FairseqOptimizer, "step", fail)
    return fired


def everything(trainer):
    """All that an update may change."""
    return copy.deepcopy(
        {
            "weights": toy.weights(trainer),
            "optimizer": trainer.optimizer.state_dict(),
            "masters": [p.detach() for p in getattr(trainer.optimizer, "fp32_params", [])],
            "updates": trainer.get_num_updates(),
            "random": (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state()),
        }
    )


def raiser(error):
    def fault():
        raise error

    return fault


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    "precision, error",
    [
        ("fp32", Fault("of the criterion")),
        ("fp32", KeyboardInterrupt()),
        ("fp16", KeyboardInterrupt()),
        ("memory-efficient fp16", Fault("of the criterion")),
    ],
    ids=repr,
)
def test_an_exception(translation_data, tmp_path, monkeypatch, precision, phase, error):
    trainer = build(translation_data, tmp_path, precision)
    before = everything(trainer)
    with monkeypatch.context() as patch:
        fired = inject(patch, trainer, phase, raiser(error))
        with pytest.raises(type(error)):
            trainer.train_step(toy.batches(trainer, [4, 4]))
    assert fired
    assert_equal(before, everything(trainer))
    crash = tmp_path / "crash.pt"
    if crash.exists():  # fairseq writes it for exceptions in forward and backward passes
        saved = torch.load(crash)
        toy.assert_same({n: saved["model"][n] for n in before["weights"]}, before["weights"])


@pytest.mark.parametrize("phase", ["random forward", "climb", "descent backward"])
def test_training_goes_on_as_if_nothing_had_been(translation_data, tmp_path, monkeypatch, phase):
    trainer = build(translation_data, tmp_path, "fp32")
    twin = build(translation_data, tmp_path, "fp32")
    with monkeypatch.context() as patch:
        inject(patch, trainer, phase, raiser(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            trainer.train_step(toy.batches(trainer, [4, 4]))
    for each in (trainer, twin):
        each.train_step(toy.batches(each, [3, 5]))
    toy.assert_same(toy.weights(trainer), toy.weights(twin))


@pytest.mark.parametrize("phase", ["random forward", "ascent forward", "ascent backward", "descent forward"])
def test_crash_checkpoint_holds_w(translation_data, tmp_path, monkeypatch, phase):
    trainer = build(translation_data, tmp_path, "fp32")
    before = toy.weights(trainer)
    inject(monkeypatch, trainer, phase, raiser(Fault()))
    with pytest.raises(Fault):
        trainer.train_step(toy.batches(trainer, [4]))
    saved = torch.load(tmp_path / "crash.pt")["model"]
    toy.assert_same({name: saved[name] for name in before}, before)


@pytest.mark.parametrize("phase", PHASES[:3] + PHASES[4:6])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_out_of_memory_skips_the_update(translation_data, tmp_path, monkeypatch, precision, phase):
    trainer = build(translation_data, tmp_path, precision)
    before = everything(trainer)
    with monkeypatch.context() as patch:
        fired = inject(patch, trainer, phase, raiser(RuntimeError("CUDA out of memory")))
        assert trainer.train_step(toy.batches(trainer, [4, 4])) is None
    assert fired
    assert_equal(before, everything(trainer))
    assert trainer.train_step(toy.batches(trainer, [4, 4])) is not None


@pytest.mark.parametrize("phase", ["random forward", "ascent backward", "clipping"])
def test_out_of_memory_is_raised_where_fairseq_raises_it(translation_data, tmp_path, monkeypatch, phase):
    trainer = build(translation_data, tmp_path, "fp32")
    before = everything(trainer)
    inject(monkeypatch, trainer, phase, raiser(RuntimeError("CUDA out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train_step(toy.batches(trainer, [4, 4]), raise_oom=True)
    assert_equal(before, everything(trainer))


def poison_gradients(trainer, value):
    def fault():
        params = getattr(trainer.optimizer, "fp16_params", None) or list(trainer.optimizer.params)
        params[0].grad.view(-1)[0] = value

    return fault


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("phase", ["ascent backward", "descent backward"])
def test_non_finite_gradients_stop_fp32_training_as_in_fairseq(translation_data, tmp_path, monkeypatch, phase, value):
    trainer = build(translation_data, tmp_path, "fp32")
    before = everything(trainer)
    fired = inject(monkeypatch, trainer, phase, poison_gradients(trainer, value))
    # fairseq saves crash.pt and runs the update again to find the place of the NaN. For a model whose encoder returns a dict
    # of lists, as transformers do, torch then stumbles over fairseq's hooks (StopIteration), with or without this plugin.
    with pytest.raises((FloatingPointError, StopIteration)):
        trainer.train_step(toy.batches(trainer, [4]))
    assert fired
    assert_equal(before, everything(trainer))
    saved = torch.load(tmp_path / "crash.pt")["model"]
    toy.assert_same({name: saved[name] for name in before["weights"]}, before["weights"])


@pytest.mark.parametrize("phase", ["ascent backward", "descent backward"])
@pytest.mark.parametrize("precision", ["fp16", "memory-efficient fp16"])
def test_overflow_in_either_pass_lowers_the_loss_scale_and_skips_the_update(
    translation_data, tmp_path, monkeypatch, precision, phase
):
    trainer = build(translation_data, tmp_path, precision)
    before = everything(trainer)
    with monkeypatch.context() as patch:
        fired = inject(patch, trainer, phase, poison_gradients(trainer, float("inf")))
        assert trainer.train_step(toy.batches(trainer, [4])) is None
    assert fired
    after = everything(trainer)
    assert before["optimizer"].pop("loss_scale") == 4 and after["optimizer"].pop("loss_scale") == 2
    assert_equal(before, after)
    assert trainer.train_step(toy.batches(trainer, [4])) is not None


def test_amp_repeats_an_overflowed_update_from_w(translation_data, tmp_path, monkeypatch):
    """AMP calls train_step again from within itself. On a CPU its scaler is off, so the skipping is put in by hand."""
    trainer = toy.build_trainer(
        translation_data, "--optimizer", "dsam", "--lr", "0.01", "--sam-rho", "0.5", "--amp", "--save-dir", tmp_path
    )
    twin = toy.build_trainer(translation_data, "--optimizer", "dsam", "--lr", "0.01", "--sam-rho", "0.5", "--amp")
    trainer.train_step(toy.batches(trainer, [4]))
    twin.train_step(toy.batches(twin, [4]))
    calls = []
    step, clip = trainer.optimizer.step, trainer.clip_grad_norm
    with monkeypatch.context() as patch:
        patch.setattr(
            trainer, "clip_grad_norm",
            lambda norm: clip(norm) * (float("inf") if not calls.append("clip") and len(calls) == 1 else 1.0),
        )
        patch.setattr(trainer.optimizer, "step", lambda: step() if len(calls) > 1 else None)
        trainer.train_step(toy.batches(trainer, [5]))
    twin.train_step(toy.batches(twin, [5]))
    assert len(calls) == 2
    toy.assert_same(toy.weights(trainer), toy.weights(twin))


def test_a_checkpoint_asked_for_at_the_perturbed_weights_holds_w(translation_data, tmp_path):
    trainer = build(translation_data, tmp_path, "fp16")
    before = toy.weights(trainer)
    registered_optimizer(trainer).perturbation.perturb_randomly(0)
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(tmp_path / "any.pt"), {})
    saved = torch.load(tmp_path / "any.pt")["model"]
    toy.assert_same({name: saved[name] for name in before}, before)
