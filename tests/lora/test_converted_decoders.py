"""The commands on decoders that `python -m sharp_plugins.convert` made, with PEFT on the published ones: from file to file."""

import published_decoders as small
import pytest
import torch
import toy  # noqa: F401  registers the plugin
from parameters import as_after_training

from sharp_plugins.convert.decoder_backbone import load_decoder, load_decoder_model
from sharp_plugins.convert.decoder_conversion import convert_decoder
from sharp_plugins.lora.commands import load_adapter, merge_checkpoint, save_adapter

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytest.importorskip("tokenizers")

BRANCHES = {
    "gpt2": ("gpt2", {}),
    "gpt2, erf": ("gpt2", dict(activation_function="gelu", n_inner=20)),
    "gpt2, relu": ("gpt2", dict(activation_function="relu")),
    "opt-125m": ("opt", {}),
    "opt, gelu": ("opt", dict(activation_function="gelu")),
    "opt-350m": ("opt", dict(do_layer_norm_before=False, word_embed_proj_dim=16)),
    "galactica": ("opt", dict(enable_bias=False, activation_function="gelu")),
    "llama": ("llama", {}),
    "llama, biases, head_dim, untied": ("llama", dict(attention_bias=True, mlp_bias=True, head_dim=10, tie_word_embeddings=False)),
}


class Both:
    """A published decoder, and what it was converted to."""

    def __init__(self, directory, branch):
        family, changes = BRANCHES[branch]
        self.published, self.out = small.write(directory / "published", family, **changes), directory / "out"
        convert_decoder(self.published, self.out)
        self.plain = self.out / "model.pt"
        ids = torch.tensor(load_decoder(self.out).tokenizer.published_ids)
        self.used = ids >= 0
        self.ids = ids[self.used]
        self.rows = self.used.nonzero()[torch.randint(0, len(self.ids), (2, 7), generator=torch.Generator().manual_seed(1))][..., 0]
        self.theirs = ids[self.rows]

    def model(self):
        return transformers.AutoModelForCausalLM.from_pretrained(str(self.published), dtype=torch.float32).eval()

    def adapter(self, directory, config):
        """PEFT's files, with values as after training; returns PEFT's model."""
        model = peft.get_peft_model(self.model(), config).eval()
        as_after_training(model, by=0.1)
        model.save_pretrained(directory)
        return model

    def their_scores(self, model):
        with torch.no_grad():
            return model(self.theirs, attention_mask=torch.ones_like(self.theirs)).logits[..., self.ids]

    def our_scores(self, path):
        """Of a checkpoint, whatever its architecture, beside the converted model's dictionary."""
        linked = path.parent / "model.pt"
        if linked != path:
            for name in ("dict.txt", "tokenizer.json"):
                (path.parent / name).write_bytes((self.out / name).read_bytes())
            linked.write_bytes(path.read_bytes())
        with torch.no_grad():
            scores = load_decoder_model(path.parent)(self.rows)[0]
        assert torch.isneginf(scores[..., ~self.used]).all()
        return scores[..., self.used]


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * (expected.max() - expected.min()).item())


@pytest.fixture(scope="module", params=BRANCHES)
def both(request, tmp_path_factory):
    return Both(tmp_path_factory.mktemp("decoder"), request.param)


def test_lora_from_file_to_file(tmp_path, both):
    """PEFT's adapter loaded, merged, saved for PEFT again."""
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM")
    theirs = both.adapter(tmp_path / "adapter", config)
    expected = both.their_scores(theirs)
    load_adapter(tmp_path / "adapter", both.plain, tmp_path / "lora.pt")
    assert_close(both.our_scores(tmp_path / "lora.pt"), expected)
    assert (both.our_scores(both.plain) - expected).abs().max() > 1e-2
    merge_checkpoint(tmp_path / "lora.pt", tmp_path / "merged.pt")
    assert_close(both.our_scores(tmp_path / "merged.pt"), expected)
    save_adapter(tmp_path / "lora.pt", tmp_path / "again", names="transformers")
    again = peft.PeftModel.from_pretrained(both.model(), tmp_path / "again").eval()
    assert_close(both.their_scores(again), expected)


def test_a_prefix_from_file_to_file(tmp_path, both):
    theirs = both.adapter(tmp_path / "adapter", peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    expected = both.their_scores(theirs)
    load_adapter(tmp_path / "adapter", both.plain, tmp_path / "prefix.pt")
    assert_close(both.our_scores(tmp_path / "prefix.pt"), expected)
    assert (both.our_scores(both.plain) - expected).abs().max() > 1e-2
    save_adapter(tmp_path / "prefix.pt", tmp_path / "again")
    again = peft.PeftModel.from_pretrained(both.model(), tmp_path / "again").eval()
    assert torch.equal(both.their_scores(again), expected)
