"""Parameters: of several shapes without a model, their gradients, and where they are; a model's as after training."""

import torch

HALF = [torch.float16, torch.bfloat16]


def parameters(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(64, 33), (7,), (5, 3, 2), ()]
    return [torch.nn.Parameter((torch.randn(s, generator=generator) * 0.05).to(dtype)) for s in shapes]


def give_gradients(params, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
    return [p.grad.clone() for p in params]


def as_after_training(model, seed=5, by=0.3):
    """Change all that trains in *model* at random."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(by * torch.randn_like(p))
    return model


def flat(tensors):
    return torch.cat([t.detach().double().reshape(-1) for t in tensors])


def copies(params):
    return [p.detach().clone() for p in params]


def assert_home(params, w):
    assert all(torch.equal(p.detach(), home) for p, home in zip(params, w))
