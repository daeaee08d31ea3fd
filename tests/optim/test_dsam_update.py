"""Updates of ``--optimizer dsam`` inside fairseq's trainer, against plain PyTorch that handles sentences one by one."""

import copy
import re

import plain
import pytest
import torch
import toy
from fairseq.logging import metrics

from sharp_plugins.core import guardedness
from sharp_plugins.core.perturbation import Perturbation
from sharp_plugins.host import start_up
from sharp_plugins.host.passes import Passes

FLAGS = ["--optimizer", "dsam", "--base-optimizer", "sgd", "--momentum", "0.9", "--lr", "0.5", "--sam-rho", "0.3"]


def build(data, *flags, dropout="0"):
    return toy.build_trainer(data, *FLAGS, "--dropout", dropout, *flags)


def random_changes(trainer, updates):
    """The random perturbations that the coming updates will use, read off a twin's weights."""
    changes = []
    for number, samples in enumerate(updates):
        twin = copy.deepcopy(trainer.get_model())
        ball = Perturbation(twin.parameters(), 0.3)
        trainer.set_num_updates(number)
        before = [p.detach().clone() for p in ball.params]
        with ball.perturb_randomly(Passes(trainer, samples, False, False).seed):
            changes.append([p.detach() - w for p, w in zip(ball.params, before)])
    trainer.set_num_updates(0)
    return changes


def test_the_random_perturbation_has_norm_rho(translation_data):
    trainer = build(translation_data)
    (change,) = random_changes(trainer, [toy.batches(trainer, [2])])
    norm = torch.cat([c.reshape(-1) for c in change]).norm().item()
    assert norm == pytest.approx(0.3, rel=1e-4)


def test_beta_zero_is_sam(translation_data):
    """With sentence-level weights 1/N the gradient has SAM's direction."""
    points = []
    for flags in ([*FLAGS, "--dsam-beta", "0"], ["--optimizer", "sam", *FLAGS[2:]]):
        trainer = toy.build_trainer(translation_data, *flags, "--dropout", "0")
        points.append(toy.perturbed_weights(trainer, toy.batches(trainer, [8])))
    for name, value in points[0].items():
        torch.testing.assert_close(value, points[1][name], rtol=1e-4, atol=1e-6)


def test_matched_dropout_sees_the_same_masks(translation_data, monkeypatch):
    """With ρ → 0 and matched masks no loss changes; with independent masks it does."""
    largest = {}
    for mode in ("matched", "independent"):
        trainer = build(translation_data, "--sam-rho", "1e-7", "--dsam-dropout", mode, dropout="0.5")
        seen = []
        with monkeypatch.context() as patch:
            original = guardedness.largest_finite
            patch.setattr(guardedness, "largest_finite", lambda a: (seen.append(a), original(a))[1])
            trainer.train_step(toy.batches(trainer, [8, 3]))
        largest[mode] = seen[0].abs().max().item()
    assert largest["matched"] < 1e-4
    assert largest["independent"] > 1e-1


@pytest.mark.parametrize("kind", ["paper", "inverse"])
def test_metrics_are_those_of_the_weights(translation_data, kind):
    trainer = build(translation_data, "--dsam-beta", "20", "--dsam-weights", kind)
    updates = [toy.batches(trainer, [5, 3])]
    (change,) = random_changes(trainer, updates)
    model, criterion = copy.deepcopy(trainer.get_model()).train(), trainer.get_criterion()
    with torch.no_grad():
        clean = plain.sentence_losses(model, criterion, updates[0])
        a = plain.sentence_losses(plain.shifted(model, change), criterion, updates[0]) - clean
    g = a.abs() / a.abs().sum()
    weights = plain.dsam_weights(a, 20.0) if kind == "paper" else plain.inverse_weights(a)
    shares = g if kind == "paper" else weights
    with metrics.aggregate() as log:
        trainer.train_step(updates[0])
    if kind == "paper":
        assert log["dsam_r"].avg.item() == pytest.approx((20 * a.mean() / (g * a).sum()).abs().item(), rel=1e-2)
    else:
        assert "dsam_r" not in log
    assert log["dsam_weight_max"].avg.item() == pytest.approx(weights.max().item(), rel=1e-2)
    assert log["dsam_negative"].sum == (weights < 0).sum()
    assert log["dsam_weight_entropy"].avg.item() == pytest.approx(
        -(shares * shares.log()).sum().item() / torch.tensor(8.0).log().item(), rel=1e-3
    )
    # The ascent's gradient norm is in gnorm's units.
    loss = (weights * plain.sentence_losses(model, criterion, updates[0])).sum() * 8
    grads = plain.gradients(loss, model)
    expected = torch.cat([x.reshape(-1) for x in grads]).norm() / sum(s["ntokens"] for s in updates[0])
    assert log["sam_grad_norm"].avg.item() == pytest.approx(expected.item(), rel=1e-2)


def test_the_gap_is_the_loss_at_the_perturbed_weights_minus_the_loss_at_w(translation_data):
    trainer = build(translation_data)
    samples = toy.batches(trainer, [6, 6])
    model, criterion = copy.deepcopy(trainer.get_model()).train(), trainer.get_criterion()
    with metrics.aggregate() as log:
        seen = toy.perturbed_weights(trainer, samples)
    with torch.no_grad():
        at_w, size = plain.summed_loss(model, criterion, samples)
        model.load_state_dict(seen, strict=False)
        at_perturbed, _ = plain.summed_loss(model, criterion, samples)
    assert log["sam_gap"].avg.item() == pytest.approx(((at_perturbed - at_w) / size).item(), rel=1e-3)
    assert log["sam_gap"].avg > 0


@pytest.mark.parametrize("sizes", [[8], [4, 4]])
def test_the_weighted_pass_sees_the_dropout_masks_of_the_descent(translation_data, sizes):
    """On a CPU its masks come off a tape: at ρ → 0 the gap vanishes only if they are the descent's."""
    trainer = build(translation_data, "--sam-rho", "1e-7", dropout="0.5")
    with metrics.aggregate() as log:
        trainer.train_step(toy.batches(trainer, sizes))
    assert abs(log["sam_gap"].avg.item()) < 1e-4


def test_weights_without_bound_do_not_overflow_fp16(translation_data):
    """A β that makes weights of thousands: the ascent is divided by a power of two, and points where fp32's does."""
    flags = ["--optimizer", "dsam", "--base-optimizer", "sgd", "--lr", "0.1", "--dropout", "0", "--dsam-beta", "3000"]
    changes, norms = [], []
    for precision in ([], ["--fp16", "--fp16-no-flatten-grads", "--fp16-init-scale", "128"]):
        trainer = toy.build_trainer(translation_data, *flags, *precision)
        start, samples = toy.weights(trainer), toy.batches(trainer, [8, 4])
        with metrics.aggregate() as log:
            seen = toy.perturbed_weights(trainer, samples)
        assert trainer.get_num_updates() == 1 and float(log["dsam_r"].avg) > 500
        changes.append(torch.cat([(seen[n].float() - start[n].float()).reshape(-1) for n in start]))
        norms.append(float(log["sam_grad_norm"].avg))
    # In fp16 the losses' differences, and so the weights, are known to few digits: what counts is that there is an ascent.
    assert changes[1].norm().item() == pytest.approx(0.05, rel=0.3)
    # In the units of the weighted loss, whose weights are up to thousands.
    assert norms[0] > 50 and norms[1] == pytest.approx(norms[0], rel=0.5)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_instance_whose_loss_is_not_finite_is_counted_and_weighs_as_the_most_changed_one(translation_data, monkeypatch, value):
    trainer = build(translation_data)
    samples = toy.batches(trainer, [5, 3])
    (change,) = random_changes(trainer, [samples])
    losses = Passes.instance_losses_without_grad

    def spoiled(self, **how):
        found = losses(self, **how)
        found[1][2] = value
        return found

    monkeypatch.setattr(Passes, "instance_losses_without_grad", spoiled)
    model, criterion, start = copy.deepcopy(trainer.get_model()).train(), trainer.get_criterion(), toy.weights(trainer)
    with torch.no_grad():
        clean = plain.sentence_losses(model, criterion, samples)
        a = plain.sentence_losses(plain.shifted(model, change), criterion, samples) - clean
    a[7] = a[:7].abs().max()
    loss = (plain.dsam_weights(a, trainer.cfg.optimizer.dsam_beta) * plain.sentence_losses(model, criterion, samples)).sum()
    expected = plain.epsilon(model, loss, trainer.cfg.optimizer.sam_rho)
    with metrics.aggregate() as log:
        seen = toy.perturbed_weights(trainer, samples)
    assert trainer.get_num_updates() == 1 and float(log["dsam_nonfinite"].sum) == 1
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    ours = torch.cat([(seen[name] - start[name]).reshape(-1) for name in names])
    torch.testing.assert_close(ours, torch.cat([part.reshape(-1) for part in expected]), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "flags, told",
    [
        ("dsam --fp16", "--optimizer dsam weighs sentences by how their losses change .* and --fp16 these changes are partly"),
        ("dsam --bf16 --memory-efficient-bf16", "and --bf16 these changes are partly rounding"),
        ("dsam --amp", "and --amp these changes are partly rounding"),
        ("dsam", None),
        ("sam --fp16", None),
    ],
)
def test_half_precision_is_advised_against(translation_data, monkeypatch, flags, told):
    said = []
    monkeypatch.setattr(start_up.logger, "warning", said.append)
    toy.build_trainer(translation_data, "--optimizer", *flags.split(), "--base-optimizer", "sgd", "--lr", "0.5")
    assert len(said) == bool(told) and all(re.search(told, line) for line in said)
