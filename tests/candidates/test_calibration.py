"""The calibration of a choice among candidates, as ``python -m sharp_plugins.runs sharpness`` tells it."""

import choices
import pytest
import torch

from sharp_plugins.sharpness.choices import Choices
from sharp_plugins.sharpness.landscape import Landscape
from sharp_plugins.sharpness.report import measure


def test_it_is_of_the_likeliest_candidate(data, tmp_path):
    trainer = choices.trainer(data)
    choices.shaken(trainer.get_model())
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(tmp_path / "model.pt"), {"train_iterator": {"epoch": 1}, "val_loss": None})
    # In batches some of which have two candidates at most, and others three.
    land = Landscape(tmp_path / "model.pt", split="train", batch=1)
    for sample in land.samples:
        if sample["right"].all():  # of two candidates; here the last one is the one to learn
            sample["answers"].fill_(1)
    found = measure(land, Choices([0.1], [0.1], 1, 2), tell=lambda line: None)

    dataset, model = land.loaded.task.dataset("train"), land.model
    gaps, right, others = [0.0] * 15, 0, 0
    for row in range(len(dataset)):
        example = dataset[row]
        with torch.no_grad():
            plain = [
                choices.plain_score(lambda tokens: model(tokens)[0], *pair)
                for pair in zip(example["sequences"], example["counted"])
            ]
        confidence, chosen = torch.stack(plain).softmax(0).max(0)
        is_right = int(chosen) in example["answers"]
        right, others = right + is_right, others + (is_right and int(chosen) != example["answers"][-1])
        gaps[min(14, int(confidence * 15))] += is_right - confidence.item()
    assert found["calibration_error"] == pytest.approx(100 * sum(map(abs, gaps)) / len(dataset), rel=1e-3)
    assert found["accuracy"] == pytest.approx(100 * right / len(dataset)) and 0 < right < len(dataset)
    assert others > 0  # right by another answer than the one to learn
    assert found["hessian"]["products"] == "exact"
