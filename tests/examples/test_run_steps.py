"""examples/benchmarks/run_steps.py on configs of tiny runs."""

import importlib
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
RUN = """# @package _group_
common: {{user_dir: {root}/sharp_plugins, cpu: true, seed: 7}}
checkpoint: {{save_dir: {save_dir}}}
dataset: {{batch_size: 8, num_workers: 0, disable_validation: true}}
optimization: {{max_update: 4, lr: [0.05]}}
distributed_training: {{distributed_world_size: 1}}
task: {{_name: translation, data: {data}, source_lang: src, target_lang: tgt}}
criterion: {{_name: label_smoothed_cross_entropy, label_smoothing: 0.1}}
lr_scheduler: {{_name: fixed}}
optimizer: {optimizer}
model:
  _name: transformer
  encoder: {{layers: 1, embed_dim: 16, ffn_embed_dim: 32, attention_heads: 2}}
  decoder: {{layers: 1, embed_dim: 16, ffn_embed_dim: 32, attention_heads: 2, output_dim: 16, input_dim: 16}}
  share_decoder_input_output_embed: true
"""


@pytest.fixture
def run_steps(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "benchmarks"))
    yield importlib.import_module("run_steps")


def test_all_methods_take_the_same_batches_in_turns(run_steps, translation_data, tmp_path, capsys, monkeypatch):
    for name, optimizer in (("base", "{_name: adam}"), ("sam", "{_name: sam, base_optimizer: adam}")):
        directory = tmp_path / name / "seed1"
        directory.mkdir(parents=True)
        text = RUN.format(root=ROOT, save_dir=directory, data=translation_data, optimizer=optimizer)
        (directory / "run.yaml").write_text(text)
    seen = []
    stepper = run_steps.measure.stepper

    def spy(trainer, sample):
        seen.append((type(trainer.optimizer).__name__, sample["target"]))
        return stepper(trainer, sample)

    monkeypatch.setattr(run_steps.measure, "stepper", spy)
    runs = [str(tmp_path / name / "seed1") for name in ("base", "sam")]
    run_steps.main([*runs, "--rounds", "3", "--out", str(tmp_path / "out.md")])
    assert len(seen) == 6 and len({name for name, _ in seen}) == 2
    for (one, sample), (other, same) in zip(seen[::2], seen[1::2]):
        assert one != other and torch.equal(sample, same)
    shown = capsys.readouterr().out
    rows = [line.split("|")[1].strip() for line in shown.splitlines() if line.startswith("| ")]
    assert rows[-2:] == ["base", "sam"] and "of base: median (quartiles)" in shown
    assert "| sam |" in (tmp_path / "out.md").read_text()


def test_a_directory_without_a_run_is_named(run_steps, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_steps.main([str(tmp_path)])
    assert f"no run.yaml in {tmp_path}" in capsys.readouterr().err


def test_runs_are_named_by_what_they_differ_in(run_steps, tmp_path, capsys):
    runs = [tmp_path / way / "SST-2" / method / "seed1" for way in ("whole", "grouped") for method in ("base", "sam")]
    assert run_steps.names_of(runs) == ["whole base", "whole sam", "grouped base", "grouped sam"]
    assert run_steps.names_of(runs[:1]) == ["seed1"]
    for run in runs:
        run.mkdir(parents=True)
        (run / "run.yaml").touch()
    with pytest.raises(SystemExit):
        run_steps.main([str(run) for run in [*runs, runs[0]]])
    assert "a RUN is there twice" in capsys.readouterr().err
