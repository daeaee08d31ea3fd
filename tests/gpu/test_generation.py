"""Generation after prompts on a GPU: the outputs are a CPU's, and the host seldom waits for the device."""

import copy
import warnings

import pytest
import torch
from on_gpu import needs_gpu

from sharp_plugins.generation import Generator, SearchSettings
from sharp_plugins.networks.decoder import Decoder
from sharp_plugins.networks.decoder_settings import DecoderSettings

pytestmark = needs_gpu("the generator looks at what is done only every few steps there")
PAD, EOS, SYMBOLS = 1, 2, 53
LENGTHS = (3, 14, 1, 8)
# The weights are large, so that outputs differ: rounding in fp32 then moves a CPU's own scores by up to 4e-4 from those of fp64.
# An H100's were up to 1.5e-3 from a CPU's, and from its own with other kernels, in one place of some forty.
ROUNDING = 5e-3


class Model(torch.nn.Module):
    def __init__(self, **settings):
        super().__init__()
        torch.manual_seed(0)
        self.decoder = Decoder(
            DecoderSettings(vocabulary=SYMBOLS, layers=2, width=24, ffn_width=48, heads=6, max_positions=64, **settings)
        )
        with torch.no_grad():
            for p in self.parameters():
                p.mul_(10)

    def max_positions(self):
        return self.decoder.settings.max_positions


class Words:
    def pad(self):
        return PAD

    def eos(self):
        return EOS

    def __len__(self):
        return SYMBOLS


MODELS = {
    "gpt2": {},
    "llama": {"positions": "rotary", "norm": "rms", "activation": "silu", "gated": True, "kv_heads": 2, "attention_bias": False},
}
WAYS = [
    {"beam": 1},
    {"beam": 4, "nbest": 4, "no_repeat_ngram": 2},
    {"beam": 4, "rules": "lora", "no_repeat_ngram": 2, "repetition_penalty": 1.2},
    {"beam": 3, "nbest": 3, "sampling": True, "top_k": 9},
    {"beam": 3, "nbest": 3, "sampling": True, "top_p": 0.8},
]


def prompts():
    rows = torch.full((len(LENGTHS), max(LENGTHS)), PAD)
    for row, length in zip(rows, LENGTHS):
        row[:length] = torch.randint(4, SYMBOLS, (length,), generator=torch.Generator().manual_seed(length))
    return rows


def generate(model, device, rows=slice(None), **way):
    settings = SearchSettings(**{"stops": (EOS, 7, 9), "never": (PAD,), "max_len_b": 45, **way})
    sample = {"net_input": {"src_tokens": prompts()[rows].to(device)}, "id": torch.arange(len(LENGTHS))[rows]}
    return Generator([model], Words(), settings, seed=1).generate([model], sample)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_a_cpu(name, way):
    model = Model(**MODELS[name])
    ours, theirs = generate(copy.deepcopy(model).cuda(), "cuda", **way), generate(model, "cpu", **way)
    for one, other in zip(ours, theirs):
        assert [h["tokens"].tolist() for h in one] == [h["tokens"].tolist() for h in other]
        for a, b in zip(one, other):
            assert torch.allclose(a["positional_scores"], b["positional_scores"], atol=ROUNDING)


@pytest.mark.parametrize("name", MODELS)
def test_guesses_that_are_asked_for_change_nothing(name):
    model = Model(**MODELS[name]).cuda()
    for place in range(len(LENGTHS)):
        rows = slice(place, place + 1)
        [[plain]], [[found]] = (generate(model, "cuda", rows, beam=1, lookup_tokens=guesses) for guesses in (None, 5))
        assert found["tokens"].tolist() == plain["tokens"].tolist()
        assert torch.allclose(found["positional_scores"], plain["positional_scores"], atol=ROUNDING)


@pytest.mark.parametrize("rows", [slice(None), slice(1, 2)], ids=["padded", "one"])
@pytest.mark.parametrize("beam", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_one_pass(name, dtype, beam, rows):
    """With and without grouped keys, padding and beams: each has attention kernels of its own. One pass has no cache."""
    model = Model(**MODELS[name]).eval().to(dtype)
    with torch.no_grad():  # larger weights make much of rounding
        for p in model.parameters():
            p.mul_(0.3)
    found = generate(copy.deepcopy(model).cuda(), "cuda", rows, beam=beam, nbest=beam)
    exact = model.double()
    for prompt, length, hypotheses in zip(prompts()[rows], LENGTHS[rows], found):
        assert len(hypotheses) == beam
        for hypothesis in hypotheses:
            tokens = torch.cat([prompt[:length], hypothesis["tokens"].cpu()])
            scores = exact.decoder(tokens[None, :-1])[0, length - 1 :]
            expected = scores.log_softmax(-1).gather(1, tokens[length:, None])[:, 0]
            tolerance = 1e-4 if dtype == torch.float32 else 32 * torch.finfo(dtype).eps
            torch.testing.assert_close(hypothesis["positional_scores"].cpu().double(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("beam, rows", [(4, slice(None)), (1, slice(None)), (1, slice(1, 2))], ids=["beams", "greedy", "one"])
def test_the_host_waits_every_few_steps_at_most(beam, rows):
    model = Model().cuda()

    def waits(steps):
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                generate(model, "cuda", rows, beam=beam, min_len=steps, max_len_b=steps, no_repeat_ngram=3)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return len(found)

    waits(8)
    assert waits(41) - waits(9) <= 8  # 32 steps more
