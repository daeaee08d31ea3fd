"""Products of few rows: the same numbers as torch's linear layer, in each form."""

import pytest
import torch
import torch.nn.functional as F
from plain_generation import batch, dictionary, model_pair, prompts

from sharp_plugins.generation import Generator, SearchSettings, thin_products


@pytest.mark.parametrize("outputs", [5, 64, 131])
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("rows", [1, 3, 4, 12, 13, 48, 49])
def test_a_product_is_that_of_a_linear_layer(rows, bias, outputs, monkeypatch):
    monkeypatch.setattr(thin_products, "SMALL", 0)
    x, weight = torch.randn(rows, 1, 7), torch.randn(7, outputs).t()  # not in order
    bias = torch.randn(outputs) if bias else None
    found = thin_products.thin_product(x, weight, bias)
    assert found.shape == (rows, 1, outputs)
    torch.testing.assert_close(found, F.linear(x, weight, bias))


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("rows, large", [(1, 1 << 23), (1, 0), (2, 0), (64, 0), (65, 0)])
def test_a_product_in_bf16_is_the_rounded_one_of_fp32(rows, large, bias, monkeypatch):
    monkeypatch.setattr(thin_products, "LARGE", large)
    x, weight = torch.randn(rows, 1, 70).bfloat16(), torch.randn(131, 70).bfloat16()
    bias = torch.randn(131).bfloat16() if bias else None
    found = thin_products.thin_product(x, weight, bias)
    assert found.shape == (rows, 1, 131) and found.dtype == torch.bfloat16
    exact = F.linear(x.double(), weight.double(), bias if bias is None else bias.double())
    torch.testing.assert_close(found.double(), exact, rtol=2**-7, atol=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("is_there", [True, False])
def test_half_precision_is_left_to_torch_where_the_processor_has_none(dtype, is_there, monkeypatch):
    monkeypatch.setattr(thin_products, "has_bf16", lambda: is_there)
    layer = torch.nn.Linear(4, 3).to(dtype)
    with thin_products.thin_products(layer):
        served = "forward" in vars(layer)
    assert served == (dtype == torch.float32 or (dtype == torch.bfloat16 and is_there))


@pytest.mark.parametrize(
    "rows, out, dtype, form",
    [
        (3, 1024, torch.float32, "linear"),
        (4, 1024, torch.float32, "blocks"),
        (12, 1024, torch.float32, "blocks"),
        (13, 1024, torch.float32, "columns"),
        (48, 1024, torch.float32, "columns"),
        (49, 1024, torch.float32, "linear"),
        (8, 512, torch.float32, "linear"),
        (1, 1024, torch.bfloat16, "vector"),
        (1, 1 << 14, torch.bfloat16, "columns"),
        (2, 512, torch.bfloat16, "columns"),
        (64, 1024, torch.bfloat16, "columns"),
        (65, 1024, torch.bfloat16, "linear"),
        (8, 1024, torch.float16, "linear"),
    ],
    ids=str,
)
def test_the_form_depends_on_the_number_of_rows(rows, out, dtype, form, monkeypatch):
    calls = []
    for where, name, of in ((torch, "bmm", "blocks"), (torch, "mm", "columns"), (torch, "mv", "vector"), (F, "linear", "linear")):
        function = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *given, _f=function, _of=of: calls.append(_of) or _f(*given))
    thin_products.thin_product(torch.zeros(rows, 512, dtype=dtype), torch.zeros(out, 512, dtype=dtype))
    assert calls == [form]


@pytest.mark.parametrize("count", [4, 13])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_outputs_do_not_depend_on_the_form(family, count, monkeypatch):
    monkeypatch.setattr(thin_products, "SMALL", 0)
    _, model = model_pair(family)
    rows, choice = prompts(*[6] * count), SearchSettings(stops=(2,), never=(1,), beam=1, max_len_b=9)
    together = Generator([model], dictionary(), choice).generate([model], batch(rows))
    for row, [hypothesis] in zip(rows, together):
        [[alone]] = Generator([model], dictionary(), choice).generate([model], batch(row[None]))
        assert alone["tokens"].tolist() == hypothesis["tokens"].tolist()
        torch.testing.assert_close(alone["positional_scores"], hypothesis["positional_scores"], atol=1e-4, rtol=0)
