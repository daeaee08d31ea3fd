"""The published settings, and the config that each method makes of them."""

from types import SimpleNamespace

import glue_files
import pytest
from fairseq.criterions.sentence_prediction import SentencePredictionCriterion
from fairseq.logging import metrics
from fairseq.tasks.sentence_prediction import SentencePredictionConfig, SentencePredictionTask
from omegaconf import OmegaConf

from sharp_plugins.glue import binarize
from sharp_plugins.glue.benchmark import CONFIGS, GLUE_NEEDS, Glue, logged
from sharp_plugins.glue.binarize import prepare
from sharp_plugins.glue.tasks import TASKS
from sharp_plugins.runs.configs import differences
from sharp_plugins.runs.methods import find_method
from sharp_plugins.runs.plan import Planner
from sharp_plugins.runs.plan import _grid as grid_of
from sharp_plugins.runs.record import Record
from sharp_plugins.runs.settings_check import check_config
from sharp_plugins.runs.settings_files import read_settings
from sharp_plugins.text.encoder_directory import load_backbone

FAMILIES = ("bert", "roberta", "minilm")
ORDER = ("MNLI", "QQP", "RTE", "QNLI", "MRPC", "CoLA", "SST-2", "STS-B")

# δ-SAM, Table 3, in its order of tasks
TABLE_3 = {
    "bert": ([0.05] * 7 + [0.01], [3, 3, 70, 3, 10, 10, 3, 10]),
    "roberta": ([0.02] * 6 + [0.05, 0.01], [3, 3, 5, 3, 5, 20, 3, 10]),
}
# The table of R-Drop's authors: batch, updates, warm-up; all with learning rate 1e-5
RDROP = {
    "MNLI": (32, 123873, 7432),
    "QNLI": (32, 33112, 1986),
    "QQP": (32, 113272, 28318),
    "RTE": (8, 2036, 122),
    "SST-2": (32, 20935, 1256),
    "MRPC": (16, 2296, 137),
    "CoLA": (16, 5336, 320),
    "STS-B": (16, 3598, 214),
}
# R3F's tables: batch, updates, learning rate; warm-up is 0.06 of the updates
R3F = {
    "MNLI": (8, 123873, 5e-6),
    "QNLI": (8, 33112, 5e-6),
    "QQP": (32, 113272, 5e-6),
    "SST-2": (32, 20935, 5e-6),
    "RTE": (8, 3120, 1e-5),
    "MRPC": (16, 2296, 1e-5),
    "CoLA": (16, 5336, 1e-5),
}


def settings(family, task):
    return read_settings(CONFIGS / family, task, GLUE_NEEDS)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_rho_and_beta_are_the_papers(family):
    found = [settings(family, task).task["optimizer"] for task in ORDER]
    assert ([o["sam_rho"] for o in found], [o["dsam_beta"] for o in found]) == TABLE_3[family]


@pytest.mark.parametrize("task", RDROP)
def test_bert_is_trained_as_in_r_drops_table(task):
    found = settings("bert", task).task
    batch, updates = found["dataset"]["batch_size"], found["optimization"]["max_update"]
    assert (batch, updates, found["lr_scheduler"]["warmup_updates"]) == RDROP[task]
    assert found["optimization"]["lr"] == [1e-5]
    assert found["optimizer"]["base"] == {"adam_betas": "(0.9, 0.98)", "adam_eps": 1e-6, "weight_decay": 0.01}


@pytest.mark.parametrize("task", R3F)
def test_roberta_is_trained_as_in_r3fs_tables(task):
    found = settings("roberta", task).task
    batch, updates, lr = R3F[task]
    assert (found["dataset"]["batch_size"], found["optimization"]["max_update"]) == (batch, updates)
    assert found["optimization"]["lr"] == [lr]
    assert found["lr_scheduler"]["warmup_updates"] == pytest.approx(0.06 * updates, abs=1)
    assert found["optimizer"]["base"] == {"adam_betas": "(0.9, 0.98)", "adam_eps": 1e-6, "weight_decay": 0.01}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", TASKS)
def test_the_task_itself(family, task):
    found, facts = settings(family, task).task, TASKS[task]
    assert found["task"]["num_classes"] == max(1, len(facts.classes))
    assert found["checkpoint"]["best_checkpoint_metric"] == facts.selected
    assert found["checkpoint"]["maximize_best_checkpoint_metric"] is True
    criterion = found["criterion"]
    assert criterion.get("regression_target", False) == facts.is_regression
    assert criterion.get("report_mcc", False) == ("mcc" in facts.metrics)
    assert criterion.get("report_acc_and_f1", False) == ("f1" in facts.metrics)
    assert criterion.get("report_pearson_and_spearman", False) == ("pearson" in facts.metrics)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", TASKS)
def test_fairseq_takes_the_file_as_it_is(family, task):
    """Composed as `fairseq-hydra-train` does, against fairseq's own types."""
    import hydra
    from fairseq.dataclass.initialize import add_defaults, hydra_init

    hydra_init(task)
    with hydra.initialize_config_dir(config_dir=str(CONFIGS / family)):
        cfg = hydra.compose(
            config_name=task, overrides=["task.data=d", "checkpoint.save_dir=s", "checkpoint.finetune_from_model=m"]
        )
    add_defaults(cfg)
    own = settings(family, task).task
    assert cfg.optimizer.sam_rho == own["optimizer"]["sam_rho"]
    assert cfg.optimizer.dsam_beta == own["optimizer"]["dsam_beta"]
    assert cfg.lr_scheduler.total_num_update == cfg.optimization.max_update == own["optimization"]["max_update"]
    assert cfg.task.num_classes == own["task"]["num_classes"]


# ---------------------------------------------------------------------- configs


@pytest.fixture(scope="module")
def parts(bert, roberta, tmp_path_factory):
    """Backbone and data of each family."""
    directory = tmp_path_factory.mktemp("methods")
    glue_files.write_task(directory / "data", "RTE")
    result = {}
    for kind, converted in (("bert", bert), ("roberta", roberta)):
        backbone = load_backbone(converted)
        result[kind] = backbone, prepare(directory / "data", backbone, TASKS["RTE"], directory / kind, max_positions=256)
    return result


def make(parts, tmp_path, method, family="bert", task="RTE", prepared=None, changes=(), cpu=False):
    """A run's config, by the engine."""
    planner = plan(parts, tmp_path, family, task, prepared, changes, cpu)
    return planner.run(Record("glue", task, method, 3, {})).config


def plan(parts, tmp_path, family="bert", task="RTE", prepared=None, changes=(), cpu=False):
    benchmark, args = Glue(), SimpleNamespace(out=tmp_path, changes=list(changes), cpu=cpu, selection_rows=0, seeds=[3])
    benchmark.args, benchmark.backbone, benchmark._prepared = args, parts[family][0], {(task, None): prepared or parts[family][1]}
    benchmark.said = {}
    planner = Planner(benchmark, args)
    planner.settings, planner.made_of = {task: settings(family, task)}, {task: {}}
    return planner


ADAM = {"adam_betas": "(0.9, 0.98)", "adam_eps": 1e-6, "weight_decay": 0.01}
OPTIMIZERS = {
    "base": {"_name": "adam", **ADAM},
    "rdrop": {"_name": "adam", **ADAM},
    "sam": {"_name": "sam", "sam_rho": 0.05, "base_optimizer": "adam", "base": ADAM},
    "dsam": {"_name": "dsam", "sam_rho": 0.05, "dsam_beta": 70, "base_optimizer": "adam", "base": ADAM},
    "lora": {"_name": "adam", **ADAM, "weight_decay": 0.0},
    "lora-sam": {"_name": "sam", "sam_rho": 0.05, "base_optimizer": "adam", "base": {**ADAM, "weight_decay": 0.0}},
    "lora-obar": {
        "_name": "bar",
        "bar_variant": "obar",
        "bar_alpha": 0.5,
        "bar_schedule": "linear",
        "base_optimizer": "adam",
        "base": {**ADAM, "weight_decay": 0.0},
    },
}


@pytest.mark.parametrize("method", OPTIMIZERS)
def test_the_optimizer_of_a_method(parts, tmp_path, method):
    made = make(parts, tmp_path, method)
    assert made["optimizer"] == OPTIMIZERS[method]
    has_lora = method.startswith("lora")
    assert made["optimization"]["lr"] == [5e-4 if has_lora else 1e-5]
    assert made["model"]["_name"] == ("lora" if has_lora else parts["bert"][0].arch)
    assert made["model"].get("base_arch") == (parts["bert"][0].arch if has_lora else None)


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_adapters(parts, tmp_path, placement):
    arch = parts["bert"][0].arch
    made = make(parts, tmp_path, f"{placement}-dsam")
    names = ("_name", "base_arch", "adapter_placement", "encoder_layers")
    assert [made["model"][name] for name in names] == ["adapter", arch, placement, 2]
    assert made["optimization"]["lr"] == [3e-4] and made["optimizer"] == OPTIMIZERS["dsam"]
    # With adapters alone the base optimizer is the task's.
    assert make(parts, tmp_path, placement)["optimizer"] == OPTIMIZERS["base"]


@pytest.mark.parametrize("method", ["base", "r3f", "dsam-rdrop", "lora-freelb", "smart"])
def test_the_criterion_of_a_method(parts, tmp_path, method):
    part = method.split("-")[-1]
    expected = "sentence_prediction" if method == "base" else f"{part}_sentence_prediction"
    assert make(parts, tmp_path, method)["criterion"]["_name"] == expected


def test_smart_is_both_its_parts(parts, tmp_path):
    made = make(parts, tmp_path, "smart")
    assert made["criterion"]["smart_mu"] == 1 and made["ema"] == {"store_ema": True, "ema_decay": 0.999, "ema_fp32": True}
    assert "ema" not in make(parts, tmp_path, "freelb")


def test_what_the_backbone_the_data_and_the_run_bring(parts, tmp_path):
    for family, separator in (("bert", None), ("roberta", 2)):
        backbone, prepared = parts[family]
        made = make(parts, tmp_path, "base", family)
        assert made["task"].get("separator_token") == separator and made["task"]["init_token"] == 0
        assert made["task"]["max_positions"] == 256 and made["model"]["encoder_layers"] == 2
        assert made["task"]["data"] == str(prepared.directory.resolve())
        assert made["checkpoint"]["finetune_from_model"] == str((backbone.directory / "model.pt").resolve())
        assert made["checkpoint"]["save_dir"] == str((tmp_path / "RTE" / "base" / "seed3").resolve())
        assert made["common"]["seed"] == 3 and made["common"]["fp16"] is True
        assert made["dataset"]["valid_subset"] == "valid"
    cpu = make(parts, tmp_path, "base", cpu=True)
    assert cpu["common"]["cpu"] is True and cpu["common"]["fp16"] is False
    two = parts["bert"][1]._replace(rows={"train": 1, "valid": 1, "valid1": 1, "test": 1})
    made = make(parts, tmp_path, "base", task="MNLI", prepared=two)
    assert made["dataset"]["valid_subset"] == "valid,valid1"


def test_settings_can_be_changed(parts, tmp_path):
    changes = ["optimization.max_update=7", "criterion.new=a", "optimization.lr=[0.5]"]
    made = make(parts, tmp_path, "base", changes=changes)
    assert made["optimization"]["max_update"] == 7 and made["criterion"]["new"] == "a"
    assert made["optimization"]["lr"] == [0.5]
    for change, words in (
        ("max_update=3", "part.name=value"),
        ("optimization.max_update", "part.name=value"),
        ("common.seed=4", "of its own"),
        ("optimizer._name=sgd", "of its own"),
        ("dataset.valid_subset=train", "of its own"),
        ("dataset.train_subset=valid", "of its own"),
    ):
        with pytest.raises(ValueError, match=f"--set {change}: .*{words}"):
            make(parts, tmp_path, "base", changes=[change])


def test_each_method_takes_of_the_optimizers_changes_what_it_has_use_for(parts, tmp_path):
    changes = ["optimizer.sam_rho=0.3", "optimizer.dsam_beta=4", "optimizer.base.weight_decay=0.2", "optimizer.bar_alpha=2"]
    base = {**ADAM, "weight_decay": 0.2}
    expected = {
        "base": {"_name": "adam", **base},
        "lora": {"_name": "adam", **base},
        "sam": {**OPTIMIZERS["sam"], "sam_rho": 0.3, "base": base},
        "dsam": {**OPTIMIZERS["dsam"], "sam_rho": 0.3, "dsam_beta": 4, "base": base},
        "lora-obar": {**OPTIMIZERS["lora-obar"], "bar_alpha": 2, "base": base},
    }
    for method, optimizer in expected.items():
        made = make(parts, tmp_path, method, changes=changes)
        assert made["optimizer"] == optimizer
        check_config(made, method)


@pytest.mark.parametrize(
    "name, section, kept",
    [
        ("base", "criterion", {}),
        ("dsam-rdrop", "criterion", {"rdrop_alpha": 0.5}),
        ("freelb", "criterion", {"freelb_steps": 2}),
        ("sam", "model", {"dropout": 0.3}),
        ("lora-sam", "model", {"lora_rank": 4, "dropout": 0.3}),
        ("pfeiffer", "model", {"adapter_size": 9, "dropout": 0.3}),
    ],
)
def test_changes_to_a_parts_own_settings_are_for_methods_with_it(parts, tmp_path, name, section, kept):
    changes = [
        "criterion.rdrop_alpha=0.5",
        "criterion.freelb_steps=2",
        "model.lora_rank=4",
        "model.adapter_size=9",
        "model.dropout=0.3",
    ]
    result = make(parts, tmp_path, name, changes=changes)
    check_config(result, name)
    changed = {change.split("=")[0].split(".")[1] for change in changes}
    assert {key: value for key, value in result[section].items() if key in changed} == kept


def test_a_sample_of_the_training_set_gets_its_share_of_the_updates(parts, tmp_path):
    prepared = parts["bert"][1]
    rows = TASKS["MNLI"].splits["train"].rows // 100
    sample = prepared._replace(stand_ins=["train"], rows={**prepared.rows, "train": rows})
    made = make(parts, tmp_path, "dsam", task="MNLI", prepared=sample)
    assert made["optimization"]["max_update"] == pytest.approx(123873 * 123 / 12272, abs=1)  # batches of 32 in an epoch
    assert made["lr_scheduler"]["warmup_updates"] == pytest.approx(74.32, abs=1)


EPOCH = 312  # updates of RTE's 2,490 rows in batches of 8


@pytest.mark.parametrize("longest", [64, 512])
@pytest.mark.parametrize(
    "changes, limits",
    [
        ([], {"max_update": 10 * EPOCH, "max_epoch": 10}),
        (["optimization.max_update=6240"], {"max_update": 6240}),
        (["optimization.max_update=3000"], {"max_update": 3000, "max_epoch": 10}),
        (["optimization.max_epoch=3"], {"max_update": 3 * EPOCH, "max_epoch": 3}),
        (["optimization.max_epoch=20"], {"max_update": 20 * EPOCH, "max_epoch": 20}),
        (["optimization.max_epoch=3", "optimization.max_update=6240"], {"max_update": 3 * EPOCH, "max_epoch": 3}),
        (["optimization.update_freq=2"], {"max_update": 10 * EPOCH // 2, "max_epoch": 10}),
        (["dataset.batch_size=32"], {"max_update": 10 * 78, "max_epoch": 10}),
        (["dataset.batch_size=32", "optimization.max_update=6240"], {"max_update": 6240}),
    ],
)
def test_training_and_schedule_end_together(parts, tmp_path, monkeypatch, changes, limits, longest):
    """RoBERTa's settings have epochs beside the updates, and tokens in a batch: 32 of the longest rows are too many."""
    rte = parts["roberta"][1]._replace(rows={"train": 2490, "valid": 277})
    monkeypatch.setattr(binarize, "longest_input", lambda prepared: longest)
    if longest == 512 and changes == ["dataset.batch_size=32"]:
        with pytest.raises(ValueError, match="--set optimization.max_update is needed.*dataset.max_tokens"):
            make(parts, tmp_path, "dsam", "roberta", prepared=rte, changes=changes)
    else:
        made = make(parts, tmp_path, "dsam", "roberta", prepared=rte, changes=changes)
        assert {name: made["optimization"].get(name) for name in limits} == limits
        assert ("max_epoch" in made["optimization"]) == ("max_epoch" in limits)


def test_values_of_a_sweep_go_before_the_settings_epochs_too(parts, tmp_path):
    """More updates than the epochs have are different runs."""
    rte = parts["roberta"][1]._replace(rows={"train": 2490, "valid": 277})
    planner, sweep = plan(parts, tmp_path, "roberta", prepared=rte), {"optimization.max_update": [4000, 6240]}
    found = grid_of(planner, "RTE", find_method("base"), {}, sweep)
    assert found == [{"optimization.max_update": updates} for updates in (4000, 6240)]
    runs = [planner.run(Record("glue", "RTE", "base", 3, axes)) for axes in found]
    assert [run.config["optimization"]["max_update"] for run in runs] == [4000, 6240]


def test_a_warm_up_is_shorter_than_training(parts, tmp_path):
    for changes, warmup in (([], 122), (["optimization.max_update=123"], 122), (["optimization.max_update=100"], 10)):
        assert make(parts, tmp_path, "base", changes=changes)["lr_scheduler"]["warmup_updates"] == warmup
    with pytest.raises(ValueError, match="--set lr_scheduler.warmup_updates=100: training has 100 updates"):
        make(parts, tmp_path, "base", changes=["optimization.max_update=100", "lr_scheduler.warmup_updates=100"])


def test_no_input_is_longer_than_the_longest(parts):
    """Against fairseq's own task, which puts the special symbols in."""
    for family, (backbone, prepared) in parts.items():
        task = {"data": str(prepared.directory), "num_classes": 2, "max_positions": 256, "init_token": backbone.init_token}
        task.update(separator_token=backbone.separator_token, seed=1)
        train = SentencePredictionTask.setup_task(SentencePredictionConfig(**task)).load_dataset("train")
        assert 0 <= binarize.longest_input(prepared) - max(train.sizes[0]) <= (family == "bert")


@pytest.mark.parametrize("task", TASKS)
def test_what_can_choose_the_epoch_is_what_fairseqs_criterion_tells(task):
    """A validation of two rows, by the settings of the task."""
    criterion = settings("bert", task).task["criterion"]
    told = {"loss": 1.0, "ntokens": 9, "nsentences": 2, "sample_size": 2, "pred": [0, 1], "targ": [1, 0]}
    told.update({name: True for name in criterion if name.startswith("report_")})
    told.update({} if criterion.get("regression_target") else {"ncorrect": 1})
    with metrics.aggregate(new_root=True) as found:
        SentencePredictionCriterion.reduce_metrics([told])
    assert sorted(logged(criterion)) == sorted(found.get_smoothed_values().keys() - {"pred", "targ"})


def test_differences_but_for_places(parts, tmp_path):
    one = make(parts, tmp_path, "sam")
    other = make(parts, tmp_path / "elsewhere", "dsam", changes=["dataset.batch_size=9"])
    assert differences(one, other) == ["dataset.batch_size", "optimizer._name", "optimizer.dsam_beta"]
    assert differences(one, make(parts, tmp_path / "elsewhere", "sam")) == []


# Aliases of aliases, of themselves and in brackets; objects that a full YAML loader would build.
HOSTILE = {
    "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi")
    ): r"RTE\.yaml: cannot be read: its aliases stand for 1e\+09 values",
    "a: &a [*a]": r"RTE\.yaml: cannot be read: an alias stands for what it is in",
    "[" * 5000: r"RTE\.yaml: cannot be read",
    "a: !!python/object/apply:os.mkdir [mark]": r"RTE\.yaml: cannot be read: .*os\.mkdir",
    "a: !!python/name:os.mkdir": r"RTE\.yaml: cannot be read: .*os\.mkdir",
}


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda d: (d / "bert" / "RTE.yaml").unlink(), r"RTE\.yaml: not there.*--configs"),
        (lambda d: (d / "bert" / "lora.yaml").unlink(), r"lora\.yaml: not there.*--configs"),
        (lambda d: (d / "bert" / "RTE.yaml").write_text("a: [1"), r"RTE\.yaml: cannot be read"),
        *((lambda d, text=text: (d / "bert" / "RTE.yaml").write_text(text), words) for text, words in HOSTILE.items()),
        (lambda d: (d / "bert" / "RTE.yaml").write_text("- 1\n"), r"RTE\.yaml: settings by name"),
        (lambda d: edit(d / "bert" / "RTE.yaml", "dsam_beta: 70", ""), r"RTE\.yaml: has no optimizer\.dsam_beta;"),
        (lambda d: edit(d / "bert" / "RTE.yaml", "log_format: json", ""), r"RTE\.yaml: has no common\.log_format;"),
        (lambda d: edit(d / "bert" / "RTE.yaml", "batch_size: 8", "seed: 1"), r"RTE\.yaml: has no dataset\.batch_size;"),
        (lambda d: (d / "bert" / "lora.yaml").write_text("CoLA: {lr: 1}\n"), r"lora\.yaml: no lr for RTE"),
        (lambda d: (d / "bert" / "adapter.yaml").write_text("RTE: {size: 1}\n"), r"adapter\.yaml: no lr for RTE"),
        (
            lambda d: (d / "bert" / "lora.yaml").write_text("RTE: {lr: 1, dataset: 8}\n"),
            r"lora\.yaml: RTE: dataset: settings by name are expected",
        ),
        (lambda d: edit(d / "bert" / "RTE.yaml", "model:\n", "bmuf:\nmodel:\n"), r"RTE\.yaml: bmuf: settings by name are expected"),
    ],
)
def test_settings_that_cannot_be_read(tmp_path, change, words):
    (tmp_path / "bert").mkdir()
    for name in ("RTE.yaml", "lora.yaml", "adapter.yaml"):
        (tmp_path / "bert" / name).write_text((CONFIGS / "bert" / name).read_text())
    change(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        read_settings(tmp_path / "bert", "RTE", GLUE_NEEDS)


def test_the_lora_learning_rates_are_hu_et_als():
    """Table 9 of Hu et al. 2022, in units of 1e-4."""
    tasks = ("MNLI", "SST-2", "MRPC", "CoLA", "QNLI", "QQP", "RTE", "STS-B")
    large = dict(zip(tasks, (3, 4, 3, 2, 2, 3, 4, 2)))
    base = dict(zip(tasks, (5, 5, 4, 4, 4, 5, 5, 4)))
    for family, rates in (("roberta", large), ("bert", base), ("minilm", dict.fromkeys(tasks, 20))):  # MiniLM's are ours
        for task in tasks:
            assert settings(family, task).lora["lr"] == pytest.approx(rates[task] * 1e-4)
            assert OmegaConf.load(CONFIGS / family / "lora.yaml")[task].bar_alpha == (0.05 if task == "QQP" else 0.5)
