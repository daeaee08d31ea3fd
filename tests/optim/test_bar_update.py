"""Updates of ``--optimizer bar`` inside fairseq's trainer, against plain PyTorch."""

import copy

import plain
import pytest
import torch
import toy
from fairseq.logging import metrics
from fairseq.modules import MultiheadAttention
from torch import nn

from sharp_plugins.core.pairs import declare_pair
from sharp_plugins.host.balancing import optimized_pairs
from sharp_plugins.host.weights import master_copies, registered_optimizer
from sharp_plugins.networks import lora_layers

LORA = ["--arch", "lora", "--base-arch", *toy.MODEL[1:], "--lora-rank", "2", "--lora-alpha", "4"]
SGD = "--base-optimizer sgd --momentum 0.9 --weight-decay 0.01 --lr 0.2 --clip-norm 0".split()
BAR = ["--optimizer", "bar", *SGD, "--bar-alpha", "0.5", "--dropout", "0"]
VARIANTS = ["nbar", "obar"]


def build(data, *flags, model=LORA):
    """A trainer whose updates are not 0, some of them with B the longer and some with A."""
    trainer = toy.build_trainer(data, *flags, model=model)
    torch.manual_seed(3)
    for index, layer in enumerate(lora_layers(trainer.get_model()).values()):
        nn.init.normal_(layer.lora_B, std=(0.05, 0.4)[index % 2])
    return trainer


def plain_bar(trainer, updates, variant, alphas, clip=0.0, lr=0.2):
    """The weights after BAR over SGD, from the trainer's weights on; and the decisions, +1 where B shrinks."""
    model, criterion = copy.deepcopy(trainer.get_model()), trainer.get_criterion()
    model.train()
    optimizer = torch.optim.SGD(plain.trainable(model), lr=lr, momentum=0.9, weight_decay=0.01)
    decisions = []
    for samples, alpha in zip(updates, alphas):
        loss, size = plain.summed_loss(model, criterion, samples)
        for p, g in zip(plain.trainable(model), plain.gradients(loss, model)):
            p.grad = g / size
        if clip:
            torch.nn.utils.clip_grad_norm_(plain.trainable(model), clip)
        with torch.no_grad():
            for layer in lora_layers(model).values():
                b, a = layer.lora_B, layer.lora_A
                shrink_b = b.norm() >= a.norm() if variant == "obar" else b.grad.norm() < a.grad.norm()
                sign = 1.0 if shrink_b else -1.0
                b.mul_(1 - lr * alpha * sign)
                a.mul_(1 + lr * alpha * sign)
                decisions.append(sign)
        optimizer.step()
    return model.state_dict(), decisions


HALF = {
    "fp16": ["--fp16", "--fp16-no-flatten-grads", "--fp16-init-scale", "4"],
    "bf16": ["--bf16"],
    "amp": ["--amp"],
    "memory-efficient-fp16": ["--memory-efficient-fp16", "--fp16-init-scale", "4"],
    "memory-efficient-bf16": ["--memory-efficient-bf16"],
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("precision", ["fp16", "bf16", "amp"])
def test_with_a_master_copy_the_factors_are_exact(translation_data, variant, precision):
    """A learning rate so small that the base update changes nothing in fp32, and an α that undoes it."""
    flags = ["--optimizer", "bar", "--base-optimizer", "sgd", "--lr", "1e-12", "--bar-alpha", "1e8", "--bar-variant", variant]
    trainer = build(translation_data, *flags, *HALF[precision])
    samples = toy.batches(trainer, [8])
    model = trainer.get_model()
    layers = lora_layers(model)
    start = {name: (layer.lora_B.float().clone(), layer.lora_A.float().clone()) for name, layer in layers.items()}
    trainer.train_step(samples)
    if precision == "amp":
        now = {id(p): p.data for p in model.parameters()}
    else:
        now = {id(p): m for p, m in zip(trainer.optimizer.fp16_params, master_copies(trainer.optimizer))}
    signs = registered_optimizer(trainer).signs.tolist()
    for (name, layer), sign in zip(layers.items(), signs):
        b, a = start[name]
        torch.testing.assert_close(now[id(layer.lora_B)], b * (1 - 1e-4 * sign), rtol=2e-7, atol=1e-9)
        torch.testing.assert_close(now[id(layer.lora_A)], a * (1 + 1e-4 * sign), rtol=2e-7, atol=1e-9)
        if variant == "obar":
            assert (sign > 0) == bool(b.norm() >= a.norm())
    assert len(set(signs)) == 2


def test_flattened_fp16_equals_unflattened(translation_data):
    for variant in VARIANTS:
        results = []
        for flags in ([], ["--fp16-no-flatten-grads"]):
            trainer = build(translation_data, *BAR, "--bar-variant", variant, "--fp16", "--fp16-init-scale", "4", *flags)
            assert trainer.optimizer.has_flat_params == (not flags)
            signs = []
            for _ in range(3):
                trainer.train_step(toy.batches(trainer, [6, 2]))
                signs += registered_optimizer(trainer).signs.tolist()
            assert len(set(signs)) == 2
            results.append({**toy.weights(trainer), "signs": torch.tensor(signs)})
        toy.assert_same_but_for_rounding(*results)
        assert torch.equal(results[0]["signs"], results[1]["signs"])


@pytest.mark.parametrize("precision", ["memory-efficient-fp16", "memory-efficient-bf16"])
def test_without_a_master_copy_the_factors_hold_on_average(translation_data, precision):
    """1 − ηα = 0.9999 is 1 in half precision: rounding to the nearest would do nothing at all."""
    flags = ["--optimizer", "bar", "--base-optimizer", "adam", "--lr", "1e-9", "--bar-alpha", "1e5", "--bar-variant", "obar"]
    model = [*LORA, "--encoder-embed-dim", "128", "--decoder-embed-dim", "128", "--lora-rank", "64"]
    trainer = build(translation_data, *flags, *HALF[precision], model=model)
    samples = toy.batches(trainer, [8])
    layers = lora_layers(trainer.get_model())
    start = {name: (layer.lora_B.double().clone(), layer.lora_A.double().clone()) for name, layer in layers.items()}
    for _ in range(20):
        trainer.train_step(samples)
    signs = registered_optimizer(trainer).signs.tolist()
    for (name, layer), sign in zip(layers.items(), signs):
        for before, now, s in zip(start[name], (layer.lora_B, layer.lora_A), (-sign, sign)):
            along = ((now.double() - before) * before).sum() / before.square().sum()
            assert along.item() == pytest.approx(20 * s * 1e-4, rel=0.25)


@pytest.mark.parametrize("clip", ["0", "0.01"])
def test_decisions_depend_neither_on_the_loss_scale_nor_on_clipping(translation_data, clip):
    signs = []
    for scale, threshold in (("1", "0"), ("512", clip)):
        flags = ["--fp16", "--fp16-no-flatten-grads", "--fp16-init-scale", scale, "--clip-norm", threshold]
        trainer = build(translation_data, *BAR, *flags)
        trainer.train_step(toy.batches(trainer, [8, 4]))
        signs.append(registered_optimizer(trainer).signs.tolist())
    assert signs[0] == signs[1] and len(set(signs[0])) == 2


def test_an_overflow_changes_nothing(translation_data):
    flags = ["--fp16", "--fp16-no-flatten-grads", "--fp16-init-scale", str(2**40)]
    trainer = build(translation_data, *BAR, *flags)
    start = toy.weights(trainer)
    trainer.train_step(toy.batches(trainer, [8]))
    assert trainer.get_num_updates() == 0
    toy.assert_same(toy.weights(trainer), start)


# ---------------------------------------------------------------------- schedule, groups, gradients that are missing


@pytest.mark.parametrize(
    "schedule, expected",
    [("constant", [0.5] * 4), ("linear", [0.5, 0.375, 0.25, 0.125]), ("cosine", [0.5, 0.42678, 0.25, 0.07322])],
)
def test_schedules(translation_data, schedule, expected):
    trainer = build(translation_data, *BAR, "--bar-schedule", schedule, "--max-update", "4")
    updates = [toy.batches(trainer, [8]) for _ in range(4)]
    weights, _ = plain_bar(trainer, updates, "nbar", expected)
    seen = []
    for samples in updates:
        with metrics.aggregate() as log:
            trainer.train_step(samples)
        seen.append(log["bar_alpha"].avg)
    assert seen == pytest.approx(expected, abs=1e-5)
    toy.assert_close(trainer, weights, tolerance=1e-4)


def test_total_updates_of_its_own(translation_data):
    trainer = build(translation_data, *BAR, "--bar-schedule", "linear", "--bar-total-updates", "2")
    for expected in (0.5, 0.25, 0.0, 0.0):
        trainer.train_step(toy.batches(trainer, [8]))
        assert registered_optimizer(trainer).alpha == expected


def test_each_parameter_group_has_its_own_learning_rate(translation_data):
    """Composite optimizers have several; here the group of every B learns three times faster."""
    flags = ["--optimizer", "bar", "--base-optimizer", "sgd", "--lr", "1e-12", "--bar-alpha", "1e10", "--bar-variant", "obar"]
    trainer = build(translation_data, *flags)
    samples = toy.batches(trainer, [8])
    layers = lora_layers(trainer.get_model())
    group = trainer.optimizer.param_groups[0]
    b = [layer.lora_B for layer in layers.values()]
    fast = {**group, "params": b, "lr": 3e-12}
    group["params"] = [p for p in group["params"] if not any(p is other for other in b)]
    trainer.optimizer.param_groups.append(fast)
    start = {name: (layer.lora_B.clone(), layer.lora_A.clone()) for name, layer in layers.items()}
    trainer.train_step(samples)
    for name, layer in layers.items():
        before_b, before_a = start[name]
        sign = 1 if before_b.norm() >= before_a.norm() else -1
        torch.testing.assert_close(layer.lora_B.data, before_b * (1 - 0.03 * sign))
        torch.testing.assert_close(layer.lora_A.data, before_a * (1 + 0.01 * sign))


def test_a_pair_that_an_update_leaves_out_stays_as_it_is(translation_data):
    trainer = build(translation_data, *BAR, "--weight-decay", "0")
    samples = toy.batches(trainer, [8])
    name, layer = next(iter(lora_layers(trainer.get_model()).items()))
    layer.product = lambda input, bias=None: nn.functional.linear(input, layer.base_weight, bias)
    start = toy.weights(trainer)
    trainer.train_step(samples)
    now = toy.weights(trainer)
    for key in start:
        if "lora_" in key:
            assert torch.equal(now[key], start[key]) == key.startswith(name + "."), key
    assert registered_optimizer(trainer).signs.tolist()[0] == 0


# ---------------------------------------------------------------------- pairs of one's own


def test_query_and_key_declared_by_the_user(translation_data, monkeypatch):
    """Scores are (W_q x + b_q)·(W_k x + b_k): a pair with its biases. Declared where a user would, in the module's making."""
    sides = ["q_proj.weight", "q_proj.bias"], ["k_proj.weight", "k_proj.bias"]
    make = MultiheadAttention.__init__

    def make_and_declare(self, *args, **kwargs):
        make(self, *args, **kwargs)
        declare_pair(self, *sides)

    monkeypatch.setattr(MultiheadAttention, "__init__", make_and_declare)
    trainer = toy.build_trainer(translation_data, *BAR, "--bar-variant", "obar", model=toy.MODEL)
    model = trainer.get_model()
    attentions = [m for m in model.modules() if hasattr(m, "q_proj")]
    with torch.no_grad():
        for index, attention in enumerate(attentions):
            for names, scale in zip(sides, (3.0, 1.0) if index % 2 else (1.0, 3.0)):
                for name in names:
                    attention.get_parameter(name).mul_(scale)
    samples = toy.batches(trainer, [8])
    expected, criterion = copy.deepcopy(model).train(), trainer.get_criterion()
    loss, size = plain.summed_loss(expected, criterion, [samples[0]])
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.2, momentum=0.9, weight_decay=0.01)
    for p, g in zip(plain.trainable(expected), plain.gradients(loss, expected)):
        p.grad = g / size
    signs = []
    with torch.no_grad():
        for attention in (m for m in expected.modules() if hasattr(m, "q_proj")):
            q, k = ([attention.get_parameter(name) for name in names] for names in sides)
            norms = [sum(p.square().sum() for p in side) for side in (q, k)]
            signs.append(1.0 if norms[0] >= norms[1] else -1.0)
            for side, direction in ((q, -1), (k, 1)):
                for p in side:
                    p.mul_(1 + direction * signs[-1] * 0.1)
    optimizer.step()
    trainer.train_step(samples)
    toy.assert_close(trainer, expected.state_dict())
    assert registered_optimizer(trainer).signs.tolist() == signs and len(set(signs)) == 2


@pytest.mark.parametrize("optimizer", ["bar", "sgd"])
def test_pairs_that_the_base_model_declares_do_not_hinder_loras(translation_data, monkeypatch, optimizer):
    """They are frozen; what is balanced and logged is LoRA's."""
    make = MultiheadAttention.__init__

    def make_and_declare(self, *args, **kwargs):
        make(self, *args, **kwargs)
        declare_pair(self, "q_proj.weight", "k_proj.weight")

    monkeypatch.setattr(MultiheadAttention, "__init__", make_and_declare)
    flags = BAR if optimizer == "bar" else ["--optimizer", "sgd", "--lr", "0.1"]
    trainer = toy.build_trainer(translation_data, *flags, model=LORA)
    trainer.train_step(toy.batches(trainer, [4]))
    names = [name for part in optimized_pairs(trainer) for name in part.names]
    assert names == list(lora_layers(trainer.get_model())) and names[0].endswith("_proj")


# ---------------------------------------------------------------------- refusals


def test_a_model_without_pairs_is_refused(translation_data):
    with pytest.raises(ValueError, match="--optimizer bar needs scale-invariant pairs.*--arch lora"):
        toy.build_trainer(translation_data, *BAR, model=toy.MODEL)


def test_a_frozen_pair_is_refused_by_name(translation_data, monkeypatch):
    trainer = toy.build_trainer(translation_data, *BAR, model=LORA)
    model = trainer.get_model()
    model.encoder.layers[0].self_attn.v_proj.lora_A.requires_grad_(False)
    with pytest.raises(ValueError, match="frozen: encoder.layers.0.self_attn.v_proj"):
        registered_optimizer(trainer).check_run(trainer.criterion, trainer.task, model)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--bar-alpha", "-0.1"], ["--bar-alpha", "-0.1"]),
        (["--bar-alpha", "nan"], ["--bar-alpha", "nan"]),
        (["--bar-alpha", "5"], ["--bar-alpha 5", "0.2", "--lr"]),
        (["--bar-schedule", "linear"], ["--bar-schedule linear", "--max-update", "--bar-total-updates"]),
        (["--bar-schedule", "linear", "--max-update", "9", "--bar-total-updates", "0"], ["--bar-total-updates must be"]),
        (["--bar-schedule", "linear", "--bar-total-updates=-5"], ["--bar-total-updates must be", "-5"]),
        (["--bar-total-updates", "nan"], ["--bar-total-updates must be", "nan"]),
        (["--bar-schedule", "steep"], ["--bar-schedule"]),
        (["--bar-variant", "bar"], ["--bar-variant"]),
        (["--bar-monitor", "some"], ["--bar-monitor"]),
    ],
)
def test_bad_values_are_refused_by_name(translation_data, capsys, flags, words):
    with pytest.raises(SystemExit):
        toy.config(translation_data, *BAR, *flags, model=LORA)
    error = capsys.readouterr().err.splitlines()[-1]
    assert all(word in error for word in words), error


def test_a_schedule_that_raises_the_learning_rate_too_far_ends_the_update(translation_data):
    trainer = build(translation_data, *BAR)
    samples = toy.batches(trainer, [4])
    trainer.train_step(samples)
    trainer.optimizer.set_lr(2.0)
    before = toy.weights(trainer)
    with pytest.raises(ValueError, match="--bar-alpha 0.5 times the learning rate 2 is 1"):
        trainer.train_step(samples)
    toy.assert_same(toy.weights(trainer), before)


# ---------------------------------------------------------------------- what is logged


@pytest.mark.parametrize("flags", [BAR, ["--optimizer", "adam", "--lr", "0.01"], ["--optimizer", "sam", "--lr", "0.01"]])
def test_balancedness_is_logged_whatever_the_optimizer(translation_data, flags):
    trainer = build(translation_data, *flags)
    layers = lora_layers(trainer.get_model())
    names = list(layers)
    for _ in range(2):
        with metrics.aggregate() as log:
            trainer.train_step(toy.batches(trainer, [8]))
    logged = {key[len("balancedness_") :]: meter.avg for key, meter in log.items() if key.startswith("balancedness_")}
    queries = [name for name in names if name.endswith("q_proj")]
    assert sorted(logged) == sorted(queries) and len(queries) == 3
    for name, value in logged.items():
        b, a = layers[name].lora_B.detach(), layers[name].lora_A.detach()
        assert float(value) == pytest.approx(abs(b.square().sum().item() - a.square().sum().item()), rel=1e-5)


@pytest.mark.parametrize("which, count", [("all", 6), ("none", 0), ("ends", 3)])
def test_which_pairs_are_logged(translation_data, which, count):
    for flags in ([*BAR, "--bar-monitor", which], ["--optimizer", "sgd", "--lr", "0.1"]):
        trainer = build(translation_data, *flags, model=[*LORA, "--lora-monitor", which])
        with metrics.aggregate() as log:
            trainer.train_step(toy.batches(trainer, [8]))
        assert sum(key.startswith("balancedness_") for key in log) == count
        if flags[1] == "bar":
            assert log["bar_alpha"].avg == 0.5


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_share_of_the_pairs_that_are_decided_as_their_norms_would(translation_data, variant):
    trainer = build(translation_data, *BAR, "--bar-variant", variant)
    layers = lora_layers(trainer.get_model()).values()
    by_norms = [1.0 if layer.lora_B.norm() >= layer.lora_A.norm() else -1.0 for layer in layers]
    with metrics.aggregate() as log:
        trainer.train_step(toy.batches(trainer, [8]))
    signs = registered_optimizer(trainer).signs.tolist()
    assert float(log["bar_as_norms"].avg) == pytest.approx(sum(a == b for a, b in zip(signs, by_norms)) / 6)
    assert float(log["bar_shrinks_x"].avg) == pytest.approx(sum(s > 0 for s in signs) / 6)
    if variant == "obar":
        assert float(log["bar_as_norms"].avg) == 1.0


def test_only_the_updates_that_are_logged_measure(translation_data):
    trainer = build(translation_data, *BAR, "--log-interval", "3")
    seen = []
    for _ in range(6):
        with metrics.aggregate() as log:
            trainer.train_step(toy.batches(trainer, [4]))
        seen.append("bar_alpha" in log)
    assert seen == [True, False, True, False, False, True]
