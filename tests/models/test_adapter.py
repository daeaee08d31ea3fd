"""``--arch adapter``: the formula, that the model begins as it was, and what is trained."""

import copy

import pytest
import sentences
import texts
import torch
import torch.nn.functional as F
import toy
from fairseq.modules import MultiheadAttention
from torch import nn

from sharp_plugins.networks.bottleneck import Bottleneck, adapters, close, follow

ADAPTER = ["--arch", "adapter", "--base-arch", *toy.MODEL[1:], "--adapter-size", "4"]
ADAM = "--optimizer adam --lr 0.01".split()


def sample_of(trainer):
    return toy.batches(trainer, [6])[0]


def test_the_formula():
    torch.manual_seed(0)
    adapter, h = Bottleneck(6, 3, "tanh"), torch.randn(2, 5, 6)
    assert torch.equal(adapter(h), h)
    for p in adapter.parameters():
        nn.init.normal_(p)
    inner = torch.tanh(h @ adapter.down.weight.T + adapter.down.bias)
    torch.testing.assert_close(adapter(h), h + inner @ adapter.up.weight.T + adapter.up.bias)


def test_it_follows_an_attention_in_every_path_and_its_copies_have_their_own():
    torch.manual_seed(0)
    attention, x = MultiheadAttention(8, 2, self_attention=True), torch.randn(4, 3, 8)
    plain = copy.deepcopy(attention)
    follow(attention, Bottleneck(8, 2, "relu"))
    nn.init.normal_(attention.adapter.up.weight)
    for options in (dict(need_weights=False), dict(need_weights=True), dict(incremental_state={})):
        expected, weights = plain(x, x, x, **copy.deepcopy(options))
        ours, ours_weights = attention(x, x, x, **options)
        torch.testing.assert_close(ours, attention.adapter(expected))
        assert (weights is None and ours_weights is None) or torch.equal(weights, ours_weights)
        assert (ours - expected).abs().max() > 1e-3
    clone = copy.deepcopy(attention)
    nn.init.zeros_(clone.adapter.up.weight)
    assert torch.equal(clone(x, x, x)[0], plain(x, x, x)[0])
    assert not torch.equal(attention(x, x, x)[0], plain(x, x, x)[0])


@pytest.mark.parametrize("placement, count", [("houlsby", 5), ("pfeiffer", 2)])
def test_the_model_begins_as_it_was_and_trains_its_adapters(translation_data, placement, count):
    trainer = toy.build_trainer(translation_data, *ADAM, model=[*ADAPTER, "--adapter-placement", placement])
    plain = toy.build_trainer(translation_data, *ADAM, model=toy.MODEL)
    model, base, sample = trainer.get_model(), plain.get_model(), sample_of(trainer)
    model.load_state_dict(base.state_dict())  # a plain checkpoint
    toy.freeze_alike(base, model)
    assert len(adapters(model)) == count
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        ours, theirs = (net.eval()(**sample["net_input"])[0] for net in (model, base))
    assert torch.equal(ours, theirs)
    for _ in range(3):
        trainer.train_step([sample])
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert changed == trained
    assert sum(".adapter." in name for name in trained) == 4 * count
    others = {name for name in trained if ".adapter." not in name}
    norms = {name for name, _ in model.named_parameters() if "layer_norm" in name and ".adapter." not in name}
    assert others == (norms if placement == "houlsby" else set())


@pytest.mark.parametrize("is_pre_norm", [False, True], ids=["post-norm", "pre-norm"])
def test_pfeiffers_place_is_the_end_of_a_layer(translation_data, is_pre_norm):
    """An encoder and a decoder layer, the former computed by hand: LN(z + f(LN(z))), or without layer norm z + f(z)."""
    flags = ["--adapter-placement", "pfeiffer", *(["--encoder-normalize-before"] if is_pre_norm else [])]
    trainer = toy.build_trainer(translation_data, *ADAM, "--dropout", "0", model=[*ADAPTER[:-2], *flags])
    layer = trainer.get_model().encoder.layers[0].eval()
    (adapter,) = adapters(layer)
    assert (adapter.down.out_features, adapter.activation) == (1, "relu")  # a 16th of 16
    for p in adapter.parameters():
        nn.init.normal_(p)

    def f(h):
        return torch.relu(h @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T + adapter.up.bias

    def norm(module, h):
        return F.layer_norm(h, (16,), module.weight, module.bias)

    x = torch.randn(5, 2, 16)
    if is_pre_norm:
        y = norm(layer.self_attn_layer_norm, x)
        h = x + layer.self_attn(y, y, y, need_weights=False)[0]
        z = h + layer.fc2(F.relu(layer.fc1(norm(layer.final_layer_norm, h))))
        expected = z + f(z)
    else:
        h = norm(layer.self_attn_layer_norm, x + layer.self_attn(x, x, x, need_weights=False)[0])
        z = h + layer.fc2(F.relu(layer.fc1(h)))
        expected = norm(layer.final_layer_norm, z + f(norm(layer.final_layer_norm, z)))
    torch.testing.assert_close(layer(x, None), expected)
    clone = copy.deepcopy(layer)
    nn.init.zeros_(adapters(clone)[0].up.weight)
    assert not torch.allclose(clone(x, None), expected)
    torch.testing.assert_close(layer(x, None), expected)


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_what_trains_in_a_classification_has_a_gradient(sentence_data, placement):
    """And so DDP needs no --find-unused-parameters: the language-model head, which RoBERTa keeps, has no part in it."""
    flags = ["--arch", "adapter", "--base-arch", *sentences.MODEL[1:], "--adapter-placement", placement]
    trainer = toy.build_trainer(
        sentence_data / "classes",
        *ADAM,
        task="sentence_prediction",
        criterion=["--criterion", "sentence_prediction"],
        model=[*flags, "--num-classes", str(sentences.CLASSES)],
    )
    model, (sample,) = trainer.get_model(), toy.batches(trainer, [6])
    trainer.get_criterion()(model, sample)[0].backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in model.named_parameters() if p.grad is not None}
    assert any(name.startswith("classification_heads.") for name in trained)
    assert ("encoder.sentence_encoder.layers.0.final_layer_norm.weight" in trained) == (placement == "houlsby")


def test_houlsbys_places_are_after_attention_and_feed_forward_before_the_residual(translation_data):
    """One encoder layer, computed by hand."""
    trainer = toy.build_trainer(translation_data, *ADAM, "--dropout", "0", model=ADAPTER)
    layer = trainer.get_model().encoder.layers[0].eval()
    for adapter in adapters(layer):
        nn.init.normal_(adapter.up.weight)
    x = torch.randn(5, 2, 16)
    plain = copy.deepcopy(layer.self_attn)
    plain._forward_hooks.clear()
    h = layer.self_attn_layer_norm(x + layer.self_attn.adapter(plain(x, x, x, need_weights=False)[0]))
    inner = F.relu(layer.fc1(h)) @ layer.fc2.weight.T + layer.fc2.bias
    expected = layer.final_layer_norm(h + layer.fc2.adapter(inner))
    torch.testing.assert_close(layer(x, None), expected)


def test_the_end_of_a_layer_of_wav2vecs():
    """Its flag for a layer norm that comes first has another name; by hand, as above."""
    wav2vec2 = pytest.importorskip("fairseq.models.wav2vec.wav2vec2")
    sizes = dict(embedding_dim=16, ffn_embedding_dim=32, num_attention_heads=2)
    torch.manual_seed(0)
    layer = wav2vec2.TransformerSentenceEncoderLayer(**sizes, layer_norm_first=True).eval()
    plain, x = copy.deepcopy(layer), torch.randn(5, 2, 16)
    close(layer, Bottleneck(16, 4))
    nn.init.normal_(layer.adapter.up.weight)
    torch.testing.assert_close(layer(x)[0], layer.adapter(plain(x)[0]))


def test_layers_with_another_end_are_refused(translation_data):
    flags = ["--arch", "adapter", "--base-arch", "lightconv", *toy.MODEL[2:], "--adapter-placement", "pfeiffer"]
    flags += ["--encoder-layers", "7", "--decoder-layers", "6", "--encoder-conv-dim", "16", "--decoder-conv-dim", "16"]
    with pytest.raises(ValueError, match="--adapter-placement pfeiffer knows .* encoder.layers.0 has not; .*--adapter-target"):
        toy.build_trainer(translation_data, *ADAM, model=flags)


@pytest.mark.parametrize("precision", ["--fp16", "--bf16"])
def test_half_precision_and_sam(translation_data, precision):
    flags = ["--optimizer", "sam", "--lr", "0.01", precision, "--fp16-no-flatten-grads", "--fp16-init-scale", "4"]
    trainer = toy.build_trainer(translation_data, *flags, model=ADAPTER)
    before = toy.weights(trainer)
    trainer.train_step(toy.batches(trainer, [4, 4]))
    now = toy.weights(trainer)
    trained = {name for name, p in trainer.get_model().named_parameters() if p.requires_grad}
    changed = {name for name in now if not torch.equal(now[name], before[name])}
    assert changed <= trained and {name for name in trained if ".adapter.up.weight" in name} <= changed


@pytest.mark.parametrize(
    "flags, words",
    [
        ([*ADAPTER, "--adapter-size", "0"], ["--adapter-size"]),
        ([*ADAPTER, "--adapter-placement", "everywhere"], ["--adapter-placement"]),
        ([*ADAPTER, "--adapter-target", "(fc"], ["--adapter-target"]),
        ([*ADAPTER, "--adapter-target", ","], ["--adapter-target names no module"]),
        ([*ADAPTER, "--adapter-target", "(?i)FC2"], ["--adapter-target"]),
        ([*toy.MODEL, "--adapter-size", "8"], ["--adapter-size", "--arch adapter --base-arch transformer"]),
        (["--arch", "adapter", "--base-arch", "lora"], ["--base-arch lora"]),
    ],
)
def test_bad_flags_end_the_command_line(translation_data, capsys, flags, words):
    with pytest.raises(SystemExit):
        toy.config(translation_data, *ADAM, model=flags)
    error = capsys.readouterr().err.splitlines()[-1]
    assert all(word in error for word in words), error


@pytest.mark.parametrize("flag", ["--adapter-target", "--adapter-also-train"])
def test_names_that_match_nothing(translation_data, flag):
    with pytest.raises(ValueError, match=f"{flag} nosuch"):
        toy.build_trainer(translation_data, *ADAM, model=[*ADAPTER, flag, "nosuch"])


@pytest.mark.parametrize("target", ["q_proj,v_proj", "out_proj", "fc2,decoder.layers.0.encoder_attn.k_proj"])
def test_what_fairseqs_attention_never_calls_is_refused(translation_data, target):
    """Its fused product reads their weights: an adapter behind them would have no gradient."""
    with pytest.raises(
        ValueError, match="--adapter-target .*_proj: .* never calls it, .*name the attention itself, (self|encoder)_attn"
    ):
        toy.build_trainer(translation_data, *ADAM, model=[*ADAPTER, "--adapter-target", target])


@pytest.mark.parametrize("target", ["q_proj,v_proj", "out_proj"])
def test_published_decoders_call_their_projections(text_data, target):
    model = ["--arch", "adapter", "--base-arch", *texts.MODELS["gpt2"][1:], "--adapter-target", target]
    trainer = texts.trainer(text_data, *ADAM, model=model)
    model, (sample,) = trainer.get_model(), toy.batches(trainer, [6])
    trainer.get_criterion()(model, sample)[0].backward()
    assert all(adapter.up.bias.grad.abs().max() > 0 for adapter in adapters(model))
