"""``--arch lora`` over fairseq's families of models: flags, what is built, and the update in every way that fairseq computes."""

import argparse
import copy
import re

import peft_models
import pytest
import torch
import toy
from fairseq import models
from fairseq.models import ARCH_CONFIG_REGISTRY
from omegaconf import OmegaConf
from peft_models import Task
from torch import nn

from sharp_plugins.models.lora import LoRAConfig
from sharp_plugins.networks import LoRASettings, lora_layers

SMALL = {
    **peft_models.SMALL,
    "decoder_layers": 2,
    "decoder_input_dim": 16,
    "decoder_output_dim": 16,
    "share_all_embeddings": True,
    "tpu": False,
    "add_bos_token": False,
    "memory_efficient_bf16": False,
}
FAMILIES = {
    "transformer": 2 * 3 * 2,  # layers with an update: query and value of every attention
    "transformer_iwslt_de_en": 2 * 3 * 2,
    "transformer_lm_gpt2_small": 2 * 2,
    "transformer_lm": 2 * 2,
    "roberta": 2 * 2,
    "roberta_base": 2 * 2,
    "bart_base": 2 * 3 * 2,
}


def build(arch, **lora):
    args = argparse.Namespace(**SMALL)
    if lora:
        args.base_arch, args.arch = arch, "lora"
        vars(args).update(lora)
    else:
        args.arch = arch
    args._name = args.arch
    ARCH_CONFIG_REGISTRY[args.arch](args)
    torch.manual_seed(0)
    return models.build_model(args, Task())


def inputs(arch, rows=3, length=6):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(4, 24, (rows, length), generator=generator)
    lengths = torch.full((rows,), length)
    if arch.startswith("transformer_lm"):
        return dict(src_tokens=tokens, src_lengths=lengths)
    if arch.startswith("roberta"):
        tokens[1, 4:] = 1
        return dict(src_tokens=tokens)
    return dict(src_tokens=tokens, src_lengths=lengths, prev_output_tokens=tokens.flip(1))


def merged(model):
    plain = copy.deepcopy(model)
    for layer in lora_layers(plain).values():
        w = layer.base_weight.data + layer.lora_scale * layer.lora_B.data @ layer.lora_A.data
        layer.__class__ = nn.Linear
        del layer.lora_A, layer.lora_B
        layer.weight = nn.Parameter(w)
    return plain


def train_a_little(model):
    torch.manual_seed(2)
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora_B, std=0.2)


@pytest.mark.parametrize("arch", FAMILIES)
@pytest.mark.parametrize("training", [True, False])
def test_begins_as_the_base_bit_for_bit_and_the_update_is_seen(arch, training):
    base, model = build(arch).train(training), build(arch, lora_rank=2).train(training)
    toy.freeze_alike(base, model)
    assert type(model) is type(base) and len(lora_layers(model)) == FAMILIES[arch]
    before, ours = base(**inputs(arch))[0], model(**inputs(arch))[0]
    assert torch.equal(ours, before)
    train_a_little(model)
    ours, theirs = model(**inputs(arch))[0], merged(model)(**inputs(arch))[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert (ours - before).abs().max() > 1e-3


@pytest.mark.parametrize("arch", FAMILIES)
def test_nothing_but_the_updates_is_trained(arch):
    model = build(arch, lora_rank=2)
    model(**inputs(arch))[0].float().sum().backward()
    for name, p in model.named_parameters():
        assert p.requires_grad == ("lora_" in name), name
        assert (p.grad is not None) == p.requires_grad, name


@pytest.mark.parametrize("arch", ["transformer", "transformer_lm", "bart_base"])
def test_incremental_decoding_sees_the_update(arch):
    model = build(arch, lora_rank=2, lora_target=".*_proj|fc1").eval()
    train_a_little(model)
    plain, x = merged(model), inputs(arch)
    results = []
    for net in (model, plain):
        state, steps = {}, []
        if arch == "transformer_lm":
            for i in range(1, 6):
                steps.append(net.decoder(x["src_tokens"][:, :i], incremental_state=state)[0])
        else:
            encoder_out = net.encoder(x["src_tokens"], x["src_lengths"])
            for i in range(1, 6):
                steps.append(net.decoder(x["prev_output_tokens"][:, :i], encoder_out, incremental_state=state)[0])
        results.append(torch.cat(steps, 1))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
    # ... and step by step it is what the whole sentence at once gives.
    whole = model(**x)[0][:, :5]
    torch.testing.assert_close(results[0], whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", ["transformer", "transformer_lm"])
def test_scripted_models_see_the_update(arch):
    model = build(arch, lora_rank=2).eval()
    train_a_little(model)
    x, net, plain = inputs(arch), model, merged(model)
    if arch == "transformer_lm":  # fairseq's class around the decoder cannot be scripted
        net, plain, x = net.decoder, plain.decoder, dict(prev_output_tokens=x["src_tokens"])
    expected = plain(**x)[0]
    torch.testing.assert_close(torch.jit.script(net)(**x)[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(**x)[0], expected, rtol=1e-4, atol=1e-5)


def test_a_config_of_hydra_builds_the_same_model():
    for arch in ("transformer_lm", "transformer", "roberta"):
        plain = {key: value for key, value in SMALL.items() if not key.startswith("share_all") and key != "tpu"}
        if arch == "transformer_lm":
            fields = models.MODEL_DATACLASS_REGISTRY[arch].__dataclass_fields__
            plain = {key: value for key, value in plain.items() if key in fields}
            plain["tokens_per_sample"] = "${task.tokens_per_sample}"
        whole = OmegaConf.create(
            {
                "task": {"tokens_per_sample": 32, "add_bos_token": False, "max_target_positions": 32},
                "common": {"tpu": False},
                "bmuf": {"memory_efficient_bf16": False},
                "optimization": {},
                "model": {"_name": "lora", "base_arch": arch, "lora_rank": 2, "lora_target": "fc1", **plain},
            }
        )
        whole.common.memory_efficient_bf16 = False
        whole.task.max_source_positions = 32
        OmegaConf.set_struct(whole, True)
        model = models.build_model(whole.model, Task())
        assert set(lora_layers(model)) and all(name.endswith("fc1") for name in lora_layers(model)), arch
        assert model(**inputs(arch))[0].size(-1) == 24


# ---------------------------------------------------------------------- the command line

BASE_FLAGS = toy.MODEL[2:]


def lora_flags(*flags):
    return ["--arch", "lora", "--base-arch", "transformer", *BASE_FLAGS, *flags]


def test_flags_of_the_base_and_of_lora_reach_the_model(translation_data):
    flags = "--lora-rank 3 --lora-alpha 6 --lora-dropout 0.25 --lora-target fc1,out_proj --lora-bias lora_only --lora-init gaussian"
    trainer = toy.build_trainer(
        translation_data, *toy.SGD, "--optimizer", "sgd", "--dropout", "0.3", model=lora_flags(*flags.split())
    )
    model = trainer.get_model()
    layers = lora_layers(model)
    assert {name.rsplit(".", 1)[-1] for name in layers} == {"fc1", "out_proj"}
    for layer in layers.values():
        assert layer.lora_A.size(0) == 3 and layer.lora_scale == 2.0 and layer.lora_dropout == 0.25
    assert model.encoder.dropout_module.p == 0.3 and len(model.encoder.layers) == 1
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.rsplit(".", 1)[-1] for name in trained} == {"lora_A", "lora_B", "bias"}


def test_heads_that_the_task_adds_later_are_trained(translation_data):
    trainer = toy.build_trainer(
        translation_data, *toy.SGD, "--optimizer", "sgd", model=lora_flags("--lora-also-train", "embed_tokens")
    )
    trained = {name for name, p in trainer.get_model().named_parameters() if p.requires_grad and "lora_" not in name}
    assert trained == {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    with pytest.raises(ValueError, match="--lora-also-train nosuch"):
        toy.build_trainer(translation_data, *toy.SGD, "--optimizer", "sgd", model=lora_flags("--lora-also-train", "nosuch"))


@pytest.mark.parametrize(
    "flags, words",
    [
        (lora_flags("--lora-rank", "0"), ["--lora-rank", "0"]),
        (lora_flags("--lora-alpha", "0"), ["--lora-alpha"]),
        (lora_flags("--lora-dropout", "1.5"), ["--lora-dropout"]),
        (lora_flags("--lora-bias", "some"), ["--lora-bias"]),
        (lora_flags("--lora-target", "(q"), ["--lora-target"]),
        (["--arch", "lora", "--base-arch", "transfromer"], ["--base-arch transfromer", "transformer"]),
        (["--arch", "lora", "--base-arch", "lora"], ["--base-arch lora"]),
        (["--arch", "lora"], ["--base-arch"]),
        ([*toy.MODEL, "--lora-rank", "8"], ["--lora-rank", "--arch lora --base-arch transformer"]),
    ],
)
def test_bad_flags_end_the_command_line(translation_data, capsys, flags, words):
    with pytest.raises(SystemExit):
        toy.config(translation_data, "--optimizer", "sgd", *toy.SGD, model=flags)
    error = capsys.readouterr().err.splitlines()[-1]
    assert all(word in error for word in words), error


@pytest.mark.parametrize(
    "flags, words",
    [(("--lora-rank", "17"), "--lora-rank 17 is larger than"), (("--lora-target", "nosuch"), "--lora-target nosuch.*fc1")],
)
def test_flags_that_do_not_fit_the_model_end_the_start(translation_data, flags, words):
    with pytest.raises(ValueError, match=words):
        toy.build_trainer(translation_data, "--optimizer", "sgd", *toy.SGD, model=lora_flags(*flags))


def test_a_plain_architecture_is_left_as_it_is(translation_data):
    cfg = toy.config(translation_data, "--optimizer", "sgd", *toy.SGD)
    assert not any(key.startswith("lora_") or key == "base_arch" for key in vars(cfg.model))


def test_a_flags_default_is_the_settings():
    for name, value in vars(LoRASettings()).items():
        assert getattr(LoRAConfig(), f"lora_{name}") == value, name


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--store-ema"], "--store-ema averages A and B apart.*merge A.pt B.pt ... OUT.pt"),
        (
            ["--lora-target", "output_projection,q_proj"],
            "decoder.output_projection.weight and .*embed_tokens.weight are one weight",
        ),
        (["--lora-also-train", "encoder.layers.0"], "encoder.layers.0.self_attn.q_proj .*save. will refuse this model"),
        ([], None),
    ],
)
def test_what_will_not_be_as_expected_is_said_before_training(translation_data, caplog, flags, words):
    caplog.set_level("WARNING")
    own = [flag for flag in flags if flag != "--store-ema"]
    toy.build_trainer(
        translation_data, *toy.SGD, "--optimizer", "sgd", *(flag for flag in flags if flag not in own), model=lora_flags(*own)
    )
    said = [record.getMessage() for record in caplog.records if record.name.startswith("sharp_plugins") and record.levelno >= 30]
    assert len(said) == bool(words) and (not words or re.search(words, said[0]))
