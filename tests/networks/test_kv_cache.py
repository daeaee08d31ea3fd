import pytest
import torch

from sharp_plugins.networks.decoder import Decoder
from sharp_plugins.networks.decoder_settings import DecoderSettings
from sharp_plugins.networks.kv_cache import BLOCK, KVCache

SMALL = {"vocabulary": 30, "layers": 2, "width": 24, "ffn_width": 24, "heads": 6, "max_positions": 4 * BLOCK}
ROTARY = {"positions": "rotary", "norm": "rms", "activation": "silu", "gated": True, "kv_heads": 2}
KINDS = {"learned": {}, "rotary": ROTARY, "post-norm": {"pre_norm": False, "word_width": 16}}


@pytest.fixture(params=KINDS)
def model(request):
    torch.manual_seed(0)
    model = Decoder(DecoderSettings(**SMALL, **KINDS[request.param])).eval().requires_grad_(False)
    for p in model.parameters():
        p.add_(torch.randn_like(p) * 0.1)
    return model


@pytest.fixture
def tokens():
    return torch.randint(30, (3, 3 * BLOCK), generator=torch.Generator().manual_seed(1))


def read(model, cache, tokens, *lengths):
    parts = [model(part, cache) for part in tokens[:, : sum(lengths)].split(lengths, dim=1)]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("lengths", [(9,), (1, 1, 1, 1), (5, 1, 1), (5, 4, 1, 3), (BLOCK, 1, BLOCK - 1, BLOCK)])
def test_in_parts_as_at_once(model, tokens, lengths):
    cache = KVCache()
    torch.testing.assert_close(read(model, cache, tokens, *lengths), model(tokens[:, : sum(lengths)]), rtol=1e-4, atol=1e-5)
    assert cache.length == cache.read == sum(lengths)


def test_what_is_forgotten_leaves_no_trace(model, tokens):
    cache = KVCache()
    read(model, cache, torch.cat([tokens[:, :5], tokens[:, 9:12]], dim=1), 5, 3)
    cache.forget(3)
    assert cache.length == 5
    torch.testing.assert_close(read(model, cache, tokens[:, 5:9], 2, 2), model(tokens[:, :9])[:, 5:], rtol=1e-4, atol=1e-5)


def test_memory_grows_by_blocks(model, tokens):
    cache = KVCache()
    model(tokens[:, :2], cache)
    first = cache.keys[0]
    assert first.shape == (3, model.settings.kv, BLOCK, 4)
    for column in range(2, BLOCK):
        model(tokens[:, column : column + 1], cache)
    assert cache.keys[0] is first
    model(tokens[:, BLOCK : BLOCK + 1], cache)
    assert cache.keys[0].size(2) == 2 * BLOCK


def test_rows_in_another_order(model, tokens):
    cache, rows = KVCache(), torch.tensor([2, 0, 0, 2])
    model(tokens[:, :6], cache)
    cache.reorder(rows)
    more = torch.tensor([[4], [5], [6], [7]])
    scores = model(more, cache)
    for i, row in enumerate(rows):
        alone = model(torch.cat([tokens[row, :6], more[i]])[None])[0, -1:]
        torch.testing.assert_close(scores[i], alone, rtol=1e-4, atol=1e-5)


def test_what_was_not_written_is_not_looked_at(model, tokens, monkeypatch):
    """New memory holds anything: here not-a-number."""
    new_empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *args, **kwargs: new_empty(*args, **kwargs).fill_(float("nan")))
    cache = KVCache()
    model(tokens[:, :6], cache)
    cache.reorder(torch.tensor([2, 0, 1]))
    scores = read(model, cache, tokens[[2, 0, 1], 6:], 3, 1, BLOCK)
    expected = model(tokens[[2, 0, 1], : 10 + BLOCK])[:, 6:]
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_more_than_the_positions_is_refused(model, tokens):
    cache, most = KVCache(), model.settings.max_positions
    model(tokens[:, :BLOCK], cache)
    with pytest.raises(ValueError, match=f"{most - BLOCK + 1} tokens behind {BLOCK} others are more than the {most} positions"):
        model(tokens[:, :1].expand(-1, most - BLOCK + 1), cache)
    assert cache.length == BLOCK
    assert model(tokens[:, :1].expand(-1, most - BLOCK), cache).isfinite().all()


def test_a_prefix_counts_in_positions(model, tokens):
    """Here the prefix is that of real tokens."""
    whole = KVCache()
    expected = read(model, whole, tokens, 4, 5)[:, 4:]
    prefix = [(k[:, :, :4], v[:, :, :4]) for k, v in zip(whole.keys, whole.values)]
    cache = KVCache(prefix)
    torch.testing.assert_close(read(model, cache, tokens[:, 4:], 3, 2), expected, rtol=1e-4, atol=1e-5)
    assert cache.read == 5 and cache.length == 9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision(model, tokens, dtype):
    model = model.to(dtype)
    cache = KVCache()
    scores = read(model, cache, tokens, 5, 1, 3)
    assert scores.dtype == dtype == cache.keys[0].dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(scores, model(tokens[:, :9]), rtol=8 * eps, atol=8 * eps)


def test_with_autocast(model, tokens):
    cache = KVCache()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = read(model, cache, tokens, 5, 1, 3)
        torch.testing.assert_close(scores.float(), model(tokens[:, :9]).float(), rtol=0.05, atol=0.05)
