"""Sizes in the config of a decoder's checkpoint are those of its weights, before a model is built of them."""

import published_decoders as small
import pytest
import torch
import toy  # noqa: F401  registers the plugin

from sharp_plugins.convert.decoder_backbone import load_decoder_model
from sharp_plugins.convert.decoder_conversion import convert_decoder
from sharp_plugins.files.checkpoint_config import config_of
from sharp_plugins.models.decoder_check import check_decoder
from sharp_plugins.networks.prefix import Prefix

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

BRANCHES = {
    "gpt2": ("gpt2", {}),
    "opt-350m": ("opt", dict(do_layer_norm_before=False, word_embed_proj_dim=16)),
    "llama": ("llama", {}),
    "llama, head_dim": ("llama", dict(head_dim=10)),
}
HUGE = 10**9
PREFIX = dict(_name="prefix", arch="prefix", base_arch="sharp_decoder", prefix_length=3)


@pytest.fixture(scope="module", params=BRANCHES)
def checkpoint(request, tmp_path_factory):
    """A converted decoder's settings and weights, and those of a prefix for it."""
    root = tmp_path_factory.mktemp("decoder")
    family, changes = BRANCHES[request.param]
    convert_decoder(small.write(root / "published", family, **changes), root / "out")
    state = torch.load(root / "out" / "model.pt", weights_only=False)
    prefix = Prefix.of(load_decoder_model(root / "out").decoder, 3, hidden=7)
    return config_of(state, "model"), state["model"], {f"decoder.prefix.{name}": p for name, p in prefix.named_parameters()}


@pytest.mark.parametrize("hidden", [None, 7, 0])
def test_the_sizes_of_converted_decoders(checkpoint, hidden):
    settings, weights, prefix = checkpoint
    if hidden == 0:
        prefix = {"decoder.prefix.table": torch.zeros(3, 8)}
    if hidden is None:
        check_decoder("x.pt", settings, weights)
    else:
        check_decoder("x.pt", {**settings, **PREFIX, "prefix_hidden": hidden}, {**weights, **prefix})


@pytest.mark.parametrize(
    "name",
    [
        "decoder_layers",
        "decoder_embed_dim",
        "decoder_ffn_embed_dim",
        "decoder_head_dim",
        "decoder_kv_heads",
        "decoder_input_dim",
        "max_target_positions",
        "prefix_length",
        "prefix_hidden",
    ],
)
def test_one_size_that_is_another(checkpoint, name):
    settings, weights, prefix = checkpoint
    settings, weights = {**settings, **PREFIX, "prefix_hidden": 7, name: HUGE}, {**weights, **prefix}
    with pytest.raises(ValueError, match=f"x.pt: its config says {name} {HUGE}, and "):
        check_decoder("x.pt", settings, weights)


def test_positions_that_are_the_tasks(checkpoint):
    settings, weights, _ = checkpoint
    positions = settings["max_target_positions"]
    check_decoder("x.pt", {**settings, "max_target_positions": None, "tokens_per_sample": positions}, weights)
    for value in (HUGE, "${task.tokens_per_sample}"):
        with pytest.raises(ValueError, match="its config says tokens_per_sample "):
            check_decoder("x.pt", {**settings, "max_target_positions": None, "tokens_per_sample": value}, weights)


def test_a_table_of_positions_that_the_weights_have_not(checkpoint):
    settings, weights, _ = checkpoint
    rotary = {name: value for name, value in weights.items() if "embed_positions" not in name}
    with pytest.raises(ValueError, match="its config says max_target_positions 1000, and its weights have 0"):
        check_decoder("x.pt", {**settings, "decoder_positions": "learned", "max_target_positions": 1000}, rotary)
