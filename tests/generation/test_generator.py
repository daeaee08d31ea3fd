"""The generator: against transformers' `generate`, batches against single sentences, ensembles, precisions, refusals."""

import math

import pytest
import texts
import torch
from fairseq.dataclass.configs import GenerationConfig
from omegaconf import OmegaConf
from plain_generation import EOS, PAD, POSITIONS, batch, dictionary, log_probabilities, model_pair, prompts, scores_after

from sharp_plugins.generation import Generator, SearchSettings, build_generator, settings_of
from sharp_plugins.generation.flags import REFUSED, GenerationFlags
from sharp_plugins.generation.thin_products import thin_products
from sharp_plugins.networks.lora import LoRASettings, add_lora

FAMILIES = ["gpt2", "opt", "llama"]


def settings(**choice):
    return SearchSettings(**{"stops": (EOS,), "never": (PAD,), "max_len_b": 12, **choice})


def generate(model, rows, choice, **more):
    models = model if isinstance(model, list) else [model]
    return Generator(models, dictionary(), choice, seed=3).generate(models, batch(rows, **more))


def their_outputs(theirs, rows, choice, **more):
    """transformers' outputs for prompts of one length: (tokens, score or None) of each."""
    beams = {"num_beams": choice.beam, "length_penalty": choice.length_penalty if choice.normalize else 0.0}
    beams["early_stopping"] = {"full": True, "heuristic": False, "never": "never"}[choice.early_stopping]
    out = theirs.generate(
        rows, attention_mask=torch.ones_like(rows), max_new_tokens=choice.max_len_b, min_new_tokens=choice.min_len,
        eos_token_id=list(choice.stops), pad_token_id=PAD, suppress_tokens=[PAD], do_sample=False, output_scores=True,
        return_dict_in_generate=True, num_return_sequences=choice.nbest, **(beams if choice.beam > 1 else {}), **more,
    )  # fmt: skip
    tokens = [row[row.ne(PAD)].tolist() for row in out.sequences[:, rows.size(1) :]]
    return tokens, out.sequences_scores.tolist() if choice.beam > 1 else None


CHOICES = [
    {"beam": 1},
    {"beam": 1, "stops": (EOS, 5, 9), "min_len": 3},
    {"beam": 2, "nbest": 2, "length_penalty": 0.6},
    {"beam": 5, "nbest": 5, "stops": (EOS, 5, 9)},
    {"beam": 5, "nbest": 3, "stops": (EOS, 5), "length_penalty": -1.0, "min_len": 4},
    {"beam": 4, "nbest": 4, "stops": (EOS, 5, 9, 11), "length_penalty": 2.0, "max_len_b": 5},
    {"beam": 4, "normalize": False, "stops": (EOS, 5)},
    {"beam": 3, "nbest": 3, "stops": (EOS, 5, 9), "early_stopping": "heuristic", "length_penalty": 0.5},
    {"beam": 3, "nbest": 3, "stops": (EOS, 5, 9), "early_stopping": "never", "length_penalty": 1.5},
    {"beam": 3, "nbest": 3, "stops": (EOS, 5, 9), "early_stopping": "never", "length_penalty": -1.5},
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_outputs_are_those_of_transformers(family, choice):
    theirs, ours = model_pair(family)
    choice, rows = settings(**choice), prompts(7, 7, 7, 7)
    found = [hypothesis for hypotheses in generate(ours, rows, choice) for hypothesis in hypotheses]
    tokens, scores = their_outputs(theirs, rows, choice)
    assert [hypothesis["tokens"].tolist() for hypothesis in found] == tokens
    if scores:
        assert [float(hypothesis["score"]) for hypothesis in found] == pytest.approx(scores, rel=1e-4, abs=1e-4)


def test_what_looks_at_outputs_alone_is_transformers_behind_the_prompt():
    """transformers' rules look at the prompt too. Shown outputs alone, they are the same."""
    from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

    class Behind(NoRepeatNGramLogitsProcessor):
        def __call__(self, input_ids, scores):
            return super().__call__(input_ids[:, 7:], scores)

    theirs, ours = model_pair("gpt2")
    rows = prompts(7, 7, 7)
    for choice, rule in (
        (settings(beam=4, nbest=4, no_repeat_ngram=2, max_len_b=30), Behind(2)),
        (settings(beam=1, no_repeat_ngram=1), Behind(1)),
        (settings(beam=1, repetition_penalty=1.7), RepetitionPenaltyLogitsProcessor(1.7, prompt_ignore_length=7)),
    ):
        found = [hypothesis for hypotheses in generate(ours, rows, choice) for hypothesis in hypotheses]
        tokens, _ = their_outputs(theirs, rows, choice, logits_processor=LogitsProcessorList([rule]))
        assert [hypothesis["tokens"].tolist() for hypothesis in found] == tokens


# ---------------------------------------------------------------------- one sentence and many

LENGTHS = (3, 14, 1, 8, 9, 20)
WAYS = [
    {"beam": 1},
    {"beam": 4, "nbest": 4},
    {"beam": 4, "nbest": 2, "no_repeat_ngram": 2},
    {"beam": 4, "rules": "lora", "length_penalty": 0.8, "no_repeat_ngram": 3},
    {"beam": 3, "nbest": 3, "sampling": True, "top_k": 9},
    {"beam": 3, "nbest": 3, "sampling": True, "top_p": 0.8},
    {"beam": 1, "sampling": True},
    {"beam": 2, "max_len_a": 1.5, "max_len_b": 2},
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_batch_gives_what_its_sentences_give_alone(family, way):
    """The same tokens, log-probabilities within 1e-4. Sentences leave the batch when they are done, at different steps."""
    _, model = model_pair(family)
    rows, choice = prompts(*LENGTHS), settings(**{"stops": (EOS, 7, 8, 30), "max_len_b": 40, **way})
    together = generate(model, rows, choice)
    for row, length, hypotheses in zip(rows, LENGTHS, together):
        [alone] = generate(model, row[None, :length], choice)
        assert len(alone) == len(hypotheses) == choice.nbest
        for one, other in zip(alone, hypotheses):
            assert one["tokens"].tolist() == other["tokens"].tolist()
            assert torch.allclose(one["positional_scores"], other["positional_scores"], atol=1e-4)
            assert float(one["score"]) == pytest.approx(float(other["score"]), abs=1e-4)
    if way.get("max_len_a"):
        assert all(len(h[0]["tokens"]) <= int(1.5 * length) + 2 for h, length in zip(together, LENGTHS))


def test_padding_of_prompts_is_not_computed():
    _, model = model_pair("llama")
    rows = []
    model.decoder.layers[0].fc1.register_forward_hook(lambda layer, given, out: rows.append(given[0].numel() // given[0].size(-1)))
    generate(model, prompts(*LENGTHS), settings(beam=3))
    assert rows[0] == sum(LENGTHS) and rows[1] == 3 * len(LENGTHS)


@pytest.mark.parametrize("beam", [1, 4])
def test_samples_do_not_depend_on_the_order_that_prompts_come_in(beam):
    """fairseq-interactive sorts what it has read by length, and numbers nothing. The same prompt again has other samples."""
    _, model = model_pair("gpt2")
    rows, lengths, choice = prompts(3, 9, 5, 9), (3, 9, 5, 9), settings(beam=beam, nbest=beam, sampling=True)
    rows[3] = rows[1]

    def sampled(*batches, choice=choice):
        generator, found = Generator([model], dictionary(), choice, seed=3), {}
        for numbers in batches:
            longest = max(lengths[n] for n in numbers)
            for number, hypotheses in zip(numbers, generator.generate([model], batch(rows[numbers][:, :longest]))):
                found[number] = [hypothesis["tokens"].tolist() for hypothesis in hypotheses]
        return found

    alone = sampled([0], [1], [2], [3])
    assert alone == sampled([1, 3, 2, 0]) == sampled([2, 0], [1, 3])
    assert alone[1] != alone[3]
    fewer = sampled([0], [1], [2], [3], choice=settings(beam=1, sampling=True))
    assert all(fewer[number][0] in alone[number] for number in fewer)


@pytest.mark.parametrize(
    "way", [{"beam": 1}, {"beam": 3, "nbest": 3}, {"rules": "lora", "beam": 3}, {"sampling": True, "beam": 2, "nbest": 2}], ids=str
)
def test_where_nothing_may_follow_the_output_ends(way):
    """There are 50 symbols that do not end the output, and none may come twice."""
    _, model = model_pair("gpt2")
    rows = prompts(3, 5)
    choice = settings(no_repeat_ngram=1, min_len=55, max_len_b=58, **way)
    for hypotheses in generate(model, rows, choice):
        tokens = hypotheses[0]["tokens"].tolist()
        assert len(tokens) == 51 and sorted(tokens) == [n for n in range(53) if n not in (PAD, EOS)]
        assert math.isfinite(hypotheses[0]["score"]) and hypotheses[0]["positional_scores"].isfinite().all()


@pytest.mark.parametrize("way", [{"beam": 1}, {"beam": 2}, {"sampling": True, "beam": 2, "nbest": 2}], ids=str)
def test_where_nothing_may_come_the_output_is_empty(way):
    _, model = model_pair("gpt2")
    choice = settings(**{"never": tuple(n for n in range(53) if n != EOS), "min_len": 3, **way})
    for hypotheses in generate(model, prompts(3, 5), choice):
        assert all(h["tokens"].tolist() == [] and float(h["score"]) == 0 for h in hypotheses) and hypotheses


@pytest.mark.parametrize("way", WAYS[:7], ids=str)
def test_positional_scores_are_what_a_full_pass_gives(way):
    _, model = model_pair("llama")
    rows, choice = prompts(5, 12), settings(**{"stops": (EOS, 7, 8), "max_len_b": 40, **way})
    for row, length, hypotheses in zip(rows, (5, 12), generate(model, rows, choice)):
        for hypothesis in hypotheses:
            tokens = torch.cat([row[:length], hypothesis["tokens"]])
            with torch.no_grad():
                logs = model.decoder(tokens[None])[0].log_softmax(1)
            wanted = logs[length - 1 : -1].gather(1, hypothesis["tokens"][:, None])[:, 0]
            if choice.rules == "fairseq":
                assert torch.allclose(hypothesis["positional_scores"], wanted, atol=1e-4)
            else:  # what is forbidden has no probability, and the others have it
                assert (hypothesis["positional_scores"] > wanted - 1e-4).all()
            total = hypothesis["positional_scores"].sum() / len(hypothesis["tokens"]) ** choice.length_penalty
            assert float(hypothesis["score"]) == pytest.approx(float(total), abs=1e-4)
            hypothesis["positional_scores"].div_(math.log(2))  # as fairseq's commands do


def test_an_end_in_the_prompt_ends_nothing():
    theirs, model = model_pair("gpt2")
    rows = prompts(6, 6)
    rows[0, 2] = rows[1, 5] = EOS
    choice = settings(beam=3)
    assert [h[0]["tokens"].tolist() for h in generate(model, rows, choice)] == their_outputs(theirs, rows, choice)[0]


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"temperature": 0.5},
        {"repetition_penalty": 2.0},
        {"temperature": 2.0, "repetition_penalty": 0.7, "rules": "lora"},
        {"sampling": True, "temperature": 0.5},
    ],
    ids=str,
)
def test_given_beginnings_belong_to_the_output(choice):
    """Their log-probabilities are those of free symbols; what forbids symbols does not forbid them."""
    _, model = model_pair("llama")
    rows, given = prompts(5, 9), torch.tensor([[20, 21, 20, 21], [23, EOS, PAD, PAD]])
    choice = settings(beam=3, nbest=3, **{"no_repeat_ngram": 2, **choice})
    generator = Generator([model], dictionary(), choice)
    free, ended = generator.generate([model], batch(rows), prefix_tokens=given)
    assert all(h["tokens"][:4].tolist() == [20, 21, 20, 21] and len(h["tokens"]) > 4 for h in free)
    assert ended[0]["tokens"].tolist() == [23, EOS] and (choice.sampling or len(ended) == 1)
    for hypothesis, row, length in ((free[0], rows[0], 5), (ended[0], rows[1], 9)):
        tokens = hypothesis["tokens"].tolist()
        wanted = []
        for n, token in enumerate(tokens):
            scores = scores_after(model, row[:length].tolist(), tokens[:n])
            logs = log_probabilities(scores, tokens[:n], choice, given=token if n < 4 else None)
            wanted.append(float(logs[token]))
        assert hypothesis["positional_scores"].tolist() == pytest.approx(wanted, abs=1e-4)
        assert float(hypothesis["score"]) == pytest.approx(sum(wanted) / len(wanted), abs=1e-4)


# ---------------------------------------------------------------------- models


def test_an_ensemble_averages_probabilities():
    _, one = model_pair("gpt2")
    _, other = model_pair("llama")
    rows = prompts(5, 8)
    for temperature in (1.0, 1.5):
        choice = settings(beam=3, temperature=temperature)
        for row, length, [hypothesis] in zip(rows, (5, 8), generate([one, other], rows, choice)):
            tokens = torch.cat([row[:length], hypothesis["tokens"]])
            with torch.no_grad():
                each = [(model.decoder(tokens[None])[0] / temperature).softmax(1) for model in (one, other)]
            wanted = ((each[0] + each[1]) / 2).log()[length - 1 : -1].gather(1, hypothesis["tokens"][:, None])[:, 0]
            assert torch.allclose(hypothesis["positional_scores"], wanted, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """A greedy output is one that the full pass in the same precision agrees with, up to its rounding."""
    _, model = model_pair("llama")
    model.to(dtype)
    rows = prompts(5, 9, 2)
    for row, length, [hypothesis] in zip(rows, (5, 9, 2), generate(model, rows, settings(beam=1, min_len=12))):
        tokens = torch.cat([row[:length], hypothesis["tokens"]])
        with torch.no_grad():
            logs = model.decoder(tokens[None])[0].float().log_softmax(1)[length - 1 : -1]
        logs[:, [PAD, EOS]] = -math.inf
        assert len(hypothesis["tokens"]) == 12
        assert (logs.gather(1, hypothesis["tokens"][:, None])[:, 0] > logs.amax(1) - 0.5).all()


def test_the_programs_flag_for_bf16_is_known(text_data):
    model = texts.model(text_data)
    precision = OmegaConf.create({"common": {"bf16": False}, "generation": {}})
    model.prepare_for_inference_(precision)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    precision.common.bf16 = True
    model.prepare_for_inference_(precision)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("count", [9, 14])
def test_unmerged_updates_count_in_thin_products_too(count, monkeypatch):
    """Four and more rows are multiplied in other ways; so are the layers of LoRA."""
    monkeypatch.setattr("sharp_plugins.generation.thin_products.SMALL", 0)
    _, model = model_pair("gpt2")
    rows = prompts(*[6] * count)
    plain = generate(model, rows, settings(beam=1))
    add_lora(model, LoRASettings(rank=2, alpha=8, target="q_proj,v_proj,fc1"))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.3)
    together = generate(model, rows, settings(beam=1))
    assert [h[0]["tokens"].tolist() for h in together] != [h[0]["tokens"].tolist() for h in plain]
    for row, [hypothesis] in zip(rows, together):
        [[alone]] = generate(model, row[None], settings(beam=1))
        assert alone["tokens"].tolist() == hypothesis["tokens"].tolist()
    assert not [name for name, module in model.named_modules() if "forward" in vars(module)]


def test_layers_that_thin_products_do_not_serve_stay_as_they_are():
    layers = torch.nn.ModuleList([torch.nn.Linear(2, 2, dtype=torch.float16), torch.nn.Linear(2, 2, device="meta")])
    layers.append(torch.nn.Linear(2, 2))
    with thin_products(layers):
        assert ["forward" in vars(layer) for layer in layers] == [False, False, True]


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "length, choice, words",
    [
        (POSITIONS + 1, {}, "a prompt has 65 tokens"),
        (40, {"max_len_b": 26}, "--max-len-b: a prompt of 40 tokens and an output of up to 26 .* 25 at most"),
        (40, {"max_len_a": 1.0}, "--max-len-a: a prompt of 40 .* up to 52 .* --max-len-b to 25 at most, and --max-len-a to 0"),
        (5, {"max_len_b": 0}, "--max-len-b: no room"),
        (5, {"max_len_b": 3, "min_len": 4}, "--min-len 4 is more"),
    ],
)
def test_no_room_is_refused_before_any_step(length, choice, words):
    _, model = model_pair("gpt2")
    model.decoder.embed_tokens.weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match=words):
        generate(model, prompts(length), settings(**choice))


def test_a_full_model_is_no_error():
    _, model = model_pair("gpt2")
    [[hypothesis]] = generate(model, prompts(50), settings(beam=1, max_len_b=15, min_len=15))
    assert len(hypothesis["tokens"]) == 15


def test_bad_prompts_are_refused():
    _, model = model_pair("gpt2")
    rows = prompts(3, 5)
    with pytest.raises(ValueError, match="padded on the left"):
        generate(model, rows.flip(1), settings())
    with pytest.raises(ValueError, match="empty"):
        generate(model, torch.cat([rows, torch.full_like(rows[:1], PAD)]), settings())
    with pytest.raises(ValueError, match="--constraints"):
        Generator([model], dictionary(), settings()).generate([model], batch(rows), constraints=torch.zeros(1))
    with pytest.raises(TypeError, match="--path"):
        Generator([torch.nn.Linear(2, 2)], dictionary(), settings())


REFUSED_VALUES = {
    "match_source_len": True, "replace_unk": "@@ ", "score_reference": True, "constraints": "ordered", "diverse_beam_groups": 2,
    "diversity_rate": 0.5, "print_alignment": "hard", "print_step": True, "lm_path": "lm.pt", "iter_decode_eos_penalty": 1.0,
    "iter_decode_max_iter": 3, "iter_decode_force_max_iter": True, "iter_decode_with_beam": 2,
    "iter_decode_with_external_reranker": True, "retain_iter_history": True, "retain_dropout": True,
    "no_early_stop": True, "retain_dropout_modules": ["x"], "decoding_format": "unigram", "eos_token": "x",
    "diverse_beam_strength": 0.7, "lm_weight": 0.2,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_flags_that_mean_nothing_are_refused_by_name(name):
    with pytest.raises(ValueError, match=f"^--{name.replace('_', '-')} "):
        settings_of(GenerationConfig(**{name: REFUSED_VALUES[name]}), dictionary())


@pytest.mark.parametrize(
    "flags, more, words",
    [
        ({"beam": 0}, {}, "--beam must be"),
        ({"sampling_topk": 3}, {}, "--sampling-topk is for sampling"),
        ({"no_repeat_ngram_size": -1}, {}, "--no-repeat-ngram-size must"),
        ({}, {"stop_symbols": "w1 elsewhere"}, "--stop-symbols: 'elsewhere' is no symbol"),
        ({"sampling": True}, {"beam_rules": "lora"}, "--beam-rules lora are rules"),
        ({"temperature": -1.0}, {}, "--temperature must"),
        ({"temperature": 1e-39}, {}, "--temperature must be a number of 1e-06 or more"),
        ({"sampling": True, "sampling_topk": -7}, {}, "--sampling-topk must not be negative, and is -7"),
        ({"sampling": True, "sampling_topp": -0.5}, {}, "--sampling-topp must be from 0 to 1"),
        ({"max_len_a": math.inf}, {}, "--max-len-a must be a number that is not negative, and is inf"),
        ({}, {"repetition_penalty": 0.0}, "--repetition-penalty must"),
        ({"beam": 5}, {"lookup_tokens": 4}, "--lookup-tokens is for greedy search"),
    ],
)
def test_flags_out_of_range_are_named(flags, more, words):
    with pytest.raises(ValueError, match=words):
        settings_of(GenerationConfig(**flags), dictionary(), GenerationFlags(**more))


def test_flags_become_settings():
    flags = GenerationConfig(
        beam=4, nbest=2, max_len_a=0.5, max_len_b=9, min_len=2, lenpen=0.8, unnormalized=True, no_repeat_ngram_size=3, unkpen=1.0,
        temperature=0.5,
    )  # fmt: skip
    found = settings_of(flags, dictionary(), GenerationFlags(stop_symbols="w0 w3 w0", beam_rules="lora", repetition_penalty=1.5))
    assert found == SearchSettings(
        stops=(EOS, 4, 7), never=(PAD,), beam=4, nbest=2, max_len_a=0.5, max_len_b=9, min_len=2, length_penalty=0.8,
        normalize=False, rules="lora", no_repeat_ngram=3, repetition_penalty=1.5, unk=3, unk_penalty=1.0, temperature=0.5,
    )  # fmt: skip
    greedy = settings_of(GenerationConfig(beam=1), dictionary(), GenerationFlags(lookup_tokens=0))
    assert greedy.lookup_tokens == 0 and found.lookup_tokens is None
    sampling = settings_of(GenerationConfig(sampling=True, sampling_topk=4, sampling_topp=0.9), dictionary())
    assert (sampling.sampling, sampling.top_k, sampling.top_p) == (True, 4, 0.9)


def test_the_longest_prompt_is_checked_when_the_generator_is_built():
    _, model = model_pair("gpt2")
    with pytest.raises(ValueError, match="--max-len-b"):
        build_generator([model], dictionary(), GenerationConfig(), longest=10)
    torch.manual_seed(7)
    generator = build_generator([model], dictionary(), GenerationConfig(max_len_b=20), longest=10)
    assert generator.seed == 7 and generator.symbols_to_strip_from_output == {EOS}


def test_an_output_ends_alike_whatever_ended_it():
    """What fairseq's commands strip from outputs they strip from references too, where a line break may stand inside."""
    _, model = model_pair("gpt2")
    generator = Generator([model], dictionary(), SearchSettings(stops=(EOS, 7), beam=1))
    found = [[{"tokens": torch.tensor(tokens), "score": 0}] for tokens in ([7, 5, 7], [5, EOS], [5, 6], [7])]
    assert [[one["tokens"].tolist() for one in each] for each in generator.ended_alike(found)] == [
        [[7, 5, EOS]],
        [[5, EOS]],
        [[5, 6]],
        [[EOS]],
    ]
    assert generator.symbols_to_strip_from_output == {EOS}


# ---------------------------------------------------------------------- the real one


FACTS = [
    "Aarhus Airport : city served : Aarhus, Denmark",
    "Alan Bean : birth place : Wheeler, Texas | Alan Bean : was a crew member of : Apollo 12 | Apollo 12 : operator : NASA",
    "Bionico : country : Mexico",
    "Bakewell pudding : ingredient : Ground almond, jam, butter, eggs | Bakewell pudding : region : Derbyshire Dales",
]


@pytest.mark.slow
@pytest.mark.parametrize("choice", [{"beam": 1}, {"beam": 5, "nbest": 2, "length_penalty": 0.8}], ids=str)
def test_smollm2_continues_prompts_as_transformers_does(smollm2_converted, smollm2_transformers, choice):
    from transformers import AutoModelForCausalLM

    from sharp_plugins.convert.decoder_backbone import load_decoder, load_decoder_model

    found, model = load_decoder(smollm2_converted), load_decoder_model(smollm2_converted)
    theirs = AutoModelForCausalLM.from_pretrained(smollm2_transformers, dtype=torch.float32).eval()
    words, ids = found.dictionary, found.tokenizer.published_ids
    lines = [
        [words.index(symbol) for symbol in line] for line in found.tokenizer.encode_many([f"Facts: {f}\nText:" for f in FACTS])
    ]
    rows = torch.full((len(lines), max(map(len, lines))), words.pad())
    for row, line in zip(rows, lines):
        row[: len(line)] = torch.tensor(line)
    newline = ids.index(198)
    choice = settings(stops=(words.eos(), newline), never=(words.pad(),), max_len_b=24, **choice)
    outputs = Generator([model], words, choice).generate([model], batch(rows))
    for line, hypotheses in zip(lines, outputs):
        beams = {"num_beams": choice.beam, "early_stopping": True, "length_penalty": 0.8} if choice.beam > 1 else {}
        out = theirs.generate(
            torch.tensor([[ids[index] for index in line]]), attention_mask=torch.ones(1, len(line)), max_new_tokens=24,
            min_new_tokens=1, eos_token_id=[2, 198], pad_token_id=0, do_sample=False, output_scores=True,
            return_dict_in_generate=True, num_return_sequences=choice.nbest, **beams,
        )  # fmt: skip
        for number, hypothesis in enumerate(hypotheses):
            tokens = [ids[index] for index in hypothesis["tokens"].tolist()]
            assert tokens == out.sequences[number, len(line) : len(line) + len(tokens)].tolist()
            if choice.beam > 1:
                assert float(hypothesis["score"]) == pytest.approx(float(out.sequences_scores[number]), abs=1e-4)
