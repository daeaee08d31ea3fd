"""``--arch sharp_decoder`` and its shapes: flags, generation with and without fairseq's incremental state, checkpoints."""

import pytest
import texts
import torch
import toy
from fairseq import models
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.sequence_generator import SequenceGenerator
from omegaconf import OmegaConf

from sharp_plugins.models.decoder import DecoderModel
from sharp_plugins.models.decoder_config import FLAGS, OPPOSITES, DecoderConfig
from sharp_plugins.models.decoder_sizes import SIZES
from sharp_plugins.networks.decoder_settings import DecoderSettings

# ---------------------------------------------------------------------- flags


# Published sizes of the vocabulary, and numbers of weights: of the models' own cards and papers.
PUBLISHED = {
    "sharp_gpt2": (50257, 124_439_808),
    "sharp_gpt2_medium": (50257, 354_823_168),
    "sharp_gpt2_large": (50257, 774_030_080),
    "sharp_gpt2_xl": (50257, 1_557_611_200),
    "sharp_opt_125m": (50272, 125_239_296 - 2 * 768),  # without the two rows of positions that nothing uses
    "sharp_opt_350m": (50272, 331_196_416 - 2 * 1024),
    "sharp_opt_1_3b": (50272, 1_315_758_080 - 2 * 2048),
    "sharp_smollm2_135m": (49152, 134_515_008),
    "sharp_smollm2_360m": (49152, 361_821_120),
    "sharp_smollm2_1_7b": (49152, 1_711_376_384),
    "sharp_tinyllama_1_1b": (32000, 1_100_048_384),
    "sharp_llama2_7b": (32000, 6_738_415_616),
    "sharp_llama2_13b": (32000, 13_015_864_320),
    "sharp_llama3_2_1b": (128256, 1_235_814_400),
}


class Words:
    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def pad(self):
        return 1


class Task:
    def __init__(self, dictionary):
        self.source_dictionary = self.target_dictionary = dictionary


def defaults(arch, **flags):
    args = OmegaConf.create({"_name": arch, "tokens_per_sample": 64, **flags})
    OmegaConf.set_struct(args, False)
    models.ARCH_CONFIG_REGISTRY[arch](args)
    return args


@pytest.mark.parametrize("arch", PUBLISHED)
def test_published_shapes_have_the_published_number_of_weights(arch):
    vocabulary, weights = PUBLISHED[arch]
    with torch.device("meta"):
        model = DecoderModel.build_model(defaults(arch), Task(Words(vocabulary)))
    assert sum(p.numel() for p in model.parameters()) == weights


def test_every_shape_builds_and_no_flag_is_forgotten():
    for arch in SIZES:
        with torch.device("meta"):
            DecoderModel.build_model(defaults(arch), Task(Words(100)))
        assert ARCH_MODEL_REGISTRY[arch] is DecoderModel
        assert set(SIZES[arch]) <= set(DecoderConfig.__dataclass_fields__)
    others = {"unused_symbols", "tokens_per_sample", "checkpoint_activations", "offload_activations", "_name"}
    assert set(DecoderConfig.__dataclass_fields__) == {*FLAGS.values(), *OPPOSITES.values()} | others
    assert set(DecoderSettings.__dataclass_fields__) == {*FLAGS, *OPPOSITES, "vocabulary", "unused"}


def test_flags_say_otherwise_and_defaults_are_the_shapes(text_data):
    cfg = texts.config(text_data, "--optimizer", "sgd", *toy.SGD, "--rope-theta", "50", model="llama")
    assert cfg.model.rope_theta == 50 and cfg.model.decoder_layers == 2
    assert cfg.model.decoder_norm == "rms" and cfg.model.dropout == 0.0 and cfg.model.no_ffn_bias
    settings = texts.trainer(text_data, model="llama").get_model().decoder.settings
    assert settings.kv == 2 and settings.positions == "rotary" and settings.max_positions == 64 and settings.gated


def test_a_shapes_scaling_can_be_left_out():
    with torch.device("meta"):
        model = DecoderModel.build_model(defaults("sharp_llama3_2_1b", rope_scaling="none"), Task(Words(9)))
    settings = model.decoder.settings
    assert (settings.rope_scaling, settings.rope_factor, settings.rope_theta) == ("none", 1.0, 500000.0)


def test_positions_are_the_tasks_where_no_flag_says(text_data):
    flags = "--arch sharp_decoder --decoder-layers 1 --decoder-embed-dim 8 --decoder-attention-heads 2 --decoder-ffn-embed-dim 8"
    trainer = texts.trainer(text_data, model=flags.split())
    assert trainer.get_model().max_positions() == 64 == trainer.get_model().decoder.embed_positions.num_embeddings


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--decoder-attention-heads 3", "--decoder-attention-heads 3 do not divide the width 16"),
        ("--decoder-kv-heads 3", "--decoder-kv-heads 3 do not divide the 4 heads"),
        ("--decoder-layers 0", "--decoder-layers must be 1 or larger"),
        ("--dropout 1", "--dropout must be from 0 to below 1"),
        ("--rope-scaling llama3 --rope-low-freq-factor 9", "--rope-low-freq-factor must be between 0 and"),
        ("--rope-factor 8", "--rope-factor 8.0 is for rope_scaling linear or llama3, and it is none"),
        ("--unused-symbols w0,w1", "--unused-symbols w0,w1: w0,w1 is no symbol of the dictionary"),
        ("--output-dictionary-size 10", "--output-dictionary-size"),
    ],
)
def test_bad_flags_are_named(text_data, flags, words):
    with pytest.raises(ValueError, match=words):
        texts.trainer(text_data, *flags.split())


def test_layer_drop_is_no_flag(text_data, capsys):
    with pytest.raises(SystemExit):
        texts.config(text_data, "--optimizer", "sgd", *toy.SGD, "--decoder-layerdrop", "0.1")
    assert "--decoder-layerdrop" in capsys.readouterr().err


def test_unused_symbols_are_rows_of_the_dictionary(text_data):
    model = texts.model(text_data, "--unused-symbols", "<s> <pad> <unk>")
    assert model.decoder.settings.unused == (0, 1, 3)
    scores, _ = model(torch.tensor([[2, 5, 6]]))
    assert (scores[..., [0, 1, 3]] == float("-inf")).all()


# ---------------------------------------------------------------------- generation


def hypotheses(model, data, beam=3, prefix=None, incremental=True, **settings):
    """fairseq's own generator on two rows; a list of (tokens, score) for each."""
    dictionary = texts.trainer(data).task.source_dictionary
    if not incremental:
        # fairseq looks for the base class of decoders with a state.
        forward = model.decoder.forward
        model.decoder.forward = lambda tokens, incremental_state=None, **others: forward(tokens, **others)
    generator = SequenceGenerator([model], dictionary, beam_size=beam, max_len_a=0, max_len_b=12, **settings)
    prefix = torch.tensor([[5, 6, 7], [9, 1, 1]]) if prefix is None else prefix
    sample = {"net_input": {"src_tokens": prefix, "src_lengths": prefix.ne(1).sum(1)}, "id": torch.arange(len(prefix))}
    found = generator.generate([model], sample, prefix_tokens=prefix)
    return [[(hypothesis["tokens"].tolist(), hypothesis["score"].item()) for hypothesis in row] for row in found]


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("name", texts.MODELS)
def test_generation_with_a_cache_is_generation_without(text_data, name, beam):
    with torch.no_grad():
        fast = hypotheses(texts.model(text_data, model=name), text_data, beam)
        slow = hypotheses(texts.model(text_data, model=name), text_data, beam, incremental=False)
    for ours, theirs in zip(fast, slow):
        assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in theirs]
        assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=1e-4)
    assert all(row[0][0][:1] == [first] for row, first in zip(fast, (5, 9)))


def test_generation_of_a_model_that_was_trained_with_checkpointed_activations(text_data):
    with torch.no_grad():
        plain, checkpointed = (
            hypotheses(texts.model(text_data, *flags), text_data) for flags in ([], ["--checkpoint-activations"])
        )
    assert checkpointed == plain


def test_generation_reads_each_token_once(text_data, monkeypatch):
    model, read = texts.model(text_data), []
    features = model.decoder.features

    def counted(tokens, *others):
        read.append(tokens.size(1))
        return features(tokens, *others)

    monkeypatch.setattr(model.decoder, "features", counted)
    with torch.no_grad():
        hypotheses(model, text_data)
    assert len(read) > 4 and set(read) == {1}


def test_a_config_without_the_command_line(text_data):
    """``model: {_name: sharp_gpt2, ...}`` of a hydra config; and one of the whole config, as a checkpoint has it."""
    task = texts.trainer(text_data).task
    for name in ("sharp_gpt2", "sharp_decoder"):
        cfg = OmegaConf.create({"_name": name, "decoder_layers": 1, "decoder_embed_dim": 24, "tokens_per_sample": 64})
        model = task.build_model(cfg)
        assert model.decoder.settings.layers == 1 and model.decoder.settings.width == 24
        assert model.max_positions() == (1024 if name == "sharp_gpt2" else 64)


def test_the_state_takes_a_prompt_at_once(text_data):
    model, tokens, state = texts.model(text_data), torch.tensor([[2, 5, 6, 7, 8]]), {}
    with torch.no_grad():
        parts = [model(tokens[:, :n], incremental_state=state)[0] for n in (3, 4, 5)]
        assert [part.size(1) for part in parts] == [3, 1, 1]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens)[0], rtol=1e-4, atol=1e-5)


def test_the_state_in_another_order(text_data):
    model, tokens, state = texts.model(text_data), torch.tensor([[2, 5, 6], [2, 9, 8]]), {}
    with torch.no_grad():
        model(tokens[:, :2], incremental_state=state)
        model.decoder.reorder_incremental_state_scripting(state, torch.tensor([1, 1, 0]))
        more = torch.tensor([[2, 9, 7], [2, 9, 4], [2, 5, 4]])
        torch.testing.assert_close(model(more, incremental_state=state)[0], model(more)[0][:, -1:], rtol=1e-4, atol=1e-5)
