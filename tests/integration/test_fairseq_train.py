"""Real `fairseq-train` processes with the plugin as --user-dir."""

import pytest
from processes import assert_equal, console, last, line, stats, train
from toy import PLUGIN

pytestmark = pytest.mark.slow

METRICS = {
    "sam_gap",
    "sam_grad_norm",
    "sam_radius",
    "sam_projection",
    "sam_skipped",
    "dsam_r",
    "dsam_weight_max",
    "dsam_weight_entropy",
    "dsam_negative",
}


def event_tags(directory):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(directory))
    accumulator.Reload()
    return {tag: accumulator.Scalars(tag) for tag in accumulator.Tags()["scalars"]}


def test_a_daily_command_line_trains_logs_and_translates(translation_data, tmp_path):
    flags = "--optimizer dsam --adam-betas (0.9,0.98) --lr 0.01 --lr-scheduler inverse_sqrt --warmup-updates 3"
    flags += " --update-freq 2 --clip-norm 0.1 --store-ema --ema-decay 0.9 --batch-size 8 --max-epoch 2"
    arguments = line(translation_data, tmp_path / "run", *flags.split(), "--tensorboard-logdir", tmp_path / "events")
    arguments.remove("--disable-validation")
    arguments[arguments.index("--num-workers") + 1] = "1"
    output = console("fairseq-train", *arguments, directory=tmp_path, is_fresh=True)
    entries = stats(output)
    assert [entry["num_updates"] for entry in entries] == list(range(1, 9))
    for entry in entries:
        assert METRICS <= entry.keys()
        assert entry["sam_radius"] == pytest.approx(0.05, rel=1e-3)
        assert entry["sam_projection"] == pytest.approx(1, abs=1e-3)
    assert {f"train_{name}" for name in METRICS} <= stats(output, "train")[-1].keys()
    assert len(stats(output, "valid")) == 2
    events = event_tags(tmp_path / "events" / "train_inner")
    assert METRICS <= events.keys()
    assert [event.step for event in events["sam_gap"]] == list(range(1, 9))
    assert "ema" in last(tmp_path / "run")["extra_state"]
    where = [translation_data, "--user-dir", PLUGIN, "--path", tmp_path / "run" / "checkpoint_last.pt"]
    translated = console("fairseq-generate", *where, "--cpu", "--beam", "2", directory=tmp_path, is_fresh=True)
    assert len([entry for entry in translated.splitlines() if entry.startswith("H-")]) == 8


def test_updates_without_an_ascent_log_nothing_of_one(translation_data, tmp_path):
    flags = "--optimizer dsam --sam-interval 2 --lr 0.01 --batch-size 8 --max-update 4"
    run = train(translation_data, tmp_path, *flags.split(), "--tensorboard-logdir", tmp_path / "events")
    assert [METRICS <= entry.keys() for entry in stats(run.text)] == [True, False, True, False]
    events = event_tags(tmp_path / "events" / "train_inner")
    assert [event.step for event in events["sam_gap"]] == [1, 3]


BASES = {
    "adam": (
        "--adam-betas (0.8,0.9) --adam-eps 1e-5 --weight-decay 0.02",
        {"betas": (0.8, 0.9), "eps": 1e-5, "weight_decay": 0.02},
    ),
    "sgd": ("--momentum 0.7 --weight-decay 0.02", {"momentum": 0.7, "weight_decay": 0.02}),
    "nag": ("--momentum 0.7 --weight-decay 0.02", {"momentum": 0.7, "weight_decay": 0.02}),
    "adafactor": (
        "--beta1 0.6 --decay-rate -0.7 --clip-threshold 2.0 --scale-parameter",
        {"beta1": 0.6, "decay_rate": -0.7, "clip_threshold": 2.0, "scale_parameter": True},
    ),
}


@pytest.mark.parametrize("name", BASES)
def test_the_base_optimizers_own_flags_take_effect(translation_data, tmp_path, name):
    flags, expected = BASES[name]
    flags = f"--optimizer sam --base-optimizer {name} {flags} --lr 0.01 --batch-size 16 --max-update 2"
    train(translation_data, tmp_path, *flags.split())
    (group,) = last(tmp_path)["last_optimizer_state"]["param_groups"]
    for key, value in expected.items():
        saved = group[key]
        assert (tuple(saved) if isinstance(value, tuple) else saved) == value, key


HYDRA = """
common: {{user_dir: {plugin}, cpu: true, seed: 7, log_format: json, log_interval: 1}}
checkpoint: {{save_dir: {save_dir}, no_epoch_checkpoints: true}}
dataset: {{batch_size: 8, num_workers: 0, required_batch_size_multiple: 1, disable_validation: true}}
optimization: {{max_update: 4, lr: [0.05], update_freq: [2], clip_norm: 0.5}}
distributed_training: {{distributed_world_size: 1}}
task: {{_name: translation, data: {data}, source_lang: src, target_lang: tgt}}
criterion: {{_name: label_smoothed_cross_entropy, label_smoothing: 0.1}}
lr_scheduler: {{_name: fixed}}
optimizer: {{_name: dsam, sam_rho: 0.1, dsam_beta: 5, base_optimizer: {base_optimizer}, base: {base}}}
model:
  _name: transformer
  encoder: {{layers: 1, embed_dim: 16, ffn_embed_dim: 32, attention_heads: 2}}
  decoder: {{layers: 1, embed_dim: 16, ffn_embed_dim: 32, attention_heads: 2, output_dim: 16, input_dim: 16}}
  share_decoder_input_output_embed: true
"""


@pytest.mark.parametrize(
    "base_optimizer, base, flags",
    [
        ("sgd", "{momentum: 0.9}", "--momentum 0.9"),
        ("adam", "{adam_betas: '(0.8, 0.9)', weight_decay: 0.01}", "--adam-betas (0.8,0.9) --weight-decay 0.01"),
    ],
)
def test_a_hydra_config_trains_the_same_model_as_the_command_line(translation_data, tmp_path, base_optimizer, base, flags):
    (tmp_path / "config").mkdir()
    settings = dict(plugin=PLUGIN, data=translation_data, save_dir=tmp_path / "hydra")
    text = HYDRA.format(**settings, base_optimizer=base_optimizer, base=base)
    (tmp_path / "config" / "toy.yaml").write_text(text)
    where = ["--config-dir", tmp_path / "config", "--config-name", "toy"]
    is_fresh = base_optimizer == "adam"
    console("fairseq-hydra-train", *where, f"hydra.run.dir={tmp_path / 'outputs'}", directory=tmp_path, is_fresh=is_fresh)
    flags += f" --optimizer dsam --sam-rho 0.1 --dsam-beta 5 --base-optimizer {base_optimizer} --lr 0.05"
    flags += " --update-freq 2 --clip-norm 0.5 --batch-size 8 --max-update 4"
    train(translation_data, tmp_path / "flags", *flags.split())
    one, other = last(tmp_path / "hydra"), last(tmp_path / "flags")
    assert_equal(one["model"], other["model"], "model")
    assert_equal(one["last_optimizer_state"]["state"], other["last_optimizer_state"]["state"], "state")
