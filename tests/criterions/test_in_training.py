"""All criterions in fairseq's trainer: validation, metrics, half precision, micro-batches."""

import copy
import math

import pytest
import sentences
import torch
import toy
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.logging import metrics
from methods import METHODS, METRICS, SETTINGS, steady_noise, trainer, translation_trainer

from sharp_plugins.criterions import freelb, r3f, smart, supported_criterions


def test_all_are_registered_and_support_dsam():
    names = {f"{method}_sentence_prediction" for method in SETTINGS}
    names |= {f"{method}_label_smoothed_cross_entropy" for method in ("rdrop", "r3f")}
    assert names <= set(CRITERION_REGISTRY) and names <= set(supported_criterions())


@METHODS
def test_another_task_is_refused(translation_data, method):
    criterion = ["--criterion", f"{method}_sentence_prediction"]
    with pytest.raises(ValueError, match="--task TranslationTask does not have: use --task sentence_prediction"):
        toy.build_trainer(translation_data, *toy.SGD, "--optimizer", "sgd", criterion=criterion)


# ---------------------------------------------------------------------- validation and metrics


@METHODS
@pytest.mark.parametrize("regression", [False, True], ids=["classification", "regression"])
def test_validation_is_the_stock_criterions(sentence_data, method, regression):
    ours = trainer(sentence_data, method, regression=regression, dropout="0.3")
    stock = sentences.trainer(sentence_data, "sentence_prediction", regression=regression)
    (sample,) = toy.batches(ours, [6])
    model = ours.get_model().eval()
    with torch.no_grad():
        logs = [built.get_criterion()(model, sample)[2] for built in (ours, stock)]
        losses = ours.get_criterion().sentence_losses(model, sample)
    assert logs[0] == logs[1]
    torch.testing.assert_close(losses.sum(), logs[1]["loss"])


@pytest.mark.parametrize("method", ["rdrop", "r3f"])
def test_validation_is_the_stock_criterions_in_translation(translation_data, method):
    ours, stock = (translation_trainer(translation_data, name, "--dropout", "0.3") for name in (method, None))
    (sample,) = toy.batches(ours, [5])
    logs = [built.get_criterion()(ours.get_model().eval(), sample)[2] for built in (ours, stock)]
    assert logs[0] == logs[1]


@METHODS
def test_metrics_are_logged_by_sample_size(sentence_data, method):
    built = trainer(sentence_data, method, dropout="0.3")
    samples = toy.batches(built, [6, 2])
    criterion, model = built.get_criterion(), copy.deepcopy(built.get_model()).train()
    built._set_seed()
    logs = [criterion(model, sample)[2] for sample in samples]
    with metrics.aggregate() as shown:
        built.train_step(samples)
    total = sum(log[METRICS[method]] for log in logs)
    assert total != 0
    torch.testing.assert_close(shown[METRICS[method]].avg, total / 8)
    torch.testing.assert_close(shown["loss"].avg, sum(log["loss"] for log in logs) / 8 / math.log(2))
    assert shown["accuracy"].avg == pytest.approx(100 * sum(log["ncorrect"].item() for log in logs) / 8)
    assert criterion.logging_outputs_can_be_summed()


@pytest.mark.parametrize("module", [r3f, freelb, smart], ids=["r3f", "freelb", "smart"])
def test_padding_is_not_moved(sentence_data, monkeypatch, module):
    """By no method: a model of one's own may not hide its padding as well as fairseq's do."""
    built = trainer(sentence_data, module.__name__.split(".")[-1])
    (sample,) = toy.batches(built, [6])
    seen, perturbed = [], module.perturbed
    monkeypatch.setattr(module, "perturbed", lambda model, delta: (seen.append(delta), perturbed(model, delta))[1])
    built.get_criterion()(built.get_model().train(), sample)
    padding = sample["net_input"]["src_tokens"].eq(1)
    assert padding.any() and seen
    for delta in seen:
        for rows in delta.detach().split(6):  # R3F's first half is the clean one
            assert (rows[padding] == 0).all()
        assert (rows[~padding] != 0).all(-1).float().mean() > 0.9


# ---------------------------------------------------------------------- precision and micro-batches


@METHODS
@pytest.mark.parametrize("flag", ["--fp16", "--bf16"])
@pytest.mark.parametrize("regression", [False, True], ids=["classification", "regression"])
def test_half_precision_trains(sentence_data, method, flag, regression):
    flags = ["--optimizer", "adam", "--lr", "0.01", flag, "--fp16-no-flatten-grads", "--fp16-init-scale", "4"]
    built = trainer(sentence_data, method, *flags, regression=regression, dropout="0.1")
    before = toy.weights(built)
    seen = []
    for _ in range(6):
        with metrics.aggregate() as shown:
            built.train_step(toy.batches(built, [16, 16]))
        seen.append((float(shown["loss"].avg), float(shown[METRICS[method]].avg)))
    assert built.get_num_updates() == 6  # no overflow
    assert all(math.isfinite(number) for pair in seen for number in pair)
    assert all(value.isfinite().all() for value in toy.weights(built).values())
    assert seen[-1][0] < seen[0][0]
    name = "classification_heads.sentence_classification_head.dense.weight"
    assert not torch.equal(before[name], toy.weights(built)[name])


@METHODS
def test_half_precision_computes_the_same_loss(sentence_data, method):
    built = trainer(sentence_data, method, "--smart-dropout=matched" if method == "smart" else "--seed=7")
    (sample,) = toy.batches(built, [16])
    criterion, model = built.get_criterion(), built.get_model().train()
    torch.manual_seed(0)
    expected = criterion.sentence_losses(model, sample)
    torch.manual_seed(0)
    losses = criterion.sentence_losses(copy.deepcopy(model).half(), sample)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, expected, rtol=3e-2, atol=1e-2)


@pytest.mark.parametrize("method", ["rdrop", "r3f", "freelb"])
def test_micro_batches_give_the_update_of_the_whole_batch(sentence_data, monkeypatch, method):
    steady_noise(monkeypatch)
    ends = []
    for sizes in ([12], [3, 5, 4]):
        built = trainer(sentence_data, method, *(["--freelb-init", "0"] if method == "freelb" else []))
        built.train_step(toy.batches(built, sizes))
        ends.append(toy.weights(built))
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-4, atol=1e-6)
