"""Small models on GLUE's tasks, and the data as the stock task reads them."""

import glue_files
import torch
import toy
from fairseq import tasks
from fairseq.tasks.sentence_prediction import SentencePredictionConfig
from omegaconf import OmegaConf

from sharp_plugins.glue.binarize import prepare
from sharp_plugins.glue.tasks import TASKS
from sharp_plugins.text.encoder_directory import load_backbone

HEAD = "sentence_classification_head"


def train_a_little(directory, converted, task, lora=False):
    """A checkpoint after a few updates, the data, and the trainer."""
    glue_files.write_task(directory / "data", task, counts=(40, 150, 30), layouts=glue_files.PLAIN)
    backbone, task = load_backbone(converted), TASKS[task]
    prepared = prepare(directory / "data", backbone, task, directory / "prepared", max_positions=256)
    flags = ["--optimizer", "adam", "--lr", "0.01", "--max-positions", 256, "--init-token", 0, "--dropout", "0.1"]
    if backbone.separator_token is not None:
        flags += ["--separator-token", backbone.separator_token]
    kind = ["--num-classes", max(1, len(task.classes)), *(["--regression-target"] if task.is_regression else [])]
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in backbone.sizes.items()]
    arch = ["--arch", "lora", "--base-arch", backbone.arch] if lora else ["--arch", backbone.arch]
    trainer = toy.build_trainer(
        prepared.directory,
        *flags,
        *kind,
        model=[*arch, *sizes],
        criterion=["--criterion", "sentence_prediction"],
        task="sentence_prediction",
    )
    for sample in toy.batches(trainer, [20, 20]) * 12:
        trainer.train_step([sample])
    path = directory / "checkpoint.pt"
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}, "val_loss": None})
    return path, prepared, trainer


def outputs(trainer, split):
    """Logits (rows, outputs) of a split's rows, each alone, and their targets."""
    dataset = trainer.task.load_dataset(split)
    model = trainer.get_model().eval()
    logits, targets = [], []
    for i in range(len(dataset)):
        sample = dataset.collater([dataset[i]])
        with torch.no_grad():
            logits.append(model(**sample["net_input"], features_only=True, classification_head_name=HEAD)[0])
        targets.append(sample["target"].view(-1))
    return torch.cat(logits), torch.cat(targets)


def fairseq_task(prepared, backbone):
    """The stock task on the data, as the runs configure it."""
    task = TASKS[prepared.task]
    cfg = OmegaConf.structured(SentencePredictionConfig())
    cfg.data, cfg.num_classes = str(prepared.directory), max(1, len(task.classes))
    cfg.init_token, cfg.separator_token = backbone.init_token, backbone.separator_token
    cfg.regression_target, cfg.classification_head_name, cfg.seed = task.is_regression, "head", 1
    return tasks.TASK_REGISTRY["sentence_prediction"].setup_task(cfg)


def read_back(prepared, backbone, split):
    dataset = fairseq_task(prepared, backbone).load_dataset(split)
    rows = [dataset[i] for i in range(len(dataset))]
    return [row["net_input.src_tokens"].tolist() for row in rows], [row.get("target") for row in rows]
