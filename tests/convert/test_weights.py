"""Published configurations and weights in fairseq's terms, and what is refused."""

import json

import published
import pytest
import torch

from sharp_plugins.convert.published_settings import read_settings
from sharp_plugins.convert.weights import fairseq_weights, read_weights

INSIDE = "encoder.sentence_encoder"


def settings_of(tmp_path, config):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    return read_settings(path)


def test_settings_of_bert(tmp_path):
    """Those of bert-base-uncased's published config.json."""
    config = {
        "architectures": ["BertForMaskedLM"],
        "attention_probs_dropout_prob": 0.1,
        "gradient_checkpointing": False,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 768,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "transformers_version": "4.6.0.dev0",
        "type_vocab_size": 2,
        "use_cache": True,
        "vocab_size": 30522,
    }
    expected = dict(
        encoder_layers=12,
        encoder_embed_dim=768,
        encoder_ffn_embed_dim=3072,
        encoder_attention_heads=12,
        activation_fn="gelu",
        dropout=0.1,
        attention_dropout=0.1,
        max_positions=512,
        token_types=2,
        layer_norm_eps=1e-12,
    )
    settings = settings_of(tmp_path, config)
    assert (settings.type, settings.vocabulary, settings.model) == ("bert", 30522, expected)
    del config["layer_norm_eps"]  # as in the first files
    assert settings_of(tmp_path, config) == settings


def test_settings_of_roberta(tmp_path):
    settings = settings_of(tmp_path, published.config("roberta", 50265, max_position_embeddings=514))
    assert settings.type == "roberta" and settings.model["max_positions"] == 512
    assert not {"token_types", "layer_norm_eps"} & settings.model.keys()
    without = published.config("roberta", 50265)
    del without["type_vocab_size"]
    assert settings.token_types == 1 and settings_of(tmp_path, without).token_types == 2  # transformers' default


@pytest.mark.parametrize(
    "kind, change, message",
    [
        ("bert", {"model_type": "electra"}, "model_type is 'electra'; only 'bert' .* and 'roberta' are converted"),
        ("bert", {"model_type": None}, "model_type is None"),
        ("roberta", {"model_type": "xlm-roberta"}, "model_type is 'xlm-roberta'"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ("bert", {"is_decoder": True}, "is_decoder is True"),
        ("bert", {"hidden_act": "silu"}, "hidden_act is 'silu'; fairseq has gelu"),
        ("bert", {"num_attention_heads": 3}, "hidden_size is no multiple of num_attention_heads"),
        ("roberta", {"layer_norm_eps": 1e-12}, "layer_norm_eps is 1e-12; in a roberta to convert it must be 1e-05"),
        ("roberta", {"pad_token_id": 0}, "pad_token_id is 0; in a roberta to convert it must be 1"),
        ("bert", {"hidden_size": "16"}, "hidden_size must be a whole number, 1 or larger, and is '16'"),
        ("bert", {"num_attention_heads": 0}, "num_attention_heads must be a whole number, 1 or larger, and is 0"),
        ("bert", {"hidden_dropout_prob": 1}, "hidden_dropout_prob must be a number from 0 to below 1, and is 1"),
    ],
)
def test_other_architectures_are_refused(tmp_path, kind, change, message):
    with pytest.raises(ValueError, match=message) as error:
        settings_of(tmp_path, {**published.config(kind, 30), **change})
    assert str(tmp_path / "config.json") in str(error.value)


def test_incomplete_configurations_are_refused(tmp_path):
    config = published.config("bert", 30)
    del config["hidden_size"], config["vocab_size"]
    with pytest.raises(ValueError, match="config.json: vocab_size, hidden_size missing"):
        settings_of(tmp_path, config)
    with pytest.raises(FileNotFoundError, match="config.json"):
        read_settings(tmp_path / "elsewhere" / "config.json")
    for text in ("{", "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match="config.json: cannot be read: not a JSON object"):
            read_settings(tmp_path / "config.json")


def test_both_formats_hold_the_same(tmp_path):
    config = published.config("bert", 30)
    weights = published.weights(config)
    for safe in (True, False):
        read = read_weights(published.write(tmp_path / str(safe), config, weights, safe))
        assert read.keys() == weights.keys() and all(torch.equal(read[name], weights[name]) for name in weights)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither model.safetensors nor pytorch_model.bin"):
        read_weights(tmp_path)
    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match=f"{name}: cannot be read"):
            read_weights(tmp_path)


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_pickles_run_no_code(tmp_path):
    torch.save({"bert.embeddings.word_embeddings.weight": Harmful(tmp_path / "trace")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pytorch_model.bin: cannot be read"):
        read_weights(tmp_path)
    assert not (tmp_path / "trace").exists()


@pytest.fixture
def bert(tmp_path):
    config = published.config("bert", 30)
    return settings_of(tmp_path, config), published.weights(config, lm_head=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["bert.encoder.layer.0.output.dense.weight", "cls.predictions.bias"])
def test_numbers_that_are_not_finite(bert, value, name):
    settings, weights = bert
    weights[name].view(-1)[0] = value
    with pytest.raises(ValueError, match=f"{name} has numbers that are not finite"):
        fairseq_weights(weights, settings, list(range(30)))


@pytest.mark.parametrize("size", [10, 31])
def test_a_bias_of_another_table(bert, size):
    settings, weights = bert
    weights["cls.predictions.bias"] = torch.zeros(size)
    with pytest.raises(ValueError, match=rf"cls.predictions.bias has the shape \[{size}\], and 30 words want as many numbers"):
        fairseq_weights(weights, settings, list(range(30)))


def test_names_of_the_first_berts(bert, tmp_path):
    settings, weights = bert
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in weights.items()
    }
    assert sum(name.endswith((".gamma", ".beta")) for name in old) == 2 * (1 + 2 * 2 + 1)
    torch.save(old, tmp_path / "pytorch_model.bin")
    expected, _ = fairseq_weights(weights, settings, list(range(30)))
    state, left_out = fairseq_weights(read_weights(tmp_path), settings, list(range(30)))
    assert left_out == [] and state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_encoders_without_a_prefix(bert):
    settings, weights = bert
    bare = {name.removeprefix("bert."): value for name, value in weights.items()}
    state, _ = fairseq_weights(bare, settings, list(range(30)))
    expected, _ = fairseq_weights(weights, settings, list(range(30)))
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_tables_of_words_get_the_dictionarys_order(bert):
    settings, weights = bert
    rows = [29, 3, 5, 0, 7]
    state, _ = fairseq_weights(weights, settings, rows)
    assert torch.equal(state[f"{INSIDE}.embed_tokens.weight"], weights["bert.embeddings.word_embeddings.weight"][rows])
    assert torch.equal(state["encoder.lm_head.bias"], weights["cls.predictions.bias"][rows])
    assert state["encoder.lm_head.weight"] is state[f"{INSIDE}.embed_tokens.weight"]


def test_what_has_no_place_is_named(bert):
    settings, weights = bert
    extra = {
        "bert.embeddings.position_ids": torch.arange(9),
        "cls.seq_relationship.weight": torch.ones(2, 16),
        "cls.predictions.decoder.weight": weights["bert.embeddings.word_embeddings.weight"].clone(),
        "cls.predictions.decoder.bias": weights["cls.predictions.bias"].clone(),
    }
    state, left_out = fairseq_weights({**weights, **extra}, settings, list(range(30)))
    assert left_out == ["cls.seq_relationship.weight"] and "encoder.lm_head.bias" in state


def test_an_untied_or_partial_language_model_head_is_left_out(bert):
    settings, weights = bert
    untied = {**weights, "cls.predictions.decoder.weight": torch.ones(30, 16)}
    partial = {name: value for name, value in weights.items() if name != "cls.predictions.bias"}
    for given in (untied, partial):
        state, left_out = fairseq_weights(given, settings, list(range(30)))
        assert [name for name in state if "lm_head" in name] == ["encoder.lm_head.weight"]
        assert list(left_out) == sorted(name for name in given if name.startswith("cls."))


def test_a_roberta_with_another_activation_has_no_head_of_fairseqs(tmp_path):
    """In transformers RoBERTa's head has gelu whatever the layers have, in fairseq their activation."""
    for activation, has_head in (("gelu", True), ("relu", False), ("gelu_new", False)):
        config = published.config("roberta", 9, hidden_act=activation)
        state, left_out = fairseq_weights(published.weights(config, lm_head=True), settings_of(tmp_path, config), list(range(9)))
        assert ("encoder.lm_head.dense.weight" in state) == has_head
        assert ("lm_head.dense.weight" in left_out) == (not has_head)


def test_entries_that_are_no_weights_are_passed_over(tmp_path):
    weights = {"bert.pooler.dense.bias": torch.zeros(3), "bert.pooler.dense.weight": None, 7: torch.zeros(2), "step": 4}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert list(read_weights(tmp_path)) == ["bert.pooler.dense.bias"]


def test_half_precision_becomes_fp32(bert):
    settings, weights = bert
    half = {name: value.half() for name, value in weights.items()}
    state, _ = fairseq_weights(half, settings, list(range(30)))
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_robertas_one_token_type_is_added_to_its_positions(tmp_path):
    config = published.config("roberta", 30)
    weights = published.weights(config)
    before = {name: value.clone() for name, value in weights.items()}
    state, left_out = fairseq_weights(weights, settings_of(tmp_path, config), list(range(30)))
    positions = weights["roberta.embeddings.position_embeddings.weight"]
    expected = positions + weights["roberta.embeddings.token_type_embeddings.weight"]
    assert torch.equal(state[f"{INSIDE}.embed_positions.weight"][1:], expected[1:])  # padding's own is the second
    assert torch.equal(state[f"{INSIDE}.embed_positions.weight"][:1], positions[:1])
    assert not any("token_types" in name for name in state)
    assert left_out == ["roberta.pooler.dense.bias", "roberta.pooler.dense.weight"]
    assert all(torch.equal(weights[name], before[name]) for name in before)


def test_parts_that_do_not_fit_together(bert):
    settings, weights = bert
    rows = list(range(30))
    with pytest.raises(ValueError, match="one bert encoder is expected; 0 weights end in .*word_embeddings"):
        fairseq_weights({"transformer.wte.weight": torch.ones(30, 16)}, settings, rows)
    with pytest.raises(ValueError, match="one bert encoder is expected; 2 weights end in .*word_embeddings"):
        twice = {f"{side}.{name}": value for side in ("encoder", "decoder") for name, value in weights.items()}
        fairseq_weights(twice, settings, rows)
    with pytest.raises(ValueError, match=r"word_embeddings.weight has shape \(30, 16\), .* \(31, 16\)"):
        fairseq_weights(weights, settings._replace(vocabulary=31), rows)
    with pytest.raises(ValueError, match="bert.encoder.layer.1.* is there, and by config.json there is no such weight"):
        fairseq_weights(weights, settings._replace(model={**settings.model, "encoder_layers": 1}), rows)
