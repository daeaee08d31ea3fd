"""A method's config: what networks change in a task's settings, and what --set changes in that."""

from copy import deepcopy
from dataclasses import dataclass

import made_up
import pytest
from fairseq import optim

from sharp_plugins.optim import BAR, SAM, BARConfig, SAMConfig
from sharp_plugins.runs import methods
from sharp_plugins.runs.configs import Settings, check_parts, configure, merged
from sharp_plugins.runs.methods import find_method
from sharp_plugins.runs.settings_check import check_config

LORA = {
    "lr": 0.02,
    "weight_decay": 0.1,
    "bar_alpha": 0.25,
    "optimizer": {"bar_schedule": "linear", "sam_rho": 0.2, "base": {"adam_eps": 1e-6}},
    "optimization": {"max_epoch": 5},
    "dataset": {"batch_size": 4},
    "criterion": {"label_smoothing": 0.0},
    "model": {"lora_rank": 2},
    "generation": {"beam": 10},
}
SETTINGS = Settings(made_up.DSAM, lora=LORA, prefix={"lr": 0.5, "model": {"prefix_length": 3}})


def config_of(name, *changes):
    return configure(SETTINGS, find_method(name), changes)


@pytest.mark.parametrize(
    "metric, maximised", [("loss", False), ("nll_loss", False), ("ppl", False), ("accuracy", True), ("mcc", True)]
)
@pytest.mark.parametrize("before", [None, True, False])
def test_a_metric_of_the_best_checkpoint_brings_its_direction(metric, maximised, before):
    """As --set names it: the settings may say the direction of another one."""
    own = {} if before is None else {"maximize_best_checkpoint_metric": before}
    settings = Settings({**made_up.DSAM, "checkpoint": {**made_up.DSAM.get("checkpoint", {}), **own}})
    change = f"checkpoint.best_checkpoint_metric={metric}"

    def direction(*changes):
        return configure(settings, find_method("base"), changes)["checkpoint"].get("maximize_best_checkpoint_metric")

    assert direction(change) is maximised and direction() is before
    told = f"checkpoint.maximize_best_checkpoint_metric={not maximised}"
    assert direction(change, told) is not maximised


@pytest.mark.parametrize("precision", ["fp16", "amp"])
def test_what_is_for_gpus_is_left_out_on_a_cpu_unless_it_is_asked_for(precision):
    settings = Settings({**made_up.DSAM, "common": {**made_up.DSAM["common"], precision: True}})
    for changes, cpu, expected in (((), False, True), ((), True, False), ((f"common.{precision}=true",), True, True)):
        found = configure(settings, find_method("dsam"), changes, cpu)["common"]
        assert found.get(precision, False) is expected and found.get("cpu", False) is cpu


def test_a_network_changes_any_part_of_the_tasks_settings():
    before, overlay = deepcopy(made_up.DSAM), deepcopy(LORA)
    plain, lora, prefix = map(config_of, ("base", "lora", "prefix"))
    assert plain["optimization"] == {"lr": [0.01], "max_update": 12} and "generation" not in plain
    assert lora["optimization"] == {"lr": [0.02], "max_update": 12, "max_epoch": 5}
    assert lora["optimizer"] == {"_name": "adam", "adam_betas": "(0.9, 0.98)", "adam_eps": 1e-6, "weight_decay": 0.1}
    assert lora["dataset"]["batch_size"] == 4 and lora["dataset"]["num_workers"] == 0
    assert lora["criterion"] == {"_name": "label_smoothed_cross_entropy", "label_smoothing": 0.0}
    assert lora["model"].items() >= {"_name": "lora", "base_arch": "transformer", "lora_rank": 2}.items()
    assert lora["generation"] == {"beam": 10}
    assert prefix["model"].items() >= {"_name": "prefix", "base_arch": "transformer", "prefix_length": 3}.items()
    assert prefix["optimization"]["lr"] == [0.5] and prefix["dataset"]["batch_size"] == 8
    assert (made_up.DSAM, LORA) == (before, overlay)  # which were not changed


def test_each_optimizer_takes_its_own_of_a_network():
    bar = {"bar_alpha": 0.25, "bar_schedule": "linear"}
    assert config_of("lora-obar")["optimizer"].items() >= {"_name": "bar", "bar_variant": "obar", **bar}.items()
    assert config_of("lora-obar")["optimizer"].keys().isdisjoint({"sam_rho", "dsam_beta"})
    sam, dsam = config_of("lora-sam")["optimizer"], config_of("lora-dsam")["optimizer"]
    assert sam["sam_rho"] == dsam["sam_rho"] == 0.2 and dsam["dsam_beta"] == 3 and "dsam_beta" not in sam
    assert sam.keys().isdisjoint(bar) and dsam.keys().isdisjoint(bar)


@dataclass
class SteepConfig(SAMConfig):
    steep_slope: float = 1.0


@pytest.fixture
def register(monkeypatch):
    """Registers optimizers for one test, and has their names in OPTIMIZERS."""

    def put(name, cls, config):
        monkeypatch.setattr(methods, "OPTIMIZERS", (*methods.OPTIMIZERS, name))
        monkeypatch.setitem(optim.OPTIMIZER_REGISTRY, name, type(name, (cls,), {}))
        monkeypatch.setitem(optim.OPTIMIZER_DATACLASS_REGISTRY, name, config)

    return put


def test_a_new_optimizer_takes_what_its_settings_know(register):
    register("downhill", SAM, SAMConfig)
    register("steep", SAM, SteepConfig)
    register("seesaw", BAR, BARConfig)
    around = {"base_optimizer": "adam", "base": {"adam_betas": "(0.9, 0.98)"}}
    settings = merged(made_up.DSAM, {"optimizer": {"bar_alpha": 0.25, "steep_slope": 2.0}})

    def optimizer(name):
        config = configure(Settings(settings), find_method(name))
        check_config(config, name)
        return config["optimizer"]

    assert optimizer("downhill") == {"_name": "downhill", "sam_rho": 0.05, **around} == {**optimizer("sam"), "_name": "downhill"}
    assert optimizer("steep") == {"_name": "steep", "sam_rho": 0.05, "steep_slope": 2.0, **around}
    assert optimizer("lora-seesaw") == {"_name": "seesaw", "bar_alpha": 0.25, **around}


@pytest.mark.parametrize("name", ["sam", "dsam", "lora-nbar"])
def test_a_setting_that_no_optimizer_knows_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}: fairseq does not know such a setting: .*sam_roh"):
        check_config(config_of(name, "optimizer.sam_roh=1"), name)


def test_an_optimizer_that_is_not_registered_is_refused(monkeypatch):
    monkeypatch.setattr(methods, "OPTIMIZERS", (*methods.OPTIMIZERS, "nosuch"))
    with pytest.raises(ValueError, match="nosuch: optimizer._name is nosuch, and fairseq has none of that name"):
        check_config(config_of("nosuch"), "nosuch")


def test_set_comes_after_what_a_network_changes():
    changes = "optimization.lr=0.7", "optimizer.bar_alpha=0.9", "optimizer.base.weight_decay=0.3", "dataset.batch_size=16"
    config = config_of("lora-nbar", *changes, "model.lora_rank=1", "model.prefix_length=9")
    assert config["optimization"]["lr"] == [0.7] and config["dataset"]["batch_size"] == 16
    assert config["optimizer"]["bar_alpha"] == 0.9 and config["optimizer"]["base"]["weight_decay"] == 0.3
    assert config["model"]["lora_rank"] == 1 and "prefix_length" not in config["model"]
    assert config_of("prefix", "model.prefix_length=9", "model.lora_rank=1")["model"]["prefix_length"] == 9


def test_a_network_without_settings_is_refused():
    with pytest.raises(ValueError, match="--methods: there are no settings for methods with prefix"):
        configure(Settings(made_up.DSAM), find_method("prefix"))
    assert Settings({}).of("houlsby") == Settings({}).of(None) == {}


def test_some_parts_need_no_settings_by_name():
    check_parts({"_name": None, "bpe": None, "tokenizer": None, "scoring": "bleu", "lr": 0.1, "bar_alpha": 1}, "a file")
    for part in ({"bpe": "gpt2"}, {"dataset": None}, {1: 2}):
        with pytest.raises(ValueError, match="^a file: .*: settings by name are expected$"):
            check_parts(part, "a file")


def test_the_base_optimizers_settings_are_by_name():
    with pytest.raises(ValueError, match="^optimizer.base is adam, and settings by name are expected$"):
        configure(Settings({**made_up.DSAM, "optimizer": {**made_up.DSAM["optimizer"], "base": "adam"}}), find_method("base"))
