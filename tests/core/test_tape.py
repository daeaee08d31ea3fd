import torch
from torch.nn.functional import dropout
from torch.utils.checkpoint import checkpoint

from sharp_plugins.core.tape import Tape


def encoder():
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.3)
    return torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train()


def reseeded(function):
    torch.manual_seed(3)
    return function()


def replayed(function):
    """What a second call gives, and how many masks were on the tape."""
    tape = Tape()
    with torch.no_grad(), tape.record():
        reseeded(function)
    torch.manual_seed(3)
    with tape.replay():
        return function(), len(tape.draws)


def assert_same_with_gradients(function, params):
    expected = reseeded(function)
    expected_grads = torch.autograd.grad(expected.sum(), params)
    expected_state = torch.get_rng_state()
    result, masks = replayed(function)
    grads = torch.autograd.grad(result.sum(), params)
    assert masks > 0
    assert torch.equal(result, expected)
    assert all(torch.equal(a, b) for a, b in zip(grads, expected_grads))
    assert torch.equal(torch.get_rng_state(), expected_state)


def test_replay_gives_what_reseeding_gives():
    model, x = encoder(), torch.randn(4, 7, 16)
    assert_same_with_gradients(lambda: model(x), list(model.parameters()))


def test_recomputed_activations_see_the_same_masks():
    model, x = encoder(), torch.randn(4, 7, 16)

    def forward():
        hidden = x
        for layer in model.layers:
            hidden = checkpoint(layer, hidden, use_reentrant=False)
        return hidden

    assert_same_with_gradients(forward, list(model.parameters()))


def test_other_random_functions_draw_what_they_would_have_drawn():
    weight = torch.ones(5, requires_grad=True)
    assert_same_with_gradients(lambda: dropout(weight, 0.5) + torch.randn(5) * dropout(weight, 0.2), [weight])


def test_a_pass_that_differs_draws_for_itself():
    tape = Tape()
    torch.manual_seed(3)
    with tape.record():
        dropout(torch.ones(50), 0.5)
        dropout(torch.ones(60), 0.5)

    def other():
        return torch.cat([dropout(torch.ones(50), 0.5), dropout(torch.ones(7), 0.5), dropout(torch.ones(60), 0.5)])

    torch.manual_seed(3)
    with tape.replay():
        result = other()
    assert torch.equal(result, reseeded(other))
