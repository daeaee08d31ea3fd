import pytest
import torch

from sharp_plugins.networks.rms_norm import RMSNorm


def plain(x, weight, eps):
    wide = x.double()
    return wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (2, 1, 3, 7)])
def test_the_formula_and_its_gradient(shape):
    torch.manual_seed(0)
    norm = RMSNorm(7, eps=1e-2).double()
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(norm(x), plain(x, norm.weight, 1e-2))
    assert torch.autograd.gradcheck(lambda x, weight: torch.func.functional_call(norm, {"weight": weight}, (x,)), (x, norm.weight))


@pytest.mark.parametrize("trains", ["input", "weight"])
def test_one_of_the_two_gradients(trains):
    norm, x = RMSNorm(4, eps=1e-5), torch.randn(3, 4, requires_grad=trains == "input")
    norm.weight.requires_grad_(trains == "weight")
    norm(x).square().sum().backward()
    assert (x.grad is None) == (trains == "weight") and (norm.weight.grad is None) == (trains == "input")


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_the_quotient_is_in_full_precision(dtype, tolerance):
    """The squares of the larger numbers are none of fp16's."""
    norm = RMSNorm(64, eps=1e-5).to(dtype)
    torch.manual_seed(0)
    x = (torch.randn(3, 64) * torch.tensor([[1e-3], [1.0], [1e3]])).to(dtype).requires_grad_()
    y = norm(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), plain(x, norm.weight, 1e-5), rtol=tolerance, atol=tolerance)
    y.sum().backward()
    assert x.grad.dtype == dtype and x.grad.isfinite().all() and norm.weight.grad.isfinite().all()


def test_passes_without_a_gradient():
    """In training they are those with one, bit for bit; else they may take torch's own function."""
    norm, x = RMSNorm(64, eps=1e-5).bfloat16(), torch.randn(3, 64).bfloat16()
    torch.nn.init.normal_(norm.weight)
    expected = norm(x)
    with torch.no_grad():
        assert torch.equal(norm(x), expected)
        torch.testing.assert_close(norm.eval()(x), expected, rtol=0.01, atol=0.01)


def test_a_row_of_zeros_stays_one():
    norm, x = RMSNorm(4, eps=1e-5), torch.zeros(1, 4, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad.isfinite().all() and (norm(x) == 0).all()


def test_a_second_derivative_is_refused_and_not_wrong():
    """As of a penalty on gradients."""
    norm, x = RMSNorm(4, eps=1e-6), torch.randn(3, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(norm(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()
