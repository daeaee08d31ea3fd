"""A model of which a part is on the CPU."""

import pytest
import torch
from on_gpu import DEVICE, needs_gpu
from torch import nn

from sharp_plugins.core.perturbation import Perturbation

pytestmark = needs_gpu("one norm runs over both devices, and each device wants it")


@pytest.mark.parametrize("first, second", [("cpu", DEVICE), (DEVICE, "cpu")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("measure", [False, True])
def test_weights_on_two_devices(first, second, dtype, measure):
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(5, 3).to(device, dtype)) for device in (first, second, first)]
    before = [p.detach().clone() for p in params]
    grads = [torch.randn_like(p) for p in params]
    norm = torch.cat([g.double().cpu().view(-1) for g in grads]).norm()
    there = Perturbation(params, rho=0.5, rounding="nearest")
    for p, g in zip(params, grads):
        p.grad = g.clone()
    tolerance = dict(rtol=2e-2, atol=2e-2) if dtype == torch.bfloat16 else {}
    with there.climb(measure=measure):
        for p, w, g in zip(params, before, grads):
            expected = w.double() + 0.5 * g.double() / norm.to(g.device)
            torch.testing.assert_close(p.detach(), expected.to(dtype), **tolerance)
    with there.perturb_randomly(1):
        moved = torch.cat([(p.detach() - w).double().cpu().view(-1) for p, w in zip(params, before)])
        assert moved.norm().item() == pytest.approx(0.5, rel=1e-4 if dtype == torch.float32 else 0.1)
    assert all(torch.equal(p, w) for p, w in zip(params, before))
