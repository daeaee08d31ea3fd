"""SMART against its formulas: Algorithm 1's inner loop, sentence by sentence, and the proximal point's divergence."""

import copy

import plain
import pytest
import sentences
import torch
import toy

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
    criterion, model, sample = sentences.parts(sentence_data, NAME, "--smart-lambda", "3", *flags(*settings), regression=regression)
    ell = squares if regression else plain.symmetric_kl
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
        plain.symmetric_kl(sentences.logits_at(model, sample, corner * torch.randn_like(corner).sign()), clean).sum()
        for _ in range(20)
    ]
    assert found > max(at_noise)


@pytest.mark.parametrize("regression", [False, True], ids=["classification", "regression"])
def test_lambda_and_mu_zero_are_the_stock_criterion(sentence_data, regression):
    sentences.assert_is_stock(sentence_data, NAME, "sentence_prediction", "--smart-lambda", "0", regression=regression)


def test_a_small_ball_leaves_the_stock_loss(sentence_data):
    criterion, model, sample = sentences.parts(sentence_data, NAME, *flags(1e-12, 1e-12, 1, 1), "--smart-lambda", "5")
    expected = sentences.plain_losses(sentences.logits_at(model, sample, 0), sample)
    sentences.assert_same_loss_and_gradient(criterion, model, sample, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dropout_is_matched_or_independent(sentence_data, dtype):
    for mode, same in (("matched", True), ("independent", False)):
        criterion, model, sample = sentences.parts(sentence_data, NAME, "--smart-dropout", mode, dropout="0.3")
        assert (criterion(model.to(dtype), sample)[2]["smart_divergence"] < 1e-2) == same


def test_without_gradients_the_losses_are_the_same(sentence_data):
    criterion, model, sample = sentences.parts(sentence_data, NAME, *flags(0.1, 0.02, 0.05, 2), dropout="0.2")
    torch.manual_seed(0)
    expected = criterion.sentence_losses(model, sample)
    torch.manual_seed(0)
    with torch.no_grad():
        losses = criterion.sentence_losses(model, sample)
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-5, atol=1e-6)  # torch may choose other kernels
    assert not losses.requires_grad


# ---------------------------------------------------------------------- the proximal point part


@pytest.mark.parametrize("weight", ["0", "3"])
@pytest.mark.parametrize("regression", [False, True], ids=["classification", "regression"])
def test_bregman_loss_and_gradient(sentence_data, weight, regression):
    settings = (0.1, 0.02, 0.05, 1)
    criterion, model, sample = sentences.parts(
        sentence_data, NAME, "--smart-lambda", weight, "--smart-mu", "0.7", "--store-ema", *flags(*settings), regression=regression
    )
    averaged = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in averaged.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    criterion.ema_model = lambda: averaged.requires_grad_(False)
    ell = squares if regression else plain.symmetric_kl
    delta = adversarial(model, sample, *settings, ell)
    clean = sentences.logits_at(model, sample, 0)
    bregman = ell(clean, sentences.logits_at(averaged, sample, 0))
    expected = sentences.plain_losses(clean, sample, regression) + 0.7 * bregman
    if weight != "0":
        expected = expected + float(weight) * ell(sentences.logits_at(model, sample, delta), clean)
    log = sentences.assert_same_loss_and_gradient(criterion, model, sample, expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(log["smart_bregman"], bregman.sum().detach(), rtol=1e-3, atol=1e-5)
    assert log["smart_bregman"] > 0.01


def test_the_averaged_weights_predict_without_dropout(sentence_data):
    criterion, model, sample = sentences.parts(
        sentence_data, NAME, "--smart-lambda", "0", "--smart-mu", "1", "--store-ema", dropout="0.5"
    )
    averaged = copy.deepcopy(model).train()
    criterion.ema_model = lambda: averaged
    torch.manual_seed(0)
    measured = criterion(model, sample)[2]["smart_bregman"]
    torch.manual_seed(0)
    expected = plain.symmetric_kl(
        criterion.predict(model, sample["net_input"])[0], sentences.logits_at(averaged.eval(), sample, 0)
    ).sum()
    torch.testing.assert_close(measured, expected.detach())


@pytest.mark.parametrize("optimizer", [["sgd"], ["sam", "--base-optimizer", "sgd", "--sam-rho", "0.5"]], ids=["sgd", "sam"])
def test_the_average_is_of_the_updates_weights(sentence_data, optimizer):
    """θ̃ of the n-th update is β θ̃ + (1 - β) θ of those before: of w, never of w + ε, and w itself in the first."""
    built = sentences.trainer(
        sentence_data,
        NAME,
        "--optimizer",
        *optimizer,
        "--lr",
        "0.5",
        "--smart-lambda",
        "0",
        "--smart-mu",
        "1",
        "--store-ema",
        "--ema-decay",
        "0.6",
    )
    assert built.get_model().encoder.lm_head.weight is built.get_model().encoder.sentence_encoder.embed_tokens.weight
    seen, predict = [], type(built.get_criterion()).predict_averaged

    def remember(net_input):
        criterion = built.get_criterion()
        seen.append({name: p.clone() for name, p in criterion.ema_model().named_parameters()})
        return predict(criterion, net_input)

    built.get_criterion().predict_averaged = remember
    weights = {name: p.detach().clone() for name, p in built.get_model().named_parameters()}
    average = weights
    for sample in toy.batches(built, [6, 6, 6]):
        del seen[:]
        built.train_step([sample])
        assert len(seen) == (2 if optimizer[0] == "sam" else 1)
        for found in seen:
            for name, value in average.items():
                torch.testing.assert_close(found[name], value, msg=name)
        moved = {name: p.detach().clone() for name, p in built.get_model().named_parameters()}
        assert any(not torch.equal(moved[name], weights[name]) for name in moved)
        weights, average = moved, {name: 0.6 * average[name] + 0.4 * moved[name] for name in moved}


def test_mu_needs_averaged_weights(sentence_data):
    with pytest.raises(ValueError, match="--smart-mu above 0 needs .* --store-ema"):
        sentences.trainer(sentence_data, NAME, "--smart-mu", "1")


@pytest.mark.parametrize("precision", ["--fp16", "--bf16"])
def test_averages_that_would_stand_still_are_refused(sentence_data, precision):
    flags = ["--smart-mu", "1", "--store-ema", precision, "--fp16-no-flatten-grads"]
    with pytest.raises(ValueError, match=f"--smart-mu above 0 needs .* {precision} .* add --ema-fp32"):
        sentences.trainer(sentence_data, NAME, *flags)
    assert sentences.trainer(sentence_data, NAME, *flags, "--ema-fp32")
    assert sentences.trainer(sentence_data, NAME, *flags[2:])  # μ = 0


@pytest.mark.parametrize("precision", ["--fp16", "--bf16"])
def test_the_average_in_half_precision(sentence_data, precision):
    """θ̃ is kept in fp32, and predicts in the model's precision: at β = 0.999 it follows steps far below its spacing."""
    built = sentences.trainer(
        sentence_data,
        NAME,
        "--optimizer",
        "sgd",
        "--lr",
        "0.5",
        "--smart-lambda",
        "0",
        "--smart-mu",
        "1",
        "--store-ema",
        "--ema-decay",
        "0.999",
        "--ema-fp32",
        precision,
        "--fp16-no-flatten-grads",
        "--fp16-init-scale",
        "4",
    )
    name = "classification_heads.sentence_classification_head.out_proj.weight"
    average = built.get_model().get_parameter(name).detach().float()
    for sample in toy.batches(built, [6, 6, 6, 6]):
        log = built.train_step([sample])
        average = 0.999 * average + 0.001 * built.get_model().get_parameter(name).detach().float()
    assert log["smart_bregman"] > 0
    found, served = built.ema.fp32_params[name], built.ema.get_model().get_parameter(name)
    torch.testing.assert_close(found, average, rtol=1e-5, atol=1e-7)
    assert not torch.equal(found.to(served.dtype).float(), found) and torch.equal(served, found.to(served.dtype))


@pytest.mark.parametrize("flag", ["lambda", "mu", "eps", "noise", "step-size", "steps"])
def test_bad_settings_are_refused(sentence_data, flag):
    value = "0" if flag == "steps" else "-1"
    with pytest.raises(ValueError, match=f"--smart-{flag} "):
        sentences.parts(sentence_data, NAME, f"--smart-{flag}={value}")


def test_checkpointed_activations_are_refused(sentence_data):
    criterion, model, sample = sentences.parts(sentence_data, NAME)
    model.args.checkpoint_activations = True
    with pytest.raises(ValueError, match="--checkpoint-activations"):
        criterion(model, sample)
