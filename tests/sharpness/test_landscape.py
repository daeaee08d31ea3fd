"""``python -m sharp_plugins.runs sharpness``: its weights, rows and losses, the curvature, and what is written."""

import json
import math
import shutil

import pairs
import pytest
import sentences
import torch
import toy
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.data import LanguagePairDataset

from sharp_plugins.core.sharpness import norm, random_direction, top_eigenvalue
from sharp_plugins.runs.__main__ import main
from sharp_plugins.sharpness import report
from sharp_plugins.sharpness.choices import Choices
from sharp_plugins.sharpness.landscape import Landscape, _check_sizes
from sharp_plugins.sharpness.report import curves, measure

FEW = ["--radii", "0.1", "--shares", "0.1", "--draws", "1", "--hessian-steps", "2"]
LORA = ["--arch", "lora", "--base-arch"]


def saved(trainer, path):
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}, "val_loss": None})
    return path


def train(trainer, updates=10):
    for sample in toy.batches(trainer, [16] * 2) * (updates // 2):
        trainer.train_step([sample])
    return trainer


def classifier(data, *flags, model=(), updates=10, **settings):
    """A trainer of one of `sentences`' classifiers, inside another architecture with *model*."""
    kind = ["--num-classes", "1", "--regression-target"] if settings.get("regression") else ["--num-classes", "3"]
    where = data / ("numbers" if settings.get("regression") else "classes")
    arch = [*model, *(sentences.MODEL[1:] if model else sentences.MODEL)]
    flags = ["--optimizer", "adam", "--lr", "0.02", "--dropout", "0.1", *flags]
    criterion = ["--criterion", "sentence_prediction"]
    return train(toy.build_trainer(where, *flags, *kind, model=arch, criterion=criterion, task="sentence_prediction"), updates)


@pytest.fixture(scope="module")
def translator(translation_data, tmp_path_factory):
    """A checkpoint that also logs its accuracy."""
    criterion = [*toy.CRITERION, "--report-accuracy"]
    trainer = toy.build_trainer(translation_data, "--optimizer", "adam", "--lr", "0.01", criterion=criterion)
    return saved(train(trainer, 60), tmp_path_factory.mktemp("translator") / "model.pt")


@pytest.fixture(scope="module")
def tiny(sentence_data, tmp_path_factory):
    """LoRA of rank 1, with a head that is frozen as it is not named."""
    flags = ["--lora-rank", "1", "--lora-also-train", "layers.0.fc2"]
    trainer = classifier(sentence_data, *flags, model=LORA, updates=60)
    return saved(trainer, tmp_path_factory.mktemp("tiny") / "model.pt"), trainer


def run(*words):
    return main(["sharpness", *map(str, words)])


def changed(path, out, change):
    """A copy of a checkpoint with other settings."""
    state = torch.load(path, weights_only=False)
    change(state["cfg"])
    torch.save(state, out)
    return out


# ---------------------------------------------------------------------- weights


@pytest.mark.parametrize("arch", [["lora"], ["adapter", "--adapter-size", "2"]], ids=["lora", "adapter"])
def test_what_training_froze_stays(arch, sentence_data, tmp_path):
    """The head too, which a task adds after the architecture has frozen what it does not train."""
    model = ["--arch", *arch, "--base-arch"]
    trainer = classifier(sentence_data, f"--{arch[0]}-also-train", "layers.0.fc2", model=model, updates=0)
    trains = {name for name, p in trainer.get_model().named_parameters() if p.requires_grad}
    land = Landscape(saved(trainer, tmp_path / "model.pt"))
    assert {name for name, p in land.model.named_parameters() if p.requires_grad} == trains
    assert len(land.weights) == len(trains) and not any("head" in name for name in trains)


def test_checkpointed_layers_have_the_same_gradient_and_products(translation_data, tmp_path):
    model = [*LORA, *toy.MODEL[1:], "--checkpoint-activations"]
    path = saved(train(toy.build_trainer(translation_data, "--optimizer", "adam", "--lr", "0.01", model=model)), tmp_path / "a.pt")
    plain = changed(path, tmp_path / "b.pt", lambda cfg: setattr(cfg["model"], "checkpoint_activations", False))
    ours, theirs = Landscape(path), Landscape(plain)
    for a, b in zip(ours.gradient(), theirs.gradient()):
        torch.testing.assert_close(a, b)
    assert all(part.any() for part in ours.gradient())
    v = random_direction(ours.weights, seed=2)
    for a, b in zip(ours.product(v), theirs.product(v)):
        torch.testing.assert_close(a, b)
    assert ours.products == theirs.products == "exact"


# ---------------------------------------------------------------------- curvature


def plain_losses(trainer):
    """The mean loss over the rows of "valid", each by itself, with its graph."""
    dataset, model = trainer.task.load_dataset("valid"), trainer.get_model().eval()
    samples = [dataset.collater([dataset[row]]) for row in range(len(dataset))]
    return sum(trainer.get_criterion()(model, sample)[0] for sample in samples) / len(samples)


def dense_hessian(trainer, weights):
    """(N, N): all second derivatives of the mean loss, one row at a time."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        first = torch.autograd.grad(plain_losses(trainer), weights, create_graph=True)
        entries = torch.cat([part.flatten() for part in first])
        rows = [torch.autograd.grad(entry, weights, retain_graph=True) for entry in entries]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def test_the_eigenvalue_is_the_largest_of_all_second_derivatives(sentence_data, tmp_path, monkeypatch):
    trainer = classifier(sentence_data, "--lora-rank", "1", "--lora-also-train", "layers.0.fc2.bias", model=LORA, updates=60)
    land = Landscape(saved(trainer, tmp_path / "model.pt"), batch=7)  # of 8 rows, so that one is a batch by itself
    expected = torch.linalg.eigvalsh(dense_hessian(trainer, [p for p in trainer.get_model().parameters() if p.requires_grad]))
    assert expected[0] < 0 < 0.1 < expected[-1] and -expected[0] != expected[-1]
    choices = Choices(radii=[0.1], shares=[0.1], draws=1, hessian_steps=40)
    found = measure(land, choices, tell=lambda line: None)["hessian"]
    assert found["products"] == "exact" and found["value"] == pytest.approx(expected[-1].item(), rel=1e-3)
    assert found["residual"] <= 1e-3 * found["value"]

    class Own(torch.autograd.Function):
        """Of such a function it cannot be told whether its second derivative is right."""

        @staticmethod
        def forward(ctx, loss):
            return loss.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    forward, lines = type(land.criterion).forward, []
    monkeypatch.setattr(land.criterion, "forward", lambda *args: (Own.apply((of := forward(land.criterion, *args))[0]), *of[1:]))
    found = measure(land, choices, lines.append)["hessian"]
    assert found["products"] == "differences of step 0.01" and lines[-1].endswith("products: differences of step 0.01)")
    by_differences = top_eigenvalue(lambda v: land.difference(v, 0.01), land.weights, 40, seed=1).value
    assert found["value"] == pytest.approx(by_differences, rel=1e-5) == pytest.approx(expected[-1].item(), rel=0.03)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_memory_that_runs_out_is_no_missing_derivative(translator, tmp_path, monkeypatch, capsys, error):
    def product(self, v):
        raise error

    monkeypatch.setattr(Landscape, "exact", product)
    assert run(translator, *FEW, "--json", tmp_path / "out.json") == 1
    assert f"{error}; a smaller --batch-size takes less" in capsys.readouterr().err
    # What was measured before is written.
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["rounded"].keys() == {"8", "4"} and "hessian" not in found


# ---------------------------------------------------------------------- other places


def test_all_matrices_are_rounded_and_not_the_trained_ones_alone(tiny, monkeypatch):
    path, trainer = tiny
    monkeypatch.setattr(report, "BITS", (8, 2))  # two bits change what is chosen
    found = measure(Landscape(path, split="train"), Choices([0.1], [0.1], 1, 0), tell=lambda line: None)
    model, dataset = trainer.get_model().eval(), trainer.task.load_dataset("train")
    sample = dataset.collater([dataset[row] for row in range(len(dataset))])
    for bits in (8, 2):
        kept = [p.detach().clone() for p in model.parameters()]
        with torch.no_grad():
            for row in (row for p in model.parameters() if p.dim() > 1 for row in p.flatten(1)):
                step = row.abs().max() / (2 ** (bits - 1) - 1)
                row.copy_((row / step).round() * step if step else row)
            loss, count, log = trainer.get_criterion()(model, sample)
            for p, value in zip(model.parameters(), kept):
                p.copy_(value)
        there = {"loss": loss.item() / count, "accuracy": 100 * log["ncorrect"].item() / count}
        assert found["rounded"][str(bits)] == pytest.approx(there, abs=1e-5)
    assert found["rounded"]["2"]["accuracy"] != found["accuracy"]


def test_gradients_are_without_cudnn(tiny):
    """In evaluation its recurrent layers have none: a GPU's run would end with "can only be called in training mode"."""
    land, seen = Landscape(tiny[0]), []
    land.model.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.enabled))
    before = torch.backends.cudnn.enabled
    gradient = land.gradient()
    land.exact(gradient)
    assert seen == [False] * (2 * len(land.samples)) and torch.backends.cudnn.enabled == before


def test_another_roberta_of_fairseqs(tmp_path):
    """X-MOD's sizes are not looked at: the check of encoders knows two kinds."""
    _check_sizes(tmp_path / "model.pt", {"_name": "xmod_base", "encoder_layers": 2}, {})
    with pytest.raises(ValueError, match="its config says encoder_layers 2, and its weights have 0"):
        _check_sizes(tmp_path / "model.pt", {"_name": "roberta", "encoder_layers": 2}, {})


def test_curves_are_of_moves_at_a_right_angle(tiny):
    land = Landscape(tiny[0])
    found = curves(land, reach=2.0, seed=4)
    gradient, drawn = (
        torch.cat([part.flatten() for part in parts]) for parts in (land.gradient(), random_direction(land.weights, 4))
    )
    along = gradient / gradient.norm()
    across = drawn - (drawn @ along) * along
    assert abs(drawn @ along) > 0.01  # else a right angle would be one by chance
    sizes = [weight.numel() for weight in land.weights]
    for name, direction in (("along", along), ("across", across / across.norm())):
        parts = [part.view_as(weight) for part, weight in zip(direction.split(sizes), land.weights)]
        assert norm(parts) == pytest.approx(1)
        for place in (0, 7, 10, 20):
            assert found["distance"][place] == pytest.approx(2.0 * (place / 10 - 1))
            with land.moved(parts, 2.0 * (place / 10 - 1)):
                assert found[name][place] == pytest.approx(land.point().loss, rel=1e-5)
    assert max(found["across"]) - min(found["across"]) > 1e-3


def test_a_loss_that_falls_has_a_minus_alone(tiny, monkeypatch):
    land, lines = Landscape(tiny[0]), []
    gradient = land.gradient()
    monkeypatch.setattr(land, "gradient", lambda: [-part for part in gradient])
    found = measure(land, Choices([0.1, 0.1000001], [0.1], 1, 0), lines.append)
    assert found["ascent"].keys() == {"0.1", "0.1000001"} and found["ascent"]["0.1"]["rise"] < 0
    (line,) = (line for line in lines if line.startswith("up the gradient by 0.1:"))
    assert line.startswith(f"up the gradient by 0.1: loss -{-found['ascent']['0.1']['rise']:.4f}, accuracy ")


# ---------------------------------------------------------------------- rows


def test_rows_that_are_too_long_are_left_out_and_counted(translation_data, tmp_path, capsys):
    flags = ["--optimizer", "sgd", "--max-source-positions", "6", "--max-target-positions", "6"]
    model = [*toy.MODEL, "--encoder-learned-pos", "--decoder-learned-pos"]
    path = saved(toy.build_trainer(translation_data, *toy.SGD, *flags, model=model), tmp_path / "model.pt")
    assert run(path, *FEW, "--split", "train", "--json", tmp_path / "out.json") == 0
    land = Landscape(path, split="train")
    dataset = land.loaded.task.dataset("train")
    fitting = [row for row in range(len(dataset)) if max(len(dataset[row]["source"]), len(dataset[row]["target"])) <= 6]
    assert land.rows == fitting and 5 < len(fitting) < len(dataset)
    found, left_out = json.loads((tmp_path / "out.json").read_text()), len(dataset) - len(fitting)
    assert found["rows"] == len(fitting) and found["rows_left_out"] == left_out
    assert f"{len(fitting)} rows of train, {left_out} longer than the model left out: loss " in capsys.readouterr().out
    assert Landscape(path, split="train", rows=2).rows == [fitting[0], fitting[len(fitting) // 2]]
    assert run(changed(path, tmp_path / "short.pt", lambda cfg: cfg["task"].update(max_source_positions=1))) == 1
    assert "--split valid: none of its 8 rows fits into (1, 6) positions" in capsys.readouterr().err


def test_a_translation_without_targets(translator, translation_data, tmp_path, capsys, monkeypatch):
    data = tmp_path / "bin"
    shutil.copytree(translation_data, data)
    for path in data.glob("valid.src-tgt.tgt.*"):
        path.unlink()
    assert run(translator, "--data", data) == 1
    assert "--split valid: its rows have no targets" in capsys.readouterr().err

    def fail(*args, **kwargs):
        raise KeyError("w17")

    monkeypatch.setattr(LabelSmoothedCrossEntropyCriterion, "forward", fail)
    with pytest.raises(KeyError, match="w17"):  # a defect, of which no label is the cause
        run(translator)


def test_samples_that_do_not_count_their_rows(translator, tmp_path, monkeypatch):
    """As of raw audio."""
    collater = LanguagePairDataset.collater
    monkeypatch.setattr(
        LanguagePairDataset,
        "collater",
        lambda *args: {k: v for k, v in collater(*args).items() if k not in ("nsentences", "ntokens")},
    )
    monkeypatch.setattr(LabelSmoothedCrossEntropyCriterion, "forward", counting(LabelSmoothedCrossEntropyCriterion.forward))
    assert run(translator, *FEW, "--hessian-steps", 0, "--json", tmp_path / "out.json") == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["rows"] == 8 and "accuracy" in found


def counting(forward):
    """A criterion that counts what is right by "correct" of "count", as wav2vec's."""

    def counted(self, model, sample, reduce=True):
        loss, size, log = forward(self, model, {**sample, "ntokens": sample["target"].numel()}, reduce)
        return loss, size, {**log, "correct": log["n_correct"], "count": log.pop("total")}

    return counted


def test_what_is_not_measured(translator, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(LabelSmoothedCrossEntropyCriterion, "forward", lambda *args, **kwargs: (torch.zeros(()), 0, {}))
    assert run(translator, "--rows", 1) == 1
    assert "error: the criterion finds nothing to predict in these rows: give more --rows" in capsys.readouterr().err
    monkeypatch.setattr(LanguagePairDataset, "collater", lambda self, rows: {"src-tgt": {}})
    assert run(translator) == 1
    assert "--split valid: a sample of this task is none of one data set" in capsys.readouterr().err
    path = changed(translator, tmp_path / "moved.pt", lambda cfg: cfg["task"].update(data=str(tmp_path / "old")))
    assert run(path) == 1
    assert f"{path}: the data of its training are not in {tmp_path / 'old'}; --data names another" in capsys.readouterr().err


def test_one_shard_of_several_is_told(translator, translation_data, tmp_path, capsys):
    shutil.copytree(translation_data, tmp_path / "second")
    for split, words in (("train", "64 rows of train, shard 1 of 2: loss "), ("valid", "8 rows of valid: loss ")):
        data = f"{translation_data}:{tmp_path / 'second'}"
        flags = [*FEW, "--data", data, "--split", split, "--hessian-steps", 0, "--json", tmp_path / "out.json"]
        assert run(translator, *flags) == 0
        assert words in capsys.readouterr().out
        found = json.loads((tmp_path / "out.json").read_text())
        assert found.get("shard") == ("1 of 2" if split == "train" else None) and found["data"] == data


def test_pairs_need_others(tmp_path, capsys):
    path = saved(pairs.trainer(pairs.write_backbone(tmp_path)), tmp_path / "model.pt")
    assert run(path, "--split", "train", "--rows", 1) == 1
    assert "--rows 1: the loss compares the rows of a batch; 2 or more are needed" in capsys.readouterr().err
    land = Landscape(path, split="train")
    with torch.no_grad():
        correct = land.criterion.terms(land.model, land.samples[0]).correct
    assert correct.any() and land.point().accuracy == pytest.approx(100 * correct.double().mean().item())
    # Whole batches alone, and told so.
    found = measure(Landscape(path, split="train", rows=7, batch=3), Choices([0.1], [0.1], 1, 0), tell=lambda line: None)
    assert found["rows"] == 6


# ---------------------------------------------------------------------- what is told


def test_the_accuracy_of_a_translation_is_of_its_symbols(translator):
    land = Landscape(translator, batch=3)
    dataset, right, total = land.loaded.task.dataset("valid"), 0, 0
    for row in range(len(dataset)):
        sample = dataset.collater([dataset[row]])
        with torch.no_grad():
            chosen = land.model(**sample["net_input"])[0].argmax(-1)
        right, total = right + (chosen == sample["target"]).sum().item(), total + sample["target"].numel()
    assert land.point().accuracy == pytest.approx(100 * right / total) and 0 < right < total


def test_the_loss_of_numbers_is_a_squared_error(sentence_data, tmp_path, capsys):
    matplotlib = pytest.importorskip("matplotlib")
    number, label = (classifier(sentence_data, regression=is_number, updates=2) for is_number in (True, False))
    for name, trainer, unit in (("number", number, "squared error"), ("label", label, "nats")):
        path = saved(trainer, tmp_path / f"{name}.pt")
        with matplotlib.rc_context({"svg.fonttype": "none"}):  # letters are letters
            assert run(path, *FEW, "--json", tmp_path / "out.json", "--plot", tmp_path / "out.svg") == 0
        assert f">loss, {unit}<" in (tmp_path / "out.svg").read_text()
        assert json.loads((tmp_path / "out.json").read_text())["unit"] == unit


def test_the_file_says_what_it_is_of(translator, tmp_path, monkeypatch):
    monkeypatch.chdir(translator.parent)
    out = tmp_path / "out.json"
    assert run("model.pt", *FEW, "--rows", 5, "--batch-size", 3, "--device", "cpu", "--split", "test", "--json", out) == 0
    found = json.loads(out.read_text())
    about = {"checkpoint": "model.pt", "split": "test", "batch_size": 3, "device": "cpu", "rows": 5, "rows_left_out": 0}
    assert {name: found[name] for name in about} == about and found["data"].endswith("bin")
    assert found["hessian"]["products"] == "exact"


def test_each_part_is_saved_when_it_is_measured(translator, monkeypatch):
    land, parts = Landscape(translator, rows=4), []

    def stop(v):
        raise KeyboardInterrupt

    monkeypatch.setattr(land, "product", stop)
    with pytest.raises(KeyboardInterrupt):
        measure(land, Choices([0.1], [0.1], 1, 2), lambda line: None, lambda found: parts.append(list(found)))
    names = ("loss", "ascent", "random", "rounded")
    assert [next(name for name in reversed(names) if name in part) for part in parts[:4]] == list(names)
    assert "hessian" not in parts[-1]


def test_no_file_is_written_over_another(translator, tmp_path, capsys):
    path = shutil.copy(translator, tmp_path / "model.pt")
    (tmp_path / "link.json").symlink_to(path)
    (tmp_path / "link.png").symlink_to(path)
    before = path.read_bytes()
    for flag, name in (("--json", "model.pt"), ("--json", "link.json"), ("--plot", "link.png")):
        assert run(path, *FEW, flag, tmp_path / name) == 1
        assert f"{flag} {tmp_path / name}: choose another name to write to; this is the checkpoint" in capsys.readouterr().err
    (tmp_path / "same").symlink_to(tmp_path)
    assert run(path, *FEW, "--json", tmp_path / "a.png", "--plot", tmp_path / "same" / "a.png") == 1
    assert f"--plot {tmp_path / 'same' / 'a.png'}: choose another name to write to; --json writes" in capsys.readouterr().err
    assert path.read_bytes() == before and not (tmp_path / "a.png").exists()
    assert math.isfinite(Landscape(path).point().loss)
