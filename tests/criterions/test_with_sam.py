"""The criterions under SAM and δ-SAM, against plain PyTorch; and that all passes of an update see the same loss."""

import copy

import plain
import pytest
import torch
import toy
from fairseq import utils
from fairseq.logging import metrics
from methods import METHODS, steady_noise, trainer, translation_trainer

from sharp_plugins.core.perturbation import Perturbation
from sharp_plugins.host.passes import Passes

RHO = 0.05
SAM = ["--base-optimizer", "sgd", "--lr", "0.5", "--sam-rho", str(RHO)]


def random_change(built, samples):
    """The random perturbation of the coming update, read off a twin's weights."""
    twin = copy.deepcopy(built.get_model())
    ball = Perturbation(twin.parameters(), RHO)
    before = [p.detach().clone() for p in ball.params]
    with ball.perturb_randomly(Passes(built, samples, False, False).seed):
        return [p.detach() - w for p, w in zip(ball.params, before)]


def plain_update(built, sample, losses, optimizer):
    """The weights after one update, given ``losses(model, sample)``; every pass begins at the update's seed."""
    model = copy.deepcopy(built.get_model()).train()
    seed = built.cfg.common.seed

    def seeded(model):
        with utils.set_torch_seed(seed):
            return losses(model, sample)

    clean = seeded(model)
    weights = torch.full_like(clean, 1 / len(clean)).detach()
    if optimizer == "dsam":
        noisy = seeded(plain.shifted(model, random_change(built, [sample])))
        weights = plain.dsam_weights((noisy - clean).detach(), 3.0)
    above = plain.shifted(model, plain.epsilon(model, (weights * clean).sum(), RHO))
    grads = plain.gradients(seeded(above).sum() / built.get_criterion()(model, sample)[1], above)
    with torch.no_grad():
        for p, g in zip(plain.trainable(model), grads):
            p.sub_(0.5 * g)
    return model.state_dict()


def translation_losses(method):
    def losses(model, sample):
        inputs, total = sample["net_input"], []
        if method == "rdrop":
            output = model(**{name: torch.cat([value, value]) for name, value in inputs.items()})[0]
            first, second = output.chunk(2)
        else:
            embedded = torch.nn.functional.embedding(inputs["src_tokens"], model.encoder.embed_tokens.weight)
            z = torch.linspace(-0.05, 0.05, embedded.size(-1)) * inputs["src_tokens"].ne(1).unsqueeze(-1)
            first, second = (
                model.decoder(
                    inputs["prev_output_tokens"],
                    encoder_out=model.encoder(inputs["src_tokens"], inputs["src_lengths"], token_embeddings=e),
                )[0]
                for e in (embedded, embedded + z)
            )
        for row, target in enumerate(sample["target"]):
            real = target.ne(1)

            def smoothed(logits):
                log_p = logits[row, real].log_softmax(-1)
                other = 0.1 / (log_p.size(-1) - 1)
                right = log_p.gather(1, target[real].unsqueeze(1)).sum()
                return -((0.9 - other) * right + other * log_p.sum())

            kl = plain.symmetric_kl(first[row, real], second[row, real]).sum()
            both = smoothed(first) + (smoothed(second) if method == "rdrop" else 0)
            total.append(both + (kl if method == "rdrop" else 2 * kl))
        return torch.stack(total)

    return losses


@pytest.mark.parametrize("optimizer", ["sam", "dsam"])
@pytest.mark.parametrize("method, dropout", [("rdrop", "0.3"), ("r3f", "0")])
def test_updates_of_translation_equal_a_plain_loop(translation_data, monkeypatch, method, dropout, optimizer):
    steady_noise(monkeypatch)
    built = translation_trainer(translation_data, method, "--optimizer", optimizer, *SAM, dropout=dropout)
    (sample,) = toy.batches(built, [8])
    expected = plain_update(built, sample, translation_losses(method), optimizer)
    built.train_step([sample])
    toy.assert_close(built, expected, tolerance=2e-4)


@METHODS
@pytest.mark.parametrize("sizes", [[8], [3, 5]], ids=["one batch", "micro-batches"])
def test_both_losses_of_dsam_see_the_same_dropout_noise_and_start(sentence_data, method, sizes):
    """At ρ → 0 with matched dropout neither Eq. 3 nor the ascent changes a loss; masks and noise of their own would."""
    built = trainer(sentence_data, method, "--optimizer", "dsam", *SAM[:-1], "1e-7", dropout="0.3")
    samples = toy.batches(built, sizes)
    passes = Passes(built, samples, False, False)
    noisy = torch.cat(passes.instance_losses_without_grad())
    clean = torch.cat(passes.instance_losses())
    torch.testing.assert_close(noisy, clean.detach(), rtol=0, atol=1e-5)
    with metrics.aggregate() as shown:
        built.train_step(samples)
    assert abs(shown["sam_gap"].avg.item()) < 1e-4
    assert built.get_num_updates() == 1


@METHODS
def test_the_tape_of_masks_also_keeps_noise_and_random_rounding(sentence_data, method):
    """In fp16 the sum of embeddings and noise is rounded at random, between the masks that δ-SAM replays on a CPU."""
    flags = ["--optimizer", "dsam", *SAM, "--fp16", "--fp16-no-flatten-grads"]
    built = trainer(sentence_data, method, *flags, dropout="0.3")
    passes = Passes(built, toy.batches(built, [8]), False, False)
    (noisy,) = passes.instance_losses_without_grad()
    assert passes.tape.draws
    with torch.no_grad():  # as the first pass was made: with gradients torch may choose other kernels
        (again,) = passes.instance_losses()
    assert torch.equal(noisy, again)
    passes.instance_losses_without_grad()
    (clean,) = passes.instance_losses()
    assert clean.requires_grad
    torch.testing.assert_close(clean.detach(), noisy, rtol=5e-3, atol=5e-3)
