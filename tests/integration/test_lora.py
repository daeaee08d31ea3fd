"""LoRA and BAR in real fairseq processes: from a pretrained checkpoint, on and on, to a translation."""

import json

import pytest
import torch
import toy
from processes import assert_equal, assert_same_training, checkpoint, console, last, line, start, stats, train
from toy import PLUGIN

pytestmark = pytest.mark.slow

LORA = ["--arch", "lora", "--base-arch", *toy.MODEL[1:], "--lora-rank", "2", "--lora-alpha", "4", "--lora-dropout", "0.1"]
BAR = "--optimizer bar --bar-schedule linear --lr 0.01 --clip-norm 0.5 --batch-size 4".split()
FP16 = "--fp16 --fp16-no-flatten-grads --fp16-init-scale 16384 --fp16-scale-window 3".split()


@pytest.fixture(scope="module")
def pretrained(translation_data, tmp_path_factory):
    """A plain model after a few updates of Adam; its last checkpoint, with the optimizer's state."""
    save_dir = tmp_path_factory.mktemp("pretrained")
    train(translation_data, save_dir, *"--optimizer adam --lr 0.01 --batch-size 8 --max-update 6".split())
    return save_dir / "checkpoint_last.pt"


def hydra_stats(text):
    """The entries of a json log in hydra's own format of a line."""
    entries = [entry.split("[train_inner][INFO] - ")[1] for entry in text.splitlines() if "[train_inner][INFO]" in entry]
    return [{key: float(value) for key, value in json.loads(entry).items()} for entry in entries]


def updates_of(state):
    return {name: value for name, value in state["model"].items() if "lora_" in name}


@pytest.mark.parametrize(
    "flags",
    ["", " ".join(FP16), "--bf16", "--memory-efficient-fp16 --fp16-init-scale 16384 --fp16-scale-window 3"],
    ids=["fp32", "fp16", "bf16", "memory-efficient"],
)
def test_resuming_equals_never_having_stopped(translation_data, tmp_path, pretrained, flags):
    flags = [*BAR, *flags.split(), "--save-interval-updates", "5", "--bar-total-updates", "12", "--bar-alpha", "5"]
    flags += ["--finetune-from-model", pretrained]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(translation_data, parts, *flags, "--max-update", "5", model=LORA)
    resumed = train(translation_data, parts, *flags, "--max-update", "10", model=LORA)
    assert "@ 5 updates" in resumed.text
    uninterrupted = train(translation_data, whole, *flags, "--max-update", "10", model=LORA)
    assert_same_training(parts, whole)
    shown = ["loss", "gnorm", "bar_alpha", "bar_as_norms", "bar_shrinks_x"]
    assert [[entry[key] for key in shown] for entry in stats(resumed.text)] == [
        [entry[key] for key in shown] for entry in stats(uninterrupted.text)[-5:]
    ]
    assert stats(resumed.text)[0]["bar_alpha"] == pytest.approx(5 * (1 - 5 / 12), abs=1e-4)


def test_a_pretrained_checkpoint_is_where_lora_starts_and_what_it_keeps(translation_data, tmp_path, pretrained):
    base = dict(checkpoint(pretrained)["model"])
    for way in (
        ["--finetune-from-model", pretrained],
        ["--restore-file", pretrained, "--reset-optimizer", "--reset-dataloader", "--reset-meters"],
    ):
        save_dir = tmp_path / way[0][2:]
        run = train(translation_data, save_dir, *BAR, *way, "--max-update", "3", model=LORA)
        assert stats(run.text)[0]["num_updates"] == 1
        state = last(save_dir)
        # The weights of the base are in the file as they were, although fairseq evaluates before it saves.
        assert_equal({name: state["model"][name] for name in base}, base, "model")
        assert len(updates_of(state)) == len(state["model"]) - len(base) == 12
        assert all(value.count_nonzero() for value in updates_of(state).values())
        moments = state["last_optimizer_state"]["state"]
        assert sum(m["exp_avg"].numel() for m in moments.values()) == sum(v.numel() for v in updates_of(state).values())


def test_validation_before_saving_does_not_merge(translation_data, tmp_path, pretrained):
    arguments = line(
        translation_data,
        tmp_path,
        *BAR,
        "--finetune-from-model",
        pretrained,
        "--max-update",
        "4",
        "--save-interval-updates",
        "2",
        "--validate-interval-updates",
        "2",
        model=LORA,
    )
    arguments.remove("--disable-validation")
    run = start(arguments, tmp_path / "log").succeed()
    assert len(stats(run.text, "valid")) == 2
    base = dict(checkpoint(pretrained)["model"])
    assert_equal({name: last(tmp_path)["model"][name] for name in base}, base, "model")


def test_a_pretrained_optimizer_state_is_not_taken_for_loras(translation_data, tmp_path, pretrained):
    flags = "--optimizer adam --lr 0.01 --batch-size 8 --max-update 8 --restore-file".split()
    message = start(line(translation_data, tmp_path, *flags, pretrained, model=LORA), tmp_path / "log").fail()
    assert "--finetune-from-model" in message and "--reset-optimizer" in message


def test_a_lora_checkpoint_translates_with_its_update(translation_data, tmp_path, pretrained):
    # Large steps, so that the update changes the translation.
    flags = [*"--optimizer adam --lr 0.3 --batch-size 8 --max-update 4 --finetune-from-model".split(), pretrained]
    train(translation_data, tmp_path, *flags, model=[*LORA, "--lora-target", ".*_proj|fc1"])
    outputs = []
    for path in (pretrained, tmp_path / "checkpoint_last.pt"):
        where = [translation_data, "--user-dir", PLUGIN, "--path", path, "--cpu", "--beam", "2", "--max-len-b", "10"]
        text = console("fairseq-generate", *where, directory=tmp_path)
        outputs.append(sorted(entry for entry in text.splitlines() if entry.startswith("H-")))
    assert len(outputs[1]) == 8 and outputs[0] != outputs[1]
    # The same sentences, scored by the model in this process with W + s B A as plain weights.
    from fairseq import checkpoint_utils

    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "checkpoint_last.pt")])
    from sharp_plugins.networks import lora_layers

    layers = lora_layers(model)
    assert layers
    for layer in layers.values():
        w = layer.base_weight.data + layer.lora_scale * layer.lora_B.data @ layer.lora_A.data
        layer.__class__ = torch.nn.Linear
        layer.weight = torch.nn.Parameter(w)
    task.load_dataset("test")
    generator = task.build_generator([model], cfg.generation)
    generator.beam_size, generator.max_len_b, generator.max_len_a = 2, 10, 0
    model.eval()
    sample = task.dataset("test").collater([task.dataset("test")[i] for i in range(8)])
    ours = {
        f"H-{int(i)}": task.target_dictionary.string(hypotheses[0]["tokens"])
        for i, hypotheses in zip(sample["id"], task.inference_step(generator, [model], sample))
    }
    assert ours == {entry.split("\t")[0]: entry.split("\t")[2] for entry in outputs[1]}


def test_everything_from_one_yaml(translation_data, tmp_path):
    """fairseq-hydra-train, on an architecture with a dataclass config and on a legacy one."""
    text = f"""
# @package _group_
common: {{user_dir: {PLUGIN}, cpu: true, log_format: json, log_interval: 1, seed: 7}}
checkpoint: {{save_dir: {tmp_path / "run"}, no_epoch_checkpoints: true}}
task: {{_name: translation, data: {translation_data}, source_lang: src, target_lang: tgt}}
dataset: {{batch_size: 8, required_batch_size_multiple: 1, num_workers: 0, disable_validation: true}}
criterion: {{_name: cross_entropy}}
optimization: {{max_update: 3, lr: [0.01]}}
lr_scheduler: {{_name: fixed}}
optimizer:
  _name: bar
  bar_variant: obar
  bar_schedule: cosine
  base_optimizer: adam
  base: {{adam_betas: "(0.9, 0.98)", weight_decay: 0.01}}
model: {{_name: lora, base_arch: transformer, lora_rank: 2, encoder_layers: 1, decoder_layers: 1, encoder_embed_dim: 16,
  decoder_embed_dim: 16, encoder_ffn_embed_dim: 32, decoder_ffn_embed_dim: 32, encoder_attention_heads: 2,
  decoder_attention_heads: 2}}
"""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "run.yaml").write_text(text)
    output = console("fairseq-hydra-train", "--config-dir", tmp_path / "config", "--config-name", "run", directory=tmp_path)
    entries = hydra_stats(output)
    assert [entry["bar_alpha"] for entry in entries] == pytest.approx([0.5, 0.375, 0.125], abs=1e-3)
    state = last(tmp_path / "run")
    assert len(updates_of(state)) == 12
    text = console(
        "fairseq-generate",
        translation_data,
        "--user-dir",
        PLUGIN,
        "--path",
        tmp_path / "run" / "checkpoint_last.pt",
        "--cpu",
        directory=tmp_path,
    )
    assert len([entry for entry in text.splitlines() if entry.startswith("H-")]) == 8


def test_a_language_model_from_one_yaml(translation_data, tmp_path):
    text = (translation_data.parent / "train.src").read_text()
    for split in ("train", "valid"):
        (tmp_path / f"{split}.txt").write_text(text)
    from fairseq import options
    from fairseq_cli import preprocess

    arguments = ["--only-source", "--trainpref", str(tmp_path / "train.txt"), "--validpref", str(tmp_path / "valid.txt")]
    preprocess.main(options.get_preprocessing_parser().parse_args([*arguments, "--destdir", str(tmp_path / "bin")]))
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "run.yaml").write_text(f"""
# @package _group_
common: {{user_dir: {PLUGIN}, cpu: true, log_format: json, log_interval: 1, tensorboard_logdir: {tmp_path / "events"}}}
checkpoint: {{save_dir: {tmp_path / "run"}, no_epoch_checkpoints: true}}
task: {{_name: language_modeling, data: {tmp_path / "bin"}, tokens_per_sample: 16, sample_break_mode: eos}}
dataset: {{batch_size: 8, required_batch_size_multiple: 1, num_workers: 0, disable_validation: true}}
criterion: {{_name: cross_entropy}}
optimization: {{max_update: 3, lr: [0.01]}}
lr_scheduler: {{_name: fixed}}
optimizer: {{_name: bar, base_optimizer: adam}}
model: {{_name: lora, base_arch: transformer_lm, lora_rank: 2, decoder_layers: 1, decoder_embed_dim: 16, decoder_ffn_embed_dim: 32,
  decoder_attention_heads: 2, lora_monitor: all}}
""")
    output = console("fairseq-hydra-train", "--config-dir", tmp_path / "config", "--config-name", "run", directory=tmp_path)
    assert {"balancedness_decoder.layers.0.self_attn.q_proj", "bar_alpha"} <= hydra_stats(output)[-1].keys()
    assert len(updates_of(last(tmp_path / "run"))) == 4
    # ... and goes on from the command line, on the same checkpoint.
    flags = "--optimizer bar --lr 0.01 --batch-size 8 --max-update 5 --sample-break-mode eos --tokens-per-sample 16".split()
    model = "--arch lora --base-arch transformer_lm --lora-rank 2 --decoder-layers 1 --decoder-embed-dim 16".split()
    model += "--decoder-ffn-embed-dim 32 --decoder-attention-heads 2".split()
    run = train(
        tmp_path / "bin",
        tmp_path / "run",
        *flags,
        "--task",
        "language_modeling",
        model=model,
        criterion=["--criterion", "cross_entropy"],
    )
    assert [entry["num_updates"] for entry in stats(run.text)] == [4, 5]


def test_sam_and_dsam_on_updates_alone(translation_data, tmp_path, pretrained):
    """The perturbation is of the trained weights: as many as the updates have, and no more memory."""
    for method in ("sam", "dsam"):
        flags = f"--optimizer {method} --lr 0.01 --batch-size 8 --max-update 3".split()
        run = train(translation_data, tmp_path / method, *flags, "--finetune-from-model", pretrained, model=LORA)
        for entry in stats(run.text):
            assert entry["sam_radius"] == pytest.approx(0.05, rel=1e-3)
            assert "balancedness_encoder.layers.0.self_attn.q_proj" in entry
        base = dict(checkpoint(pretrained)["model"])
        assert_equal({name: last(tmp_path / method)["model"][name] for name in base}, base, "model")


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--lora-rank 0", "--lora-rank must be"),
        ("--lora-rank 99", "--lora-rank 99 is larger than"),
        ("--lora-target nosuch", "--lora-target nosuch"),
        ("--lora-also-train nosuch", "--lora-also-train nosuch"),
        ("--bar-alpha 200", "--bar-alpha 200"),
        ("--bar-schedule cosine", "needs the length of the run: give --max-update"),
        ("--base-arch nosuch", "--base-arch nosuch"),
        ("--arch transformer", "--arch lora"),
    ],
)
def test_a_bad_setting_is_refused_by_name(translation_data, tmp_path, flags, words):
    base = "--optimizer bar --lr 0.01 --batch-size 8".split()
    message = start(line(translation_data, tmp_path, *base, *flags.split(), model=LORA), tmp_path / "log").fail()
    assert words in message.split("rror:")[-1] and "begin training" not in message
    assert not (tmp_path / "checkpoint_last.pt").exists()


# ---------------------------------------------------------------------- classification, as on GLUE

ROBERTA = "--encoder-layers 1 --encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --encoder-attention-heads 2 --max-positions 32"


@pytest.fixture(scope="module")
def classification_data(tmp_path_factory):
    """Sentences of words, in two classes, as fairseq's sentence_prediction reads them."""
    import random

    from fairseq import options
    from fairseq_cli import preprocess

    directory, rng = tmp_path_factory.mktemp("classification"), random.Random(0)
    for split, count in (("train", 48), ("valid", 8)):
        rows = [(rng.randint(0, 1), [f"w{rng.randint(0, 9)}" for _ in range(rng.randint(3, 8))]) for _ in range(count)]
        (directory / f"{split}.input0").write_text("".join(" ".join(words) + "\n" for _, words in rows))
        (directory / f"{split}.label").write_text("".join(f"class{label}\n" for label, _ in rows))
    for part in ("input0", "label"):
        arguments = ["--only-source", "--destdir", str(directory / "bin" / part)]
        for split in ("train", "valid"):
            arguments += [f"--{split}pref", str(directory / f"{split}.{part}")]
        preprocess.main(options.get_preprocessing_parser().parse_args(arguments))
    return directory / "bin"


def test_roberta_is_fine_tuned_with_its_new_head(classification_data, tmp_path):
    model = ["--arch", "roberta", *ROBERTA.split()]
    flags = "--optimizer adam --lr 0.01 --batch-size 8 --task masked_lm --tokens-per-sample 32 --max-update 2".split()
    flags += ["--sample-break-mode", "eos"]
    train(classification_data / "input0", tmp_path / "lm", *flags, model=model, criterion=["--criterion", "masked_lm"])
    pretrained = tmp_path / "lm" / "checkpoint_last.pt"
    flags = [*BAR, "--bar-alpha", "5", "--task", "sentence_prediction", "--num-classes", "2", "--init-token", "0"]
    flags += ["--finetune-from-model", pretrained, "--max-update", "12"]
    for part in ("5", "12"):  # ... and resumed
        flags[-1] = part
        run = train(
            classification_data,
            tmp_path / "run",
            *flags,
            "--bar-total-updates",
            "12",
            model=["--arch", "lora", "--base-arch", *model[1:], "--lora-rank", "2"],
            criterion=["--criterion", "sentence_prediction"],
        )
    assert [entry["num_updates"] for entry in stats(run.text)] == list(range(6, 13))
    base, state = checkpoint(pretrained)["model"], last(tmp_path / "run")["model"]
    heads = {name for name in state if name.startswith("classification_heads.sentence_classification_head.")}
    kept = {name for name in base if not name.startswith("encoder.lm_head")}
    assert heads and kept <= state.keys()
    assert_equal({name: state[name] for name in kept}, {name: base[name] for name in kept}, "model")
    trained = last(tmp_path / "run")["last_optimizer_state"]["state"]
    sizes = [state[name].numel() for name in state if name in heads or "lora_" in name]
    assert sum(moments["exp_avg"].numel() for moments in trained.values()) == sum(sizes)
