"""Keys and values of beams: a made-up search through the cache gives what full passes over each beam's tokens give."""

import pytest
import torch
import torch.nn.functional as F
from plain_generation import model_pair, prompts

from sharp_plugins.generation import BeamCache, beam_cache
from sharp_plugins.networks.kv_cache import KVCache

LENGTHS = [3, 9, 1, 6]


def full(model, rows):
    """Features of the last token of each row."""
    return torch.stack([model.decoder.features(torch.tensor([row]))[0, -1] for row in rows])


def before(model, tokens):
    """Keys and values of *tokens*, as a prefix that stands before all prompts."""
    cache = KVCache()
    model.decoder.features(torch.tensor([tokens]), cache)
    return [(k[:, :, : len(tokens)], v[:, :, : len(tokens)]) for k, v in zip(cache.keys, cache.values)]


def read(model, rows, cache, packed):
    """Features of each prompt's last token, of the prompts in *rows*."""
    lengths = torch.tensor(LENGTHS)
    if not packed:
        return model.decoder.features(rows, cache)[torch.arange(len(rows)), lengths - 1]
    return model.decoder.features(rows[torch.arange(rows.size(1)) < lengths[:, None]][:, None], cache)[lengths.cumsum(0) - 1, 0]


@torch.no_grad()
@pytest.mark.parametrize("packed", [False, True], ids=["", "packed"])
@pytest.mark.parametrize("first_steps", [2, 32])
@pytest.mark.parametrize("prefix", [[], [5, 6, 7, 8]], ids=["", "prefix"])
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_steps_equal_full_passes(family, beam, prefix, first_steps, packed, monkeypatch):
    """Beams continue one another at random, sentences leave, and with little room slots are swept out and room is made."""
    monkeypatch.setattr(beam_cache, "FIRST_STEPS", first_steps)
    _, model = model_pair(family)
    generator, rows = torch.Generator().manual_seed(1), prompts(*LENGTHS)
    cache = BeamCache(
        model.decoder.settings, torch.tensor(LENGTHS), beam, 20, torch.float32, before(model, prefix) if prefix else None
    )
    last = read(model, rows, cache, packed)
    texts = [[prefix + row[:length].tolist()] * beam for row, length in zip(rows, LENGTHS)]
    assert torch.allclose(last, full(model, [beams[0] for beams in texts]), atol=1e-5)
    parents = None
    for step in range(20):
        tokens = torch.randint(4, 53, (len(texts), beam), generator=generator)
        if step and beam > 1:
            parents = torch.randint(0, beam, (len(texts), beam), generator=generator)
        chosen = torch.arange(beam).expand(len(texts), -1) if parents is None else parents
        texts = [[text[p] + [t] for p, t in zip(*pair)] for text, pair in zip(texts, zip(chosen.tolist(), tokens.tolist()))]
        if step in (5, 11):  # the last sentence takes the first one's place
            keep = [len(texts) - 1, *range(1, len(texts) - 1)]
            cache.keep(keep)
            texts, tokens, parents = [texts[k] for k in keep], tokens[keep], None if parents is None else parents[keep]
        cache.step(parents)
        # A GPU's kernels copy a mask in each layer that is laid out otherwise.
        assert cache.mask is None or all(stride % 8 == 0 for stride in cache.mask.stride()[:3]), step
        found = model.decoder.features(tokens.reshape(-1, 1), cache)[:, 0]
        assert torch.allclose(found, full(model, [text for beams in texts for text in beams]), atol=2e-5), step


@torch.no_grad()
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_attention_may_lay_its_output_out_as_it_likes(family, beam, monkeypatch):
    """A GPU's kernel for fp32 and for masks returns (B, T, heads, head) in memory, as other kernels may."""

    def other(*given, **more):
        return attention(*given, **more).transpose(1, 2).contiguous().transpose(1, 2)

    _, model = model_pair(family)
    rows, tokens = prompts(*LENGTHS), prompts(*[beam] * 4, seed=1)
    attention, found = F.scaled_dot_product_attention, []
    for layout in (attention, other):
        monkeypatch.setattr(F, "scaled_dot_product_attention", layout)
        cache = BeamCache(model.decoder.settings, torch.tensor(LENGTHS), beam, 1, torch.float32)
        model.decoder.features(rows, cache)
        cache.step(None)
        found.append(model.decoder.features(tokens.reshape(-1, 1), cache))
    torch.testing.assert_close(*found)


def test_slots_that_no_beam_sees_are_swept_out():
    """Where all beams descend from one, the slots are little more than one a step."""
    _, model = model_pair("gpt2")
    cache = BeamCache(model.decoder.settings, torch.tensor([4]), 8, 40, torch.float32)
    with torch.no_grad():
        model.decoder.features(prompts(4), cache)
        for step in range(40):
            cache.step(torch.zeros(1, 8, dtype=torch.int64) if step else None)
            model.decoder.features(torch.full((8, 1), 9), cache)
    assert cache.capacity == 264 and cache.used < 4 + 32 + 8 * 9
