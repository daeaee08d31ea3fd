"""Weights that LoRA and adapters leave alone stay as they are, or no checkpoint is written."""

import pytest
import torch
import toy
from torch import nn

from sharp_plugins.host import frozen

LORA = ["--arch", "lora", "--base-arch", *toy.MODEL[1:], "--lora-rank", "2"]
ADAPTER = ["--arch", "adapter", "--base-arch", *toy.MODEL[1:], "--adapter-size", "4"]
ARCHS = pytest.mark.parametrize("model", [LORA, ADAPTER], ids=["lora", "adapter"])
FLAGS = ["--optimizer", "sam", "--base-optimizer", "sgd", "--lr", "0.1"]
# Frozen under both, and tied to the decoder's output layer.
NAME = "decoder.embed_tokens.weight"


# ---------------------------------------------------------------------- checksums


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.bool, torch.int8])
def test_one_changed_number_changes_the_sum(monkeypatch, dtype):
    monkeypatch.setattr(frozen, "CHUNK", 8)
    torch.manual_seed(0)
    tensor = torch.randint(0, 2, (3, 7)).to(dtype)
    before = frozen.checksums([tensor])
    for index in range(tensor.numel()):
        other = tensor.clone()
        other.view(-1)[index] = 1 - other.view(-1)[index].int()
        assert frozen.checksums([other]) != before
    assert torch.equal(frozen.checksums([tensor.clone()]), before)


def test_moved_numbers_and_signs_of_zero_change_the_sum(monkeypatch):
    monkeypatch.setattr(frozen, "CHUNK", 8)
    tensor = torch.arange(80.0)
    before = frozen.checksums([tensor])
    for other in (tensor.flip(0), tensor.roll(16), tensor * torch.tensor([-1.0] + [1.0] * 79)):
        assert frozen.checksums([other]) != before


def test_any_layout_and_size_has_a_sum():
    whole = torch.arange(30.0).view(5, 6)
    numbers = [torch.zeros(()), torch.zeros(0), torch.randn(7).half()[1:], torch.randn(3, dtype=torch.cfloat)]
    assert frozen.checksums([whole, whole.t(), whole[1:, 1:], *numbers]).shape == (7,)
    assert frozen.checksums([whole[1:, 1:]]) == frozen.checksums([whole[1:, 1:].contiguous()])


def test_a_parameter_that_was_replaced_or_removed_is_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).requires_grad_(False)
    weights = frozen.FrozenWeights(model)
    model[0].weight = nn.Parameter(model[0].weight.detach().clone(), requires_grad=False)
    assert weights.changed() == []
    model[0].weight = nn.Parameter(torch.zeros(2, 2), requires_grad=False)
    del model[1].bias
    assert weights.changed() == ["0.weight", "1.bias"]


# ---------------------------------------------------------------------- in a run


def save(trainer, path):
    trainer.consolidate_optimizer()
    trainer.save_checkpoint(str(path), {"train_iterator": {"epoch": 1}})


def scribble(model):
    dict(model.named_parameters())[NAME].data[1, 1] += 1


@ARCHS
@pytest.mark.parametrize("precision", [[], ["--bf16", "--fp16-no-flatten-grads"]], ids=["fp32", "bf16"])
def test_a_written_frozen_weight_is_named_before_the_file_is(translation_data, tmp_path, model, precision):
    trainer = toy.build_trainer(translation_data, *FLAGS, *precision, model=model)
    samples = toy.batches(trainer, [4])
    for _ in range(2):
        trainer.train_step(samples)
        save(trainer, tmp_path / "checkpoint_last.pt")
    good = (tmp_path / "checkpoint_last.pt").read_bytes()
    # Something that happens in the middle of an update.
    hook = trainer.get_model().encoder.layers[0].register_forward_hook(lambda *_: scribble(trainer.get_model()))
    trainer.train_step(samples)
    hook.remove()
    with pytest.raises(RuntimeError, match=f"the frozen weight {NAME} has changed.*checkpoint_last.pt is not written"):
        save(trainer, tmp_path / "checkpoint_last.pt")
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == good


def test_several_are_counted(translation_data, tmp_path):
    trainer = toy.build_trainer(translation_data, *FLAGS, model=LORA)
    trainer.train_step(toy.batches(trainer, [4]))
    for layer in trainer.get_model().encoder.layers:
        layer.fc1.weight.data.zero_()
        layer.fc1.bias.data.add_(1)
    with pytest.raises(RuntimeError, match="encoder.layers.0.fc1.weight and 1 others have changed"):
        save(trainer, tmp_path / "x.pt")


def test_a_crash_keeps_its_own_error(translation_data, tmp_path, caplog):
    trainer = toy.build_trainer(translation_data, *FLAGS, "--save-dir", tmp_path, model=LORA)
    samples = toy.batches(trainer, [4])
    trainer.train_step(samples)

    def fail(*_):
        scribble(trainer.get_model())
        raise ZeroDivisionError("its own")

    trainer.get_model().encoder.layers[0].register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError, match="its own"):
        trainer.train_step(samples)
    assert f"the frozen weight {NAME} has changed" in caplog.text and (tmp_path / "crash.pt").exists()


def test_a_run_that_goes_on_from_a_checkpoint_remembers_that_ones(translation_data, tmp_path):
    first = toy.build_trainer(translation_data, *FLAGS, "--seed", "8", model=LORA)
    first.train_step(toy.batches(first, [4]))
    save(first, tmp_path / "first.pt")
    second = toy.build_trainer(translation_data, *FLAGS, model=LORA)
    samples = toy.batches(second, [4])
    second.train_step(samples)  # with other frozen weights
    second.load_checkpoint(str(tmp_path / "first.pt"))
    second.train_step(samples)
    save(second, tmp_path / "second.pt")
    scribble(second.get_model())
    with pytest.raises(RuntimeError, match=NAME):
        save(second, tmp_path / "third.pt")


def test_a_model_without_lora_and_adapters_is_left_alone(translation_data, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen, "checksums", None)
    trainer = toy.build_trainer(translation_data, *FLAGS)
    trainer.get_model().encoder.embed_tokens.weight.requires_grad_(False)
    trainer.train_step(toy.batches(trainer, [4]))
    trainer.get_model().encoder.embed_tokens.weight.data.zero_()
    save(trainer, tmp_path / "x.pt")


def test_checksums_are_made_for_files_alone(translation_data, tmp_path, monkeypatch):
    made = []
    checksums = frozen.checksums
    monkeypatch.setattr(frozen, "checksums", lambda tensors: made.append(1) or checksums(tensors))
    trainer = toy.build_trainer(translation_data, *FLAGS, model=LORA)
    samples = toy.batches(trainer, [4])
    for _ in range(4):
        trainer.train_step(samples)
    assert len(made) == 1
    save(trainer, tmp_path / "x.pt")
    assert len(made) == 2


# ---------------------------------------------------------------------- at start-up

QUANTIZED = [("quant_noise_pq", "0.1"), ("quant_noise_scalar", "0.1"), ("quantization_config_path", "pq.yaml")]


@ARCHS
@pytest.mark.parametrize("name, value", QUANTIZED)
def test_quantization_is_refused_by_its_flag(translation_data, capsys, model, name, value):
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(SystemExit):
        toy.config(translation_data, *FLAGS, flag, value, model=model)
    assert f"--arch {model[1]} does not work with {flag} {value}" in capsys.readouterr().err.splitlines()[-1]


@ARCHS
@pytest.mark.parametrize("name, value", QUANTIZED)
def test_quantization_is_refused_in_a_config(translation_data, model, name, value):
    cfg = toy.config(translation_data, *FLAGS, model=model)
    section = cfg.common if name == "quantization_config_path" else cfg.model
    setattr(section, name, value if section is cfg.common else float(value))
    with pytest.raises(ValueError, match=f"--arch .*{model[1]} .*not work with --{name.replace('_', '-')}"):
        toy.trainer_from(cfg)


def test_quantization_without_frozen_weights_is_fairseqs_own_matter(translation_data):
    flags = ["--optimizer", "adam", "--lr", "0.1", "--quant-noise-pq", "0.1", "--quant-noise-pq-block-size", "8"]
    trainer = toy.build_trainer(translation_data, *flags)
    assert trainer.train_step(toy.batches(trainer, [4])) is not None
