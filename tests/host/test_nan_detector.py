"""After gradients that are no finite numbers: which module fairseq names, and what the user reads."""

import itertools

import pytest
import torch
import toy
from fairseq import nan_detector

from sharp_plugins import host


def poisoned(trainer, module, direction, value=float("nan")):
    """The trainer, with a *module* of its model that puts *value* into what it returns, or into the gradient of that."""

    def forward(_, inputs, output):
        where = torch.zeros_like(output)
        where.view(-1)[0] = value
        if direction == "forward":
            return output + where
        output.register_hook(lambda gradient: gradient + where)
        return output

    trainer.get_model().get_submodule(module).register_forward_hook(forward)
    return trainer


@pytest.fixture
def told(monkeypatch):
    """What fairseq says of modules at fault, whatever levels other tests' programs have given its loggers."""
    messages = []
    monkeypatch.setattr(nan_detector.logger, "warning", messages.append)
    return messages


@pytest.fixture
def advice(monkeypatch):
    """What the plugin says."""
    messages = []
    monkeypatch.setattr(host.nan_detector.logger, "error", messages.append)
    return messages


@pytest.mark.parametrize("value, word", [(float("nan"), "NaN"), (float("inf"), "Inf")])
@pytest.mark.parametrize("optimizer", ["sgd", "sam", "dsam"])
def test_the_module_whose_output_is_at_fault_is_named(translation_data, tmp_path, told, optimizer, value, word):
    trainer = toy.build_trainer(translation_data, "--optimizer", optimizer, *toy.SGD, "--save-dir", tmp_path)
    poisoned(trainer, "encoder.layers.0.fc2", "forward", value)
    with pytest.raises(FloatingPointError, match="gradients are Nan/Inf"):
        trainer.train_step(toy.batches(trainer, [4, 4]))
    assert told[0].startswith(f"{word} detected in output of encoder.layers.0.fc2, shape: ")
    assert "forward" in told[0]


def test_the_module_whose_gradient_is_at_fault_is_named(translation_data, tmp_path, told):
    """Of the gradients, those near the loss come first. After the encoder, whose output is a dict of lists, all are finite."""
    trainer = toy.build_trainer(translation_data, *toy.SGD, "--optimizer", "sgd", "--save-dir", tmp_path)
    poisoned(trainer, "encoder.layers.0.self_attn_layer_norm", "backward")
    with pytest.raises(FloatingPointError, match="gradients are Nan/Inf"):
        trainer.train_step(toy.batches(trainer, [4]))
    [message] = told
    assert message.startswith("NaN detected in output of encoder.layers.0.self_attn") and message.endswith("backward")


@pytest.mark.parametrize("optimizer, advised", [("sgd", False), ("sam", True), ("dsam", True)])
def test_a_method_that_climbs_names_its_radius(translation_data, tmp_path, advice, told, optimizer, advised):
    trainer = toy.build_trainer(translation_data, "--optimizer", optimizer, *toy.SGD, "--save-dir", tmp_path)
    # The pass of this number is at w + ε, where there is one. fairseq's search comes after it, at w.
    fc2, passes = trainer.get_model().encoder.layers[0].fc2, {"sgd": 0, "sam": 1, "dsam": 2}[optimizer]
    seen = itertools.count()
    fc2.register_forward_hook(lambda module, inputs, output: output * (float("nan") if next(seen) == passes else 1))
    with pytest.raises(FloatingPointError):
        trainer.train_step(toy.batches(trainer, [4]))
    assert ["finite without the perturbation: a smaller --sam-rho may help" in message for message in advice] == [True] * advised
    assert not told


def test_another_workers_gradient_may_be_why(advice):
    for is_alone in (True, False):
        with (
            pytest.raises(FloatingPointError),
            host.nan_detector.advised_of_the_radius({"sam_grad_norm": torch.ones(())}, is_alone),
        ):
            raise FloatingPointError("gradients are Nan/Inf")
    assert ["unless another worker says" in message for message in advice] == [False, True]


@pytest.mark.parametrize("optimizer", ["sam", "dsam"])
def test_the_radius_has_no_part_in_what_fails_without_it(translation_data, tmp_path, advice, optimizer):
    trainer = toy.build_trainer(translation_data, "--optimizer", optimizer, *toy.SGD, "--save-dir", tmp_path)
    poisoned(trainer, "encoder.layers.0.fc2", "forward")
    with pytest.raises(FloatingPointError):
        trainer.train_step(toy.batches(trainer, [4]))
    [message] = advice
    assert message.startswith("the gradients are Nan/Inf without the perturbation, too: --sam-rho is not why")


def test_gradients_that_differ_between_workers_are_no_matter_of_the_radius(translation_data, tmp_path, advice, told, monkeypatch):
    trainer = toy.build_trainer(translation_data, "--optimizer", "sam", *toy.SGD, "--save-dir", tmp_path)

    def inconsistent(norm):
        raise FloatingPointError("Fatal error: gradients are inconsistent between workers.")

    monkeypatch.setattr(trainer, "_check_grad_norms", inconsistent)
    with pytest.raises(FloatingPointError, match="inconsistent"):
        trainer.train_step(toy.batches(trainer, [4]))
    assert not advice and not told
