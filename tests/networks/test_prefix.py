"""A trained prefix before a decoder's keys and values: the formula, and PEFT on the same weights."""

import copy

import decoders
import pytest
import torch
import torch.nn.functional as F

from sharp_plugins.core.setting_error import SettingError
from sharp_plugins.networks.decoder import Decoder
from sharp_plugins.networks.decoder_settings import DecoderSettings
from sharp_plugins.networks.prefix import BehindPrefix, Prefix

pytest.importorskip("transformers")

LENGTH = 3
KINDS = {"gpt2": decoders.gpt2, "opt": decoders.opt, "llama": decoders.llama}


def sentences(rows=3, length=7):
    return torch.randint(3, decoders.VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))


def small(**settings):
    return Decoder(DecoderSettings(vocabulary=9, layers=2, width=8, ffn_width=8, heads=2, max_positions=32, **settings))


def with_prefix(kind, hidden=0, **settings):
    theirs, decoder = KINDS[kind]()
    decoder.prefix = Prefix.of(decoder, LENGTH, hidden, **settings)
    return theirs, decoder


def their_prefix(model, projection, hidden=8):
    """PEFT's model on *model*; its prefix encoder."""
    peft = pytest.importorskip("peft")
    config = dict(num_virtual_tokens=LENGTH, task_type="CAUSAL_LM", prefix_projection=projection)
    tuned = peft.get_peft_model(model, peft.PrefixTuningConfig(**config, **({"encoder_hidden_size": hidden} if projection else {})))
    return tuned.eval(), tuned.prompt_encoder["default"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_peft_computes_and_has_its_gradients(kind):
    theirs, decoder = with_prefix(kind)
    tuned, encoder = their_prefix(theirs, projection=False)
    assert encoder.embedding.weight.shape == decoder.prefix.table.shape
    decoder.prefix.table.data.copy_(encoder.embedding.weight)
    tokens = sentences()
    their_scores = tuned(tokens, attention_mask=torch.ones_like(tokens)).logits
    scores = decoder(tokens)
    torch.testing.assert_close(scores, their_scores, rtol=1e-5, atol=1e-5)
    for result in (scores, their_scores):
        F.cross_entropy(result[:, :-1].flatten(0, 1), tokens[:, 1:].reshape(-1)).backward()
    torch.testing.assert_close(decoder.prefix.table.grad, encoder.embedding.weight.grad, rtol=1e-4, atol=1e-6)
    assert decoder.prefix.table.grad.abs().max() > 1e-4
    decoder.prefix = None
    assert (decoder(tokens) - scores).abs().max() > 1e-2  # the prefix matters


@pytest.mark.parametrize("kind", ["gpt2", "opt"])  # PEFT's E of a model with grouped queries has another width
def test_the_network_that_computes_it_is_pefts(kind):
    theirs, decoder = with_prefix(kind, hidden=8)
    tuned, encoder = their_prefix(theirs, projection=True)
    ours = decoder.prefix
    with torch.no_grad():
        ours.embedding.copy_(encoder.embedding.weight)
        for mine, layer in ((ours.fc1, encoder.transform[0]), (ours.fc2, encoder.transform[2])):
            mine.load_state_dict(layer.state_dict())
    tokens = sentences()
    their_scores, scores = tuned(tokens, attention_mask=torch.ones_like(tokens)).logits, decoder(tokens)
    torch.testing.assert_close(scores, their_scores, rtol=1e-5, atol=1e-5)
    for result in (scores, their_scores):
        result.square().sum().backward()
    pairs = [(ours.embedding, encoder.embedding.weight), (ours.fc1.weight, encoder.transform[0].weight)]
    for mine, their in (*pairs, (ours.fc2.bias, encoder.transform[2].bias)):
        torch.testing.assert_close(mine.grad, their.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_each_token_sees_the_whole_prefix_and_what_is_before_it(kind):
    _, decoder = with_prefix(kind, hidden=4)
    tokens = sentences(2)
    scores = decoder(tokens)
    torch.testing.assert_close(decoder(tokens[:, :4]), scores[:, :4], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(decoder(tokens[1:]), scores[1:], rtol=1e-5, atol=1e-5)
    for row in range(LENGTH):
        (gradient,) = torch.autograd.grad(decoder(tokens[:, :1]).square().sum(), decoder.prefix.embedding)
        assert gradient[row].abs().max() > 1e-5


def test_one_attention_by_hand():
    """Two query heads share one of keys and values."""
    torch.manual_seed(0)
    prefix = Prefix(length=2, layers=2, kv_heads=1, head_width=4)
    key, value = prefix.keys_and_values()[1]
    assert torch.equal(key[0, 0], prefix.table[:, 8:12]) and torch.equal(value[0, 0], prefix.table[:, 12:])
    q, k, v = torch.randn(1, 2, 3, 4), torch.randn(1, 1, 3, 4), torch.randn(1, 1, 3, 4)
    out = prefix.before().attend(1, q, k, v)
    for head in range(2):
        for i in range(3):
            keys, values = (torch.cat([mine[0, 0], new[0, 0, : i + 1]]) for mine, new in ((key, k), (value, v)))
            weights = torch.softmax(keys @ q[0, head, i] / 2, dim=0)
            torch.testing.assert_close(out[0, head, i], weights @ values)


def test_positions_count_the_prefix():
    assert BehindPrefix(torch.zeros(4, 4), 1, 1).positions(torch.zeros(2, 3)).tolist() == [4, 5, 6]


@pytest.mark.parametrize("hidden", [0, 8])
def test_folded_it_is_the_same(hidden):
    _, decoder = with_prefix("llama", hidden=hidden)
    tokens = sentences()
    before = decoder(tokens)
    decoder.prefix.fold()
    assert torch.equal(decoder(tokens), before)
    assert [name for name, _ in decoder.prefix.named_parameters()] == ["table"]
    assert decoder.prefix.table.shape == (LENGTH, 3 * 2 * 3 * 4)  # layers · (k, v) · kv heads · head


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_it_is_rounded_once(dtype):
    torch.manual_seed(0)
    prefix = Prefix(length=5, layers=2, kv_heads=3, head_width=4, width=36, hidden=64).to(dtype)
    exact = copy.deepcopy(prefix).double()
    expected = exact.fc2(torch.tanh(exact.fc1(exact.embedding))).float().to(dtype)
    assert torch.equal(prefix.numbers(), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(prefix.numbers(), expected)
    prefix.fold()
    assert torch.equal(prefix.table, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_more_than_the_positions_is_refused(kind):
    _, decoder = with_prefix(kind)
    most = decoder.settings.max_positions
    assert decoder(sentences(1, most - LENGTH)).isfinite().all()
    with pytest.raises(ValueError, match=f"behind {LENGTH} others are more than the {most} positions"):
        decoder(sentences(1, most - LENGTH + 1))


def test_dropout_is_for_training_and_differs_from_row_to_row():
    _, decoder = with_prefix("gpt2", dropout=0.5)
    row = sentences(1).expand(2, -1)
    with torch.no_grad():
        first, second = decoder(row)
        torch.testing.assert_close(first, second)
        first, second = decoder.train()(row)
    assert (first - second).abs().max() > 1e-2


def test_dropout_of_attention_weights_is_the_models():
    decoder = small(dropout=0.0, attention_dropout=0.5)
    decoder.prefix = Prefix.of(decoder, LENGTH)
    tokens = torch.tensor([[4, 5, 6]])
    assert torch.equal(decoder.eval()(tokens), decoder(tokens))
    assert not torch.equal(decoder.train()(tokens), decoder(tokens))


def test_it_begins_with_the_models_dtype_and_leaves_the_random_numbers():
    decoder = small().to(torch.bfloat16)
    state = torch.get_rng_state()
    prefix = Prefix.of(decoder, LENGTH, hidden=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert {p.dtype for p in prefix.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(length=0), "length must be 1 or larger"),
        (dict(length=2, hidden=-1), "hidden must be 0"),
        (dict(length=2, dropout=1.0), "dropout must be from 0"),
        (dict(length=32), "length 32 leaves no room: the model has 32 positions"),
    ],
)
def test_what_is_out_of_range(settings, words):
    with pytest.raises(SettingError, match=words):
        Prefix.of(small(), **settings)
