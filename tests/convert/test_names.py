"""One model under all the names that training loops and file formats give its weights: each converts to the same state."""

import published
import pytest
import torch
from torch import nn

from sharp_plugins.convert.names import model_names
from sharp_plugins.convert.published_settings import read_settings
from sharp_plugins.convert.weights import fairseq_weights, read_weights

ROWS = 30


@pytest.fixture(params=["bert", "roberta"])
def model(request, tmp_path):
    """(settings, weights under the published names), with a language-model head."""
    config = published.config(request.param, ROWS)
    directory = published.write(tmp_path / "published", config, {})
    return read_settings(directory / "config.json"), published.weights(config, lm_head=True)


def before_all(front):
    return lambda weights: {front + name: value for name, value in weights.items()}


def inside_layers(weights):
    """As activation checkpointing and FSDP leave them."""
    return {
        f"_fsdp_wrapped_module.{name}".replace(".layer.0.", ".layer.0._checkpoint_wrapped_module."): value
        for name, value in weights.items()
    }


def with_averages(weights):
    averages = {name: torch.zeros_like(value) for name, value in weights.items()}
    return {"ema": averages, "state_dict": weights, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}


def first_berts_names(weights):
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): value for name, value in weights.items()}
    return {name.replace("LayerNorm.bias", "LayerNorm.beta"): value for name, value in old.items()}


WAYS = {
    "as published": dict,
    "DistributedDataParallel": before_all("module."),
    "Lightning": lambda weights: {"state_dict": before_all("model.")(weights), "epoch": 3, "callbacks": {}},
    "torch.compile": before_all("_orig_mod."),
    "both": before_all("module._orig_mod.model."),
    "a class around it": before_all("transformer."),
    "a class in a class": before_all("net.encoder."),
    "DeepSpeed": lambda weights: {"module": before_all("model.")(weights), "ds_version": "0.1"},
    "dicts in dicts": lambda weights: {"checkpoint": {"model": {"state_dict": before_all("module.")(weights)}}},
    "FSDP": inside_layers,
    "averages beside it": with_averages,
    "names of the first BERTs": first_berts_names,
    "two names for all": lambda weights: {**weights, **before_all("model.")(weights)},
    "two names for all but the head": lambda weights: {
        **{name: value for name, value in weights.items() if not name.startswith(("cls.", "lm_head."))},
        **before_all("model.")(weights),
    },
    "parameters": lambda weights: {name: nn.Parameter(value) for name, value in weights.items()},
}


def assert_same(found, expected):
    (state, left_out), (other, other_left_out) = found, expected
    assert left_out == other_left_out and state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in other)
    assert "encoder.lm_head.dense.weight" in state


@pytest.mark.parametrize("way", WAYS)
def test_all_names_of_one_model(model, tmp_path, way):
    settings, weights = model
    expected = fairseq_weights(weights, settings, list(range(ROWS)))
    torch.save(WAYS[way](weights), tmp_path / "pytorch_model.bin")
    assert_same(fairseq_weights(read_weights(tmp_path), settings, list(range(ROWS))), expected)


class Tied(nn.Module):
    """A model whose state dict has *weights*' names, with the output layer's own names for the table and the bias."""

    def __init__(self, weights, front, head):
        super().__init__()
        shared = {f"{head}decoder.weight": "embeddings.word_embeddings.weight", f"{head}decoder.bias": f"{head}bias"}
        for name, value in weights.items():
            self._put(front + name, nn.Parameter(value.clone()))
        for name, other in shared.items():
            (kept,) = [key for key, _ in self.named_parameters() if key.endswith(other)]
            self._put(front + name, self.get_parameter(kept))

    def _put(self, name, parameter):
        *path, last = name.split(".")
        module = self
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        module.register_parameter(last, parameter)


@pytest.mark.parametrize("keeps_metadata", [True, False], ids=["with metadata", "without"])
@pytest.mark.parametrize("front", ["", "module."])
def test_tensors_that_safetensors_stores_once(model, tmp_path, front, keeps_metadata):
    """`save_model` keeps the first name of a shared tensor: of a RoBERTa's table the output layer's."""
    safetensors = pytest.importorskip("safetensors.torch")
    settings, weights = model
    head = {"bert": "cls.predictions.", "roberta": "lm_head."}[settings.type]
    tied = Tied(weights, front, head)
    if keeps_metadata:
        safetensors.save_model(tied, tmp_path / "model.safetensors")
    else:
        safetensors.save_model(tied, tmp_path / "with.safetensors")
        safetensors.save_file(safetensors.load_file(tmp_path / "with.safetensors"), tmp_path / "model.safetensors")
    stored = safetensors.load_file(tmp_path / "model.safetensors")
    assert len(stored) == len(weights)  # each once
    if settings.type == "roberta":
        assert not any(name.endswith("word_embeddings.weight") for name in stored)
    expected = fairseq_weights(weights, settings, list(range(ROWS)))
    assert_same(fairseq_weights(read_weights(tmp_path), settings, list(range(ROWS))), expected)


def test_what_is_no_one_model(model):
    settings, weights = model
    other = {name: value + 1 for name, value in weights.items()}
    with pytest.raises(ValueError, match="it holds several models, student and teacher"):
        model_names({"student": weights, "teacher": other})
    with pytest.raises(ValueError, match="it holds two different tensors for .*, one of them as module"):
        model_names({**weights, **before_all("module.")(other)})
    with pytest.raises(ValueError, match="one .* encoder is expected; 2 weights end in"):
        fairseq_weights(model_names({**before_all("a.")(weights), **before_all("b.")(other)}), settings, list(range(ROWS)))
    with pytest.raises(ValueError, match="weights by their names are expected, and it holds a list"):
        model_names([weights])


def test_a_dict_in_itself_ends():
    content = {"step": 1}
    content["again"] = content
    assert model_names(content) == {}


def test_weights_that_are_no_plain_numbers(model):
    settings, weights = model
    name = next(name for name in weights if name.endswith("layer.0.output.dense.weight"))
    for value in (weights[name].to(torch.int8), weights[name].to_sparse()):
        with pytest.raises(ValueError, match=f"{name} is .*; plain floating-point weights are expected"):
            fairseq_weights({**weights, name: value}, settings, list(range(ROWS)))


def test_any_tensor_that_safetensors_stores_once(model, tmp_path):
    """Layers that share a weight: only the file's metadata tells."""
    safetensors = pytest.importorskip("safetensors.torch")
    settings, weights = model
    one, other = (f"{settings.type}.encoder.layer.{n}.output.dense.weight" for n in (0, 1))
    shared = {**weights, other: weights[one]}
    expected = fairseq_weights(shared, settings, list(range(ROWS)))
    stored = {name: value for name, value in weights.items() if name != other}
    safetensors.save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt", other: one})
    assert_same(fairseq_weights(read_weights(tmp_path), settings, list(range(ROWS))), expected)
