import pytest
import torch

from sharp_plugins.tape import Tape


def encoder():
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.3)
    return torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train()


def test_replay_gives_what_reseeding_gives():
    model, x = encoder(), torch.randn(4, 7, 16)
    torch.manual_seed(3)
    reseeded = model(x)
    torch.manual_seed(3)
    tape = Tape()
    with torch.no_grad(), tape.record():
        recorded = model(x)
    with tape.replay():
        replayed = model(x)
    assert tape.usable and tape.masks
    assert torch.equal(recorded, reseeded) and torch.equal(replayed, reseeded)
    params = list(model.parameters())
    for a, b in zip(torch.autograd.grad(reseeded.sum(), params), torch.autograd.grad(replayed.sum(), params)):
        assert torch.equal(a, b)


def test_other_random_numbers_make_a_tape_unusable():
    tape = Tape()
    with tape.record():
        torch.nn.functional.dropout(torch.ones(3), 0.5)
        torch.randn(2)
    assert not tape.usable


def test_another_pass_than_the_recorded_one_is_noticed():
    tape = Tape()
    with tape.record():
        torch.nn.functional.dropout(torch.ones(3), 0.5)
    for other in (lambda: torch.nn.functional.dropout(torch.ones(4), 0.5), lambda: torch.rand(3)):
        with pytest.raises(RuntimeError, match="recorded"), tape.replay():
            other()
