"""Guessing ahead: greedy search's own outputs in fewer passes, whatever the guesses are worth."""

from types import SimpleNamespace

import pytest
import torch
from plain_generation import EOS, PAD, POSITIONS, batch, dictionary, model_pair, prompts

from sharp_plugins.generation import Generator, SearchSettings, lookup
from sharp_plugins.generation.lookup import ON_A_PROCESSOR, Seen, guesses_of
from sharp_plugins.networks.lora import LoRASettings, add_lora
from sharp_plugins.networks.prefix import Prefix


def settings(**choice):
    return SearchSettings(**{"stops": (EOS,), "never": (PAD,), "beam": 1, "max_len_b": 40, **choice})


def generate(model, row, guesses=None, given=None, **choice):
    """The output of one prompt, and the widths of the passes."""
    widths = []
    hook = model.decoder.layers[0].register_forward_pre_hook(lambda layer, given: widths.append(given[0].size(1)))
    generator = Generator([model], dictionary(), settings(lookup_tokens=guesses, **choice))
    [[found]] = generator.generate([model], batch(row), prefix_tokens=given)
    hook.remove()
    return found, widths


def assert_same(found, plain):
    assert found["tokens"].tolist() == plain["tokens"].tolist()
    torch.testing.assert_close(found["positional_scores"], plain["positional_scores"], atol=1e-4, rtol=0)
    assert float(found["score"]) == pytest.approx(float(plain["score"]), abs=1e-4)


def repeating():
    """A prompt that says the same again and again: much is guessed."""
    return prompts(5).repeat(1, 4)


RULES = [
    {},
    {"stops": (EOS, 5, 9, 11), "min_len": 6},
    {"stops": tuple(range(20, 40)), "min_len": 0},
    {"no_repeat_ngram": 2},
    {"no_repeat_ngram": 1, "repetition_penalty": 1.5},
    {"repetition_penalty": 0.5, "temperature": 0.7, "unk": 3, "unk_penalty": 2.0},
    {"max_len_b": 1},
    {"max_len_a": 1.0, "max_len_b": 2, "length_penalty": 0.5},
    {"min_len": POSITIONS - 20 + 1, "max_len_b": POSITIONS - 20 + 1},  # to the model's last position
    {"never": tuple(n for n in range(53) if n not in (7, 8, EOS)), "no_repeat_ngram": 3, "min_len": 30},  # nothing may follow
]


@pytest.mark.parametrize("choice", RULES, ids=str)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_outputs_are_those_of_greedy_search(family, choice):
    _, model = model_pair(family)
    for row in (repeating(), prompts(20, seed=1)):
        plain, steps = generate(model, row, 0, **choice)
        assert steps == [row.size(1), *[1] * (len(steps) - 1)]
        for guesses in (1, 100):
            found, widths = generate(model, row, guesses, **choice)
            assert_same(found, plain)
            assert len(widths) <= len(steps) and max(widths[1:], default=1) <= 1 + guesses


def test_what_repeats_takes_fewer_passes():
    _, model = model_pair("gpt2")
    plain, steps = generate(model, repeating(), 0, min_len=40)
    found, widths = generate(model, repeating(), 7, min_len=40)
    assert len(steps) == 40 and len(widths) < 25
    assert_same(found, plain)


@pytest.mark.parametrize("right", [True, False], ids=["all right", "all wrong"])
def test_guesses_that_are_all_alike(right, monkeypatch):
    _, model = model_pair("llama")
    row = prompts(9)
    plain, _ = generate(model, row, 0, min_len=33, max_len_b=33)
    output = plain["tokens"].tolist()

    def ahead(seen, most, others):
        following = output[len(seen.symbols) - 9 :][:most]
        return following if right else [symbol + 1 if symbol < 40 else symbol - 1 for symbol in following]

    monkeypatch.setattr(Seen, "ahead", ahead)
    found, widths = generate(model, row, 7, min_len=33, max_len_b=33)
    assert_same(found, plain)
    # The first token comes with the prompt. Behind it 8 come with each pass, or 1; the last token is not read.
    assert widths == ([9, 8, 8, 8, 8] if right else [9, *[8] * 25, *range(7, 0, -1)])


@pytest.mark.parametrize("place", range(8))
def test_a_guess_that_is_wrong_at_one_place(place, monkeypatch):
    _, model = model_pair("gpt2")
    plain, _ = generate(model, prompts(9), 0, min_len=20, max_len_b=20)
    output = plain["tokens"].tolist()

    def ahead(seen, most, others):
        following = output[len(seen.symbols) - 9 :][:most]
        return [*following[:place], *[4 if symbol != 4 else 5 for symbol in following[place:]]]

    monkeypatch.setattr(Seen, "ahead", ahead)
    found, _ = generate(model, prompts(9), 7, min_len=20, max_len_b=20)
    assert_same(found, plain)


def test_a_stop_is_not_guessed(monkeypatch):
    _, model = model_pair("gpt2")
    monkeypatch.setattr(Seen, "ahead", lambda seen, most, others: [8, 9, EOS, 10])
    _, widths = generate(model, prompts(9), 7, stops=(30, EOS), min_len=20, max_len_b=20)
    assert set(widths[1:]) == {3}


def test_what_was_written_before_takes_fewer_passes():
    _, model = model_pair("gpt2")
    other, widths = prompts(9, seed=3), []
    model.decoder.layers[0].register_forward_pre_hook(lambda layer, given: widths.append(given[0].size(1)))
    generator = Generator([model], dictionary(), settings(lookup_tokens=7, no_repeat_ngram=1))
    outputs, passes = [], []
    for row in (other, prompts(9), other):
        outputs += generator.generate([model], batch(row))[0]
        passes.append(len(widths) - sum(passes))
    assert passes[2] < 0.5 * passes[0]  # it wrote the same before, and each symbol once
    alone, _ = generate(model, other, 0, no_repeat_ngram=1)
    assert_same(outputs[2], alone)
    assert [output["tokens"].tolist() for output in outputs] == [
        generate(model, row, 0, no_repeat_ngram=1)[0]["tokens"].tolist() for row in (other, prompts(9), other)
    ]


def test_the_memory_of_earlier_outputs_is_bounded(monkeypatch):
    _, model = model_pair("gpt2")
    monkeypatch.setattr(lookup, "MOST_EARLIER", 50)
    generator = Generator([model], dictionary(), settings(lookup_tokens=7, min_len=40))
    for seed in range(4):
        generator.generate([model], batch(prompts(9, seed=seed)))
    assert len(generator.earlier.symbols) == 80


def test_behind_a_prefix_with_loras_updates_and_a_given_beginning():
    _, model = model_pair("llama")
    model.decoder.prefix = Prefix.of(model.decoder, length=3)
    add_lora(model, LoRASettings(rank=2, alpha=8, target="q_proj,v_proj,fc1"))
    given = torch.tensor([[20, 21, 20, 21]])
    plain, _ = generate(model, repeating(), 0, given, max_len_b=30)
    found, widths = generate(model, repeating(), 7, given, max_len_b=30)
    assert_same(found, plain)
    assert found["tokens"][:4].tolist() == given[0].tolist() and max(widths[1:]) > 1


# ---------------------------------------------------------------------- what is guessed, and when


def test_the_longest_run_that_came_before_says_what_follows():
    seen = Seen([4, 5, 6, 7, 8, 9, 5, 6, 1, 4, 5, 6])
    assert seen.ahead(4) == [7, 8, 9, 5] and seen.ahead(1) == [7] and seen.ahead(0) == []
    assert Seen([5, 6, 7, 8, 1, 3, 6, 7, 9, 6, 7]).ahead(2) == [8, 1]  # where it came first
    assert Seen([5, 6, 7, 8, 1, 5]).ahead(4) == [6, 7]  # after a single symbol
    assert Seen([3, 3]).ahead(4) == [3]  # there are no more
    assert Seen([5, 6, 7]).ahead(4) == Seen([]).ahead(4) == []


def test_earlier_outputs_say_what_follows_where_the_text_does_not():
    earlier = Seen([3, 5, 6, 2, 8, 6, 9, 9])
    assert Seen([5, 6]).ahead(4, [earlier]) == [2, 8, 6, 9]
    assert Seen([5, 6, 7, 1, 5, 6]).ahead(2, [earlier]) == [7, 1]  # its own text comes first
    assert Seen([6, 7, 1, 5, 6]).ahead(2, [earlier]) == [2, 8]  # but not with a single symbol
    assert Seen([6, 7, 1, 6]).ahead(4, [earlier]) == [7, 1] and Seen([1, 6]).ahead(4, [earlier]) == [2, 8]
    assert Seen([1, 4]).ahead(4, [earlier]) == []


def decoder(dtype=torch.float32, device="cpu"):
    return SimpleNamespace(embed_tokens=SimpleNamespace(weight=torch.empty(1, dtype=dtype, device=device)))


def test_guesses_where_nothing_is_said():
    assert guesses_of(settings(), [decoder()], 1) == ON_A_PROCESSOR == 7
    assert guesses_of(settings(), [decoder(torch.bfloat16)], 1) == 0
    assert guesses_of(settings(), [decoder(device="meta")], 1) == 0  # any device but a processor
    assert guesses_of(settings(), [decoder()], 2) == guesses_of(settings(), [decoder()] * 2, 1) == 0
    assert guesses_of(settings(beam=2), [decoder()], 1) == guesses_of(settings(sampling=True), [decoder()], 1) == 0


def test_guesses_that_are_asked_for():
    assert guesses_of(settings(lookup_tokens=3), [decoder(torch.bfloat16, "meta")], 1) == 3
    assert guesses_of(settings(lookup_tokens=0), [decoder()], 1) == guesses_of(settings(lookup_tokens=3), [decoder()], 2) == 0


def test_one_prompt_is_guessed_ahead_and_several_are_not(monkeypatch):
    _, model = model_pair("gpt2")
    calls = []
    search = lookup.search_with_lookup
    monkeypatch.setattr("sharp_plugins.generation.generator.search_with_lookup", lambda *a: calls.append(1) or search(*a))
    for rows, wanted in ((prompts(4), [1]), (prompts(4, 5), [1])):
        Generator([model], dictionary(), settings()).generate([model], batch(rows))
        assert calls == wanted


# ---------------------------------------------------------------------- the real one


@pytest.mark.slow
def test_smollm2_writes_what_it_writes_without_guesses(smollm2_converted):
    from sharp_plugins.convert.decoder_backbone import load_decoder, load_decoder_model

    found, model = load_decoder(smollm2_converted), load_decoder_model(smollm2_converted)
    facts = (
        "Aarhus Airport : city served : Aarhus, Denmark",
        "Alan Bean : birth place : Wheeler, Texas | Alan Bean : was a crew member of : Apollo 12 | Apollo 12 : operator : NASA",
        "Bionico : country : Mexico | Bionico : region : Guadalajara",
    )
    words, tokens, passes = found.dictionary, 0, 0
    stops = (words.eos(), found.tokenizer.published_ids.index(198))
    model.decoder.layers[0].register_forward_hook(lambda *given: calls.append(0))
    for line in found.tokenizer.encode_many([f"Facts: {each}\nText:" for each in facts]):
        row, outputs = torch.tensor([[words.index(symbol) for symbol in line]]), []
        for guesses in (0, None):
            calls, choice = [], settings(stops=stops, never=(words.pad(),), max_len_b=24, lookup_tokens=guesses)
            outputs += Generator([model], words, choice).generate([model], batch(row))
        assert_same(outputs[1][0], outputs[0][0])
        tokens, passes = tokens + len(outputs[0][0]["tokens"]), passes + len(calls)
    assert passes < 0.8 * tokens
