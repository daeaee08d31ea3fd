"""Going to w + ε and coming back on a GPU, in all precisions."""

import copy

import plain
import pytest
import torch
import toy
from on_gpu import CLIMBING, OURS, PRECISIONS, ball, build, needs_gpu, on_device, updates
from processes import assert_equal

from sharp_plugins.host.weights import master_copies

pytestmark = needs_gpu("the arithmetic is a GPU's")

HALF = [name for name in PRECISIONS if name != "fp32"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", CLIMBING)
def test_the_way_back_is_bit_exact(translation_data, method, precision):
    trainer = build(translation_data, method, precision)
    for samples in updates(trainer, 2):  # the fp32 master copies leave the grid of the half-precision weights
        trainer.train_step(samples)
    before, there = toy.weights(trainer), ball(trainer)
    there.perturb_randomly(seed=3)
    assert any(not torch.equal(w, before[name]) for name, w in toy.weights(trainer).items())
    there.descend()
    toy.assert_same(toy.weights(trainer), before)
    for p in there.params:
        p.grad = torch.randn_like(p)
    ascent = there.climb(seed=5, measure=True).ascent
    assert any(not torch.equal(w, before[name]) for name, w in toy.weights(trainer).items())
    there.descend()
    toy.assert_same(toy.weights(trainer), before)
    assert ascent.radius.item() == pytest.approx(0.5, rel=0.15) and ascent.projection.item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", CLIMBING)
def test_an_update_with_learning_rate_0_leaves_w(translation_data, method, precision):
    trainer = build(translation_data, method, precision, "--lr", "0")
    samples = updates(trainer, 1)[0]
    before = toy.weights(trainer)
    seen = toy.perturbed_weights(trainer, samples)
    assert trainer.get_num_updates() == 1
    assert sum(not torch.equal(seen[name], before[name]) for name in before) > len(before) / 2
    toy.assert_same(toy.weights(trainer), before)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", OURS)
def test_without_its_strength_a_method_is_adam_bit_for_bit(translation_data, deterministic, method, precision):
    off = ["--bar-alpha", "0"] if method == "bar" else ["--sam-rho", "0"]
    results = []
    for name, flags in (("lora" if method == "bar" else "adam", []), (method, off)):
        trainer = build(translation_data, name, precision, *flags)
        for samples in updates(trainer, 3):
            trainer.train_step(samples)
        results.append((toy.weights(trainer), [p.detach().clone() for p in trainer.optimizer.optimizer.param_groups[0]["params"]]))
    assert_equal(*results)


@pytest.mark.parametrize("adaptive", [False, True])
def test_epsilon_equals_a_plain_one(translation_data, adaptive):
    flags = ["--dropout", "0", "--sam-rho", "1", *(["--sam-adaptive"] if adaptive else [])]
    trainer = build(translation_data, "sam", "fp32", *flags)
    samples = updates(trainer, 1)[0]
    model, criterion = copy.deepcopy(trainer.get_model()).train(), trainer.get_criterion()
    loss, _ = plain.summed_loss(model, criterion, on_device(samples))
    expected = plain.shifted(model, plain.epsilon(model, loss, 1.0, adaptive=adaptive)).state_dict()
    seen = toy.perturbed_weights(trainer, samples)
    for name, value in seen.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("method", CLIMBING)
def test_half_precision_gives_the_epsilon_of_fp32(translation_data, method, precision):
    changes = []
    for one in ("fp32", precision):
        # δ-SAM's weights are noise in half precision at this ρ; without them its gradient is SAM's.
        flags = ["--dropout", "0", *(["--dsam-beta", "0"] if method == "dsam" else [])]
        trainer = build(translation_data, method, one, *flags)
        start = toy.weights(trainer)
        seen = toy.perturbed_weights(trainer, updates(trainer, 1)[0])
        changes.append(torch.cat([(seen[n].float() - start[n].float()).reshape(-1) for n in start]))
    fp32, half = changes
    tolerance = 0.05 if "bf16" in precision else 0.01
    assert (half @ fp32 / (fp32 @ fp32)).item() == pytest.approx(1, abs=tolerance)
    assert torch.cosine_similarity(half, fp32, dim=0).item() > 1 - tolerance


@pytest.mark.parametrize("method", CLIMBING)
def test_flattened_fp16_equals_unflattened(translation_data, deterministic, method):
    results = []
    for precision in ("fp16", "fp16-not-flat"):
        # The norm that clipping wants is summed in another order where the weights are flat.
        trainer = build(translation_data, method, precision, "--clip-norm", "0")
        for samples in updates(trainer, 3):
            trainer.train_step(samples)
        assert trainer.optimizer.has_flat_params == (precision == "fp16")
        results.append({"weights": toy.weights(trainer), "masters": [m.clone() for m in master_copies(trainer.optimizer)]})
    assert_equal(*results)


@pytest.mark.parametrize("method", ["sam", "bar"])  # δ-SAM draws other noise on another device
def test_gpu_and_cpu_agree(translation_data, method):
    """In fp32, with the rounding errors of three updates between them."""
    results = []
    for on_cpu in (False, True):
        flags = ["--base-optimizer", "sgd", "--lr", "0.1", "--dropout", "0"]
        trainer = build(translation_data, method, "fp32", *flags)
        if on_cpu:
            trainer.cfg.common.cpu = True
            trainer = toy.trainer_from(trainer.cfg)
        start = toy.weights(trainer)
        for samples in updates(trainer, 3):
            trainer.train_step(samples)
        results.append({name: value.cpu() for name, value in toy.weights(trainer).items()})
    moved = max((results[0][name] - start[name].cpu()).abs().max() for name in start)
    assert moved > 1e-3
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-3, atol=1e-4, msg=name)
