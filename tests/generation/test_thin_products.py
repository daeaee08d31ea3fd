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
        (8, 1024, torch.bfloat16, "linear"),
    ],
    ids=str,
)
def test_the_form_depends_on_the_number_of_rows(rows, out, dtype, form, monkeypatch):
    calls = []
    for where, name, of in ((torch, "bmm", "blocks"), (torch, "mm", "columns"), (F, "linear", "linear")):
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
