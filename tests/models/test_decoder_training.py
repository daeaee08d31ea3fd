"""The decoder trains in every precision, behind LoRA and adapters, with checkpointed activations, and with averaged weights.

Its methods in fp32 and fp16, resumed and on two ranks, are in tests/contract.
"""

import copy

import pytest
import texts
import torch
import toy

from sharp_plugins.networks.bottleneck import adapters

OPTIMIZERS = {
    "adam": "--optimizer adam --lr 0.01",
    "sam": "--optimizer sam --sam-rho 0.05 --base-optimizer adam --lr 0.01",
    "dsam": "--optimizer dsam --sam-rho 0.05 --base-optimizer adam --lr 0.01",
    "bar": "--optimizer bar --base-optimizer adam --lr 0.01",
}
PRECISIONS = {
    "bf16": "--bf16",
    "memory-efficient-bf16": "--bf16 --memory-efficient-bf16",
    "fp16-not-flat": "--fp16 --fp16-no-flatten-grads",
    "memory-efficient-fp16": "--fp16 --memory-efficient-fp16",
    "amp": "--amp",
}
SMOOTHED = "--criterion label_smoothed_cross_entropy --label-smoothing 0.1".split()
NO_DROPOUT = "--dropout 0 --attention-dropout 0".split()


def lora(model):
    return ["--arch", "lora", "--lora-rank", "2", "--base-arch", *texts.MODELS[model][1:]]


def adapter(model, placement="houlsby"):
    return f"--arch adapter --adapter-size 4 --adapter-placement {placement} --base-arch".split() + texts.MODELS[model][1:]


def trained(data, *flags, updates=3, **parts):
    """The trainer after some updates, and its mean losses."""
    trainer, losses = texts.trainer(data, *flags, **parts), []
    for samples in [toy.batches(trainer, [6, 6])] * updates:
        log = trainer.train_step(samples)
        losses.append(log["loss"])
    assert trainer.get_num_updates() == updates
    assert all(p.isfinite().all() for p in trainer.get_model().parameters())
    return trainer, losses


# ---------------------------------------------------------------------- precisions


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_trains_as_fp32(text_data, precision, optimizer):
    name = "opt-350m" if optimizer == "adam" else "llama"
    parts = {"model": lora(name) if optimizer == "bar" else name, "criterion": SMOOTHED}
    flags = [*OPTIMIZERS[optimizer].split(), *NO_DROPOUT, "--unused-symbols", texts.UNUSED]
    _, expected = trained(text_data, *flags, **parts)
    trainer, losses = trained(text_data, *flags, *PRECISIONS[precision].split(), **parts)
    assert losses == pytest.approx(expected, rel=0.02) and losses[-1] < losses[0]
    assert next(trainer.get_model().parameters()).dtype == {"b": torch.bfloat16, "f": torch.float16}.get(
        PRECISIONS[precision][2], torch.float32
    )


def test_the_default_fp16_of_the_smallest_gpt2s_shape_trains_lora(text_data):
    """Random weights do not overflow; and fp32 copies are flattened."""
    model = [*lora("gpt2"), "--decoder-layers", "12"]
    trainer, losses = trained(text_data, *OPTIMIZERS["adam"].split(), "--fp16", model=model)
    assert trainer.optimizer.has_flat_params and losses[-1] < losses[0]


def test_averages_of_the_weights(text_data):
    flags = "--store-ema --ema-decay 0.5 --optimizer sgd --lr 0.5 --clip-norm 0".split()
    trainer = texts.trainer(text_data, *flags, *NO_DROPOUT, "--unused-symbols", texts.UNUSED)
    assert trainer.ema is not None  # fairseq makes it on first use
    expected = {name: p.clone() for name, p in trainer.get_model().state_dict().items()}
    for _ in range(2):
        trainer.train_step(toy.batches(trainer, [6]))
        for name, p in trainer.get_model().state_dict().items():
            expected[name] = 0.5 * expected[name] + 0.5 * p
    ema = trainer.ema.get_model()
    assert ema.decoder.output_projection.weight is ema.decoder.embed_tokens.weight
    for name, p in ema.state_dict().items():
        torch.testing.assert_close(p, expected[name], msg=name)
    scores, _ = ema(torch.tensor([[2, 5]]))
    assert (scores[..., 0] == float("-inf")).all()


# ---------------------------------------------------------------------- checkpointed activations

WRAPPED = {
    "all": lambda model: texts.MODELS[model],
    "lora": lora,
    "houlsby": adapter,
    "pfeiffer": lambda model: adapter(model, "pfeiffer"),
}


@pytest.mark.parametrize("optimizer", ["adam", "sam", "dsam"])
@pytest.mark.parametrize("name", WRAPPED)
def test_checkpointed_activations_give_the_same_updates(text_data, name, optimizer):
    flags = [*OPTIMIZERS[optimizer].replace("adam --lr 0.01", "sgd --lr 0.5").split(), "--clip-norm", "0"]
    flags += "--dropout 0.1 --attention-dropout 0.1".split()
    ends = []
    for more in ([], ["--checkpoint-activations"]):
        trainer, _ = trained(text_data, *flags, *more, model=WRAPPED[name]("llama"))
        layers = trainer.get_model().decoder.layers
        assert all(hasattr(layer, "precheckpoint_forward") == bool(more) for layer in layers)
        ends.append(toy.weights(trainer))
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=1e-4, atol=1e-6, msg=key)
    inside = {"lora": "lora_B", "houlsby": "adapter.up.weight", "pfeiffer": "adapter.up.weight"}.get(name, "fc1.weight")
    start = toy.weights(texts.trainer(text_data, *flags, model=WRAPPED[name]("llama")))
    changed = [key for key in start if key.endswith(inside)]
    assert changed and all(not torch.equal(start[key], ends[1][key]) for key in changed)


# ---------------------------------------------------------------------- adapters


@pytest.mark.parametrize("placement, count", [("houlsby", 4), ("pfeiffer", 2)])
@pytest.mark.parametrize("name", texts.MODELS)
def test_adapters_begin_as_the_model_and_train_alone(text_data, name, placement, count):
    base = texts.model(text_data, model=name)
    trainer = texts.trainer(text_data, "--optimizer", "adam", "--lr", "0.01", model=adapter(name, placement))
    model, (sample,) = trainer.get_model(), toy.batches(trainer, [6])
    model.load_state_dict(base.state_dict())  # a plain checkpoint
    toy.freeze_alike(base, model)
    assert len(adapters(model)) == count
    assert torch.equal(model.eval()(**sample["net_input"])[0], base.eval()(**sample["net_input"])[0])
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    for _ in range(3):
        trainer.train_step([sample])
    changed = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    trains = {key for key, p in model.named_parameters() if p.requires_grad}
    norms = {key for key in before if "layer_norm" in key and ".adapter." not in key}
    assert changed == trains == {key for key in before if ".adapter." in key} | (norms if placement == "houlsby" else set())


@pytest.mark.parametrize("name", ["gpt2", "opt-350m"])
def test_places_of_adapters(text_data, name):
    """Houlsby et al.: h + f(h) after the attention and the feed-forward part. Pfeiffer et al.: at the end, with the last norm in
    use twice where it is the layer's end."""
    x = torch.randn(2, 5, 16)
    for placement in ("houlsby", "pfeiffer"):
        layer = texts.model(text_data, model=adapter(name, placement)).decoder.layers[0]
        plain = copy.deepcopy(layer)
        for module in plain.modules():
            module._forward_hooks.clear(), module._forward_pre_hooks.clear()
        attention, norms = plain.self_attn, (plain.self_attn_layer_norm, plain.final_layer_norm)
        assert all(adapter.up.weight.abs().sum() > 0 for adapter in adapters(layer))

        def after(module, h, placement=placement):
            return module.adapter(h) if placement == "houlsby" else h

        def f(h, plain=plain, name=name):
            return (plain.adapter if name == "gpt2" else plain.final_layer_norm.adapter).f(h)

        if name == "gpt2":
            h = x + after(attention, attention(norms[0](x), None, None))
            z = h + after(plain.fc2, plain.feed_forward(norms[1](h)))
            expected = z + f(z) if placement == "pfeiffer" else z
        else:
            h = norms[0](x + after(attention, attention(x, None, None)))
            z = h + after(plain.fc2, plain.feed_forward(h))
            expected = norms[1](z + f(norms[1](z))) if placement == "pfeiffer" else norms[1](z)
        torch.testing.assert_close(layer(x), expected)


def test_every_linear_layer_can_have_an_update(text_data):
    target = "q_proj,k_proj,v_proj,out_proj,fc1,fc2,fc_gate"
    model = [*lora("llama"), "--lora-target", target]
    trainer, losses = trained(text_data, "--optimizer", "adam", "--lr", "0.01", model=model)
    updated = [module for module in trainer.get_model().modules() if hasattr(module, "lora_B")]
    assert len(updated) == 2 * 7 and all(module.lora_B.abs().sum() > 0 for module in updated) and losses[-1] < losses[0]
