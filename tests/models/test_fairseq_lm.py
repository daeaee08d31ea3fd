"""Checkpoints of fairseq's own ``transformer_lm``: read where they are exact, and refused by name where they are not."""

import pytest
import texts
import torch

from sharp_plugins.models.fairseq_lm import upgrade
from sharp_plugins.networks.decoder_settings import DecoderSettings

SIZE = (
    "--decoder-layers 2 --decoder-embed-dim 16 --decoder-output-dim 16 --decoder-ffn-embed-dim 32 --decoder-attention-heads 4 "
    "--activation-fn gelu"
)
LEARNED = "--decoder-learned-pos --no-scale-embedding --decoder-normalize-before"
TIED = "--share-decoder-input-output-embed --decoder-input-dim 16"
OURS = (
    "--arch sharp_decoder --decoder-layers 2 --decoder-embed-dim 16 --decoder-ffn-embed-dim 32 --decoder-attention-heads 4 "
    "--activation-fn gelu --max-target-positions 64"
)


def both(data, theirs, ours=""):
    """fairseq's model, and ours with its state."""
    old = texts.model(data, model=f"--arch transformer_lm {SIZE} {theirs}".split())
    new = texts.trainer(data, model=f"{OURS} {ours}".split()).get_model().eval()
    new.load_state_dict(old.state_dict(), strict=True)
    return old, new


@pytest.mark.parametrize(
    "theirs, ours",
    [
        (f"{LEARNED} {TIED}", ""),
        (f"{LEARNED} --decoder-input-dim 16", "--untied-output"),
        (f"{LEARNED} {TIED} --no-decoder-final-norm", "--no-decoder-final-norm"),
        (f"--decoder-learned-pos --no-scale-embedding {TIED}", "--decoder-post-norm"),
        (f"{LEARNED} --share-decoder-input-output-embed --decoder-input-dim 8 --decoder-output-dim 8", "--decoder-input-dim 8"),
    ],
)
def test_the_scores_are_fairseqs(text_data, theirs, ours, caplog):
    caplog.set_level("WARNING")
    old, new = both(text_data, theirs, ours)
    assert "--no-scale-embedding" in caplog.text
    tokens = torch.tensor([[2, 5, 6, 7], [2, 9, 8, 1]])
    with torch.no_grad():
        expected, found = (model(tokens, src_lengths=torch.tensor([4, 3]))[0] for model in (old, new))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1, :3], expected[1, :3], rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.1


@pytest.mark.parametrize(
    "theirs, ours, words",
    [
        (f"--no-scale-embedding {TIED}", "", "no table of positions"),
        (f"{LEARNED} {TIED} --layernorm-embedding", "", "a normalisation of the embeddings"),
        (f"{LEARNED} {TIED} --no-token-positional-embeddings", "", "no table of positions"),
        (f"{LEARNED} {TIED}", "--decoder-positions rotary", "needs --decoder-positions learned"),
        (f"{LEARNED} {TIED}", "--decoder-post-norm", "needs no --decoder-post-norm"),
        (f"{LEARNED} {TIED}", "--no-decoder-final-norm", "needs no --no-decoder-final-norm"),
        (f"{LEARNED} {TIED} --no-decoder-final-norm", "", "needs --decoder-post-norm if it was"),
        (f"{LEARNED} {TIED}", "--no-ffn-bias", "needs no --no-ffn-bias"),
        (f"{LEARNED} {TIED}", "--decoder-norm rms", "needs --decoder-norm layer"),
        (f"{LEARNED} --decoder-input-dim 16", "", "output_projection.weight is another table .* it needs --untied-output"),
    ],
)
def test_what_would_compute_something_else_is_refused(text_data, theirs, ours, words):
    with pytest.raises(ValueError, match=words):
        both(text_data, theirs, ours)


@pytest.mark.parametrize(
    "name, words",
    [
        ("layers.0.encoder_attn.k_proj.weight", "attention to an encoder"),
        ("layers.1.attn_ln.weight", "a normalisation of the heads"),
        ("layers.1.ffn_layernorm.weight", "in the feed-forward parts"),
        ("layers.0.w_resid", "scaled residuals"),
        ("layers.0.self_attn.c_attn", "scaled heads"),
        ("adaptive_softmax.head.weight", "an adaptive softmax"),
    ],
)
def test_parts_of_fairseqs_decoders_that_ours_has_not(name, words):
    state = {"decoder.version": torch.tensor([3.0]), f"decoder.{name}": torch.zeros(1)}
    with pytest.raises(ValueError, match=words):
        upgrade(state, "decoder.", DecoderSettings(vocabulary=9))


def test_our_own_checkpoints_stay_as_they_are(text_data, caplog):
    caplog.set_level("WARNING")
    old = texts.model(text_data, model="gpt2")
    new = texts.trainer(text_data, model="gpt2").get_model()
    new.load_state_dict(old.state_dict(), strict=True)
    torch.testing.assert_close(new.decoder.embed_positions.weight, old.decoder.embed_positions.weight)
    assert "transformer_lm" not in caplog.text


@pytest.mark.parametrize(
    "wrapper", [[], "--arch lora --lora-rank 2 --lora-target output_projection".split()], ids=["plain", "lora"]
)
def test_an_untied_checkpoint_of_ours_needs_the_flag_too(text_data, wrapper):
    model = [*wrapper, *(["--base-arch", *texts.MODELS["gpt2"][1:]] if wrapper else texts.MODELS["gpt2"])]
    untied = texts.model(text_data, model=[*model, "--untied-output"]).state_dict()
    tied = texts.model(text_data, model=model)
    with pytest.raises(ValueError, match="another table than decoder.embed_tokens.weight, .* it needs --untied-output"):
        tied.load_state_dict(untied)
    # A part of a checkpoint may have one of the two names.
    del untied["decoder.embed_tokens.weight"]
    tied.load_state_dict(untied, strict=False)
    torch.testing.assert_close(tied.decoder.embed_tokens.weight, untied["decoder.output_projection.weight"])
