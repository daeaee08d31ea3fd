"""Data-to-text with a published decoder: what is refused, what a method's run is, what comes out. One test trains."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import processes
import pytest
import torch
from fairseq import options

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "runs"), str(ROOT / "tests" / "prompted")]
from engine import save
from prompts import write_backbone

from sharp_plugins.convert.decoder_backbone import load_decoder
from sharp_plugins.runs import plan, stages
from sharp_plugins.runs.checkpoints import read_checkpoint
from sharp_plugins.runs.command import INTERRUPTED
from sharp_plugins.runs.configs import configure, merged
from sharp_plugins.runs.methods import find_method
from sharp_plugins.runs.settings_check import check_config
from sharp_plugins.text.parts import evenly
from sharp_plugins.webnlg import results
from sharp_plugins.webnlg.__main__ import main
from sharp_plugins.webnlg.benchmark import DataToText
from sharp_plugins.webnlg.entry import Entry
from sharp_plugins.webnlg.fine_tuning import FAMILIES, SETTINGS, FineTuning, read_family
from sharp_plugins.webnlg.prompts import checksums, directories, prompt_lines, read_parts
from sharp_plugins.webnlg.texts import choose_texts

NAMES, PLACES = ["Ann", "Bob", "Cara", "Dan", "Eve"], ["Bonn", "Graz", "Lille"]
SHORT = "--set generation.max_len_b=16"
SCORES = {"bleu": 20.0, "chrf": 30.0, "ter": 70.0}
LOG = """2026-11-26 | num. shared model params: 9,000 (num. trained: 1,536)
2026-11-26 | num. expert model params: 0 (num. trained: 0)
{"epoch": 1, "balancedness_q": "2.5", "balancedness_v": "3.5", "num_updates": "1"}
{"epoch": 1, "balancedness_q": "2.25", "balancedness_v": "3.25", "num_updates": "2"}
{"epoch": 1, "valid_loss": "3.5", "valid_bleu": "4.0", "valid_num_updates": "20"}
{"epoch": 1, "train_balancedness_q": "9.9", "train_num_updates": "20"}
"""


def entries(count, split):
    for i in range(count):
        triple = [NAMES[i % 5], "in", PLACES[i % 3]]
        refs = [f"{triple[0]} lives in {triple[2]}.", f"{triple[2]} has {triple[0]}."]
        entry = {"id": str(i), "category": "Food" if i % 2 else "Ships", "seen": bool(i % 2) if split == "test" else None}
        yield {**entry, "triples": [triple], "refs": refs, "good": [True, i % 4 > 0]}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus")
    for split, count in (("train", 16), ("dev", 4), ("test", 6)):
        text = "".join(json.dumps(entry) + "\n" for entry in entries(count, split))
        (directory / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """Of Llama's type, as its tokenizer says, with 64 positions."""
    return write_backbone(tmp_path_factory.mktemp("backbones") / "tiny", is_gpt2=False)


@pytest.fixture
def call(corpus, backbone, tmp_path, monkeypatch, no_pictures):
    """Calls the command in this process; `call.done` has the runs and stages that were done, which make what real ones make."""
    done = []

    def perform(run, stage, lock, stop, show=None, environment=None):
        done.append((run, stage))
        call.before(run, stage)
        if stage.trains:
            for name in ("checkpoint_best.pt", "checkpoint_last.pt"):
                path = save(run.directory / name, updates=run.config["optimization"]["max_update"])
                state = torch.load(path)
                state["extra_state"]["val_loss"] = None if run.config["dataset"].get("disable_validation") else 4.0
                torch.save(state, path)
            (run.directory / "train.log").write_text(LOG if run.method.network == "lora" else LOG.splitlines()[0])
        else:
            scores = {way: dict.fromkeys(results.SPLITS, SCORES) for way in results.WAYS}
            (run.directory / stage.makes).write_text(json.dumps(scores))
        stages._mark(run, {**stages._marks(run), stage.name: list(stage.command)})

    monkeypatch.setattr(stages, "perform", perform)
    monkeypatch.setattr(plan, "check_config", lambda *args, **how: call.check(*args, **how))

    def call(line="", first=SHORT):
        done.clear()
        flags = ["--data", str(corpus), "--backbone", str(backbone), "--out", str(call.out), "--cpu"]
        return main(["run", *flags, *shlex.split(first), *shlex.split(line)])

    call.done, call.out, call.before = done, tmp_path / "out", lambda run, stage: None
    call.check = lambda *args, **how: None  # it takes most of the time; `test_settings_are_known_to_fairseq` looks at the settings
    return call


def config_of(call, method):
    return next(run.config for run, _ in call.done if run.record.method == method)


# ---------------------------------------------------------------------- before training


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--backbone nowhere", "--backbone nowhere/model.pt: not there"),
        ("--methods base", "--methods base: with --backbone full fine-tuning is called ft"),
        ("--methods prefix-nbar", "--methods prefix-nbar: BAR balances LoRA's updates; use lora-nbar"),
        ("--methods houlsby", "--methods: there are no settings for methods with houlsby"),
        ("--methods adam", "--methods adam: there is no such method"),
        ("--size small", "--size: it is of a model from scratch"),
        ("--format lora", "--format lora: choose one of lora-gpt2"),
        ("--test-inputs 0", "--test-inputs 0: should be at least 1"),
        ("--configs nowhere", "nowhere/smollm2/ft.yaml: not there; --configs wants"),
        ("--set task.data=x", "--set task.data=x: each run has a task.data of its own"),
        ("--set model.prefix_lenght=3", "fairseq does not know such a setting"),
        ("--set generation.beams=3", "fairseq does not know such a setting"),
        ("--set generation.max_len_b=60", "--set generation.max_len_b: a prompt of the test set has"),
        ("--set dataset.max_tokens=100", "--set optimization.max_update is needed"),
        (
            "--linearise markup --format prefix-gpt2 --set model.prefix_length=60",
            "symbols, and there is room for 4, with one for the text; --set model.prefix_length takes some of it",
        ),
        (
            "--set model.prefix_length=34",
            "--data: a row to learn from has 45 positions, and there is room for 30; --set model.prefix_length takes some of it",
        ),
        ("--set prompts.too_long=skip", "--set prompts.too_long=skip: how prompts are made is said by --format, --linearise and"),
        ("--set foo.bar=1", "fairseq does not know such a part of a config: foo; see --set and --configs"),
        ("--set optimization.max_update=abc", "optimization.max_update is abc, and should be a whole number from 1"),
        ("--set lr_scheduler.warmup_updates=x", "lr_scheduler.warmup_updates is x, and should be a whole number from 0"),
        ("--set model.prefix_length=abc", "model.prefix_length is abc, and should be a whole number from 1"),
        ("--methods lora --set model.lora_rank=0", "--lora-rank must be 1 or larger, and is 0; the engine takes"),
        ("--methods lora --set model.lora_rank=abc", "model.lora_rank cannot have this value: "),
        ("--sweep optimization.max_update=a,b", "optimization.max_update is a, and should be a whole number from 1"),
        ("--set generation.beam=0", "--beam must be 1 or larger, and is 0; the engine takes --a-flag as --set generation.a_flag="),
        ("--set generation.temperature=0", "--temperature must be"),
        ("--set task.repetition_penalty=-1", "--repetition-penalty must be"),
        ("--set generation.max_len_b=-3", "--max-len-b must"),
        (
            "--set generation.sampling=true",
            "--set generation.sampling=true: generation.beam must be as large as generation.nbest, and they are 5 and 1; ",
        ),
        (
            "--set generation.min_len=9 --set generation.max_len_b=8",
            "--set generation.max_len_b: the text for a prompt of the test",
        ),
        ("--set generation.max_len_b=0", "may have 0 symbols, its end among them, and it needs 1 at least (generation.min_len)"),
        ("--set checkpoint.best_checkpoint_metric=bleuu", "best_checkpoint_metric=bleuu: choose from loss, nll_loss, ppl"),
        ("--set checkpoint.best_checkpoint_metric=bleu", "metric=bleu: choose from loss, nll_loss, ppl; --epoch dev-bleu"),
        ("--set dataset.disable_validation=true", "dataset.disable_validation leaves no best checkpoint to measure"),
        (
            "--epoch last --set dataset.disable_validation=true --sweep optimization.lr=1,2",
            "--sweep: it chooses by the loss on dev",
        ),
        ("--epoch last --set checkpoint.no_last_checkpoints=true", "checkpoint.no_last_checkpoints leaves no last checkpoint"),
        ("--set dataset.valid_subset=test", "--set dataset.valid_subset=test: each run has a dataset.valid_subset of its own"),
        ("--set eval_lm.context_window=3", "eval_lm.context_window would change nothing"),
        ("--set checkpoint.no_save=true", "checkpoint.no_save leaves no checkpoint to measure"),
    ],
)
def test_what_does_not_fit_is_told_before_training(call, capsys, flags, words):
    call.check = check_config
    assert call(flags, "--methods prefix " + SHORT) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and words in shown and "Traceback" not in shown and call.done == []


@pytest.mark.parametrize("flags", ["--set foo", "--set foo.bar=1", "--methods houlsby", "--set optimization.max_update=0"])
def test_what_needs_no_data_is_told_before_they_are_made(call, capsys, flags):
    assert call(flags, "--methods lora " + SHORT) == 1
    assert capsys.readouterr().err.startswith("error: ") and not call.out.exists()


def test_a_test_input_that_is_too_long_cannot_be_skipped(call, tmp_path, corpus, capsys):
    """It is scored all the same, so that the run would fail after all of its training."""
    for path in corpus.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rows = [json.loads(line) for line in (corpus / "test.jsonl").read_text().splitlines()]
    rows[2]["triples"] *= 9
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(SETTINGS, tmp_path / "conf")
    path = tmp_path / "conf" / "smollm2" / "ft.yaml"
    path.write_text(re.sub("^prompts:", "prompts:\n  too_long: skip", path.read_text(), flags=re.M))
    assert call(f"--data {tmp_path} --configs {tmp_path / 'conf'} --methods lora") == 1 and call.done == []
    assert "1 prompts are too long, and all test inputs are scored; too_long: skip is for training" in capsys.readouterr().err


@pytest.mark.parametrize("flags", ["--test-inputs 3", "--dev-inputs 3", "--format facts", "--epoch last", "--methods ft"])
def test_flags_of_a_backbone_need_one(call, corpus, capsys, flags):
    assert main(["run", "--data", str(corpus), "--out", str(call.out), *flags.split()]) == 1
    assert "give --backbone too" in capsys.readouterr().err and not call.out.exists()


def test_a_prompt_that_is_too_long_is_named(call, tmp_path, corpus, capsys):
    for path in corpus.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rows = [json.loads(line) for line in (corpus / "train.jsonl").read_text().splitlines()]
    rows[6]["triples"] *= 9
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert call(f"--data {tmp_path}") == 1 and call.done == []
    shown = capsys.readouterr().err
    assert f"error: --data: train, entry {rows[6]['id']!r}: " in shown and ".unfinished" not in shown
    assert "--too-long" not in shown and shown.rstrip().endswith("(in the settings: --configs)")
    assert not (call.out / "data").exists()


def test_results_of_different_runs_do_not_mix(call, capsys):
    assert call("--methods lora") == 0
    for flags, words in (
        ("--test-inputs 3", "the development and test inputs"),
        ("--texts all", "the prompts"),
        ("--epoch last", "the choice of the epoch"),
        ("--set generation.beam=2", "generation.beam (there 5, now 2)"),
        ("--set common.bf16=true", "common.bf16 (there not set, now True)"),
    ):
        assert call(f"--methods lora-nbar {flags}") == 1 and call.done == []
        assert f"lora/seed1: holds a run that differs in {words}, " in capsys.readouterr().err
    assert call("--methods lora-nbar") == 0


# ---------------------------------------------------------------------- runs


def test_the_default_is_the_papers_methods(call, backbone, capsys):
    assert call("--set common.bf16=true") == 0
    methods = ["ft", "prefix", "lora", "lora-obar", "lora-nbar", "lora-sam", "lora-dsam"]
    every = [(run.record.method, stage.name) for run, stage in call.done]
    assert every == [(method, stage) for method in methods for stage in ("train", "generate", "score")]
    assert {stage.command[0] for _, stage in call.done if stage.trains} == {"fairseq-hydra-train"}
    configs = {method: config_of(call, method) for method in methods}
    for config in configs.values():
        assert config["checkpoint"]["finetune_from_model"] == str(backbone / "model.pt")
        assert config["common"].items() >= {"cpu": True, "fp16": False, "bf16": True}.items()
        # 28 good texts in batches of 8, 5 times: where the learning rate and α reach 0.
        assert config["optimization"]["max_update"] == 20
    sizes = {"decoder_layers": 2, "decoder_embed_dim": 16, "max_target_positions": 64, "dropout": 0.0}
    assert configs["ft"]["model"].items() >= {**sizes, "_name": load_decoder(backbone).arch}.items()
    assert configs["lora"]["model"].items() >= {**sizes, "_name": "lora", "lora_rank": 8, "lora_target": "q_proj,v_proj"}.items()
    assert configs["prefix"]["model"].items() >= {**sizes, "_name": "prefix", "prefix_length": 5}.items()
    assert "lora_rank" not in configs["prefix"]["model"]
    assert configs["lora"]["optimization"]["clip_norm"] == 0 and configs["ft"]["optimization"]["clip_norm"] == 1
    assert configs["prefix"]["optimizer"]["weight_decay"] == 0 and configs["lora"]["optimizer"]["weight_decay"] == 0.01
    bar = configs["lora-obar"]["optimizer"]
    assert bar.items() >= {"_name": "bar", "bar_variant": "obar", "bar_schedule": "linear", "base_optimizer": "adam"}.items()
    assert not any(name.startswith(("sam_", "dsam_")) for name in bar)
    assert not any(name.startswith(("bar_", "dsam_")) for name in configs["lora-sam"]["optimizer"])
    # Methods are compared with LoRA, and their checkpoints go when they are done.
    assert "minus lora" in (call.out / "table.md").read_text() and not list(call.out.rglob("checkpoint*.pt"))
    assert call("--set common.bf16=true") == 0 and call.done == [] and "7 of them finished before" in capsys.readouterr().out


def test_what_generation_and_scoring_are_given(call):
    flags = "--methods lora untrained --test-inputs 3 --set common.bf16=true --set generation.lenpen=0.8 --keep-checkpoints"
    assert call(f"{flags} --set task.beam_rules=lora --set optimization.max_update=4") == 0
    data = call.out.resolve() / "data" / "facts-lora"
    _, generate, score = (stage for run, stage in call.done if run.record.method == "lora")
    assert generate.command[:2] == ["fairseq-generate", str(data / "bin")] and {"--cpu", "--bf16"} <= set(generate.command)
    assert {"--beam=5", "--lenpen=0.8", "--max-len-b=16", "--beam-rules=lora"} <= set(generate.command)
    flags = dict(zip(generate.command, generate.command[1:]))
    assert flags.items() >= {"--path": "checkpoint_best.pt", "--required-batch-size-multiple": "1"}.items()
    assert score.command[3:] == [
        "score",
        "generated.txt",
        "--data",
        str(data / "inputs"),
        "--split",
        "test",
        "--json",
        "scores.json",
    ]
    inputs = [json.loads(line)["id"] for line in (data / "inputs" / "test.jsonl").read_text().splitlines()]
    assert inputs == ["0", "2", "4"] and "3 of the test inputs" in (call.out / "table.md").read_text()
    assert config_of(call, "untrained")["optimization"].items() >= {"lr": [0.0], "max_update": 1}.items()
    assert config_of(call, "lora")["optimization"]["max_update"] == 4


def test_a_setting_of_null_is_no_flag(call):
    assert call("--methods lora --set task.lookup_tokens=null --set task.early_stopping=never") == 0
    _, generate, _ = (stage for _, stage in call.done)
    assert "--early-stopping=never" in generate.command and not any("lookup" in word or "None" in word for word in generate.command)


def test_samples_that_fairseq_takes(call):
    assert call("--methods lora --set generation.sampling=true --set generation.beam=1") == 0
    _, generate, _ = (stage for _, stage in call.done)
    assert "--sampling" in generate.command


def test_generations_flags_are_as_fairseq_generate_reads_them(call):
    """A bool may be given as a number, and a number may begin with a minus."""
    assert call("--methods lora --set generation.unnormalized=1 --set generation.sampling=0 --set generation.unkpen=-1e-5") == 0
    _, generate, _ = (stage for _, stage in call.done)
    parser = options.get_generation_parser(default_task="prompted_generation")
    args = options.parse_args_and_arch(parser, generate.command[1:])
    assert args.unnormalized is True and args.sampling is False and args.unkpen == -1e-5 and args.beam == 5


def test_all_updates_that_are_asked_for_are_made(call, capsys):
    """28 good texts in batches of 8: 20 updates in the settings' 5 epochs, and a warm-up of 40."""
    assert call("--methods lora --set optimization.max_update=100") == 0
    assert "max_epoch" not in config_of(call, "lora")["optimization"] and "warm-up" not in capsys.readouterr().out
    call.out = call.out.with_name("other")
    assert call("--methods lora") == 0
    assert config_of(call, "lora")["lr_scheduler"]["warmup_updates"] == 2
    assert "data-to-text lora seed 1: a warm-up of 2 updates and not 40" in capsys.readouterr().out
    call.out = call.out.with_name("third")
    assert call("--methods lora --set lr_scheduler.warmup_updates=20") == 1 and call.done == []
    assert "--set lr_scheduler.warmup_updates=20: training has 20 updates" in capsys.readouterr().err


def test_another_loss_may_choose_the_checkpoint(call):
    assert call("--methods lora --set checkpoint.best_checkpoint_metric=nll_loss") == 0
    assert "Texts are generated with the checkpoint of the lowest nll_loss on dev (among" in (call.out / "table.md").read_text()


def test_fairseqs_cross_entropy_tells_no_second_loss():
    """But where the first one is by sentence, and the second by word."""
    config = {"checkpoint": {"best_checkpoint_metric": "nll_loss"}, "criterion": {"_name": "cross_entropy"}}
    with pytest.raises(ValueError, match="best_checkpoint_metric=nll_loss: choose from loss, ppl"):
        results.check_choice(config)
    results.check_choice({**config, "optimization": {"sentence_avg": True}})


@pytest.mark.parametrize("metric", ["loss", "ppl"])
def test_a_training_without_validations(call, metric):
    """fairseq keeps None as the checkpoint's loss then."""
    flags = f"--methods lora --epoch last --set dataset.disable_validation=true --set checkpoint.best_checkpoint_metric={metric}"
    assert call(flags) == 0
    result = json.loads((call.out / "data-to-text" / "lora" / "seed1" / "result.json").read_text())
    assert "valid" not in result["metrics"] and result["metrics"]["test"]["bleu"] == 20.0
    assert "loss" not in (call.out / "table.md").read_text() and (call.out / "results.md").is_file()
    assert call(flags) == 0 and call.done == []


@pytest.mark.parametrize(
    "epoch, file, words",
    [
        ("dev-bleu", "checkpoint_best.pt", "for dev have the highest BLEU (among the ends of epochs and every 200 updates), and"),
        ("last", "checkpoint_last.pt", "with the last checkpoint, and"),
    ],
)
def test_which_checkpoint_generates(call, epoch, file, words):
    assert call(f"--methods lora --epoch {epoch}") == 0
    generate = call.done[1][1].command
    assert generate[generate.index("--path") + 1] == file and words in (call.out / "table.md").read_text()
    config = config_of(call, "lora")
    if epoch == "dev-bleu":
        assert config["checkpoint"].items() >= {"best_checkpoint_metric": "bleu", "maximize_best_checkpoint_metric": True}.items()
        scores = json.loads((call.out / "results.json").read_text())["lora"]["seed 1"]["scores"]
        assert scores["valid"] == {"bleu": 4.0, "loss": 3.5}  # the checkpoint's "val_loss" is what it was chosen by
        assert config["task"]["eval_bleu"] and json.loads(config["task"]["eval_bleu_args"])["max_len_b"] == 16
    else:
        assert "eval_bleu" not in config["task"] and "best_checkpoint_metric" not in config["checkpoint"]


def test_a_killed_call_goes_on_where_it_was(call, capsys):
    def before(run, stage):
        if (run.record.method, stage.name) == killed:
            raise KeyboardInterrupt

    call.before, line = before, "--methods lora prefix"
    for killed in (("lora", "generate"), ("prefix", "score")):
        assert call(line) == INTERRUPTED and "run the same command again" in capsys.readouterr().err
    killed = None
    assert call(line) == 0 and [(run.record.method, stage.name) for run, stage in call.done] == [("prefix", "score")]


def test_all_scores_are_shown(call, capsys):
    assert call("--methods ft lora --seeds 1 2") == 0
    shown = (call.out / "results.md").read_text()
    assert shown in capsys.readouterr().out
    parts = shown.split("## ")[1:]
    assert [part.splitlines()[0] for part in parts] == [*results.WAYS.values(), "Training"]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in parts[0].splitlines() if line.startswith("|")]
    assert rows[0] == ["method", *(name + of for name in ("BLEU", "chrF++", "TER") for of in ("", ", seen", ", unseen"))]
    assert rows[2] == ["ft", *["20.00 ± 0.00"] * 3, *["30.00 ± 0.00"] * 3, *["70.00 ± 0.00"] * 3]
    lines = [line.replace("\\|", "") for line in parts[3].splitlines() if line.startswith("|")]
    costs = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert costs[2] == ["ft", "2", "1,536", "20", "20", "1.5", "", "", ""]
    assert costs[3] == ["lora", "2", "1,536", "20", "20", "1.5", "", "3.000", "2.750"]
    found = json.loads((call.out / "results.json").read_text())["lora"]["seed 2"]
    assert found["notes"]["balancedness"] == {"balancedness_q": [2.5, 2.25], "balancedness_v": [3.5, 3.25]}
    assert "data-to-text, BLEU, LoRA's scoring" in (call.out / "table.md").read_text()


def test_a_sweep_chooses_by_the_loss_on_dev(call):
    assert call("--methods lora lora-nbar --sweep optimizer.bar_alpha=0.5,1") == 0
    names = [run.name for run, stage in call.done if stage.trains]
    assert names == ["data-to-text lora seed 1", *(f"data-to-text lora-nbar optimizer.bar_alpha={a} seed 1" for a in (0.5, 1))]
    words = "By loss on dev, without smoothing, chosen on the development set, which is not reported."
    assert words in (call.out / "table.md").read_text()


# ---------------------------------------------------------------------- settings and data


@pytest.mark.parametrize("family", FAMILIES.values())
def test_settings_are_known_to_fairseq(family):
    settings, prompts = read_family(SETTINGS / family, {})
    networks = {"adapter": "houlsby"}

    def adapt(config):
        config["model"]["_name"] = "sharp_gpt2"
        config["optimization"].setdefault("max_update", 11270)  # the data say it

    for network in prompts:
        for optimizer in ("", "-sam", "-dsam", *(("-obar",) if network == "lora" else ())):
            name = (networks.get(network, network) + optimizer) if network else (optimizer[1:] or "base")
            check_config(configure(settings, find_method(name), adapt=adapt), f"{family} {name}")


def test_lora_on_gpt2_is_as_in_its_paper():
    """Hu et al. 2022, Table 11, and their code; BAR's Table 11."""
    settings, prompts = read_family(SETTINGS / "gpt2", {})

    def adapt(config):
        config["model"]["_name"] = "sharp_gpt2_medium"

    config = configure(settings, find_method("lora-nbar"), adapt=adapt)
    assert config["optimization"].items() >= {"lr": [2e-4], "max_epoch": 5, "clip_norm": 0.0, "sentence_avg": False}.items()
    assert config["optimizer"]["base"] == {"adam_betas": "(0.9, 0.999)", "adam_eps": 1e-6, "weight_decay": 0.01}
    assert config["optimizer"]["bar_alpha"] in (0.1, 0.15, 0.2, 0.25, 0.3) and config["lr_scheduler"]["warmup_updates"] == 500
    assert config["dataset"]["batch_size"] == 8 and config["criterion"]["label_smoothing"] == 0.1
    assert config["model"].items() >= {"lora_rank": 4, "lora_alpha": 32, "lora_dropout": 0.1, "dropout": 0.0}.items()
    wanted = {"beam": 10, "lenpen": 0.8, "no_repeat_ngram_size": 4, "max_len_b": 64, "min_len": 0}
    assert config["generation"].items() >= wanted.items() and config["task"]["beam_rules"] == "lora"
    assert prompts["lora"][:5] == ("lora-gpt2", "lora", "good", 512, 64)
    for method, lr, epochs, rows in (("base", 1e-5, 10, 6), ("prefix", 5e-5, 5, 5)):
        config = configure(settings, find_method(method), adapt=adapt)
        assert config["optimization"] == {"lr": [lr], "max_epoch": epochs, "clip_norm": 1.0, "sentence_avg": True}
        assert config["dataset"]["batch_size"] == rows
    assert prompts[None] == prompts["prefix"] and prompts["prefix"][:2] == ("prefix-gpt2", "prefix")


@pytest.mark.parametrize("family, inside", [("gpt2", False), ("opt", False), ("smollm2", True)])
def test_the_best_checkpoint_is_an_epochs(family, inside):
    """fairseq validates at each save, and the best of more validations than the papers' is another choice."""
    settings, prompts = read_family(SETTINGS / family, {})
    for network in prompts:
        kept = merged(settings.task, settings.of("houlsby" if network == "adapter" else network))
        intervals = kept["checkpoint"].get("save_interval_updates"), kept["dataset"].get("validate_interval_updates")
        assert any(intervals) == inside


def test_the_papers_number_of_updates(data_beside):
    _, prompts = read_family(SETTINGS / "gpt2", {})
    corpus = choose_texts(read_parts(data_beside / "webnlg2017", {}), prompts["lora"].texts)
    texts = sum(len(json.loads(line)["texts"]) for line in prompt_lines(corpus["train"], prompts["lora"].linearise))
    assert texts == 18025 and 5 * -(-texts // 8) == 11270


@pytest.mark.parametrize(
    "text, words",
    [
        ("formt: facts", ": .*formt"),
        ("texts: some", ".texts 'some': choose one of good, all"),
        ("linearise: [lora]", r".linearise \['lora'\]: choose one of lora, "),
        ("too_long: cutt", ".too_long 'cutt': choose one of refuse, skip, cut"),
        ("room: abc", ".room 'abc': a whole number from 1 is wanted"),
        ("room: 1.5", ".room 1.5: a whole number from 1 is wanted"),
        ("max_positions: '64'", ".max_positions '64': a whole number from 1 is wanted"),
        ("format: 3", ".format 3: the name or the file of a format is wanted"),
    ],
)
def test_a_wrong_word_about_prompts_is_told(tmp_path, text, words):
    kept = (SETTINGS / "opt" / "ft.yaml").read_text().split("\nprompts:")[1].split("\n\n", 1)[1]
    (tmp_path / "ft.yaml").write_text(f"prompts: {{{text}}}\n{kept}")
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path / 'ft.yaml'))}: prompts{words}"):
        read_family(tmp_path, {} if "form" in text else {"format": "facts"})


@pytest.mark.parametrize("name", ["ft", "lora"])
@pytest.mark.parametrize("text", ["prompts: facts", "dataset:"])
def test_a_part_of_the_settings_that_has_none_by_name(tmp_path, name, text):
    for one in ("ft", "lora"):
        shutil.copy(SETTINGS / "opt" / f"{one}.yaml", tmp_path)
    path, part = tmp_path / f"{name}.yaml", text.split(":")[0]
    path.write_text(re.sub(rf"^{part}:.*\n(  .*\n)*", "", path.read_text(), flags=re.M) + f"{text}\n")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {part}: settings by name are expected$"):
        read_family(tmp_path, {"format": "facts"})


def test_prompts_that_differ_share_no_directory(tmp_path):
    """With GPT-2's settings `--format facts --linearise lora` leaves two: full fine-tuning's and LoRA's."""
    _, prompts = read_family(SETTINGS / "gpt2", {"format": "facts", "linearise": "lora"})
    assert prompts[None] != prompts["lora"] and prompts[None].name == prompts["lora"].name == "facts-lora"
    names = directories(prompts.values())
    assert names[prompts[None]] != names[prompts["lora"]] and len(names) == len(set(names.values())) == 2
    assert all(re.fullmatch("facts-lora-[0-9a-f]{8}", name) for name in names.values())
    _, prompts = read_family(SETTINGS / "gpt2", {})
    assert set(directories(prompts.values()).values()) == {"prefix-gpt2-prefix", "lora-gpt2-lora"}


@pytest.mark.parametrize("change", [{"category": "Airport"}, {"seen": False}])
def test_checksums_know_what_scoring_uses(change):
    one = Entry("1", "Food", True, (("Bacon", "partOf", "BLT"),), ("It has bacon.",))
    before, after = (checksums(dict.fromkeys(("train", "test"), [entry])) for entry in (one, replace(one, **change)))
    assert before["test"] != after["test"] and before["train"] == after["train"]


def test_the_rule_for_seen_categories_is_told_and_keeps_runs_apart(call, capsys):
    """The test inputs are of Food and of Ships, and both are in training; the data call Food alone seen."""
    assert call("--methods lora --seen training") == 0
    assert "seen or unseen categories: by the categories of the training set" in capsys.readouterr().out
    assert "is told by the categories of the training set" in (call.out / "table.md").read_text()
    (inputs,) = call.out.glob("data/*/inputs/test.jsonl")
    assert all(json.loads(line)["seen"] for line in inputs.read_text().splitlines())
    assert call("--methods lora-nbar") == 1 and "the development and test inputs" in capsys.readouterr().err


def test_a_part_is_spread_evenly():
    assert evenly("abcdefg", 3) == ["a", "c", "e"] and evenly("abc", 3) == evenly("abc", None) == evenly("abc", 9) == [
        "a",
        "b",
        "c",
    ]


def test_help_names_the_methods(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    shown = re.sub(r"-\s+", "-", " ".join(capsys.readouterr().out.split()))
    assert f"the methods are then {' '.join(FineTuning.default_methods)} by default" in shown
    assert "one of lora, houlsby, pfeiffer, prefix, one of sam" in shown
    assert DataToText.baseline == "base" and FineTuning.baseline == "lora"


# ---------------------------------------------------------------------- a real run


@pytest.mark.slow
def test_end_to_end_in_half_precision(corpus, backbone, tmp_path):
    line = [sys.executable, "-m", "sharp_plugins.webnlg", "run", "--data", corpus, "--backbone", backbone, "--out", "out", "--cpu"]
    line += f"--methods lora-nbar {SHORT} --test-inputs 3 --dev-inputs 2 --keep-checkpoints --epoch dev-bleu".split()
    for change in ("common.bf16=true", "optimization.max_update=3", "common.log_interval=1", "lr_scheduler.warmup_updates=1"):
        line += ["--set", change]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    how = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": processes.LIMIT}
    done = subprocess.run(list(map(str, line)), **how)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    one = found["lora-nbar"]["seed 1"]
    assert {"test", "test-unseen", "valid"} <= set(one["scores"]) and one["updates"] == 3
    assert set(one["scores"]["test"]) >= {"bleu", "lora_bleu", "challenge2017_ter"}
    # r (width in + width out) for q and v of both layers.
    assert one["notes"]["trained_weights"] == 2 * 2 * 8 * (16 + 16)
    (first, last), *_ = one["notes"]["balancedness"].values()
    assert first > 0 and last > 0 and first != last
    run = tmp_path / "out" / "data-to-text" / "lora-nbar" / "seed1"
    assert read_checkpoint(run / "checkpoint_best.pt")["cfg"]["common"]["bf16"] and "valid_bleu" in (run / "train.log").read_text()
    assert "D-2" in (run / "generated.txt").read_text()
