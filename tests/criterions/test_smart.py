"""SMART's adversarial regularization against Algorithm 1's inner loop, sentence by sentence."""

import pytest
import sentences
import torch

NAME = "smart_sentence_prediction"


def adversarial(model, sample, eps, sigma, eta, steps, ell, seed=0):
    """The perturbation that the search ends with."""
    tokens = sample["net_input"]["src_tokens"]
    torch.manual_seed(seed)
    delta = torch.randn(*tokens.shape, sentences.DIMENSION) * sigma * tokens.ne(1).unsqueeze(-1)
    clean = sentences.logits_at(model, sample, 0).detach()
    for _ in range(steps):
        delta = delta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(ell(sentences.logits_at(model, sample, delta), clean).sum(), delta)
        following = [one + eta * g / g.abs().max() for one, g in zip(delta.detach(), gradient)]
        delta = torch.stack(following).clamp(-eps, eps)
    return delta


def squares(first, second):
    return (first - second).square().view(-1)


def flags(eps, sigma, eta, steps):
    values = {"eps": eps, "noise": sigma, "step-size": eta, "steps": steps}
    return [part for name, value in values.items() for part in (f"--smart-{name}", str(value))]


@pytest.mark.parametrize("settings", [(0.1, 0.02, 0.05, 1), (0.05, 0.02, 0.05, 3), (0.05, 0.02, 10, 2)])
@pytest.mark.parametrize("regression", [False, True], ids=["classification", "regression"])
def test_loss_and_gradient(sentence_data, settings, regression):
    criterion, model, sample = sentences.parts(
        sentence_data, NAME, "--smart-lambda", "3", *flags(*settings), regression=regression
    )
    ell = squares if regression else sentences.plain_kl
    delta = adversarial(model, sample, *settings, ell)
    clean = sentences.logits_at(model, sample, 0)
    divergence = ell(sentences.logits_at(model, sample, delta), clean)
    start = ell(sentences.logits_at(model, sample, adversarial(model, sample, *settings[:3], 0, ell)), clean)
    assert divergence.sum() > 1.5 * start.sum()  # the search finds something
    expected = sentences.plain_losses(clean, sample, regression) + 3 * divergence
    log = sentences.assert_same_loss_and_gradient(criterion, model, sample, expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(log["smart_divergence"], divergence.sum().detach(), rtol=1e-3, atol=1e-5)


def test_the_search_of_the_papers_size_climbs(sentence_data):
    """ε = σ = 1e-5: the divergence is tiny, and still larger than at any of 20 random corners of the same ball."""
    criterion, model, sample = sentences.parts(sentence_data, NAME)
    torch.manual_seed(0)
    found = criterion(model, sample)[2]["smart_divergence"]
    corner = torch.full((*sample["net_input"]["src_tokens"].shape, sentences.DIMENSION), 1e-5)
    clean = sentences.logits_at(model, sample, 0)
    torch.manual_seed(1)
    at_noise = [
        sentences.plain_kl(sentences.logits_at(model, sample, corner * torch.randn_like(corner).sign()), clean).sum()
        for _ in range(20)
    ]
    assert found > max(at_noise)


@pytest.mark.parametrize("regression", [False, True], ids=["classification", "regression"])
def test_lambda_zero_is_the_stock_criterion(sentence_data, regression):
    sentences.assert_is_stock(
        sentence_data, NAME, "sentence_prediction", "--smart-lambda", "0", regression=regression
    )


def test_a_small_ball_leaves_the_stock_loss(sentence_data):
    criterion, model, sample = sentences.parts(sentence_data, NAME, *flags(1e-12, 1e-12, 1, 1), "--smart-lambda", "5")
    expected = sentences.plain_losses(sentences.logits_at(model, sample, 0), sample)
    sentences.assert_same_loss_and_gradient(criterion, model, sample, expected)


def test_dropout_is_matched_or_independent(sentence_data):
    for mode, same in (("matched", True), ("independent", False)):
        criterion, model, sample = sentences.parts(sentence_data, NAME, "--smart-dropout", mode, dropout="0.3")
        assert (criterion(model, sample)[2]["smart_divergence"] < 1e-4) == same


def test_without_gradients_the_losses_are_the_same(sentence_data):
    criterion, model, sample = sentences.parts(sentence_data, NAME, *flags(0.1, 0.02, 0.05, 2), dropout="0.2")
    torch.manual_seed(0)
    expected = criterion.sentence_losses(model, sample)
    torch.manual_seed(0)
    with torch.no_grad():
        losses = criterion.sentence_losses(model, sample)
    assert torch.equal(losses, expected.detach()) and not losses.requires_grad


@pytest.mark.parametrize("flag", ["lambda", "eps", "noise", "step-size", "steps"])
def test_bad_settings_are_refused(sentence_data, flag):
    value = "0" if flag == "steps" else "-1"
    with pytest.raises(ValueError, match=f"--smart-{flag} "):
        sentences.parts(sentence_data, NAME, f"--smart-{flag}={value}")


def test_checkpointed_activations_are_refused(sentence_data):
    criterion, model, sample = sentences.parts(sentence_data, NAME)
    model.args.checkpoint_activations = True
    with pytest.raises(ValueError, match="--checkpoint-activations"):
        criterion(model, sample)
