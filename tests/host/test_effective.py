"""A part of the plugin's takes effect wherever it stands in a run, as its metric shows, or is refused by name."""

from argparse import Namespace

import omegaconf
import pytest
import sentences
import torch
import toy
from fairseq import models, optim
from fairseq.criterions import CRITERION_REGISTRY, FairseqCriterion
from fairseq.criterions.composite_loss import CompositeLoss
from fairseq.dataclass.utils import omegaconf_no_object_check
from fairseq.logging import metrics
from fairseq.models import BaseFairseqModel
from fairseq.optim.composite import FairseqCompositeOptimizer
from omegaconf import OmegaConf
from processes import fork

from sharp_plugins.criterions.regularized import Regularized
from sharp_plugins.host import effective
from sharp_plugins.host.weights import registered_optimizer

LORA = ["--arch", "lora", "--base-arch", *toy.MODEL[1:], "--lora-rank", "2"]
QUERY = "balancedness_{}encoder.layers.0.self_attn.q_proj"
METRIC = {"sam": "sam_gap", "dsam": "dsam_weight_max", "bar": "bar_alpha"}
METHODS = list(METRIC)


def logged(trainer, samples=None):
    """Names of what an update logs."""
    with metrics.aggregate() as shown:
        assert trainer.train_step(samples or toy.batches(trainer, [4])) is not None
        trainer.lr_step_update()
        return set(shown.get_smoothed_values())


# ---------------------------------------------------------------------- optimizers


def groups(**optimizers):
    """The groups of a composite optimizer, with one optimizer each."""
    fixed = {"_name": "fixed", "lr": [0.1]}
    return {name: {"lr_float": 0.1, "optimizer": own, "lr_scheduler": fixed} for name, own in optimizers.items()}


def plain_groups():
    adam = {"_name": "adam", "lr": [0.1], "adam_betas": "(0.5, 0.5)"}
    return groups(emb=adam, default={"_name": "nag", "lr": [0.1], "momentum": 0.9})


def trainer_with(data, optimizer, monkeypatch, *flags):
    """A trainer of a LoRA model whose output's bias is the group emb, with that optimizer's config."""
    # fairseq keeps the groups of all composite optimizers of a process in one place
    monkeypatch.setattr(FairseqCompositeOptimizer, "optimizers", {})
    monkeypatch.setattr(FairseqCompositeOptimizer, "lr_schedulers", {})
    name = optimizer.get("_name")
    line = ["--optimizer", name] if name in METHODS else ["--optimizer", "adam"]
    cfg = toy.config(data, *line, "--lr", "0.1", "--lora-also-train", "embed_tokens", *flags, model=LORA)
    cfg.lr_scheduler = OmegaConf.create({"_name": "pass_through"})
    OmegaConf.set_struct(cfg.optimizer, False)
    if name in METHODS:
        cfg.optimizer.merge_with(optimizer)
    else:
        cfg.optimizer = OmegaConf.create(optimizer)
    trainer = toy.trainer_from(cfg)
    trainer.get_model().encoder.embed_tokens.weight.param_group = "emb"
    return trainer


old_omegaconf = pytest.mark.skipif(omegaconf.__version__ < "2.1", reason="fairseq's composite optimizer wants omegaconf 2.1")


@old_omegaconf
@pytest.mark.parametrize("flags", ["", "--fp16 --fp16-no-flatten-grads"])
@pytest.mark.parametrize("name", METHODS)
def test_around_a_composite_optimizer_it_takes_effect(translation_data, monkeypatch, name, flags):
    around = {"_name": name, "base_optimizer": "composite", "base": {"groups": plain_groups()}}
    scale = ["--fp16-init-scale", "4"] if flags else []
    trainer = trainer_with(translation_data, around, monkeypatch, *flags.split(), *scale)
    assert METRIC[name] in logged(trainer)
    assert sorted(len(group["params"]) for group in registered_optimizer(trainer).param_groups)[0] == 1  # emb


@pytest.mark.parametrize(
    "name, around", [*((name, "composite") for name in METHODS), ("sam", "sam"), ("bar", "dsam"), ("dsam", "bar")]
)
def test_inside_a_composite_optimizer_it_is_refused(translation_data, monkeypatch, name, around):
    inside = groups(default={"_name": "adam", "lr": [0.1]}, emb={"_name": name, "lr": [0.1], "base_optimizer": "adam"})
    optimizer = {"_name": "composite", "groups": inside}
    where = "optimizer.groups.emb.optimizer"
    if around != "composite":
        optimizer = {"_name": around, "base_optimizer": "composite", "base": {"groups": inside}}
        where = "optimizer.base.groups.emb.optimizer"
    words = f"--optimizer {name} would have no effect as {where}: .*_name: {name}, base_optimizer: composite"
    with pytest.raises(ValueError, match=words):
        trainer_with(translation_data, optimizer, monkeypatch)


HYDRA = """
common: {{user_dir: {plugin}, cpu: true, seed: 7}}
checkpoint: {{save_dir: {save_dir}, no_save: true}}
dataset: {{batch_size: 8, num_workers: 0, required_batch_size_multiple: 1, disable_validation: true}}
optimization: {{max_update: 2, lr: [0.05]}}
distributed_training: {{distributed_world_size: 1}}
task: {{_name: translation, data: {data}, source_lang: src, target_lang: tgt}}
criterion: {{_name: label_smoothed_cross_entropy, label_smoothing: 0.1}}
lr_scheduler: {{_name: pass_through}}
optimizer:
  _name: composite
  groups:
    default: {{lr_float: 0.01, optimizer: {{_name: sam, sam_rho: 5.0, base_optimizer: adam}}, lr_scheduler: {{_name: fixed}}}}
model: {{_name: transformer, encoder: {{layers: 1, embed_dim: 16, ffn_embed_dim: 32, attention_heads: 2}}}}
"""


@pytest.mark.slow
@old_omegaconf
def test_fairseq_hydra_train_refuses_it(translation_data, tmp_path):
    (tmp_path / "toy.yaml").write_text(HYDRA.format(plugin=toy.PLUGIN, save_dir=tmp_path / "save", data=translation_data))
    arguments = ["x", "--config-dir", str(tmp_path), "--config-name", "toy", f"hydra.run.dir={tmp_path / 'outputs'}"]
    code = f"import sys\nsys.argv = {arguments!r}\nfrom fairseq_cli.hydra_train import cli_main\ncli_main()"
    said = fork(code, tmp_path / "log").fail()
    assert "--optimizer sam would have no effect as optimizer.groups.default.optimizer" in said and "begin training" not in said


class Holder(optim.FairseqOptimizer):
    """An optimizer that builds another one, which no config names."""

    inner = {"_name": "sam"}

    def __init__(self, cfg, params):
        super().__init__(cfg)
        params = list(params)
        config = OmegaConf.create({"lr": [0.1], "base_optimizer": "sgd", **self.inner})
        self.parts = [{"first": optim._build_optimizer(config, params)}]
        self._optimizer = torch.optim.SGD(params, lr=0.1)


@pytest.mark.parametrize(
    "name, precision", [*((name, []) for name in METHODS), ("sam", ["--fp16", "--fp16-no-flatten-grads"]), ("sam", ["--amp"])]
)
def test_inside_an_optimizer_that_no_config_tells_of_it_is_refused(translation_data, monkeypatch, name, precision):
    monkeypatch.setitem(optim.OPTIMIZER_REGISTRY, "holder", Holder)
    monkeypatch.setattr(Holder, "inner", {"_name": name, **({"max_update": 10} if name == "bar" else {})})
    trainer = toy.build_trainer(translation_data, "--optimizer", "holder", "--lr", "0.1", *precision)
    with pytest.raises(ValueError, match=f"--optimizer {name} would have no effect as a part of Holder"):
        trainer.optimizer


# ---------------------------------------------------------------------- criterions

# Those of --task cloze have no place in composite_loss: that task refuses it by name.
OWN = sorted(name for name, cls in CRITERION_REGISTRY.items() if issubclass(cls, Regularized) and not name.endswith("_cloze"))


def test_all_of_them_are_tried():
    assert len(OWN) == 6


@pytest.mark.parametrize("name", OWN)
def test_inside_composite_loss_it_is_refused(translation_data, sentence_data, name):
    words = f"--criterion {name} would have no effect as a part of CompositeLoss: .*--criterion {name}"
    if name.endswith("label_smoothed_cross_entropy"):
        criterion = ["--criterion", "composite_loss", "--underlying-criterion", name]
        with pytest.raises(ValueError, match=words):
            toy.build_trainer(translation_data, "--optimizer", "sgd", "--lr", "0.1", criterion=criterion)
    else:  # fairseq's flags do not lead there
        task = sentences.trainer(sentence_data, "sentence_prediction").task
        args = Namespace(criterion="composite_loss", underlying_criterion=name)
        with pytest.raises(ValueError, match=words):
            effective.check_criterion(CompositeLoss.build_criterion(args, task))


class Several(FairseqCriterion):
    def __init__(self, task, parts):
        super().__init__(task)
        self.parts = parts


def test_inside_a_criterion_that_keeps_it_in_a_dict_it_is_refused(translation_data):
    own = ["--criterion", "r3f_label_smoothed_cross_entropy"]
    criterion = toy.build_trainer(translation_data, "--optimizer", "sgd", "--lr", "0.1", criterion=own).get_criterion()
    effective.check_criterion(criterion)
    with pytest.raises(ValueError, match="--criterion r3f_label_smoothed_cross_entropy .* as a part of Several"):
        effective.check_criterion(Several(criterion.task, {"first": criterion}))


# ---------------------------------------------------------------------- models, tasks with several models


def multilingual(data, *flags, model="multilingual_transformer", **parts):
    model = ["--arch", "lora", "--base-arch", model, "--lora-rank", "2"] if "bar" in flags or "lora" in flags else ["--arch", model]
    flags = [flag for flag in flags if flag != "lora"]
    pairs = ["--lang-pairs", "src-tgt,tgt-src", "--lr", "0.1"]
    trainer = toy.build_trainer(data, *flags, *pairs, model=[*model, *toy.MODEL[2:-1]], task="multilingual_translation", **parts)
    dataset = trainer.task.dataset("train")
    dataset.ordered_indices()
    sample = dataset.collater([dataset[i] for i in range(4)])
    trainer.reset_dummy_batch(sample)
    return trainer, [sample]


@pytest.mark.parametrize(
    "flags, wanted",
    [
        (["--optimizer", "sam"], METRIC["sam"]),
        (["--optimizer", "bar"], METRIC["bar"]),
        (["--optimizer", "adam", "lora"], QUERY.format("models.src-tgt.")),
        (["--optimizer", "bar", "--share-encoders", "--share-decoders"], METRIC["bar"]),
    ],
    ids=["sam", "bar", "lora", "bar with shared layers"],
)
def test_with_several_models_of_a_task(translation_data, flags, wanted):
    assert wanted in logged(*multilingual(translation_data, *flags))


@pytest.mark.parametrize("name, wanted", [("r3f", "symm_kl"), ("rdrop", "rdrop_kl")])
def test_criterions_with_several_models_of_a_task(translation_data, name, wanted):
    criterion = ["--criterion", f"{name}_label_smoothed_cross_entropy"]
    assert wanted in logged(*multilingual(translation_data, "--optimizer", "adam", criterion=criterion))


class Around(BaseFairseqModel):
    """A model that holds one of another architecture, as those do that start from a pretrained checkpoint."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.forward, self.decoder = inner.forward, inner.decoder

    @classmethod
    def build_model(cls, args, task):
        return cls(models.build_model(Namespace(**vars(args.inner)), task))

    def get_normalized_probs(self, *args, **kwargs):
        return self.inner.get_normalized_probs(*args, **kwargs)

    def get_targets(self, sample, net_output):
        return sample["target"]


@pytest.mark.parametrize("inner, wanted", [(LORA, QUERY.format("inner.")), (toy.MODEL, None)], ids=["lora", "plain"])
def test_lora_inside_another_model_is_logged_as_alone(translation_data, monkeypatch, inner, wanted):
    monkeypatch.setitem(models.ARCH_MODEL_REGISTRY, "around", Around)
    cfg = toy.config(translation_data, "--optimizer", "adam", "--lr", "0.1", model=inner)
    with omegaconf_no_object_check():
        cfg.model = Namespace(_name="around", arch="around", inner=cfg.model)
    trainer = toy.trainer_from(cfg)
    shown = {name for name in logged(trainer) if name.startswith("balancedness_")}
    assert wanted in shown if wanted else not shown


def test_averages_of_lora_follow_its_updates(translation_data):
    ema = ["--store-ema", "--ema-decay", "0.5", "--ema-fp32"]
    trainer = toy.build_trainer(translation_data, "--optimizer", "sam", "--lr", "0.1", *ema, model=LORA)
    trainer.train_step(toy.batches(trainer, [4]))
    before = toy.weights(trainer)
    assert {METRIC["sam"], QUERY.format("")} <= logged(trainer)
    name = "encoder.layers.0.self_attn.q_proj"
    averages = trainer.ema.get_model().state_dict()
    assert not torch.equal(averages[f"{name}.lora_B"], before[f"{name}.lora_B"])
    assert torch.equal(averages[f"{name}.weight"], before[f"{name}.weight"])


def test_the_config_of_another_run_is_none_of_this_ones(translation_data):
    """wav2vec's fine-tuning keeps the pretraining's whole config among its model's settings."""
    cfg = toy.config(translation_data, "--optimizer", "adam", "--lr", "0.1")
    pretraining = {"common": {}, "optimizer": {"_name": "sam", "sam_rho": 0.05}, "criterion": {"_name": "r3f_sentence_prediction"}}
    cfg.model.w2v_args = Namespace(**pretraining)
    effective.check_config(cfg)


def test_a_task_may_have_an_optimizers_name(translation_data):
    cfg = toy.config(translation_data, "--optimizer", "adam", "--lr", "0.1")
    OmegaConf.set_struct(cfg, False)
    cfg.task = OmegaConf.create({"_name": "bar"})
    effective.check_config(cfg)
