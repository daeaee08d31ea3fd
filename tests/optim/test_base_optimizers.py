"""Any registered optimizer as the base, with its own flags, from the command line and from a config."""

import re

import omegaconf
import pytest
import torch
import toy
from fairseq import optim
from omegaconf import OmegaConf

from sharp_plugins.host.weights import registered_optimizer
from sharp_plugins.optim.base import STATE_KEY, available_base_optimizers, build_base_optimizer

OWN_FLAGS = {
    "adam": (
        ["--adam-betas", "(0.8, 0.95)", "--adam-eps", "1e-7", "--weight-decay", "0.01"],
        {"betas": (0.8, 0.95), "eps": 1e-7, "weight_decay": 0.01},
    ),
    "sgd": (["--momentum", "0.7"], {"momentum": 0.7}),
    "nag": (["--momentum", "0.7"], {"momentum": 0.7}),
    "adagrad": (["--weight-decay", "0.02"], {"weight_decay": 0.02}),
    "adadelta": (["--adadelta-rho", "0.8"], {"rho": 0.8}),
    "adamax": (["--adamax-betas", "(0.7, 0.9)"], {"betas": (0.7, 0.9)}),
    "adafactor": (["--decay-rate", "-0.7"], {"decay_rate": -0.7}),
}


@pytest.mark.parametrize("name", OWN_FLAGS)
def test_own_flags_reach_the_base_optimizer(translation_data, name):
    flags, expected = OWN_FLAGS[name]
    trainer = toy.build_trainer(translation_data, "--optimizer", "sam", "--base-optimizer", name, "--lr", "0.25", *flags)
    direct = toy.build_trainer(translation_data, "--optimizer", name, "--lr", "0.25", *flags)
    group, direct_group = trainer.optimizer.param_groups[0], direct.optimizer.param_groups[0]
    assert type(trainer.optimizer.optimizer) is type(direct.optimizer.optimizer)
    for key, value in expected.items():
        assert tuple(group[key]) == value if isinstance(value, tuple) else group[key] == value
    for key in direct_group:
        if key != "params":
            assert group[key] == direct_group[key], key


def test_flags_of_another_base_optimizer_are_unknown(translation_data, capsys):
    with pytest.raises(SystemExit):
        toy.config(translation_data, "--optimizer", "sam", "--base-optimizer", "sgd", "--adam-betas", "(0.9, 0.9)")
    assert "--adam-betas" in capsys.readouterr().err


BAD = {"--sam-rho": "-0.1", "--sam-eta": "-1", "--sam-interval": "0", "--dsam-beta": "-2", "--base-optimizer": "nosuch"}


@pytest.mark.parametrize("flag", BAD)
def test_bad_values_are_refused_by_name(translation_data, capsys, flag):
    with pytest.raises(SystemExit):
        toy.config(translation_data, "--optimizer", "dsam", "--lr", "0.1", flag, BAD[flag])
    error = capsys.readouterr().err.splitlines()[-1]
    assert flag in error
    assert BAD[flag] in error


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("flag", ["--sam-rho", "--dsam-beta"])
def test_numbers_that_are_none_are_refused(translation_data, capsys, flag, value):
    with pytest.raises(SystemExit):
        toy.config(translation_data, "--optimizer", "dsam", "--lr", "0.1", flag, value)
    assert flag in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--ddp-backend", "fully_sharded"], "FSDP"),
        (["--ddp-backend", "slowmo"], "slowmo"),
        (["--tpu"], "--tpu"),
        (["--use-bmuf"], "--use-bmuf"),
        (["--zero-sharding", "os"], "--zero-sharding os"),
        (["--pipeline-model-parallel"], "--pipeline-model-parallel"),
        (["--model-parallel-size", "2"], "--model-parallel-size"),
    ],
)
def test_unsupported_ways_of_training_are_refused_by_name(translation_data, capsys, flags, named):
    with pytest.raises(SystemExit):
        toy.config(translation_data, "--optimizer", "sam", "--lr", "0.1", *flags)
    assert named in capsys.readouterr().err.splitlines()[-1]


def test_a_config_is_checked_as_flags_are(translation_data):
    cfg = toy.config(translation_data, "--optimizer", "sam", "--lr", "0.1")
    cfg.optimizer.sam_rho = -1.0
    with pytest.raises(ValueError, match="--sam-rho"):
        toy.trainer_from(cfg)


LORA = ["--arch", "lora", "--base-arch", *toy.MODEL[1:]]
UNSUPPORTED = [
    ("distributed_training.ddp_backend", "fully_sharded", "--ddp-backend fully_sharded (FSDP)"),
    ("distributed_training.ddp_backend", "slowmo", "--ddp-backend slowmo"),
    ("distributed_training.zero_sharding", "os", "--zero-sharding os"),
    ("distributed_training.pipeline_model_parallel", True, "--pipeline-model-parallel"),
    ("common.tpu", True, "--tpu"),
    ("common.model_parallel_size", 2, "--model-parallel-size above 1"),
    ("optimization.use_bmuf", True, "--use-bmuf"),
]


@pytest.mark.parametrize("method", ["sam", "dsam", "bar"])
@pytest.mark.parametrize("setting, value, named", UNSUPPORTED)
def test_unsupported_ways_of_training_are_refused_in_a_config(translation_data, method, setting, value, named):
    cfg = toy.config(translation_data, "--optimizer", method, "--lr", "0.1", model=LORA if method == "bar" else toy.MODEL)
    toy.trainer_from(cfg)
    OmegaConf.update(cfg, setting, value)
    with pytest.raises(ValueError, match=f"^--optimizer {method} does not work with {re.escape(named)}; it works on one"):
        toy.trainer_from(cfg)


@pytest.mark.parametrize("method", ["sam", "dsam", "bar"])
@pytest.mark.parametrize("precision", ["amp", "memory_efficient_fp16", "memory_efficient_bf16"])
def test_a_composite_optimizer_in_other_precisions_is_refused_in_a_config(translation_data, method, precision):
    cfg = toy.config(translation_data, "--optimizer", method, "--lr", "0.1", model=LORA if method == "bar" else toy.MODEL)
    cfg.optimizer.base_optimizer, cfg.common[precision] = "composite", True
    with pytest.raises(
        ValueError, match=f"^--base-optimizer composite does not work with --{precision.replace('_', '-')}; it works in"
    ):
        toy.trainer_from(cfg)


def test_unknown_settings_in_a_config_are_refused(translation_data):
    for base in ("adam", "sgd"):
        cfg = toy.config(translation_data, "--optimizer", "sam", "--base-optimizer", base, "--lr", "0.1")
        cfg.optimizer.base = OmegaConf.create({"nosuch_setting": 1})
        with pytest.raises(ValueError, match="nosuch_setting"):
            build_base_optimizer(cfg.optimizer, [torch.nn.Parameter(torch.zeros(1))])


@pytest.mark.parametrize("base", [3, True, "weight_decay", "[1]", [1, 2]])
def test_a_config_whose_base_is_no_settings_is_refused_by_name(translation_data, base):
    cfg = toy.config(translation_data, "--optimizer", "sam", "--base-optimizer", "adam", "--lr", "0.1")
    cfg.optimizer.base = base
    with pytest.raises(ValueError, match="optimizer.base=.* such as optimizer.base.weight_decay"):
        build_base_optimizer(cfg.optimizer, [torch.nn.Parameter(torch.zeros(1))])


def test_wrappers_are_not_base_optimizers():
    assert {"sam", "dsam"} <= set(optim.OPTIMIZER_REGISTRY)
    assert not {"sam", "dsam"} & set(available_base_optimizers())


def test_a_base_optimizer_without_memory_efficient_fp16_is_refused_by_name(translation_data):
    trainer = toy.build_trainer(
        translation_data, "--optimizer", "sam", "--base-optimizer", "adagrad", "--lr", "0.1", "--memory-efficient-fp16"
    )
    with pytest.raises(ValueError, match="--base-optimizer adagrad.*--memory-efficient-fp16"):
        trainer.optimizer


def test_a_base_optimizer_that_cannot_be_flattened_is_refused_by_name(translation_data):
    trainer = toy.build_trainer(translation_data, "--optimizer", "sam", "--base-optimizer", "adafactor", "--lr", "0.1", "--fp16")
    with pytest.raises(ValueError, match="--fp16-no-flatten-grads"):
        trainer.optimizer


def test_state_dict_has_the_base_optimizers_layout(translation_data):
    trainer = toy.build_trainer(translation_data, "--optimizer", "sam", "--base-optimizer", "adam", "--lr", "0.01")
    trainer.train_step(toy.batches(trainer, [4]))
    state = trainer.optimizer.state_dict()
    assert set(state) == {"state", "param_groups", STATE_KEY}
    assert {"exp_avg", "exp_avg_sq", "step"} <= set(state["state"][0])
    assert state[STATE_KEY] == {"optimizer": "sam", "base_optimizer": "adam"}


def composite(data, *flags):
    """The config of a run with fairseq's composite optimizer inside SAM."""
    cfg = toy.config(data, "--optimizer", "sam", "--lr", "0.1", *flags)
    group = {
        "optimizer": {"_name": "adam", "lr": [0.1], "adam_betas": "(0.5, 0.5)"},
        "lr_scheduler": {"_name": "fixed", "lr": [0.1]},
    }
    cfg.optimizer.base_optimizer = "composite"
    cfg.optimizer.base = OmegaConf.create({"groups": {"default": group}})
    cfg.lr_scheduler = OmegaConf.create({"_name": "pass_through"})
    return cfg


@pytest.mark.skipif(omegaconf.__version__ < "2.1", reason="fairseq's composite optimizer wants omegaconf 2.1")
@pytest.mark.parametrize("precision", ["", "--fp16 --fp16-no-flatten-grads --fp16-init-scale 8", "--bf16"])
def test_composite_optimizer_as_the_base(translation_data, tmp_path, precision):
    cfg = composite(translation_data, *precision.split())
    trainer = toy.trainer_from(cfg)
    for _ in range(2):
        assert trainer.train_step(toy.batches(trainer, [4])) is not None
    assert tuple(registered_optimizer(trainer).param_groups[0]["betas"]) == (0.5, 0.5)
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pt"), {"train_iterator": {"epoch": 1, "iterations_in_epoch": 2}})
    w = toy.weights(trainer)
    resumed = toy.trainer_from(cfg)  # and not before: fairseq keeps the parts of all composite optimizers in one place
    resumed.load_checkpoint(str(tmp_path / "checkpoint.pt"))
    assert resumed.get_num_updates() == 2
    toy.assert_same(toy.weights(resumed), w)


@pytest.mark.parametrize("precision", ["--amp", "--memory-efficient-fp16", "--memory-efficient-bf16"])
def test_a_composite_optimizer_is_refused_where_fairseq_cannot_train_or_resume_it(translation_data, precision):
    words = f"--base-optimizer composite does not work with {precision}; it works in fp32, with --fp16 --fp16-no-flatten-grads, and"
    with pytest.raises(ValueError, match=words):
        toy.trainer_from(composite(translation_data, precision))


def test_a_composite_optimizer_is_refused_on_the_command_line_too(translation_data, capsys):
    with pytest.raises(SystemExit):
        toy.config(translation_data, "--optimizer", "sam", "--base-optimizer", "composite", "--lr", "0.1", "--amp")
    assert "--base-optimizer composite does not work with --amp" in capsys.readouterr().err
