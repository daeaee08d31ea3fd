"""FreeLB against Algorithm 1 as a loop of backward passes whose gradients add up, which is how the authors run it."""

import copy
import math

import pytest
import sentences
import torch

from sharp_plugins.criterions.freelb import initial_perturbation_

NAME = "freelb_sentence_prediction"


def algorithm_1(model, sample, steps, step_size, init, max_norm, regression=False, start=None, seed=0):
    """The gradient g_K by name, the K losses of every sentence (K, B), and the K perturbations."""
    model = copy.deepcopy(model)
    tokens = sample["net_input"]["src_tokens"]
    real = tokens.ne(1).unsqueeze(-1)
    torch.manual_seed(seed)
    delta = torch.empty(*tokens.shape, sentences.DIMENSION).uniform_(-1, 1) * real
    delta = delta * init / (real.sum((1, 2), keepdim=True) * sentences.DIMENSION).sqrt()
    all_losses, deltas = [], []
    for _ in range(steps):
        delta = delta.detach().requires_grad_()
        deltas.append(delta.detach())
        losses = sentences.plain_losses(sentences.logits_at(model, sample, delta), sample, regression)
        (losses.sum() / steps).backward()  # adds up in the parameters' .grad
        all_losses.append(losses.detach())
        following = []
        for one, gradient in zip(delta.detach(), delta.grad):  # sentence by sentence
            one = one + step_size * gradient / gradient.norm()
            if max_norm and one.norm() > max_norm:
                one = one * max_norm / one.norm()
            following.append(one)
        delta = torch.stack(following)
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return grads, torch.stack(all_losses), deltas


def flags(steps, step_size, init, max_norm):
    values = {"steps": steps, "step-size": step_size, "init": init, "max-norm": max_norm}
    return [part for name, value in values.items() for part in (f"--freelb-{name}", str(value))]


def assert_is_algorithm_1(criterion, model, sample, *settings, regression=False):
    grads, losses, deltas = algorithm_1(model, sample, *settings, regression=regression)
    torch.manual_seed(0)
    loss, size, log = criterion(model, sample)
    assert size == len(sample["target"])
    torch.testing.assert_close(loss.detach(), losses.mean(0).sum(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(log["loss"], loss.detach())
    torch.testing.assert_close(log["freelb_gap"], (losses[-1] - losses[0]).sum(), rtol=1e-3, atol=1e-5)
    sentences.assert_close_gradients(sentences.gradients(loss, model), grads, rtol=1e-3, atol=1e-5)
    torch.manual_seed(0)
    ours = criterion.sentence_losses(model, sample)
    torch.testing.assert_close(ours.detach(), losses.mean(0), rtol=1e-4, atol=1e-6)
    sentences.assert_close_gradients(sentences.gradients(ours.sum(), model), grads, rtol=1e-3, atol=1e-5)
    return losses, deltas


@pytest.mark.parametrize("settings", [(1, 0.1, 0.5, 0.3), (2, 0.5, 0, 0), (3, 0.3, 0.4, 0), (4, 0.3, 0.4, 0.35)])
def test_classification(sentence_data, settings):
    criterion, model, sample = sentences.parts(sentence_data, NAME, *flags(*settings))
    losses, deltas = assert_is_algorithm_1(criterion, model, sample, *settings)
    if settings[0] > 1:
        assert (losses[-1] > losses[0] + 1e-4).all()  # it is an ascent
    if settings[3] and settings[0] > 2:
        assert max(d.norm(dim=(1, 2)).max().item() for d in deltas[1:]) == pytest.approx(0.35)  # the projection acts


def test_regression(sentence_data):
    settings = (3, 0.3, 0.2, 0.4)
    criterion, model, sample = sentences.parts(sentence_data, NAME, *flags(*settings), regression=True)
    assert_is_algorithm_1(criterion, model, sample, *settings, regression=True)


def test_the_start_has_the_magnitude_that_was_asked_for(sentence_data):
    """E ‖δ₀‖² is init²/3, whatever the length of the sentence; padding is not moved."""
    _, _, sample = sentences.parts(sentence_data, NAME, sentences=40)
    real = sample["net_input"]["src_tokens"].ne(1).unsqueeze(-1).float()
    assert 0 < real.mean() < 1
    torch.manual_seed(0)
    starts = [initial_perturbation_(torch.empty(*real.shape[:2], sentences.DIMENSION), real, 0.6) for _ in range(10)]
    squares = torch.stack([start.square().sum((1, 2)) for start in starts])
    assert squares.mean().item() == pytest.approx(0.36 / 3, rel=0.02)
    assert all(((start == 0).all(2) == (real[:, :, 0] == 0)).all() for start in starts)


def test_one_step_from_the_sentence_itself_is_the_stock_criterion(sentence_data):
    sentences.assert_is_stock(sentence_data, NAME, "sentence_prediction", *flags(1, 0.1, 0, 0.3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_matched_passes_see_the_same_masks(sentence_data, dtype):
    """At steps of nearly no length all points are one, and so are the predictions, if the masks are."""
    for mode, same in (("matched", True), ("independent", False)):
        criterion, model, sample = sentences.parts(
            sentence_data, NAME, *flags(3, 1e-9, 0, 0), "--freelb-dropout", mode, dropout="0.3"
        )
        outputs = [output[0] for output in criterion.pieces(model.to(dtype), sample).outputs]
        spread = max((output - outputs[0]).abs().max().item() for output in outputs[1:])
        assert (spread < 1e-6) == same


def test_matched_passes_move_the_random_numbers_as_far_as_one_pass(sentence_data):
    ends = []
    for steps in (1, 4):
        criterion, model, sample = sentences.parts(sentence_data, NAME, "--freelb-steps", steps, dropout="0.3")
        torch.manual_seed(0)
        criterion(model, sample)
        ends.append(torch.rand(3))
    assert torch.equal(*ends)


def test_without_gradients_the_losses_are_the_same(sentence_data):
    """δ-SAM's Eq. 3 asks for losses without gradients; the search takes its own."""
    criterion, model, sample = sentences.parts(sentence_data, NAME, *flags(3, 0.3, 0.4, 0.5), dropout="0.2")
    torch.manual_seed(0)
    expected = criterion.sentence_losses(model, sample)
    torch.manual_seed(0)
    with torch.no_grad():
        losses = criterion.sentence_losses(model, sample)
        pieces = criterion.pieces(model, sample)
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-5, atol=1e-6)  # torch may choose other kernels
    assert not losses.requires_grad
    assert not any(output[0].requires_grad for output in pieces.outputs)


def test_a_sentence_without_a_gradient_stays_where_it_is(sentence_data):
    criterion, model, sample = sentences.parts(sentence_data, NAME, *flags(3, 0.3, 0, 0))
    torch.nn.init.zeros_(model.classification_heads[sentences.HEAD].out_proj.weight)
    loss, _, log = criterion(model, sample)
    assert loss.isfinite() and log["freelb_gap"] == 0


@pytest.mark.parametrize("flag, value", [("steps", 0), ("step-size", 0), ("step-size", math.nan), ("init", -1), ("max-norm", -0.1)])
def test_bad_settings_are_refused(sentence_data, flag, value):
    with pytest.raises(ValueError, match=f"--freelb-{flag}"):
        sentences.parts(sentence_data, NAME, f"--freelb-{flag}={value}")


def test_checkpointed_activations_are_refused(sentence_data):
    criterion, model, sample = sentences.parts(sentence_data, NAME)
    model.args.checkpoint_activations = True
    with pytest.raises(ValueError, match="--checkpoint-activations"):
        criterion(model, sample)
