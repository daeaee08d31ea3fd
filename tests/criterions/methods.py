"""The four methods with settings for the tests, and trainers with them."""

import pytest
import sentences
import torch
import toy

from sharp_plugins.criterions import r3f

# Large perturbations, so that a wrong one shows.
SETTINGS = {
    "rdrop": ["--rdrop-alpha", "2"],
    "r3f": ["--r3f-eps", "0.05", "--r3f-lambda", "2"],
    "freelb": ["--freelb-init", "0.4", "--freelb-step-size", "0.3", "--freelb-max-norm", "0.5"],
    "smart": ["--smart-eps", "0.05", "--smart-step-size", "0.05", "--smart-noise", "0.01", "--smart-lambda", "2"],
}
METRICS = {"rdrop": "rdrop_kl", "r3f": "symm_kl", "freelb": "freelb_gap", "smart": "smart_divergence"}
METHODS = pytest.mark.parametrize("method", list(SETTINGS))


def trainer(data, method, *flags, **settings):
    return sentences.trainer(data, f"{method}_sentence_prediction", *SETTINGS[method], *flags, **settings)


def translation_trainer(data, method, *flags, dropout="0"):
    """A trainer of a translation model; without a method, with the stock criterion."""
    name, own = (f"{method}_label_smoothed_cross_entropy", SETTINGS[method]) if method else (toy.CRITERION[1], [])
    criterion = ["--criterion", name, "--label-smoothing", "0.1", *own]
    flags = flags if "--optimizer" in flags else ("--optimizer", "sgd", *toy.SGD, *flags)
    return toy.build_trainer(data, "--dropout", dropout, *flags, criterion=criterion)


def steady_noise(monkeypatch):
    """Noise that is the same for every token, whichever batch it is in."""
    monkeypatch.setattr(r3f, "draw_noise_", lambda z, kind, eps: z.copy_(torch.linspace(-eps, eps, z.size(-1))))
