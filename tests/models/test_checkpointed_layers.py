"""LoRA and adapters behind frozen embeddings, in layers with ``--checkpoint-activations``: the updates are those without."""

import pytest
import sentences
import torch
import toy

WRAPPED = {
    "lora": ["--arch", "lora", "--lora-rank", "2"],
    "one layer's lora": ["--arch", "lora", "--lora-rank", "2", "--lora-target", r".*layers\.1\.self_attn\.q_proj"],
    "houlsby": ["--arch", "adapter", "--adapter-size", "4"],
    "pfeiffer": ["--arch", "adapter", "--adapter-size", "4", "--adapter-placement", "pfeiffer"],
}


def updated(trainer, count=3):
    before = toy.weights(trainer)
    for sample in toy.batches(trainer, [6] * count):
        trainer.train_step([sample])
    now = toy.weights(trainer)
    inside = {name for name in now if name.endswith(("lora_B", "adapter.up.weight"))}
    assert inside and all(not torch.equal(now[name], before[name]) for name in inside)
    return now


@pytest.mark.parametrize(
    "optimizer", [["sgd"], ["sam", "--base-optimizer", "sgd"], ["dsam", "--base-optimizer", "sgd"]], ids=lambda flags: flags[0]
)
@pytest.mark.parametrize("name", WRAPPED)
def test_translation(translation_data, name, optimizer):
    model = [*WRAPPED[name], "--base-arch", *toy.MODEL[1:], "--encoder-layers", "2", "--decoder-layers", "2"]
    flags = ["--optimizer", *optimizer, *toy.SGD, "--dropout", "0.1"]
    expected = updated(toy.build_trainer(translation_data, *flags, model=model))
    ours = updated(toy.build_trainer(translation_data, *flags, model=[*model, "--checkpoint-activations"]))
    for key, value in expected.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", WRAPPED)
def test_classification(sentence_data, name):
    model = [*WRAPPED[name], "--base-arch", *sentences.MODEL[1:], "--encoder-layers", "2", "--num-classes", "3"]
    ends = []
    for checkpointed in (False, True):
        cfg = toy.config(
            sentence_data / "classes",
            "--optimizer",
            "sgd",
            *toy.SGD,
            "--dropout",
            "0",
            "--attention-dropout",
            "0",
            model=model,
            criterion=["--criterion", "sentence_prediction"],
            task="sentence_prediction",
        )
        cfg.model.checkpoint_activations = checkpointed  # RoBERTa has no flag for it, and a hydra config may say it
        ends.append(updated(toy.trainer_from(cfg)))
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=1e-4, atol=1e-6)
