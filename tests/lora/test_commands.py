"""``python -m sharp_plugins.lora`` on checkpoints of real training: what fairseq makes of them, what is refused."""

import argparse
import copy
import json
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import published
import pytest
import torch
import toy
from fairseq import checkpoint_utils
from fairseq.tasks import TASK_REGISTRY
from processes import assert_equal, checkpoint, console, execute, last, train

from sharp_plugins.lora.__main__ import main
from sharp_plugins.lora.commands import merge_checkpoint
from sharp_plugins.lora.config import OWN_TASKS, plain_config
from sharp_plugins.networks import lora_layers

ROOT = Path(__file__).resolve().parents[2]
TARGET = ["--lora-rank", "2", "--lora-alpha", "4", "--lora-target", ".*_proj|fc1"]
TRANSFORMER = ["--arch", "lora", "--base-arch", *toy.MODEL[1:], *TARGET]
ADAM = "--optimizer adam --lr 0.05 --batch-size 8 --max-update 2".split()
LM = "--decoder-layers 1 --decoder-embed-dim 16 --decoder-ffn-embed-dim 32 --decoder-attention-heads 2".split()
LM_TASK = "--task language_modeling --sample-break-mode eos --tokens-per-sample 16".split()
EVALUATE = "--gen-subset valid --cpu --tokens-per-sample 16 --batch-size 8 --required-batch-size-multiple 1".split()
ROBERTA = "--encoder-layers 1 --encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --encoder-attention-heads 2".split()
SENTENCES = "--task sentence_prediction --num-classes 2 --init-token 0 --max-positions 64".split()

# Prints what a model without the plugin computes, as a list of numbers.
COMPUTE = """
import argparse, json, sys, torch
if "--allow" in sys.argv:
    torch.serialization.add_safe_globals([argparse.Namespace])
from fairseq import checkpoint_utils
(model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([sys.argv[1]])
assert not any(name.startswith("sharp_plugins") for name in sys.modules)
inputs = json.loads(sys.argv[2])
inputs = {name: torch.tensor(value) if isinstance(value, list) else value for name, value in inputs.items()}
with torch.no_grad():
    print(json.dumps(["outputs", model.eval()(**inputs)[0].flatten().tolist()]))
"""
HEAD = "sentence_classification_head"
TOKENS = torch.randint(4, 20, (3, 6), generator=torch.Generator().manual_seed(1)).tolist()
INPUTS = {
    "translation": dict(src_tokens=TOKENS, src_lengths=[6, 6, 6], prev_output_tokens=TOKENS[::-1]),
    "language_modeling": dict(src_tokens=TOKENS),
    "sentence_prediction": dict(src_tokens=TOKENS, features_only=True, classification_head_name=HEAD),
}


def run(capsys, *arguments):
    """The command in this process: its exit status, what it printed and its error."""
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return status, printed.out, printed.err


def succeed(capsys, *arguments):
    status, out, err = run(capsys, *arguments)
    assert status == 0, err
    return out


def fail(capsys, *arguments):
    status, out, err = run(capsys, *arguments)
    assert status == 1 and out == "" and err.startswith("error: "), (status, out, err)
    return err


def with_plugin(path, task):
    """What the model in a checkpoint computes, with the plugin in this process."""
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    inputs = {name: torch.tensor(value) if isinstance(value, list) else value for name, value in INPUTS[task].items()}
    with torch.no_grad():
        return model.eval()(**inputs)[0].flatten(), model


def without_plugin(path, task, directory, *flags):
    """The same in a fresh process, with fairseq alone and torch's own default of what it loads."""
    text = execute([sys.executable, "-c", COMPUTE, path, json.dumps(INPUTS[task]), *flags], directory)
    (line,) = [line for line in text.splitlines() if line.startswith('["outputs"')]
    return torch.tensor(json.loads(line)[1])


@pytest.fixture(scope="module")
def lm_data(translation_data, tmp_path_factory):
    from fairseq import options
    from fairseq_cli import preprocess

    directory = tmp_path_factory.mktemp("lm")
    text = str(translation_data.parent / "train.src")
    arguments = ["--only-source", "--trainpref", text, "--validpref", text, "--destdir", str(directory / "bin")]
    preprocess.main(options.get_preprocessing_parser().parse_args(arguments))
    return directory / "bin"


@pytest.fixture(scope="module")
def sentence_data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sentences")
    (directory / "dict.txt").write_text("".join(f"w{i} 1\n" for i in range(20)))
    lines = [" ".join(f"w{(i * k) % 20}" for k in range(1, 6)) for i in range(16)]
    return published.write_sentence_data(directory, directory / "dict.txt", lines, None, [i % 2 for i in range(16)])


@pytest.fixture(scope="module")
def plain(translation_data, tmp_path_factory):
    """A plain transformer's checkpoint."""
    save_dir = tmp_path_factory.mktemp("plain")
    train(translation_data, save_dir, *"--optimizer adam --lr 0.01 --batch-size 8 --max-update 6".split())
    return save_dir / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def lora(translation_data, plain, tmp_path_factory):
    """LoRA on it, after large steps."""
    save_dir = tmp_path_factory.mktemp("lora")
    flags = "--optimizer adam --lr 0.3 --batch-size 8 --max-update 4 --finetune-from-model".split()
    train(translation_data, save_dir, *flags, plain, model=TRANSFORMER)
    return save_dir / "checkpoint_last.pt"


# ---------------------------------------------------------------------- merge


def hypotheses(data, directory, *flags):
    text = console("fairseq-generate", data, "--cpu", "--beam", "2", "--max-len-b", "10", *flags, directory=directory)
    lines = [line.split("\t") for line in text.splitlines() if line.startswith("H-")]
    return {name: words for name, _, words in lines}, {name: float(score) for name, score, _ in lines}


@pytest.mark.slow
def test_a_merged_model_translates_alike_without_the_plugin(translation_data, tmp_path, plain, lora, capsys):
    merged = tmp_path / "deep" / "merged.pt"
    printed = succeed(capsys, "merge", lora, merged)
    assert "transformer, 14 layers merged (float32)" in printed
    assert "100.0% to 100.0% of the updates survived" in printed
    assert "left out: the optimizer's state" in printed and "Namespace" not in printed
    words, scores = hypotheses(translation_data, tmp_path, "--path", merged)
    expected, expected_scores = hypotheses(translation_data, tmp_path, "--path", lora, "--user-dir", toy.PLUGIN)
    assert words == expected and len(words) == 8
    assert scores == pytest.approx(expected_scores, abs=1e-4)
    pretrained, _ = with_plugin(plain, "translation")
    ours, _ = with_plugin(lora, "translation")
    assert (ours - pretrained).abs().max() > 1  # the update matters
    torch.testing.assert_close(without_plugin(merged, "translation", tmp_path), ours, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_what_a_merged_checkpoint_holds(translation_data, tmp_path, plain, capsys):
    train(translation_data, tmp_path, *ADAM, "--store-ema", "--ema-fp32", model=TRANSFORMER)
    lora = tmp_path / "checkpoint_last.pt"
    before = checkpoint(lora)
    assert {"ema", "ema_fp32_params"} <= before["extra_state"].keys()
    printed = succeed(capsys, "merge", lora, tmp_path / "merged.pt")
    assert "left out: the optimizer's state, the EMA weights (they are not merged), their fp32 copy" in printed
    after = torch.load(tmp_path / "merged.pt", weights_only=True)  # no Namespace is allowed here, as none is needed
    assert "last_optimizer_state" not in after and not {"ema", "ema_fp32_params"} & after["extra_state"].keys()
    assert after["model"].keys() == checkpoint(plain)["model"].keys()
    for name in ("optimizer_history", "task_state"):
        assert_equal(after[name], before[name], name)
    for name in after["model"]:
        w, layer = before["model"][name], name[: -len(".weight")]
        if f"{layer}.lora_A" in before["model"]:
            a, b = (before["model"][f"{layer}.lora_{part}"].double() for part in "AB")
            w = (w.double() + 4 / 2 * b @ a).float()
        torch.testing.assert_close(after["model"][name], w, rtol=1e-7, atol=1e-9)
    flat = json.dumps(after["cfg"])
    assert "lora" not in flat.replace(str(lora.parent), "").replace(toy.PLUGIN, "") and "base_arch" not in flat
    assert after["cfg"]["model"]["arch"] == after["cfg"]["model"]["_name"] == "transformer"


def test_namespaces_in_configs_become_dicts_and_lose_loras_settings():
    names = dict(arch="lora", _name="lora", base_arch="roberta")
    flat = argparse.Namespace(**names, lora_rank=8, lora_also_train=None, dropout=0.1, lr=[1])
    legacy = argparse.Namespace(**{**vars(flat), "_name": "my_task"})
    cfg = {"model": flat, "task": legacy, "common": {"seed": 1, "parts": [argparse.Namespace(a=1)]}, "bmuf": None}
    kept = {"dropout": 0.1, "lr": [1]}
    for arch in ("roberta", "roberta_base", "transformer_iwslt_de_en", "transformer_lm", "bart_base", "mine"):
        plain = plain_config(cfg, arch)
        model = {**kept, "arch": arch, "_name": arch}
        assert plain == {
            "model": argparse.Namespace(**model) if arch in ("bart_base", "mine") else model,
            "task": {**kept, "arch": arch, "_name": "my_task"},
            "common": {"seed": 1, "parts": [{"a": 1}]},
            "bmuf": None,
        }
    assert flat.lora_rank == 8 and isinstance(cfg["task"], argparse.Namespace)


@pytest.mark.slow
@pytest.mark.parametrize("dtype, tolerance", [("fp16", 5e-3), ("bf16", 4e-2)])
def test_merged_in_half_precision(tmp_path, lora, capsys, dtype, tolerance):
    merged = tmp_path / "merged.pt"
    succeed(capsys, "merge", lora, merged, "--dtype", dtype)
    types = {value.dtype for value in checkpoint(merged)["model"].values() if value.is_floating_point()}
    assert types == {{"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]}
    assert merged.stat().st_size < 0.8 * lora.stat().st_size
    ours, _ = with_plugin(lora, "translation")
    theirs = without_plugin(merged, "translation", tmp_path)
    assert (theirs - ours).norm() < tolerance * ours.norm()


@pytest.mark.slow
def test_a_language_model_is_evaluated_alike_without_the_plugin(lm_data, tmp_path, capsys):
    model = ["--arch", "lora", "--base-arch", "transformer_lm", *LM, *TARGET]
    train(lm_data, tmp_path, *ADAM, *LM_TASK, model=model, criterion=["--criterion", "cross_entropy"])
    succeed(capsys, "merge", tmp_path / "checkpoint_last.pt", tmp_path / "merged.pt")
    losses = []
    for flags in (["merged.pt"], ["checkpoint_last.pt", "--user-dir", toy.PLUGIN]):
        text = console("fairseq-eval-lm", lm_data, *EVALUATE, "--path", *flags, directory=tmp_path)
        losses.append(float(text.split("Loss (base 2): ")[1].split(",")[0]))
    assert losses[0] == pytest.approx(losses[1], abs=2e-4) and losses[0] > 1


@pytest.mark.slow
@pytest.mark.parametrize("base_arch", ["transformer_lm", "sharp_decoder"])
def test_an_adapter_on_a_merged_language_model_is_loaded(lm_data, tmp_path, capsys, base_arch):
    """Its config is a dict with all flags, of which the architecture knows a part."""
    pytest.importorskip("safetensors")
    model, trained = ["--arch", "lora", "--base-arch", base_arch, *LM, *TARGET], tmp_path / "checkpoint_last.pt"
    train(lm_data, tmp_path, *ADAM, *LM_TASK, model=model, criterion=["--criterion", "cross_entropy"])
    succeed(capsys, "merge", trained, tmp_path / "merged.pt")
    succeed(capsys, "save", trained, tmp_path / "adapter")
    succeed(capsys, "load", tmp_path / "adapter", tmp_path / "merged.pt", tmp_path / "again.pt")
    _, again = with_plugin(tmp_path / "again.pt", "language_modeling")
    plain, first = checkpoint(tmp_path / "merged.pt")["model"], checkpoint(trained)["model"]
    layers = lora_layers(again)
    assert len(layers) == 5 and all(torch.equal(layer.base_weight, plain[f"{name}.weight"]) for name, layer in layers.items())
    assert all(torch.equal(layer.lora_B, first[f"{name}.lora_B"]) for name, layer in layers.items())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["transformer_lm_gpt2_small", "bart_base", "roberta"])
def test_other_families_load_without_the_plugin(translation_data, lm_data, sentence_data, tmp_path, capsys, family):
    data, task, flags, model, criterion = {
        "transformer_lm_gpt2_small": (lm_data, "language_modeling", LM_TASK, LM, ["--criterion", "cross_entropy"]),
        "bart_base": (translation_data, "translation", [], toy.MODEL[2:-1], None),  # it shares all embeddings
        "roberta": (sentence_data, "sentence_prediction", SENTENCES, ROBERTA, ["--criterion", "sentence_prediction"]),
    }[family]
    model = ["--arch", "lora", "--base-arch", family, *model, *TARGET]
    train(data, tmp_path, *ADAM, *flags, model=model, criterion=criterion)
    printed = succeed(capsys, "merge", tmp_path / "checkpoint_last.pt", tmp_path / "merged.pt")
    ours, _ = with_plugin(tmp_path / "checkpoint_last.pt", task)
    # fairseq's BART finds some flags in a Namespace alone, which torch must be told to load, as in fairseq's own files.
    allow = ["--allow"] if family == "bart_base" else []
    assert ("add_safe_globals([argparse.Namespace])" in printed) == bool(allow)
    theirs = without_plugin(tmp_path / "merged.pt", task, tmp_path, *allow)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    merge_checkpoint(without_updates(tmp_path / "checkpoint_last.pt"), tmp_path / "base.pt")
    assert (with_plugin(tmp_path / "base.pt", task)[0] - ours).abs().max() > 1e-3  # the update matters


def without_updates(path):
    """A copy of a LoRA checkpoint in which B is 0."""
    state = checkpoint(path)
    state["model"] = {key: value * (not key.endswith("lora_B")) for key, value in state["model"].items()}
    torch.save(state, path.parent / "zero.pt")
    return path.parent / "zero.pt"


@pytest.mark.slow
def test_a_checkpoint_of_hydra(lm_data, tmp_path, capsys):
    """Its config has dicts alone, with the base architecture's fields and LoRA's."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "run.yaml").write_text(f"""
# @package _group_
common: {{user_dir: {toy.PLUGIN}, cpu: true}}
checkpoint: {{save_dir: {tmp_path / "run"}, no_epoch_checkpoints: true}}
task: {{_name: language_modeling, data: {lm_data}, tokens_per_sample: 16, sample_break_mode: eos}}
dataset: {{batch_size: 8, required_batch_size_multiple: 1, num_workers: 0, disable_validation: true}}
criterion: {{_name: cross_entropy}}
optimization: {{max_update: 2, lr: [0.05]}}
lr_scheduler: {{_name: fixed}}
optimizer: {{_name: bar, base_optimizer: adam}}
model: {{_name: lora, base_arch: transformer_lm, lora_rank: 2, decoder_layers: 1, decoder_embed_dim: 16,
  decoder_ffn_embed_dim: 32, decoder_attention_heads: 2}}
""")
    console("fairseq-hydra-train", "--config-dir", tmp_path / "config", "--config-name", "run", directory=tmp_path)
    trained, merged = tmp_path / "run" / "checkpoint_last.pt", tmp_path / "merged.pt"
    assert isinstance(checkpoint(trained)["cfg"]["model"], dict)
    succeed(capsys, "merge", trained, merged)
    ours, _ = with_plugin(trained, "language_modeling")
    torch.testing.assert_close(without_plugin(merged, "language_modeling", tmp_path), ours, rtol=1e-4, atol=1e-5)
    # ... and there and back again, on the merged model as the plain one, with the same update once more.
    pytest.importorskip("safetensors")
    succeed(capsys, "save", trained, tmp_path / "adapter")
    succeed(capsys, "load", tmp_path / "adapter", merged, tmp_path / "again.pt")
    state, first = checkpoint(tmp_path / "again.pt"), checkpoint(trained)
    assert state["cfg"]["model"]["_name"] == "lora" and state["cfg"]["model"]["base_arch"] == "transformer_lm"
    _, model = with_plugin(tmp_path / "again.pt", "language_modeling")
    for name, layer in lora_layers(model).items():
        assert torch.equal(layer.base_weight, checkpoint(merged)["model"][f"{name}.weight"])
        assert torch.equal(layer.lora_A, first["model"][f"{name}.lora_A"]) and layer.lora_scale == 8.0


# ---------------------------------------------------------------------- save and load


@pytest.mark.slow
def test_an_adapter_on_its_plain_checkpoint_is_the_lora_checkpoint(translation_data, tmp_path, plain, lora, capsys):
    pytest.importorskip("safetensors")
    printed = succeed(capsys, "save", lora, tmp_path / "adapter")
    assert "updates of rank 2 for 14 layers" in printed and sorted(os.listdir(tmp_path / "adapter")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    again = tmp_path / "again.pt"
    printed = succeed(capsys, "load", tmp_path / "adapter", plain, again)
    assert_equal(dict(checkpoint(again)["model"]), dict(checkpoint(lora)["model"]), "model")
    expected, scores = hypotheses(translation_data, tmp_path, "--path", lora, "--user-dir", toy.PLUGIN)
    assert hypotheses(translation_data, tmp_path, "--path", again, "--user-dir", toy.PLUGIN) == (expected, scores)

    # With the printed flags and the architecture's own, training goes on from these weights, with all of them.
    flags = shlex.split(printed.splitlines()[-1])
    assert flags[:4] == ["fairseq-train", "DATA", "--user-dir", "sharp_plugins"]
    model = [*flags[4:], *toy.MODEL[2:]]
    still = "--optimizer sgd --lr 0 --batch-size 8 --max-update 1".split()
    train(translation_data, tmp_path / "still", *still, model=model)
    assert_equal(dict(last(tmp_path / "still")["model"]), dict(checkpoint(lora)["model"]), "model")
    at = model.index("--finetune-from-model")
    restore = [*model[:at], *model[at + 2 :], "--restore-file", str(again)]
    train(translation_data, tmp_path / "on", *ADAM, model=restore)
    train(translation_data, tmp_path / "on", *ADAM, "--max-update", "4", model=model)
    after, before = last(tmp_path / "on"), checkpoint(lora)["model"]
    assert after["optimizer_history"][-1]["num_updates"] == 4
    for name, value in after["model"].items():
        assert torch.equal(value, before[name]) == ("lora_" not in name), name


@pytest.mark.slow
def test_a_fine_tuned_encoder_and_its_head_on_a_checkpoint_of_an_older_fairseq(sentence_data, tmp_path, capsys):
    """As published for RoBERTa: all flags in args, one weight for query, key and value, an encoder called decoder."""
    pytest.importorskip("safetensors")
    roberta = {"model": ["--arch", "roberta", *ROBERTA], "criterion": ["--criterion", "sentence_prediction"]}
    train(sentence_data, tmp_path / "plain", *ADAM, *SENTENCES, **roberta)
    plain = tmp_path / "plain" / "checkpoint_last.pt"
    roberta["model"] = ["--arch", "lora", "--base-arch", "roberta", *ROBERTA, *TARGET, "--lora-bias", "all"]
    train(sentence_data, tmp_path / "lora", *ADAM, *SENTENCES, "--finetune-from-model", plain, **roberta)
    lora = tmp_path / "lora" / "checkpoint_last.pt"

    state = checkpoint(plain)
    parts = {key: value for key, value in state["model"].items() if "classification_heads" not in key}
    attention = "encoder.sentence_encoder.layers.0.self_attn"
    for end in ("weight", "bias"):
        parts[f"{attention}.in_proj_{end}"] = torch.cat([parts.pop(f"{attention}.{name}_proj.{end}") for name in "qkv"])
    older = {}
    for key, value in parts.items():
        older[key.replace("encoder.", "decoder.", 1).replace("layernorm_embedding", "emb_layer_norm")] = value
    history = {"optimizer_name": "FairseqAdam", "criterion_name": "x", "lr_scheduler_state": {}, "num_updates": 2}
    torch.save(
        {
            "args": copy.deepcopy(state["cfg"]["model"]),
            "model": older,
            "optimizer_history": [history],
            "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 2}},
        },
        tmp_path / "older.pt",
    )

    succeed(capsys, "save", lora, tmp_path / "adapter")
    succeed(capsys, "load", tmp_path / "adapter", tmp_path / "older.pt", tmp_path / "again.pt")
    expected, model = with_plugin(lora, "sentence_prediction")
    ours, again = with_plugin(tmp_path / "again.pt", "sentence_prediction")
    assert set(lora_layers(again)) == set(lora_layers(model)) and torch.equal(ours, expected)
    # ... and merged, it is today's.
    succeed(capsys, "merge", tmp_path / "again.pt", tmp_path / "merged.pt")
    theirs = without_plugin(tmp_path / "merged.pt", "sentence_prediction", tmp_path)
    torch.testing.assert_close(theirs, expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------- without fairseq, and what goes wrong


def write_small(path, **changes):
    """A LoRA checkpoint of one layer, as fairseq writes it."""
    torch.manual_seed(0)
    state = {"fc.weight": torch.randn(6, 4), "fc.lora_A": torch.randn(2, 4), "fc.lora_B": torch.randn(6, 2)}
    names = dict(arch="lora", _name="lora", base_arch="transformer")
    model = argparse.Namespace(**names, lora_rank=2, lora_alpha=3.0, lora_target="fc")
    torch.save(
        {
            "args": None,
            "cfg": {"model": model, "task": None},
            "model": state,
            "criterion": None,
            "task_state": {},
            "optimizer_history": [{"num_updates": 1}],
            "extra_state": {},
            "last_optimizer_state": {"state": {}},
            **changes,
        },
        path,
    )
    return path


def write_plain(path):
    torch.manual_seed(0)
    model = argparse.Namespace(arch="transformer", _name="transformer")
    torch.save({"args": None, "cfg": {"model": model}, "model": {"fc.weight": torch.randn(6, 4)}}, path)
    return path


def test_the_commands_need_no_fairseq(tmp_path):
    pytest.importorskip("safetensors")
    write_small(tmp_path / "lora.pt")
    write_plain(tmp_path / "plain.pt")
    code = (
        "import sys; sys.modules['fairseq'] = None\n"
        "from sharp_plugins.lora.__main__ import main\n"
        "status = main(['save', 'lora.pt', 'adapter']) or main(['load', 'adapter', 'plain.pt', 'again.pt'])\n"
        "sys.exit(status or main(['merge', 'again.pt', 'merged.pt']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=900)
    parts = checkpoint(tmp_path / "lora.pt")["model"]
    w = parts["fc.weight"].double() + 1.5 * parts["fc.lora_B"].double() @ parts["fc.lora_A"].double()
    merged = checkpoint(tmp_path / "merged.pt")["model"]
    torch.testing.assert_close(merged, {"fc.weight": w.float()}, rtol=1e-6, atol=1e-7)


def test_a_plain_checkpoint_is_refused_and_so_is_a_merged_one(tmp_path, capsys):
    lora, merged, plain = write_small(tmp_path / "lora.pt"), tmp_path / "merged.pt", write_plain(tmp_path / "plain.pt")
    succeed(capsys, "merge", lora, merged)
    for path in (merged, plain):
        words = f"{path}: has no LoRA updates; it is plain or was merged before"
        assert words in fail(capsys, "merge", path, tmp_path / "x.pt")
        assert f"{path}: has no LoRA updates" in fail(capsys, "save", path, tmp_path / "adapter")
    assert not (tmp_path / "x.pt").exists() and not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("task", [{"_name": "cloze"}, argparse.Namespace(task="cloze"), {"_name": "translation"}, None])
def test_a_task_of_the_plugin_is_said_to_need_it(tmp_path, capsys, task):
    """fairseq without the plugin says then that it could not infer the task's type."""
    cfg = checkpoint(write_small(tmp_path / "lora.pt"))["cfg"]
    printed = succeed(capsys, "merge", write_small(tmp_path / "lora.pt", cfg={**cfg, "task": task}), tmp_path / "x.pt")
    says = "its task is cloze, of this plugin: to load the file, fairseq needs --user-dir sharp_plugins" in printed
    assert says == ("cloze" in str(task))


def test_all_tasks_of_the_plugin_are_known_to_need_it():
    assert set(OWN_TASKS) == {name for name, task in TASK_REGISTRY.items() if task.__module__.startswith("sharp_plugins.")}


def test_nan_is_refused(tmp_path, capsys):
    b = torch.full((6, 2), float("nan"))
    state = {"fc.weight": torch.ones(6, 4), "fc.lora_A": torch.ones(2, 4), "fc.lora_B": b}
    lora = write_small(tmp_path / "lora.pt", model=state)
    for command in (["merge", lora, tmp_path / "x.pt"], ["save", lora, tmp_path / "x"]):
        error = fail(capsys, *command)
        assert all(words in error for words in (f"{lora}: ", "fc.lora_B", "NaN"))
    assert os.listdir(tmp_path) == ["lora.pt"]


def test_rounding_that_loses_the_update_gets_a_word_of_advice(tmp_path, capsys):
    a, b = torch.full((2, 4), 0.02), torch.full((6, 2), 0.02)
    lora = write_small(tmp_path / "lora.pt", model={"fc.weight": torch.ones(6, 4), "fc.lora_A": a, "fc.lora_B": b})
    printed = succeed(capsys, "merge", lora, tmp_path / "x.pt", "--dtype", "bf16")
    assert "0.0% to 0.0% of the updates survived rounding\nrounding loses" in printed
    assert "rounding loses" not in succeed(capsys, "merge", lora, tmp_path / "x.pt")


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(cfg={"model": {"_name": "transformer"}}), "its architecture is transformer: lora_alpha is not known"),
        (dict(cfg={"model": None}), "its config names no architecture"),
        (dict(cfg=None), "it has no cfg"),
        (dict(model=None), "it has no model"),
        (dict(model={"fc.weight": 1}), "it has no model with tensors"),
        (dict(cfg={"model": {"_name": "lora", "base_arch": "x", "lora_rank": 4}}), "rank 2, and the config says lora_rank"),
        (dict(cfg={"model": {"_name": "lora", "base_arch": "x", "lora_rank": 2, "lora_alpha": -1.0}}), "alpha must be"),
        (dict(args=argparse.Namespace(arch="nosuch"), cfg=None), "fairseq cannot read the config"),
        (dict(model={"fc.lora_A": torch.ones(2, 2)}), "there is no fc.weight"),
    ],
)
def test_checkpoints_that_are_none_of_loras_are_refused(tmp_path, capsys, changes, words):
    lora = write_small(tmp_path / "lora.pt", **changes)
    for command in (["merge", lora, tmp_path / "x.pt"], ["save", lora, tmp_path / "x"]):
        error = fail(capsys, *command)
        assert f"{lora}: " in error and words in error
    assert os.listdir(tmp_path) == ["lora.pt"]


class RunsCode:
    def __reduce__(self):
        return (os.mkdir, ("it_ran",))


def test_files_that_cannot_be_read(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lora = write_small(tmp_path / "lora.pt")
    half, text, code = tmp_path / "half.pt", tmp_path / "text.pt", tmp_path / "code.pt"
    half.write_bytes(lora.read_bytes()[:1000])
    text.write_text("not a checkpoint")
    torch.save({"model": {}, "cfg": {}, "other": RunsCode()}, code)
    for path in (half, text, code):
        for command in (["merge", path, tmp_path / "x.pt"], ["save", path, tmp_path / "x"]):
            assert f"{path}: cannot be read" in fail(capsys, *command)
    assert "nosuch.pt" in fail(capsys, "merge", tmp_path / "nosuch.pt", tmp_path / "x.pt")
    assert str(tmp_path) in fail(capsys, "merge", tmp_path, tmp_path / "x.pt")
    assert sorted(os.listdir(tmp_path)) == ["code.pt", "half.pt", "lora.pt", "text.pt"]


def test_no_input_is_written_to(tmp_path, capsys):
    pytest.importorskip("safetensors")
    lora, plain, adapter = write_small(tmp_path / "lora.pt"), write_plain(tmp_path / "plain.pt"), tmp_path / "adapter"
    succeed(capsys, "save", lora, adapter)
    (tmp_path / "link.pt").symlink_to(lora)
    before = {path: path.read_bytes() for path in (lora, plain, *adapter.iterdir())}
    commands = [["merge", lora, path] for path in (lora, tmp_path / "link.pt", adapter / ".." / "lora.pt")]
    commands += [["load", adapter, plain, path] for path in before if path != lora]
    for command in commands:
        assert "choose another name" in fail(capsys, *command)
    assert before == {path: path.read_bytes() for path in before}


def test_another_checkpoint_is_not_replaced(tmp_path, capsys):
    """A run's, or the base model: only what the same command wrote is."""
    pytest.importorskip("safetensors")
    lora, plain, adapter = write_small(tmp_path / "lora.pt"), write_plain(tmp_path / "plain.pt"), tmp_path / "adapter"
    trained, base = write_small(tmp_path / "trained.pt"), write_plain(tmp_path / "base.pt")
    succeed(capsys, "save", lora, adapter)
    merged, loaded = tmp_path / "merged.pt", tmp_path / "loaded.pt"
    for _ in range(2):
        succeed(capsys, "merge", lora, merged)
        succeed(capsys, "load", adapter, plain, loaded)
    before = {path: path.read_bytes() for path in (trained, base, merged, loaded)}
    one, other = "a LoRA checkpoint", "a checkpoint that this command did not write"
    for command, own in ((["merge", lora], merged), (["load", adapter, plain], loaded)):
        for path, kind in ((trained, one), (base, other), (merged, other), (loaded, one)):
            if path != own:
                words = f"error: {path}: choose another name to write to; this is {kind}, which would be lost\n"
                assert fail(capsys, *command, path) == words
    assert before == {path: path.read_bytes() for path in before}


def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "file").touch()
    for command in (["save", "lora.pt"], ["load", "adapter", "plain.pt"], ["merge", "lora.pt"]):
        with pytest.raises(SystemExit):
            main([*command, str(tmp_path / "file" / "out")])
        assert f"{tmp_path / 'file'} is a file, and no directory" in capsys.readouterr().err


def test_loading_says_which_file_does_not_fit(tmp_path, capsys):
    pytest.importorskip("safetensors")
    lora, plain, adapter = write_small(tmp_path / "lora.pt"), write_plain(tmp_path / "plain.pt"), tmp_path / "adapter"
    succeed(capsys, "save", lora, adapter)
    assert f"{lora}: its architecture is lora" in fail(capsys, "load", adapter, lora, tmp_path / "x.pt")
    cfg = {"model": {"_name": "adapter", "base_arch": "transformer"}}
    torch.save({"cfg": cfg, "model": {"fc.weight": torch.ones(6, 4)}}, tmp_path / "bottleneck.pt")
    assert "its architecture is adapter" in fail(capsys, "load", adapter, tmp_path / "bottleneck.pt", tmp_path / "x.pt")
    torch.save({**checkpoint(plain), "model": {"fc.weight": torch.ones(6, 5)}}, tmp_path / "wider.pt")
    error = fail(capsys, "load", adapter, tmp_path / "wider.pt", tmp_path / "x.pt")
    assert f"{adapter}: fc: lora_B 6 x 2 times lora_A 2 x 4 does not fit the weight 6 x 5" in error
    assert "adapter_config.json: not there" in fail(capsys, "load", tmp_path, plain, tmp_path / "x.pt")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    error = fail(capsys, "load", adapter, plain, tmp_path / "x.pt")
    assert f"{adapter}: adapter_config.json: use_dora is true" in error
    assert not (tmp_path / "x.pt").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("disk"), OSError("disk")])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, capsys, monkeypatch, error):
    lora, out = write_small(tmp_path / "lora.pt"), tmp_path / "out.pt"
    out.write_bytes(b"old")

    def save(value, path):
        Path(path).write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", save)
    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            main(["merge", str(lora), str(out)])
    else:
        assert "disk" in fail(capsys, "merge", lora, out)
    assert out.read_bytes() == b"old" and sorted(os.listdir(tmp_path)) == ["lora.pt", "out.pt"]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    pytest.importorskip("safetensors")
    state = {"fc.weight": torch.ones(60, 40), "fc.lora_A": torch.ones(2, 40), "fc.lora_B": torch.ones(60, 2)}
    write_small(tmp_path / "lora.pt", model=state)
    (tmp_path / "out.pt").write_bytes(b"old")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"old")
    code = (
        "import resource, sys; sys.modules['fairseq'] = None; from sharp_plugins.lora.__main__ import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)); sys.exit(main(sys.argv[1:]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    options = dict(cwd=tmp_path, env=environment, capture_output=True, text=True)
    for command in (["merge", "lora.pt", "out.pt"], ["save", "lora.pt", "adapter"]):
        done = subprocess.run([sys.executable, "-c", code, *command], **options)
        assert done.returncode == 1 and "Traceback" not in done.stderr and "error: " in done.stderr, done.stderr
    for path in (tmp_path / "out.pt", tmp_path / "adapter" / "adapter_model.safetensors"):
        assert path.read_bytes() == b"old" and not [name for name in os.listdir(path.parent) if name.startswith(".")]


@pytest.mark.slow
def test_as_a_module(tmp_path):
    lora = write_small(tmp_path / "lora.pt")
    options = dict(cwd=ROOT, capture_output=True, text=True)
    for out, status, words in ((tmp_path / "merged.pt", 0, "1 layers merged"), (lora, 1, "error: ")):
        command = [sys.executable, "-m", "sharp_plugins.lora", "merge", lora, out]
        done = subprocess.run(command, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, **options)
        assert done.returncode == status and words in (done.stderr if status else done.stdout), done.stderr


def test_help(capsys):
    for arguments, words in (([], "merge"), (["save"], "DIR"), (["load"], "PLAIN.pt"), (["merge"], "--dtype")):
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--help"])
        assert stop.value.code == 0 and words in capsys.readouterr().out
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
