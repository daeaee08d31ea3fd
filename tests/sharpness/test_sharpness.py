"""``python -m sharp_plugins.runs sharpness``, against plain loops over the model of the training."""

import json
import math

import pairs
import pytest
import torch
import torch.nn.functional as F
import toy
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from glue_models import HEAD, outputs, train_a_little
from torch.nn.attention import SDPBackend, sdpa_kernel

from sharp_plugins.core.sharpness import norm, random_direction
from sharp_plugins.runs.__main__ import main
from sharp_plugins.sharpness.choices import Choices
from sharp_plugins.sharpness.landscape import Landscape
from sharp_plugins.sharpness.report import curves, measure, write


@pytest.fixture(scope="module")
def trained(bert, tmp_path_factory):
    return train_a_little(tmp_path_factory.mktemp("trained"), bert, "RTE")


def scores(trainer, rows):
    """Logits with their graph, of each row by itself, and the targets."""
    dataset, model = trainer.task.load_dataset("valid"), trainer.get_model().eval()
    samples = [dataset.collater([dataset[row]]) for row in rows]
    logits = [model(**one["net_input"], features_only=True, classification_head_name=HEAD)[0] for one in samples]
    return torch.cat(logits), torch.cat([one["target"].view(-1) for one in samples])


def loss_of(trainer, rows):
    return F.cross_entropy(*scores(trainer, rows))


def accuracy_of(trainer, rows):
    logits, targets = scores(trainer, rows)
    return 100 * (logits.argmax(1) == targets).double().mean().item()


def test_the_numbers_are_those_of_plain_loops(trained):
    path, prepared, trainer = trained
    land = Landscape(path, batch=7, rows=20)
    before = {name: value.clone() for name, value in land.model.state_dict().items()}
    lines = []
    found = measure(land, Choices(radii=[0.05, 0.5], shares=[0.1, 0.5], draws=2, hessian_steps=0, seed=5), lines.append)
    assert all(torch.equal(before[name], value) for name, value in land.model.state_dict().items())

    logits, targets = (part[land.rows] for part in outputs(trainer, "valid"))
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-4)
    assert found["accuracy"] == pytest.approx(100 * (logits.argmax(1) == targets).double().mean().item())
    assert found["rows"] == len(targets) == 20

    model = trainer.get_model()
    weights = [p for p in model.parameters() if p.requires_grad]
    gradient = torch.autograd.grad(loss_of(trainer, land.rows), weights, allow_unused=True)
    size = torch.cat([part.flatten() for part in gradient if part is not None]).norm()
    assert found["gradient_norm"] == pytest.approx(size.item(), rel=1e-3)
    for radius in (0.05, 0.5):
        with torch.no_grad():
            for weight, part in zip(weights, gradient):
                weight += 0 if part is None else radius * part / size
            rise, right = loss_of(trainer, land.rows).item() - found["loss"], accuracy_of(trainer, land.rows)
            for weight, part in zip(weights, gradient):
                weight -= 0 if part is None else radius * part / size
        there = found["ascent"][str(radius)]
        assert there["rise"] == pytest.approx(rise, rel=0.01, abs=1e-4) and there["accuracy"] == pytest.approx(right)
        assert f"up the gradient by {radius}: loss {there['rise']:+.4f}, accuracy {right:.2f}" in lines

    # How far the confidence is from the share of right answers, in 15 bins.
    confidence, chosen = logits.softmax(1).double().max(1)
    gap = 0.0
    for lower in range(15):
        inside = (confidence > lower / 15) & (confidence <= (lower + 1) / 15)
        gap += abs((confidence - (chosen == targets).double())[inside].sum().item()) / len(targets)
    assert found["calibration_error"] == pytest.approx(100 * gap, rel=1e-3) and gap > 0

    # All matrices in integers, row by row.
    for bits in (8, 4):
        kept = [p.detach().clone() for p in model.parameters()]
        with torch.no_grad():
            for row in (row for p in model.parameters() if p.dim() > 1 for row in p.flatten(1)):
                step = row.abs().max() / (2 ** (bits - 1) - 1)
                row.copy_((row / step).round() * step if step else row)
            there, right = loss_of(trainer, land.rows).item(), accuracy_of(trainer, land.rows)
            for p, value in zip(model.parameters(), kept):
                p.copy_(value)
        assert found["rounded"][str(bits)] == {"loss": pytest.approx(there, abs=1e-5), "accuracy": pytest.approx(right)}
    assert abs(found["rounded"]["4"]["loss"] - found["rounded"]["8"]["loss"]) > 5e-5

    # Each tensor by a share of its norm, in a direction of its own for each draw.
    for share in (0.1, 0.5):
        rises, rights = [], []
        for draw in range(2):
            noise = random_direction(land.weights, seed=5 + draw)
            with torch.no_grad():
                kept = [weight.clone() for weight in weights]
                for weight, part in zip(weights, noise):
                    weight += share * weight.norm() * part / part.norm()
                rises.append(loss_of(trainer, land.rows).item() - found["loss"])
                rights.append(accuracy_of(trainer, land.rows))
                for weight, value in zip(weights, kept):
                    weight.copy_(value)
        there = found["random"][str(share)]
        assert there["rises"] == pytest.approx(rises, rel=0.01, abs=1e-4) and rises[0] != rises[1]
        assert there["rise"] == pytest.approx(sum(rises) / 2, rel=0.01, abs=1e-4)
        assert there["accuracy"] == pytest.approx(sum(rights) / 2)
        assert (
            f"random, {100 * share:g} % of each tensor's norm: loss {there['rise']:+.4f}, accuracy {sum(rights) / 2:.2f}" in lines
        )


def test_a_product_with_the_hessian_is_that_of_differentiating_twice(trained):
    path, _, trainer = trained
    land = Landscape(path, rows=10)
    names = [name for name, p in land.model.named_parameters() if p.requires_grad]
    weights = [dict(trainer.get_model().named_parameters())[name] for name in names]
    v = random_direction(land.weights, seed=3)
    with sdpa_kernel(SDPBackend.MATH):  # which has a second derivative
        first = torch.autograd.grad(loss_of(trainer, land.rows), weights, create_graph=True, allow_unused=True)
        slope = sum((part * direction).sum() for part, direction in zip(first, v) if part is not None)
        expected = torch.autograd.grad(slope, weights, allow_unused=True)
    expected = [torch.zeros_like(a) if b is None else b for a, b in zip(v, expected)]
    before = [(weight.detach().clone(), weight.requires_grad) for weight in land.model.parameters()]
    for found, tolerance in ((land.product(v), 1e-4), (land.difference(v, 0.003), 0.02)):
        assert norm(expected) > 0 and norm(torch._foreach_sub(found, expected)) < tolerance * norm(expected)
    assert land.products == "exact" and all(weight.grad is None for weight in land.weights)
    after = [(weight.detach(), weight.requires_grad) for weight in land.model.parameters()]
    assert all(torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(before, after))


def test_curves_where_the_gradient_is_zero(trained, monkeypatch):
    land = Landscape(trained[0], rows=6)
    monkeypatch.setattr(land, "gradient", lambda: [torch.zeros_like(weight) for weight in land.weights])
    found, here = curves(land, reach=0.5), land.point().loss
    assert found["along"] == [here] * len(found["distance"])
    assert found["across"][len(found["across"]) // 2] == pytest.approx(here) and all(map(math.isfinite, found["across"]))


def test_lora_is_moved_alone(bert, tmp_path):
    path, *_ = train_a_little(tmp_path, bert, "RTE", lora=True)
    land = Landscape(path)
    trained = {name for name, p in land.model.named_parameters() if p.requires_grad}
    assert sum(weight.numel() for weight in land.weights) < sum(p.numel() for p in land.model.parameters()) / 3
    assert any("lora_A" in name for name in trained) and not any("embed_tokens" in name for name in trained)
    with land.moved(land.gradient(), 1.0):
        changed = land.point()
    assert changed != land.point()


def test_an_error_within_brings_the_weights_back(trained):
    land = Landscape(trained[0], rows=4)
    before = [weight.detach().clone() for weight in land.weights]
    with pytest.raises(KeyError), land.moved(before, 0.5):
        raise KeyError
    assert all(map(torch.equal, before, land.weights)) and len(land.rows) == 4 and norm(before) > 1


def test_scores_have_a_loss_alone(bert, tmp_path):
    path, *_ = train_a_little(tmp_path, bert, "STS-B")
    found = measure(Landscape(path, rows=9), Choices(radii=[0.1], shares=[0.1], hessian_steps=0), tell=lambda line: None)
    assert "accuracy" not in found and "calibration_error" not in found and "hessian" not in found
    assert set(found["rounded"]) == {"8", "4"} and found["rounded"]["8"]["loss"] == pytest.approx(found["loss"], rel=0.2)


def test_a_model_that_translates(translation_data, tmp_path):
    trainer = toy.build_trainer(translation_data, "--optimizer", "sgd", "--lr", "0.1")
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(tmp_path / "model.pt"), {"train_iterator": {"epoch": 1}, "val_loss": None})
    found = measure(Landscape(tmp_path / "model.pt", rows=5), Choices([0.1], [0.1], 1, 2), tell=lambda line: None)
    assert found["ascent"]["0.1"]["rise"] > 0 and found["hessian"]["steps"] >= 2 and found["rows"] == 5


def test_the_command_writes_numbers_and_a_picture(trained, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    line = [trained[0], "--rows", 12, "--radii", 0.1, "--shares", 0.05, "--draws", 1, "--hessian-steps", 2]
    files = ["--json", tmp_path / "flat.json", "--plot", tmp_path / "flat.png"]
    assert main(["sharpness", *map(str, [*line, *files])]) == 0
    found = json.loads((tmp_path / "flat.json").read_text())
    assert found["choices"]["radii"] == [0.1] and found["rows"] == 12
    curves = found["curves"]
    middle = len(curves["distance"]) // 2
    assert curves["distance"][0] == -0.2 and curves["distance"][middle] == 0
    assert curves["along"][middle] == curves["across"][middle] == pytest.approx(found["loss"])
    assert curves["along"][-1] > curves["along"][middle] and (tmp_path / "flat.png").stat().st_size > 5000
    shown = capsys.readouterr().out
    assert "up the gradient by 0.1: loss +" in shown and "expected calibration error" in shown


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--split nowhere", "--split nowhere: there is none"),
        ("--radii 0.1 -1", "--radii: give numbers above 0"),
        ("--shares nan", "--shares: give numbers above 0"),
        ("--draws 0", "--draws must be 1 or larger"),
        ("--rows -1", "--rows must be 0"),
        ("--data /nowhere", "cannot be loaded on /nowhere"),
        ("--device quantum", "--device quantum"),
        ("--plot flat.foo", "--plot flat.foo: the name should end in .png"),
    ],
)
def test_what_does_not_fit_is_named(trained, capsys, flags, words):
    assert main(["sharpness", str(trained[0]), *flags.split()]) == 1
    shown = capsys.readouterr().err
    assert words in shown and "Traceback" not in shown


def test_a_loss_that_is_no_number_is_no_result(trained, tmp_path, capsys):
    state = torch.load(trained[0], weights_only=False)
    name = next(name for name in state["model"] if name.endswith("layers.0.fc1.weight"))
    state["model"][name].fill_(math.nan)
    torch.save(state, tmp_path / "nan.pt")
    line = ["sharpness", tmp_path / "nan.pt", "--data", trained[1].directory, "--json", tmp_path / "out.json"]
    assert main([*map(str, line)]) == 1
    assert "the loss at the checkpoint's weights is nan: its training diverged" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_infinite_losses_far_away_are_null(tmp_path):
    write({"ascent": {"5": {"loss": math.inf}}, "rises": [1.0, math.nan]}, Choices(), tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert found["ascent"]["5"]["loss"] is None and found["rises"] == [1.0, None]


def test_rows_without_labels(trained, capsys, monkeypatch):
    """As of a published test set."""
    collate = SentencePredictionTask.load_dataset

    def unlabelled(self, split, *args, **kwargs):
        dataset = collate(self, split, *args, **kwargs)
        inner = dataset
        while not hasattr(inner, "defn"):
            inner = inner.dataset
        inner.defn.pop("target")
        return dataset

    monkeypatch.setattr(SentencePredictionTask, "load_dataset", unlabelled)
    assert main(["sharpness", str(trained[0]), "--rows", "4"]) == 1
    assert "--split valid: its rows have no targets, such as the labels of a published test set" in capsys.readouterr().err


def test_pairs_are_compared_in_full_batches(tmp_path, capsys):
    backbone = pairs.write_backbone(tmp_path)
    trainer = pairs.trainer(backbone)
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(tmp_path / "model.pt"), {"train_iterator": {"epoch": 1}, "val_loss": None})
    assert main(["sharpness", str(tmp_path / "model.pt")]) == 1
    words = "--split valid: the checkpoint's task cannot load it; --split train may be there: --valid-text: the file of the valid"
    assert words in capsys.readouterr().err
    assert main(["sharpness", str(tmp_path / "model.pt"), "--split", "train", "--batch-size", "1"]) == 1
    assert "--batch-size 1: the loss compares the rows of a batch" in capsys.readouterr().err
    # Of ten pairs nine are a batch, and the last would have nobody to be compared with.
    nine = Landscape(tmp_path / "model.pt", split="train", batch=9)
    assert [len(sample["id"]) for sample in nine.samples] == [9]
    assert measure(nine, Choices([0.1], [0.1], 1, 0), tell=lambda line: None)["rows"] == 9
    assert [len(sample["id"]) for sample in Landscape(tmp_path / "model.pt", split="train", batch=99).samples] == [10]


def test_a_checkpoint_that_is_not_there(tmp_path, capsys):
    assert main(["sharpness", str(tmp_path / "no.pt")]) == 1
    assert "no.pt: not there" in capsys.readouterr().err
