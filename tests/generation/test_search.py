"""The rules of search: against a plain search, and on made-up probabilities."""

import math

import pytest
import torch
from plain_generation import EOS, PAD, batch, dictionary, model_pair, prompts, scores_after, search

from sharp_plugins.core.setting_error import SettingError
from sharp_plugins.generation import BeamSearch, Generator, GreedySearch, Sampling, SearchSettings
from sharp_plugins.generation.next_symbol import BLOCK, NextSymbol, largest

LENGTHS = (3, 14, 1, 8)
CHOICES = [
    {"beam": 4, "nbest": 4, "no_repeat_ngram": 2},
    {"beam": 3, "nbest": 3, "no_repeat_ngram": 1, "length_penalty": 0.0},
    {"beam": 1, "no_repeat_ngram": 3, "repetition_penalty": 1.5},
    {"beam": 4, "nbest": 2, "repetition_penalty": 0.7, "temperature": 2.0, "min_len": 4},
    {"beam": 3, "normalize": False, "min_len": 0},
    {"rules": "lora", "beam": 4, "length_penalty": 0.8, "no_repeat_ngram": 2, "min_len": 0},
    {"rules": "lora", "beam": 5, "length_penalty": -0.5, "no_repeat_ngram": 4, "min_len": 3},
    {"rules": "lora", "beam": 3, "nbest": 3, "length_penalty": 2.0, "repetition_penalty": 1.3},
    {"rules": "lora", "beam": 1, "normalize": False},
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_beam_search_follows_its_rules(family, choice):
    _, model = model_pair(family)
    settings = SearchSettings(stops=(EOS, 7, 9, 11), never=(PAD,), max_len_b=10, **choice)
    rows = prompts(*LENGTHS)
    found = Generator([model], dictionary(), settings).generate([model], batch(rows))
    for row, length, hypotheses in zip(rows.tolist(), LENGTHS, found):
        wanted = search(lambda output, row=row, length=length: scores_after(model, row[:length], output), settings, 10)
        assert [hypothesis["tokens"].tolist() for hypothesis in hypotheses] == [output for _, output in wanted]
        assert [float(hypothesis["score"]) for hypothesis in hypotheses] == pytest.approx([s for s, _ in wanted], rel=1e-5)


def test_loras_rules_and_fairseqs_differ():
    _, model = model_pair("gpt2")
    found = []
    for rules in ("fairseq", "lora"):
        settings = SearchSettings(stops=(EOS, 7, 9, 11), never=(PAD,), max_len_b=10, rules=rules, no_repeat_ngram=1)
        found.append(Generator([model], dictionary(), settings).generate([model], batch(prompts(*LENGTHS))))
    assert any(float(one[0]["score"]) != pytest.approx(float(other[0]["score"])) for one, other in zip(*found))


# ---------------------------------------------------------------------- single symbols


@pytest.mark.parametrize("symbols", [5, BLOCK, 10 * BLOCK, 10 * BLOCK + 7])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_largest_is_topk(symbols, k):
    scores = torch.randn(9, symbols)
    scores[0] = -math.inf
    scores[1, :-1] = -math.inf  # what is left of the blocks
    values, indices = largest(scores, k)
    k = min(k, symbols)
    assert torch.equal(values, scores.topk(k).values) and torch.equal(scores.gather(1, indices), values)
    assert torch.equal(indices[2:], scores[2:].topk(k).indices)


def test_largest_on_a_device_has_the_same_shapes():
    values, indices = largest(torch.empty(9, 700, device="meta"), 1)
    assert values.shape == indices.shape == (9, 1) and indices.dtype == torch.int64


def test_the_unknown_symbol_is_less_likely_or_impossible():
    for penalty in (0.5, math.inf):
        scores = torch.zeros(1, 4)
        NextSymbol(SearchSettings(stops=(2,), unk=3, unk_penalty=penalty, min_len=0), scores.device).log_total(
            scores, torch.empty(1, 0, dtype=torch.int64)
        )
        assert scores.tolist() == [[0, 0, 0, -penalty]]


def test_fewer_symbols_than_beams():
    settings = SearchSettings(stops=(2,), beam=6, nbest=6, max_len_b=2, min_len=0, length_penalty=0.0)
    search = BeamSearch(settings, torch.tensor([2]))
    while not search.done.all():
        search.step(torch.zeros(1, 1 if search.length == 0 else 6, 3))
    best, *others = [h.tokens.tolist() for h in search.hypotheses([0])[0]]
    assert best == [2] and len({tuple(tokens) for tokens in others}) == 5
    assert all(len(tokens) == 2 and tokens[0] != 2 for tokens in others)


@pytest.mark.parametrize("choice", [{}, {"stops": (2, 5, 9), "length_penalty": 0.5}, {"repetition_penalty": 1.4}], ids=str)
def test_greedy_search_is_beam_search_with_one_beam(choice):
    settings = SearchSettings(**{"stops": (2,), "never": (1,), "beam": 1, "min_len": 2, "no_repeat_ngram": 2, **choice})
    limits, found = torch.tensor([9, 4, 12]), []
    assert settings.is_greedy
    for kind in (GreedySearch, BeamSearch):
        way, generator = kind(settings, limits), torch.Generator().manual_seed(0)
        while way.length < 12:
            way.step(torch.randn(3, 1, 12, generator=generator))
        found.append([hypothesis for [hypothesis] in way.hypotheses(range(3))])
    for greedy, one_beam in zip(*found):
        assert greedy.tokens.tolist() == one_beam.tokens.tolist()
        assert torch.equal(greedy.log_probabilities, one_beam.log_probabilities)
        assert greedy.score == pytest.approx(one_beam.score)


@pytest.mark.parametrize("symbols", [6, 40, 700])
def test_unfinished_output_is_the_one_that_went_furthest(symbols):
    """Beams die at different steps; what the model says after dead ones does not count."""
    search = BeamSearch(SearchSettings(stops=(0,), beam=4, min_len=9, max_len_b=9), torch.tensor([9]))
    first = torch.full((1, 1, symbols), -math.inf)
    first[0, 0, :5] = torch.tensor([9.0, 1.0, 2.0, 3.0, 4.0])
    search.step(first)
    assert search.tokens[0, :, 0].tolist() == [4, 3, 2, 1]
    nothing = torch.full((1, 4, symbols), -math.inf)
    nothing[:, :, 0] = 0.0  # the end, which may not come yet
    two = nothing.clone()
    two[0, 2, 5] = two[0, 3, 4] = 0.0  # the last two beams alone go on, and take the first places
    search.step(two)
    assert search.tokens[0, :2, :2].tolist() == [[2, 5], [1, 4]] and not search.done.any()
    for _ in range(3):  # these two do not go on; it may be some steps before anybody looks
        after = nothing.clone()
        after[0, 2:] = 0.0
        search.step(after)
    [[hypothesis]] = search.hypotheses([0])
    assert search.done.all() and hypothesis.tokens.tolist() == [2, 5]
    assert hypothesis.score == pytest.approx(float(hypothesis.log_probabilities.sum()) / 2)


@pytest.mark.parametrize("kind", [BeamSearch, Sampling])
def test_the_host_waits_once_for_all_sentences(kind, monkeypatch):
    waits = []
    for name in ("cpu", "item", "__int__", "__bool__", "__float__"):
        of_torch = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda *given, _f=of_torch, **more: waits.append(0) or _f(*given, **more))
    settings, counts = SearchSettings(stops=(0,), beam=3, nbest=3, sampling=kind is Sampling), []
    for sentences in (2, 9):
        waits.clear()
        search = kind(settings, torch.full((sentences,), 4), longest=4)
        assert not waits
        while search.length < 4:
            search.step(torch.zeros(sentences, 3 if search.length else 1, 8))
        waits.clear()
        assert [len(hypotheses) for hypotheses in search.hypotheses(range(sentences))] == [3] * sentences
        counts.append(len(waits))
    assert counts[0] == counts[1] <= 4


# ---------------------------------------------------------------------- samples

PROBABILITIES = torch.tensor([0.4, 0.05, 0.25, 0.2, 0.1])


def samples(count, beam=1, seed=0, first=0, probabilities=PROBABILITIES, **settings):
    """(count, beam) first symbols."""
    settings = SearchSettings(stops=(1,), min_len=0, max_len_b=1, beam=beam, sampling=True, **settings)
    search = Sampling(settings, torch.ones(count, dtype=torch.int64), seed=seed, names=range(first, first + count))
    search.step(probabilities.log().expand(count, 1, -1).clone())
    return search.tokens[:, :, 0]


@pytest.mark.parametrize(
    "settings, wanted",
    [
        ({}, [0.4, 0.05, 0.25, 0.2, 0.1]),
        ({"top_k": 2}, [0.4 / 0.65, 0, 0.25 / 0.65, 0, 0]),
        ({"top_p": 0.65}, [0.4 / 0.65, 0, 0.25 / 0.65, 0, 0]),  # exactly the two
        ({"top_p": 0.66}, [0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85, 0]),
        ({"top_p": 1e-6}, [1, 0, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.5}, [0.4 / 0.65, 0, 0.25 / 0.65, 0, 0]),  # 0.4 of 0.85 is less than a half
        ({"temperature": 0.5}, (PROBABILITIES**2 / (PROBABILITIES**2).sum()).tolist()),
    ],
    ids=str,
)
def test_samples_are_distributed_as_they_should_be(settings, wanted):
    count = 4000
    probabilities = PROBABILITIES.double() * (1 + 1e-9)  # 0.65 is a little less than the sum of the two
    drawn = samples(count, beam=2, probabilities=probabilities.float(), **settings).flatten()
    counts = torch.bincount(drawn, minlength=5).double()
    wanted = torch.tensor(wanted, dtype=torch.float64)
    assert torch.equal(counts > 0, wanted > 0)  # the support is exact
    kept = wanted > 0
    chi2 = ((counts - wanted * 2 * count)[kept] ** 2 / (wanted * 2 * count)[kept]).sum()
    assert chi2 < 20  # 4 degrees of freedom: one in 2000 is beyond


def test_draws_belong_to_the_sentence_and_the_seed():
    together = samples(50, beam=3)
    assert torch.equal(together[20:30], samples(10, beam=3, first=20))
    assert not torch.equal(together, samples(50, beam=3, seed=1))
    assert len({tuple(row) for row in together.tolist()}) > 20


def test_samples_end_by_themselves():
    settings = SearchSettings(stops=(1,), beam=2, nbest=2, min_len=0, max_len_b=9, sampling=True)
    search = Sampling(settings, torch.tensor([9, 3]), seed=5, names=[0, 1])
    scores = torch.tensor([0.6, 0.4]).log()
    while not search.done.all():
        search.step(scores.expand(2, 1 if search.length == 0 else 2, -1).clone())
    for sentence, limit in ((0, 9), (1, 3)):
        for hypothesis in search.hypotheses([sentence])[0]:
            tokens = hypothesis.tokens.tolist()
            assert tokens[:-1] == [0] * (len(tokens) - 1) and (tokens[-1] == 1 or len(tokens) == limit)
            assert hypothesis.score == pytest.approx(float(scores[hypothesis.tokens].mean()))


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "name, settings",
    [
        ("beam", {"beam": 0}),
        ("nbest", {"beam": 2, "nbest": 3}),
        ("max_len_b", {"max_len_b": -1}),
        ("min_len", {"min_len": -1}),
        ("temperature", {"temperature": 0.0}),
        ("temperature", {"temperature": 1e-7}),
        ("max_len_a", {"max_len_a": math.inf}),
        ("repetition_penalty", {"repetition_penalty": 0.0}),
        ("length_penalty", {"length_penalty": math.nan}),
        ("unk_penalty", {"unk_penalty": math.nan}),
        ("top_p", {"sampling": True, "top_p": 1.5}),
        ("top_k", {"top_k": 5}),
        ("rules", {"rules": "mine"}),
        ("rules", {"sampling": True, "rules": "lora"}),
        ("early_stopping", {"rules": "lora", "early_stopping": "never"}),
        ("lookup_tokens", {"beam": 1, "lookup_tokens": -1}),
        ("lookup_tokens", {"beam": 2, "lookup_tokens": 3}),
        ("lookup_tokens", {"beam": 1, "sampling": True, "lookup_tokens": 3}),
        ("lookup_tokens", {"beam": 1, "rules": "lora", "lookup_tokens": 3}),
        ("stops", {"never": (2,)}),
    ],
)
def test_settings_out_of_range_are_refused(name, settings):
    with pytest.raises(SettingError) as caught:
        SearchSettings(stops=(2,), **settings).check()
    assert caught.value.name == name
