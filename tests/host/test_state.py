"""What a checkpoint holds, and which ones are taken. Resuming itself is in tests/integration and tests/contract."""

import types

import torch
import toy

from sharp_plugins.host import state
from sharp_plugins.host.weights import registered_optimizer


def test_a_checkpoint_that_is_saved_at_a_perturbed_point_holds_w(translation_data, tmp_path):
    trainer = toy.build_trainer(translation_data, "--optimizer", "sam", "--lr", "0.1", "--sam-rho", "5")
    trainer.train_step(toy.batches(trainer, [4]))
    w = toy.weights(trainer)
    registered_optimizer(trainer).perturbation.perturb_randomly(0)
    assert not torch.equal(toy.weights(trainer)["encoder.embed_tokens.weight"], w["encoder.embed_tokens.weight"])
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pt"), {})
    saved = torch.load(tmp_path / "checkpoint.pt")["model"]
    toy.assert_same({name: saved[name] for name in w}, w)


def test_the_state_of_other_flattened_weights_is_told():
    """--fp16 makes one parameter of all that trains, and torch takes any state of one parameter for it."""
    p = torch.nn.Parameter(torch.zeros(6))
    for length, fits in ((6, True), (9, False)):
        of_adam = {p: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(length)}}
        assert state._state_fits(types.SimpleNamespace(optimizer=types.SimpleNamespace(state=of_adam))) == fits
