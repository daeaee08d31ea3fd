import copy
import pickle

import decoders
import pytest
import torch
import torch.nn.functional as F

from sharp_plugins.core.setting_error import SettingError
from sharp_plugins.networks import grouped_attention, rotary
from sharp_plugins.networks.decoder import Decoder
from sharp_plugins.networks.decoder_settings import DecoderSettings
from sharp_plugins.networks.grouped_attention import causal_attention, shared_attention

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
BRANCHES = {
    "gpt2": lambda: decoders.gpt2(),
    "gpt2-erf": lambda: decoders.gpt2(activation_function="gelu", our_activation="gelu"),
    "gpt2-untied": lambda: decoders.gpt2(tie_word_embeddings=False, our_tied=False),
    "gpt2-narrow-ffn": lambda: decoders.gpt2(n_inner=20, our_ffn_width=20),
    "opt": lambda: decoders.opt(),
    "opt-350m": lambda: decoders.opt(do_layer_norm_before=False, word_embed_proj_dim=16),
    "opt-projected": lambda: decoders.opt(word_embed_proj_dim=16),
    "opt-wide-words": lambda: decoders.opt(word_embed_proj_dim=32),
    "opt-no-final-norm": lambda: decoders.opt(_remove_final_layer_norm=True),
    "opt-no-bias": lambda: decoders.opt(enable_bias=False),
    "llama": lambda: decoders.llama(),
    "llama-many-keys": lambda: decoders.llama(num_key_value_heads=9),
    "llama-one-key": lambda: decoders.llama(num_key_value_heads=1),
    "llama-head-dim": lambda: decoders.llama(head_dim=10),
    "llama-attention-bias": lambda: decoders.llama(attention_bias=True),
    "llama-mlp-bias": lambda: decoders.llama(mlp_bias=True),
    "llama-untied": lambda: decoders.llama(tie_word_embeddings=False),
    "llama-odd-vocabulary": lambda: decoders.llama(vocab_size=31),
    "llama-linear": lambda: decoders.llama(rope_parameters={"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}),
    "llama-3": lambda: decoders.llama(rope_parameters=LLAMA3),
}


@pytest.fixture(autouse=True)
def _needs_transformers(request):
    if "theirs" in request.node.name:
        pytest.importorskip("transformers")


def tokens_for(model, rows=2, length=20, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.settings.vocabulary, (rows, length), generator=generator)


def assert_near(ours, theirs, tolerance):
    """Up to a share of the range of *theirs*."""
    reach = (theirs.max() - theirs.min()).item()
    assert reach > 0.5
    assert (ours.float() - theirs.float()).abs().max().item() <= tolerance * reach


# ---------------------------------------------------------------------- the same as transformers


@pytest.mark.parametrize("branch", BRANCHES)
def test_scores_are_theirs(branch):
    theirs, ours = BRANCHES[branch]()
    tokens = tokens_for(ours)
    with torch.no_grad():
        assert_near(ours(tokens), theirs(tokens).logits, 1e-5)


@pytest.mark.parametrize("branch", ["gpt2", "opt-350m", "llama", "llama-3"])
def test_gradients_are_theirs(branch):
    theirs, ours = BRANCHES[branch]()
    tokens = tokens_for(ours)
    for logits in (ours(tokens), theirs(tokens).logits):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    table = "transformer.wte" if branch == "gpt2" else "model.decoder.embed_tokens" if "opt" in branch else "model.embed_tokens"
    torch.testing.assert_close(ours.embed_tokens.weight.grad, theirs.get_parameter(f"{table}.weight").grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("branch", ["gpt2", "opt", "opt-350m", "llama", "llama-3"])
def test_half_precision_is_theirs(branch, dtype):
    theirs, ours = BRANCHES[branch]()
    tokens = tokens_for(ours)
    with torch.no_grad():
        assert_near(ours.to(dtype)(tokens), theirs.to(dtype)(tokens).logits, 16 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("branch", ["gpt2", "llama"])
def test_autocast_is_theirs(branch):
    theirs, ours = BRANCHES[branch]()
    tokens = tokens_for(ours)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert_near(ours(tokens), theirs(tokens).logits, 16 * torch.finfo(torch.bfloat16).eps)


# ---------------------------------------------------------------------- rotary positions

ROTARY = {"positions": "rotary", "norm": "rms", "activation": "silu", "gated": True}
SMALL = {"vocabulary": 30, "layers": 2, "width": 16, "ffn_width": 24, "heads": 4, "max_positions": 16}


def small(**changes):
    torch.manual_seed(0)
    return Decoder(DecoderSettings(**{**SMALL, **changes})).eval()


def test_angles_are_computed_once(monkeypatch):
    model = small(**ROTARY)
    model(tokens_for(model, length=5))
    monkeypatch.setattr(rotary, "frequencies", None)
    model(tokens_for(model, length=9)), copy.deepcopy(model)(tokens_for(model, length=16))


def test_angles_are_in_full_precision_in_a_half_model():
    settings = DecoderSettings(**{**SMALL, **ROTARY, "max_positions": 4000})
    cos, _ = rotary.table(settings, torch.device("cpu"), torch.bfloat16)
    # In bf16 position 3999 itself would be 4000.
    f = settings.rope_theta ** (-torch.arange(0, 4, 2, dtype=torch.float64) / 4)
    torch.testing.assert_close(cos[3999].double(), (3999 * f).cos(), rtol=0, atol=5e-3)


def test_a_table_made_in_inference_mode_serves_training():
    model = small(**ROTARY, rope_theta=77.0)
    with torch.inference_mode():
        model(tokens_for(model, length=5))
    model(tokens_for(model, length=5)).sum().backward()


def test_the_gradient_of_a_rotation():
    settings = DecoderSettings(**{**SMALL, **ROTARY})
    turn = rotary.Rotation(settings, torch.tensor([[0, 3, 5], [2, 3, 4]]))
    x = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(turn, x)
    # A view with other strides, as attention has it.
    view = x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    torch.testing.assert_close(turn(view), turn(x))


@pytest.mark.parametrize("shares", [True, False])
def test_shared_keys_in_every_torch(monkeypatch, shares):
    if shares and not grouped_attention.SHARES_KEYS:
        pytest.skip("this torch has no enable_gqa")
    monkeypatch.setattr(grouped_attention, "SHARES_KEYS", shares)
    q, k, v = torch.randn(2, 6, 5, 4), torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4)
    wide = [x[:, [0, 0, 0, 1, 1, 1]] for x in (k, v)]
    weights = (q @ wide[0].transpose(2, 3) / 2).masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf")).softmax(-1)
    torch.testing.assert_close(causal_attention(q, k, v), weights @ wide[1])
    seen = torch.ones(5, 5, dtype=torch.bool).tril()
    for visible in (seen, seen.expand(2, 1, 5, 5)):
        torch.testing.assert_close(shared_attention(q, k, v, visible), weights @ wide[1])


# ---------------------------------------------------------------------- unused symbols

UNUSED = (0, 1, 3)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_unused_symbols_have_no_probability_and_nothing_is_nan(dtype, tied):
    model = small(unused=UNUSED, tied=tied).to(dtype).train()
    tokens = tokens_for(model).clamp(min=4)[:, :10]
    scores = model(tokens)
    assert scores.dtype == dtype and (scores[..., list(UNUSED)] == float("-inf")).all()
    assert scores[..., [2, *range(4, 30)]].isfinite().all()
    F.cross_entropy(scores.float().flatten(0, 1), tokens.flatten()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert (model.output_projection.weight.grad[list(UNUSED)] == 0).all()


def test_unused_symbols_change_nothing_for_the_others():
    model, other = small(unused=UNUSED), small()
    other.load_state_dict(model.state_dict())
    tokens = tokens_for(model, length=10)
    torch.testing.assert_close(model(tokens)[..., 4:], other(tokens)[..., 4:], rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (model(tokens)[..., list(UNUSED)] == float("-inf")).all()


# ---------------------------------------------------------------------- the rest


def test_padding_on_the_right_is_not_seen():
    model = small(**ROTARY)
    tokens = tokens_for(model, length=10)
    torch.testing.assert_close(model(tokens)[:, :6], model(tokens[:, :6]))


def test_it_begins_as_gpt2():
    model = small(layers=8, width=64, ffn_width=256, heads=4)
    layer = model.layers[3]
    for weight, deviation in (
        (model.embed_tokens.weight, 0.02),
        (layer.self_attn.q_proj.weight, 0.02),
        (layer.fc1.weight, 0.02),
        (layer.self_attn.out_proj.weight, 0.005),
        (layer.fc2.weight, 0.005),
    ):
        assert weight.std().item() == pytest.approx(deviation, rel=0.1)
    assert (layer.fc1.bias == 0).all() and (layer.final_layer_norm.weight == 1).all()
    assert (small(unused=UNUSED).embed_tokens.weight[list(UNUSED)] == 0).all()


def test_a_tied_output_layer_is_the_table():
    model = small()
    assert model.output_projection.weight is model.embed_tokens.weight
    assert "output_projection.weight" in model.state_dict()
    assert all(p.device.type == "cpu" for p in model.parameters())
    assert small(tied=False).output_projection.weight.shape == (30, 16)


def test_dropout_where_each_paper_has_it():
    tokens = tokens_for(small(), length=10)
    for which in ("dropout", "attention_dropout", "activation_dropout", "embedding_dropout"):
        off = {"dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0}
        model = small(**off).train()
        torch.testing.assert_close(model(tokens), model(tokens), rtol=0, atol=0)
        model = small(**{**off, which: 0.5}).train()
        assert not torch.equal(model(tokens), model(tokens)), which
        assert torch.equal(model.eval()(tokens), model(tokens)), which
    assert small(dropout=0.3).embedding_dropout.p == 0.3 and small(dropout=0.3, embedding_dropout=0.0).embedding_dropout.p == 0


def test_it_can_be_pickled_and_copied():
    model = small(**ROTARY)
    tokens = tokens_for(model, length=5)
    model(tokens)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(copied(tokens), model(tokens), rtol=0, atol=0)


def test_more_tokens_than_positions_are_refused():
    for changes in ({}, ROTARY):
        with pytest.raises(ValueError, match="17 tokens are more than the 16 positions"):
            small(**changes)(tokens_for(small(), length=17))


@pytest.mark.parametrize(
    "changes, name",
    [
        ({"layers": 0}, "layers"),
        ({"kv_heads": 0}, "kv_heads"),
        ({"kv_heads": 3}, "kv_heads"),
        ({"heads": 3}, "heads"),
        ({"head_size": -1}, "head_size"),
        ({"word_width": 0}, "word_width"),
        ({"positions": "sinusoidal"}, "positions"),
        ({"norm": "batch"}, "norm"),
        *(({"norm_eps": eps}, "norm_eps") for eps in (0.0, float("nan"), float("inf"))),
        ({"activation": "tanh"}, "activation"),
        ({"dropout": 1.0}, "dropout"),
        ({"embedding_dropout": -0.1}, "embedding_dropout"),
        ({"unused": (30,)}, "unused"),
        ({"unused": tuple(range(30))}, "unused"),
        ({"rope_scaling": "linear"}, "rope_scaling"),
        ({**ROTARY, "rope_scaling": "yarn"}, "rope_scaling"),
        ({**ROTARY, "head_size": 3}, "positions"),
        *(({**ROTARY, "rope_theta": theta}, "rope_theta") for theta in (0.0, float("inf"))),
        ({**ROTARY, "rope_scaling": "linear", "rope_factor": 0.5}, "rope_factor"),
        ({**ROTARY, "rope_factor": 8.0}, "rope_factor"),
        ({"rope_factor": 8.0}, "rope_factor"),
        ({**ROTARY, "rope_low_freq_factor": 2.0}, "rope_low_freq_factor"),
        ({**ROTARY, "rope_scaling": "linear", "rope_high_freq_factor": 2.0}, "rope_high_freq_factor"),
        ({**ROTARY, "rope_scaling": "linear", "rope_original_positions": 16}, "rope_original_positions"),
        ({**ROTARY, "rope_scaling": "llama3", "rope_low_freq_factor": 4.0}, "rope_low_freq_factor"),
        ({**ROTARY, "rope_scaling": "llama3", "rope_original_positions": 0}, "rope_original_positions"),
    ],
)
def test_bad_settings_are_named(changes, name):
    with pytest.raises(SettingError) as error:
        small(**changes)
    assert error.value.name == name
