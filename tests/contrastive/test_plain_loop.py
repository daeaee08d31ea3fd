"""Updates of SAM and δ-SAM with the contrastive losses, against plain PyTorch with the losses' formulas."""

import copy

import pairs
import plain
import pytest
import torch
import torch.nn.functional as F
import toy

from sharp_plugins.contrastive import criterion as contrastive

RHO, BETA, TEMPERATURE, EPSILON, LAMBDA = 0.5, 3.0, 0.2, 0.5, 2.0


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return pairs.write_backbone(tmp_path_factory.mktemp("pairs"))


def embedding_of(model):
    [words] = [module for name, module in model.named_modules() if name.endswith("embed_tokens")]
    return words


def log_p(model, tokens, noise=None):
    """(2N, 2N) of each of the 2N texts to find another one, by the cosines of the first symbols' vectors."""
    add = embedding_of(model).register_forward_hook(lambda module, given, output: output + noise) if noise is not None else None
    vectors = F.normalize(model(tokens, features_only=True)[0][:, 0], dim=1)
    if add:
        add.remove()
    return (vectors @ vectors.T / TEMPERATURE).fill_diagonal_(-torch.inf).log_softmax(1)


def losses_of(with_r3f):
    """(N,) of each pair: the mean of its two anchors."""

    def losses(model, sample):
        tokens = sample["net_input"]["src_tokens"]
        count, found = len(tokens) // 2, log_p(model, tokens)
        anchors = -found[torch.arange(2 * count), torch.arange(2 * count).roll(count)]
        if with_r3f:
            z = torch.linspace(-EPSILON, EPSILON, embedding_of(model).embedding_dim) * tokens.ne(1).unsqueeze(-1)
            itself = torch.eye(2 * count, dtype=torch.bool)
            p, q = (one.masked_fill(itself, 0) for one in (found, log_p(model, tokens, z)))
            anchors = anchors + LAMBDA * ((p.exp() - q.exp()) * (p - q)).sum(1)
        return anchors.view(2, count).mean(0)

    return losses


@pytest.mark.parametrize("criterion", ["contrastive", "r3f_contrastive"])
@pytest.mark.parametrize("optimizer", ["sam", "dsam"])
def test_an_update_is_that_of_a_plain_loop(backbone, monkeypatch, optimizer, criterion):
    with_r3f, name = criterion.startswith("r3f"), ["--optimizer", optimizer, "--base-optimizer", "sgd", "--sam-rho", str(RHO)]
    if with_r3f:  # noise that is the same for each word, whichever batch it is in
        steady = lambda z, kind, eps: z.copy_(torch.linspace(-eps, eps, z.size(-1)))  # noqa: E731
        monkeypatch.setattr(contrastive, "draw_noise_", steady)
    flags = [*name, "--pooling", "cls", "--contrastive-temperature", str(TEMPERATURE), "--dropout", "0", "--attention-dropout", "0"]
    flags += ["--r3f-eps", str(EPSILON), "--r3f-lambda", str(LAMBDA)] if with_r3f else []
    flags += ["--dsam-beta", str(BETA)] if optimizer == "dsam" else []
    trainer = pairs.trainer(backbone, *flags, criterion=criterion)
    sample, start = pairs.sample(trainer), copy.deepcopy(trainer.get_model())
    method = plain.SAM(RHO) if optimizer == "sam" else plain.DSAM(RHO, BETA)
    points = []
    with toy.random_points(trainer, points):
        trainer.train_step([sample])
    method.points = points  # δ-SAM's is random
    objective = plain.OfLosses(losses_of(with_r3f), trainer.cfg.common.seed)
    expected = plain.train(start, objective, [[sample]], method, lr=0.1)
    toy.assert_close(trainer, expected, 2e-4)
    for other in (plain.Base(), plain.SAM(RHO))[: 2 if optimizer == "dsam" else 1]:  # it can fail: these end elsewhere
        elsewhere = plain.train(start, objective, [[sample]], other, lr=0.1)
        assert max((elsewhere[name] - expected[name]).abs().max() for name in expected) > 1e-3
