"""``python -m sharp_plugins.fewshot``: what it refuses before any training, what each kind of task's run is, and whole runs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import rows
import torch
import yaml

from sharp_plugins.fewshot.__main__ import main
from sharp_plugins.fewshot.benchmark import FewShot
from sharp_plugins.fewshot.sampling import permutation
from sharp_plugins.fewshot.zero_shot import zero_shot
from sharp_plugins.files.yaml import read_yaml
from sharp_plugins.runs import schedule, stages
from sharp_plugins.runs.command import INTERRUPTED
from sharp_plugins.runs.record import Record, Result, Validation
from sharp_plugins.runs.selection import choose

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--set", "optimization.max_update=4")


def save(path, updates):
    """A checkpoint, as far as the engine reads it."""
    extra = {"train_iterator": {"epoch": 2, "iterations_in_epoch": 0}, "previous_training_time": 90.0, "val_loss": 3.0}
    torch.save({"optimizer_history": [{"num_updates": updates}], "extra_state": extra}, path)


@pytest.fixture
def start(files, tmp_path, monkeypatch, no_pictures):
    """Calls ``run`` in this process; `start.done` has the stages that were done, which make what real ones make."""
    done, values = [], {"accuracy": 60.0, "loss": 0.5, "examples": 4}

    def stand_in(run, stage, *rest):
        done.append((f"{run.name}, {stage.name}", stage))
        start.before(run, stage)
        if stage.trains:
            for name in ("checkpoint_best.pt", "checkpoint_last.pt"):
                save(run.directory / name, run.config["optimization"]["max_update"])
            return
        if stage.name != "generate":
            scores = {"test": {"f1": 20.0, "em": 10.0}} if stage.name == "score" else {"test": values, "valid": values}
            (run.directory / stage.makes).write_text(json.dumps(scores))
        else:
            (run.directory / stage.makes).write_text("H-0\n")
        stages._mark(run, {**stages._marks(run), stage.name: list(stage.command)})

    def start(*flags, backbone, data=(files,), out="out"):
        done.clear()
        line = ["--backbone", backbone, "--data", *data, "--out", tmp_path / out, "--cpu", *flags]
        return main(["run", *map(str, line)])

    monkeypatch.setattr(stages, "perform", stand_in)
    start.done, start.before = done, lambda run, stage: None
    return start


def names(start):
    return [name for name, _ in start.done]


def config(directory: Path):
    return read_yaml(directory / "run.yaml")


# ---------------------------------------------------------------------- before training


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--tasks WNLI", "--tasks WNLI: there is no such task for an encoder"),
        ("--tasks SST-2 SST-2", "--tasks: SST-2 given more than once"),
        ("--tasks RTE", "no test file of RTE: RTE/dev.tsv, .csv or .jsonl, or .gz"),
        ("--examples 1000", "--examples: --backbone is an encoder, for which --examples says nothing"),
        ("--start <s>", "--start: --backbone is an encoder"),
        ("--seeds -1", "--seeds -1: should be from 0 to 4294967295"),
        ("--data-seed -1", "--data-seed -1: should be from 0 to 4294967295"),
        ("--k 0", "--k 0: should be at least 1"),
        ("--k 40", "train.tsv: SST-2: it has no row for the valid set"),
        ("--settings paper", "--settings paper: there are no such settings; choose from bar, mezo"),
        ("--grid paper", "--grid paper: there are no such settings; choose from bar, mezo"),
        ("--methods houlsby", "--methods: there are no settings for methods with houlsby"),
        ("--methods r3f-lora", "--methods r3f-lora: there is no such method; it is base, zero-shot"),
        ("--settings paper.yaml", "--settings paper.yaml: there is no such file"),
        ("--set optimization.lr=abc", "optimization.lr cannot have this value"),
        (
            "--set optimization.max_update=0",
            "optimization.max_update is 0, and should be a whole number from 1; see --set and --settings",
        ),
        ("--set dataset.batch_size=0", "dataset.batch_size is 0, and should be a whole number from 1; see --set and --settings"),
        ("--set foo.bar=1", "fairseq does not know such a part of a config: foo; see --set and --settings"),
        ("--set checkpoint.best_checkpoint_metric=f1", "SST-2 does not tell it while it trains; choose loss or accuracy"),
        ("--set dataset.valid_subset=test", "each run has a dataset.valid_subset of its own"),
        ("--max-positions 9999", "--max-positions must be from 4 to"),
        ("--set generation.beam=3", "generation.beam would change nothing: no part of a run reads it; see --set and --settings"),
        ("--set checkpoint.no_last_checkpoints=true", "checkpoint.no_last_checkpoints leaves no last checkpoint"),
        ("--set dataset.disable_validation=true", "dataset.disable_validation leaves no best checkpoint to measure"),
    ],
)
def test_what_does_not_fit_is_told_before_training(start, encoder, capsys, flags, words):
    assert start(*"--tasks SST-2 --methods lora --seeds 13 --k 4".split(), *flags.split(), backbone=encoder) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and words in shown and "Traceback" not in shown
    assert start.done == []


def test_a_row_is_named_by_its_own_file(start, encoder, tmp_path, capsys):
    """And not by the lines that are made of it, which are gone when the message is read."""
    table = [[f"x {i} <mask>", str(i % 2)] for i in range(20)]
    for name, of in (("train", table), ("dev", table[::-1])):
        rows.write_table(tmp_path / "SST-2" / f"{name}.tsv", ["sentence", "label"], of)
    flags = [*"--tasks SST-2 --methods lora --seeds 13 --k 4".split(), *SMALL]
    assert start(*flags, backbone=encoder, data=[tmp_path]) == 1
    first = permutation(20, 13)[0] + 2  # its line, below the heading
    words = f"error: {tmp_path}/SST-2/train.tsv:{first}: a sentence has the special symbol <mask> in it\n"
    assert capsys.readouterr().err == words
    one = [["x", "0"]] * 6
    rows.write_table(tmp_path / "SST-2" / "train.tsv", ["sentence", "label"], [["x", "0"], ["y", "1"]] * 10)
    rows.write_table(tmp_path / "SST-2" / "dev.tsv", ["sentence", "label"], one)
    assert start(*flags, backbone=encoder, data=[tmp_path]) == 0
    assert f"warning: {tmp_path}/SST-2/dev.tsv: no row of class 1" in capsys.readouterr().out


def test_a_label_word_of_several_tokens_is_of_its_task(start, encoder, tmp_path, capsys):
    settings = read_yaml(ROOT / "sharp_plugins/fewshot/tasks/cloze/SST-2.yaml")
    words = {"0": "horrible thing", "1": "great"}
    layout = {"template": [{"sentence": 1}, " It was", "<mask>", "."], "words": words, "max_length": 64}
    (tmp_path / "SST-2.yaml").write_text(yaml.safe_dump({**settings, "layout": layout}))
    flags = ["--tasks", tmp_path / "SST-2.yaml", *"--methods lora --seeds 13 --k 4".split(), *SMALL]
    assert start(*flags, backbone=encoder) == 1
    assert "error: --tasks SST-2: layout: words: 'horrible thing' of class 0 must be one token" in capsys.readouterr().err


def test_a_layout_that_is_longer_than_the_model_is_of_its_task(start, encoder, tmp_path, capsys):
    """And no flag's fault that nobody gave."""
    settings = read_yaml(ROOT / "sharp_plugins/fewshot/tasks/cloze/SST-2.yaml")
    template = [{"sentence": 1}, " It was", "<mask>", "."]
    layout = {"template": template, "words": {"0": "terrible", "1": "great"}, "max_length": 600}
    (tmp_path / "long.yaml").write_text(yaml.safe_dump({**settings, "layout": layout}))
    flags = ["--tasks", tmp_path / "long.yaml", *"--methods lora --seeds 13 --k 4".split(), *SMALL]
    assert start(*flags, backbone=encoder) == 1
    words = (
        "--tasks long: layout: max_length must be from 4 to 256, the model's positions, and is 600; --max-positions gives another"
    )
    assert capsys.readouterr().err == f"error: {words}\n"
    assert start(*flags, "--max-positions", 700, backbone=encoder) == 1
    assert capsys.readouterr().err == "error: --max-positions must be from 4 to 256, the model's positions, and is 700\n"
    assert start(*flags, "--max-positions", 64, backbone=encoder) == 0


def test_flags_of_the_other_kind_and_places_that_are_not_there(start, decoder, tmp_path, capsys):
    assert start("--k", 4, backbone=decoder) == 1
    assert "--k: --backbone is a decoder, for which --k says nothing" in capsys.readouterr().err
    assert start("--tasks", "SST-2", backbone=decoder, data=[tmp_path / "nowhere"]) == 1
    assert "nowhere: no such directory" in capsys.readouterr().err
    assert start("--tasks", "TREC", backbone=decoder) == 1
    assert "there is no such task for a decoder; choose from SST-2, CB, RTE" in capsys.readouterr().err


@pytest.mark.parametrize("flags", ["--tasks SST-2", "--tasks CB", "--examples 8", "--start none"])
def test_a_backbone_that_is_not_there_is_no_encoder(start, tmp_path, capsys, flags):
    (tmp_path / "published").mkdir()
    for name in ("nowhere", "published"):
        assert start(*flags.split(), backbone=tmp_path / name) == 1
        words = "no model.pt in it; it is what `python -m sharp_plugins.convert` wrote"
        assert capsys.readouterr().err == f"error: --backbone {tmp_path / name}: {words}\n"


def test_few_rows_of_a_class_are_a_warning_or_refused(start, encoder, tmp_path, capsys):
    for name in ("train", "dev"):
        table = [[f"{name} {i}", str(int(i > 30))] for i in range(34)]
        rows.write_table(tmp_path / "SST-2" / f"{name}.tsv", ["sentence", "label"], table)
    flags = [*"--tasks SST-2 --methods lora --seeds 13 --k 4".split(), *SMALL]
    assert start(*flags, "--strict", backbone=encoder, data=[tmp_path]) == 1
    words = "SST-2: class 1 has 3 rows to train on, and --k is 4"
    assert f"error: --strict: {words}" in capsys.readouterr().err and start.done == []
    for _ in range(2):  # the second call finds the data there
        assert start(*flags, backbone=encoder, data=[tmp_path]) == 0
        shown = capsys.readouterr().out
        assert f"warning: {words}" in shown and "warning: SST-2: the development set has no row of class 1" in shown


def test_few_rows_of_a_class_to_develop_on_are_a_warning_or_refused(start, encoder, tmp_path, capsys):
    """--k is of the training and of the development set."""
    for name in ("train", "dev"):
        table = [[f"{name} {i}", str(int(i > 27))] for i in range(34)]
        rows.write_table(tmp_path / "SST-2" / f"{name}.tsv", ["sentence", "label"], table)
    flags = [*"--tasks SST-2 --methods lora --seeds 13 --k 4".split(), *SMALL]
    assert start(*flags, "--strict", backbone=encoder, data=[tmp_path]) == 1
    words = f"SST-2: class 1 has 2 rows in the development set, and --k is 4 ({tmp_path}/SST-2/train.tsv)"
    shown = capsys.readouterr().err
    assert shown == f"error: --strict: {words}; without --strict such samples are taken\n" and start.done == []
    assert start(*flags, backbone=encoder, data=[tmp_path]) == 0
    assert f"warning: {words}\n" in capsys.readouterr().out


def test_the_help_has_all_flags_and_imports_no_fairseq():
    code = "import sys\nfrom sharp_plugins.fewshot.__main__ import main\ntry:\n    main(['run', '--help'])\n"
    code += "except SystemExit as end:\n    assert end.code == 0 and 'fairseq' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    own = "--backbone --data --k --examples --strict --start --max-positions --data-seed --settings --grid"
    assert all(re.search(rf"\n  {flag}[ \n]", done.stdout) for flag in own.split())


# ---------------------------------------------------------------------- runs


def test_k_and_seeds_are_axes_of_data_and_training(start, encoder, tmp_path, capsys):
    flags = "--tasks SST-2 --methods zero-shot lora --seeds 13 42 --k 4 8".split()
    assert start(*flags, *SMALL, backbone=encoder) == 0
    shown = capsys.readouterr().out
    assert "8 runs, 0 of them finished before" in shown
    assert names(start)[:3] == [
        "SST-2 zero-shot k=4 seed 13, evaluate",
        "SST-2 lora k=4 seed 13, train",
        "SST-2 lora k=4 seed 13, evaluate",
    ]
    out, data = tmp_path / "out", tmp_path / "out" / "data" / "SST-2"
    assert sorted(path.name for path in data.iterdir()) == ["k4-seed13", "k4-seed42", "k8-seed13", "k8-seed42", "test"]
    made = config(out / "SST-2" / "lora" / "k=8" / "seed42")
    assert made["task"] == {"_name": "cloze", "train_lm_head": "untied", "data": str((data / "k8-seed42" / "data").resolve())}
    assert made["common"]["seed"] == 42 and made["criterion"] == {"_name": "cloze"} and made["model"]["_name"] == "lora"
    assert made["dataset"]["batch_size"] == 16 and made["checkpoint"]["best_checkpoint_metric"] == "accuracy"
    lines = [(data / f"k8-{seed}" / "lines" / "train.jsonl").read_text() for seed in ("seed13", "seed42")]
    assert lines[0] != lines[1] and all(text.count("\n") == 16 for text in lines)
    table = (out / "table.md").read_text()
    assert "SST-2: samples are drawn from train.tsv as the published ones were, whose files are not there." in table
    assert "the sample's, n - 1" in table and "it trains, with an output layer of its own" in table and "| zero-shot |" in table
    # All of it again: nothing is done; and one seed more: its runs alone.
    assert start(*flags, *SMALL, backbone=encoder) == 0 and start.done == []
    assert start(*"--tasks SST-2 --methods lora --seeds 21 --k 4".split(), *SMALL, backbone=encoder) == 0
    assert names(start) == ["SST-2 lora k=4 seed 21, train", "SST-2 lora k=4 seed 21, evaluate"]


def test_what_chose_the_checkpoint_and_what_trained_is_told(start, encoder, tmp_path):
    def log(run, stage):
        if stage.trains:
            told = "num. shared model params: 2,000 (num. trained: 1,234)\nnum. expert model params: 0 (num. trained: 0)\n"
            (run.directory / "train.log").write_text(told)

    start.before = log
    flags = "--tasks SST-2 --methods zero-shot lora --seeds 13 --k 4 --set checkpoint.best_checkpoint_metric=loss".split()
    assert start(*flags, *SMALL, backbone=encoder) == 0
    made = config(tmp_path / "out/SST-2/lora/k=4/seed13")["checkpoint"]
    assert made["best_checkpoint_metric"] == "loss" and made["maximize_best_checkpoint_metric"] is False
    table = (tmp_path / "out/table.md").read_text()
    assert "at the checkpoint with the best loss on the development set" in table
    assert "Weights that train: lora 1,234." in table and "it trains, with an output layer of its own" in table
    assert "| zero-shot |" in table.split("## What a run costs")[0] and "zero-shot" not in table.split("## What a run costs")[1]


def test_a_table_of_zero_shot_says_nothing_of_training(start, encoder, tmp_path):
    assert start(*"--tasks SST-2 --methods zero-shot --seeds 13 --k 4".split(), backbone=encoder) == 0
    table = (tmp_path / "out/table.md").read_text()
    assert "| zero-shot |" in table and "language-model head" not in table and "Weights that train" not in table
    assert "What a run costs" not in table


def test_samples_that_are_not_the_published_ones_are_named(start, encoder, tmp_path, capsys):
    labels = ["entailment", "neutral", "contradiction", "-"]
    lines = [{"sentence1": f"It is {i}.", "sentence2": "It is.", "gold_label": labels[i % 4]} for i in range(48)]
    for name, of in (("train_10k", lines), ("dev", lines[::-1])):
        rows.write_lines(tmp_path / "SNLI" / f"{name}.jsonl", of)
    flags = "--tasks SNLI --methods lora --seeds 13 --k 4 --strict".split()
    words = "SNLI: train_10k.jsonl stands in for the whole training file; its rows are not the published ones"
    for _ in range(2):
        assert start(*flags, *SMALL, backbone=encoder, data=[tmp_path]) == 0
        assert f"warning: {words}\n" in capsys.readouterr().out
    assert f"{words}." in (tmp_path / "out/table.md").read_text()
    made = json.loads((tmp_path / "out/data/SNLI/k4-seed13/prepared.json").read_text())
    assert made["rows"] == {"train": 12, "valid": 12, "test": 36}  # without those of the label "-"


def test_an_interrupted_call_goes_on(start, encoder):
    def interrupt(run, stage):
        if stage.name == "evaluate":
            raise KeyboardInterrupt

    flags = "--tasks SST-2 --methods lora --seeds 13 --k 4".split()
    start.before = interrupt
    assert start(*flags, *SMALL, backbone=encoder) == INTERRUPTED
    start.before = lambda run, stage: None
    assert start(*flags, *SMALL, backbone=encoder) == 0
    assert names(start) == ["SST-2 lora k=4 seed 13, evaluate"]


def test_a_call_with_other_data_is_refused(start, encoder, files, tmp_path, capsys):
    flags = "--tasks SST-2 --methods lora --seeds 13 --k 4".split()
    assert start(*flags, *SMALL, backbone=encoder) == 0
    assert start(*flags, *SMALL, "--data-seed", 1, backbone=encoder) == 1
    assert "holds a run that differs in the data seed" in capsys.readouterr().err
    shutil.copytree(files / "SST-2", tmp_path / "files" / "SST-2")
    with open(tmp_path / "files" / "SST-2" / "train.tsv", "a") as file:
        file.write("one more\t1\n")
    assert start(*flags, *SMALL, backbone=encoder, data=[tmp_path / "files"]) == 1
    shown = capsys.readouterr().err
    assert "k4-seed13: holds data of other files or settings" in shown and "delete it, and those runs too" in shown
    # The data alone deleted: the run that was made of the old ones is not in one table with new ones.
    shutil.rmtree(tmp_path / "out/data")
    assert start(*flags, *SMALL, backbone=encoder, data=[tmp_path / "files"]) == 1
    assert "seed13: holds a run that differs in the data files" in capsys.readouterr().err


def test_one_sample_for_all_seeds(start, encoder, tmp_path):
    assert start(*"--tasks SST-2 --methods lora --seeds 1 2 --k 4 --data-seed 7".split(), *SMALL, backbone=encoder) == 0
    assert [path.name for path in (tmp_path / "out" / "data" / "SST-2").iterdir()] == ["k4-seed7"]
    assert config(tmp_path / "out" / "SST-2" / "lora" / "k=4" / "seed2")["common"]["seed"] == 2


@pytest.mark.parametrize("smoothed, kept", [(2.0, 0.1), (2.1, 0.0)])
def test_a_sweep_of_written_answers_does_not_choose_by_how_little_is_smoothed(smoothed, kept):
    """The loss has the smoothing in it; of equal ones the value that is given first is kept."""
    name, benchmark = "criterion.label_smoothing", FewShot()
    benchmark.earlier = {"SQuAD": "f1"}
    found = []
    for smoothing, told in ((0.1, {"loss": 2.5, "nll_loss": smoothed}), (0.0, {"loss": 2.0, "nll_loss": 2.0})):
        record = Record("fewshot", "SQuAD", "lora", 13, {name: smoothing})
        found.append(Result(record, {"valid": {"loss": told["loss"]}}, 1.0, 4, 4, None, [Validation(4, 1.0, told)], {}))
    search = choose(found, {name: [0.1, 0.0]}, benchmark.selection)
    assert [dict(one.value)[name] for one in search.candidates if one.chosen] == [kept]


def test_a_grid_is_a_sweep_of_the_paper(start, encoder, tmp_path):
    flags = "--tasks SST-2 --methods zero-shot lora lora-nbar --seeds 13 --k 4 --grid bar".split()
    fixed = ("--set", "optimizer.bar_alpha=2.0", *SMALL)  # of this setting no grid is trained
    assert start(*flags, *fixed, backbone=encoder) == 0
    methods = [name.split()[1] for name in names(start) if name.endswith("evaluate")]
    assert {name: methods.count(name) for name in methods} == {"zero-shot": 1, "lora": 3, "lora-nbar": 6}
    made = tmp_path / "out/SST-2/lora-nbar/k=4/optimization.lr=0.0003/optimizer.bar_schedule=cosine/seed13"
    assert config(made)["optimizer"] | {"base": None} == {
        "_name": "bar",
        "bar_variant": "nbar",
        "bar_alpha": 2.0,
        "bar_schedule": "cosine",
        "base_optimizer": "adam",
        "base": None,
    }
    assert "By accuracy on dev, chosen on the development set, which is not reported." in (tmp_path / "out/table.md").read_text()


def test_a_grid_is_of_its_methods_alone(start, encoder, tmp_path, capsys):
    """MeZO's Table 15 has other values for full fine-tuning than for LoRA."""
    flags = [*"--tasks SST-2 --seeds 13 --k 4 --grid mezo".split(), *SMALL]
    for method, lr in (("base", "1e-05"), ("lora-sam", "0.0001")):
        assert start(*flags, "--methods", "zero-shot", method, backbone=encoder) == 0
        assert len([name for name in names(start) if "train" in name]) == 9
        batch = {"base": 32, "lora-sam": 4}[method]
        assert (tmp_path / f"out/SST-2/{method}/k=4/dataset.batch_size={batch}/optimization.lr={lr}/seed13/run.yaml").is_file()
    for methods, words in (
        ("base lora", "--grid mezo: full and lora methods have a grid each; give a call to each, with the same --out"),
        ("sam --grid bar", "--grid bar: these settings have no grid for full methods; they have one for lora methods"),
    ):
        assert start(*flags, "--methods", *methods.split(), backbone=encoder) == 1
        assert words in capsys.readouterr().err and start.done == []


@pytest.mark.parametrize("more, batch", [("", 8), ("--settings bar", 4)])
def test_a_grid_is_trained_in_its_own_settings(start, tmp_path, more, batch):
    """MeZO's for OPT have batches of 8 and 5 epochs, BAR's batches of 4 and 1,000 updates."""
    pytest.importorskip("transformers")
    import published_decoders

    from sharp_plugins.convert.decoder_conversion import convert_decoder

    convert_decoder(published_decoders.write(tmp_path / "opt", "opt", max_position_embeddings=256), tmp_path / "decoder")
    settings = read_yaml(ROOT / "sharp_plugins/fewshot/tasks/decoder/SST-2.yaml")
    (tmp_path / "SST-2.yaml").write_text(yaml.safe_dump({**settings, "rows": {"valid": 4}}))
    flags = ["--tasks", tmp_path / "SST-2.yaml", *f"--methods base --seeds 13 --examples 16 --grid mezo {more}".split()]
    assert start(*flags, backbone=tmp_path / "decoder") == 0
    made = config(tmp_path / "out/SST-2/base/examples=16/optimization.lr=8e-05/seed13")
    assert made["dataset"]["batch_size"] == batch
    assert made["optimization"]["max_update"] == {8: 2 * 5, 4: 1000}[batch]


def test_epochs_end_at_an_update(start, encoder, tmp_path):
    """These settings save at updates alone: a run that ends with its epochs would leave no checkpoint."""
    flags = "--tasks SST-2 --methods lora --seeds 13 --k 4 --set dataset.batch_size=4 --set optimization.max_epoch=3".split()
    assert start(*flags, backbone=encoder) == 0
    made = config(tmp_path / "out/SST-2/lora/k=4/seed13")["optimization"]
    assert made["max_update"] == 6 and made["max_epoch"] == 3  # 8 rows, three times
    assert start(*flags, "--set", "optimization.max_update=9", backbone=encoder, out="both") == 0
    assert config(tmp_path / "both/SST-2/lora/k=4/seed13")["optimization"]["max_update"] == 6


def test_a_sample_that_was_deleted_is_made_again_for_the_runs_that_are_there(start, encoder, files, tmp_path, capsys):
    """How many updates a run has depends on its sample; without it the run would seem to be of other settings."""
    flags = "--tasks SST-2 --methods lora --k 4 --set dataset.batch_size=4 --set optimization.max_epoch=3 --seeds".split()
    assert start(*flags, "13", backbone=encoder) == 0
    shutil.rmtree(tmp_path / "out" / "data")
    assert start(*flags, "21", backbone=encoder) == 0
    assert [name.split(", ")[0] for name in names(start)] == ["SST-2 lora k=4 seed 21"] * 2
    there = tmp_path / "out/data/SST-2"
    assert sorted(path.name for path in there.iterdir()) == ["k4-seed13", "k4-seed21"]
    # Not of other files than the run's, which would stand in the way of the right ones.
    shutil.rmtree(tmp_path / "out" / "data")
    shutil.copytree(files, tmp_path / "other")
    with open(tmp_path / "other/SST-2/train.tsv", "a") as file:
        file.write("x\t0\n")
    assert start(*flags, "42", backbone=encoder, data=[tmp_path / "other"]) == 1
    assert "holds a run that differs in the data files" in capsys.readouterr().err
    assert not (there / "k4-seed13").exists()


@pytest.mark.parametrize(
    "settings, updates",
    [
        ({"optimization.update_freq": 2}, 4 + 4 + 4),
        ({"optimization.update_freq": "[2]"}, 4 + 4 + 4),
        ({"optimization.update_freq": "[4,2]"}, 2 + 4 + 4),
        ({"optimization.update_freq": "[3,1]", "distributed_training.distributed_world_size": 2}, 2 + 4 + 4),
        ({"dataset.batch_size": 3, "distributed_training.distributed_world_size": 2}, 2 + 2 + 2),
    ],
)
def test_the_last_update_is_fairseqs(start, encoder, tmp_path, monkeypatch, settings, updates):
    """Of 8 rows, three times, in batches of one."""
    monkeypatch.setattr(schedule, "check_workers", lambda *_: None)  # as if there were GPUs
    flags = "--tasks SST-2 --methods lora --seeds 13 --k 4 --set optimization.max_epoch=3".split()
    for name, value in {"dataset.batch_size": 1, **settings}.items():
        flags += ["--set", f"{name}={value}"]
    assert start(*flags, backbone=encoder) == 0
    assert config(tmp_path / "out/SST-2/lora/k=4/seed13")["optimization"]["max_update"] == updates


def test_a_warm_up_is_shorter_than_training(start, encoder, capsys):
    flags = "--tasks SST-2 --methods lora --seeds 13 --k 4 --set lr_scheduler.warmup_updates=4".split()
    assert start(*flags, *SMALL, backbone=encoder) == 1 and start.done == []
    assert "error: --set lr_scheduler.warmup_updates=4: training has 4 updates" in capsys.readouterr().err


def test_answers_that_do_not_fit_are_told_in_the_commands_own_flags(start, decoder, tmp_path, capsys):
    """An answer may have 50 symbols."""
    for name, count, context in (("short", 20, "C"), ("long", 20, "C" * 20)):
        lines = [{"title": "X", "context": context, "question": "Q?", "answers": [str(i)]} for i in range(count)]
        for split, of in (("train", lines), ("dev", lines[::-1])):
            rows.write_lines(tmp_path / name / f"{split}-v1.1.jsonl", of)
    settings = read_yaml(ROOT / "sharp_plugins/fewshot/tasks/decoder/SQuAD.yaml")
    (tmp_path / "SQuAD.yaml").write_text(yaml.safe_dump({**settings, "rows": {"train": 4, "valid": 2, "test": 4}}))
    flags = ["--tasks", tmp_path / "SQuAD.yaml", *"--methods lora --seeds 13 --max-positions".split()]
    left = ", and nothing of the prompt would be left; give a larger --max-positions where the model has more"
    for positions, data, words in (
        (40, "long", "--max-positions: there are 40 positions, and 50 of them are for an answer: none is left for its prompt"),
        (51, "long", f"of text do not fit into 51 positions{left}"),
        (51, "short", f"symbols leaves less than 50 of 51 positions, which an answer may need{left}"),
    ):
        assert start(*flags, positions, *SMALL, backbone=decoder, data=[tmp_path / data]) == 1 and start.done == []
        shown = capsys.readouterr().err
        assert words in shown and "--too-long" not in shown and "--room" not in shown


def test_a_task_of_ones_own(start, encoder, tmp_path):
    table = [[f"{rows.sentence(i)} {i}", "ba"[i % 2]] for i in range(40)]
    rows.write_table(tmp_path / "own" / "train.tsv", ["text", "mark"], table)
    rows.write_table(tmp_path / "own" / "test.tsv", ["text", "mark"], table[:6])
    settings = {
        "kind": "cloze",
        "files": {"train": ["own/train"], "test": ["own/test"]},
        "fields": {"text": ["text"]},
        "label": "mark",
        "labels": {"bad": ["a"], "good": ["b"]},
        "sentences": ["{text}"],
        "layout": {"template": [{"sentence": 1}, " It was", "<mask>"], "words": {"bad": "bad", "good": "good"}, "max_length": 64},
    }
    (tmp_path / "marks.yaml").write_text(yaml.safe_dump(settings))
    flags = ("--tasks", tmp_path / "marks.yaml", "--methods", "lora", "--seeds", 1, "--k", 4, *SMALL)
    assert start(*flags, backbone=encoder, data=[tmp_path]) == 0
    assert names(start) == ["marks lora k=4 seed 1, train", "marks lora k=4 seed 1, evaluate"]
    line = json.loads((tmp_path / "out/data/marks/k4-seed1/lines/train.jsonl").read_text().splitlines()[0])
    assert line["label"] in ("bad", "good") and len(line["sentences"]) == 1


# ---------------------------------------------------------------------- decoders


def test_each_training_of_a_decoder(start, decoder, files, tmp_path, capsys):
    flags = "--tasks SST-2 COPA SQuAD --methods lora-obar zero-shot --seeds 13 --examples 8".split()
    small = tmp_path / "tasks"
    small.mkdir()
    for name in ("SST-2", "COPA", "SQuAD"):  # with small development sets
        settings = read_yaml(ROOT / "sharp_plugins/fewshot/tasks/decoder" / f"{name}.yaml")
        (small / f"{name}.yaml").write_text(yaml.safe_dump({**settings, "rows": {"valid": 4}}))
    flags[1:4] = [str(small / f"{name}.yaml") for name in ("SST-2", "COPA", "SQuAD")]
    assert start(*flags, backbone=decoder) == 0, capsys.readouterr().err
    made = {name: config(tmp_path / "out" / name / "lora-obar" / "examples=8" / "seed13") for name in ("SST-2", "COPA", "SQuAD")}
    assert {name: one["task"]["_name"] for name, one in made.items()} == {
        "SST-2": "candidates",
        "COPA": "prompted_generation",
        "SQuAD": "prompted_generation",
    }
    assert {name: one["checkpoint"]["best_checkpoint_metric"] for name, one in made.items()} == dict.fromkeys(made, "loss")
    assert made["SST-2"]["optimization"]["max_update"] == 2 and made["SST-2"]["model"]["base_arch"].startswith(
        "sharp_"
    )  # 8 rows, twice
    data = tmp_path / "out" / "data"
    without_end = [made[name]["task"].get("leave_out_end", False) for name in ("SST-2", "COPA", "SQuAD")]
    assert without_end == [False, True, False]  # SQuAD writes its answers, and must end them
    texts = [json.loads(line) for line in (data / "COPA/examples8-seed13/lines/train.jsonl").read_text().splitlines()]
    assert {one["text"] for one in texts} == {" it fell.", " I ran."} and texts[0]["prompt"].endswith(" because")
    answers = json.loads((data / "SQuAD/test/lines/test.jsonl").read_text().splitlines()[1])
    assert answers["texts"] == ["1", "1!"] and answers["prompt"].endswith("Question: What?\nAnswer:")
    commands = {name: " ".join(stage.command) for name, stage in start.done}
    trained = [" ".join(name.split()[:2]) for name in commands if name.endswith("train")]
    assert trained == ["SST-2 lora-obar", "COPA lora-obar", "SQuAD lora-obar"]
    copa = commands["COPA lora-obar examples=8 seed 13, evaluate"]
    assert (
        "sharp_plugins.candidates evaluate checkpoint_best.pt" in copa
        and "COPA/examples8-seed13/choices --splits valid test" in copa
    )
    greedy = commands["SQuAD zero-shot examples=8 seed 13, generate"]
    assert "/model.pt --gen-subset test --beam 1 --max-len-b 50 --min-len 0" in greedy and "data/SQuAD/test/data" in greedy
    table = (tmp_path / "out" / "table.md").read_text()
    assert "SQuAD, F1" in table and "exact match" in table


def test_a_tasks_own_number_of_rows(start, decoder, tmp_path, capsys):
    settings = read_yaml(ROOT / "sharp_plugins/fewshot/tasks/decoder/SST-2.yaml")
    for name, count in (("few", 6), ("more", 8)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**settings, "rows": {"train": count, "valid": 4}}))
    flags = [*"--methods lora --seeds 13 --tasks".split(), tmp_path / "few.yaml"]
    assert start(*flags, backbone=decoder) == 0
    assert names(start)[0] == "few lora examples=6 seed 13, train"
    assert start(*flags, tmp_path / "more.yaml", backbone=decoder) == 1
    assert "different numbers of rows to train on (few: 6, more: 8); give --examples" in capsys.readouterr().err


def test_a_written_task_of_ones_own_stays_in_the_table(start, decoder, tmp_path):
    for name, of in (("quiz", "SQuAD"), ("mood", "SST-2")):
        settings = read_yaml(ROOT / "sharp_plugins/fewshot/tasks/decoder" / f"{of}.yaml")
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**settings, "rows": {"valid": 4}}))
        flags = ["--tasks", tmp_path / f"{name}.yaml", *"--methods lora --seeds 13 --examples 8".split()]
        assert start(*flags, backbone=decoder) == 0
    table = (tmp_path / "out/table.md").read_text()
    assert "quiz, F1" in table and "20.0" in table


def test_texts_tell_no_accuracy_while_they_are_trained(start, decoder, capsys):
    flags = "--tasks COPA --methods lora --seeds 13 --set checkpoint.best_checkpoint_metric=accuracy".split()
    assert start(*flags, backbone=decoder) == 1
    assert "best_checkpoint_metric=accuracy: COPA trains texts" in capsys.readouterr().err and start.done == []


def test_opt_prompts_begin_with_s(tmp_path, files):
    """MeZO's code sets OPT's start to <s>; the model's own is </s>."""
    pytest.importorskip("transformers")
    import published_decoders

    from sharp_plugins.candidates.prepared import load_parts, read_candidates
    from sharp_plugins.convert.decoder_conversion import convert_decoder

    convert_decoder(published_decoders.write(tmp_path / "opt", "opt", max_position_embeddings=256), tmp_path / "decoder")
    line = ["prepare", "--backbone", tmp_path / "decoder", "--data", files, "--tasks", "SST-2", "--examples", 8, "--seeds", 13]
    task = read_yaml(ROOT / "sharp_plugins/fewshot/tasks/decoder/SST-2.yaml")
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**task, "rows": {"valid": 4}}))
    line[line.index("SST-2")] = tmp_path / "small.yaml"
    first = {}
    for flags in ([], ["--start", "none"], ["--start", ""], ["--start", "</s>"]):
        out = tmp_path / "-".join(["out", *flags])
        assert main([*map(str, line), *flags, "--out", str(out)]) == 0
        made = json.loads((out / "small/examples8-seed13/prepared.json").read_text())
        assert made["rows"] == {"train": 8, "valid": 4, "test": 12}
        prepared = read_candidates(out / "small/examples8-seed13/data")
        dictionary = prepared.dictionary()
        sequences = load_parts(prepared, "train", dictionary)[0]
        first[tuple(flags)] = {dictionary[int(sequences[row][0])] for row in range(len(sequences))}
    assert first[()] == {"<s>"} and first["--start", "</s>"] == {"</s>"} and not first["--start", "none"] & {"<s>", "</s>"}
    assert first["--start", ""] == first["--start", "none"]


# ---------------------------------------------------------------------- whole runs


def test_zero_shot_of_a_model_of_the_other_kind(encoder, decoder, files, tmp_path):
    line = ["prepare", "--backbone", encoder, "--data", files, "--tasks", "SST-2", "--k", 4, "--seeds", 13, "--out", tmp_path]
    assert main([*map(str, line)]) == 0
    with pytest.raises(ValueError, match="k4-seed13: the sample is for an encoder, and .* is a decoder"):
        zero_shot(decoder, tmp_path / "SST-2" / "k4-seed13", "cpu")


def test_zero_shot_is_computed_once(encoder, files, tmp_path, monkeypatch):
    line = ["prepare", "--backbone", encoder, "--data", files, "--tasks", "SST-2", "--k", 4, "--seeds", 13, "--out", tmp_path]
    assert main([*map(str, line)]) == 0
    sample = tmp_path / "SST-2" / "k4-seed13"
    scores = zero_shot(encoder, sample, "cpu")["test"]
    assert scores["examples"] == 12 and 0 <= scores["accuracy"] <= 100
    monkeypatch.setattr("sharp_plugins.fewshot.zero_shot._cloze", None)
    assert zero_shot(encoder, sample)["test"] == scores


def test_zero_shot_of_a_sample_that_cannot_be_written(encoder, files, tmp_path, monkeypatch, capsys):
    """Keeping the scores there only saves the next call's time."""
    line = ["prepare", "--backbone", encoder, "--data", files, "--tasks", "SST-2", "--k", 4, "--seeds", 13, "--out", tmp_path]
    assert main([*map(str, line)]) == 0
    sample = tmp_path / "SST-2" / "k4-seed13"

    def refuse(path, text):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("sharp_plugins.fewshot.zero_shot.write_text", refuse)
    capsys.readouterr()
    assert main(["zero-shot", str(encoder), str(sample), "--json", str(tmp_path / "scores.json"), "--device", "cpu"]) == 0
    warning, told = capsys.readouterr().out.splitlines()
    assert warning.startswith(f"warning: {sample}/zero-shot.json: the scores cannot be kept there") and "denied" in warning
    accuracy = json.loads((tmp_path / "scores.json").read_text())["test"]["accuracy"]
    assert told == f"test: accuracy {accuracy:.2f}" and not (sample / "zero-shot.json").exists()


def test_zero_shot_needs_a_test_set_alone(start, decoder, files, tmp_path, capsys):
    data = shutil.copytree(files, tmp_path / "test sets", ignore=shutil.ignore_patterns("train*"))
    flags = "--tasks COPA SQuAD --seeds 13 --methods".split()
    assert start(*flags, "zero-shot", backbone=decoder, data=[data]) == 0
    assert {name.split(",")[0] for name in names(start)} == {
        f"{task} zero-shot examples=1000 seed 13" for task in ("COPA", "SQuAD")
    }
    assert start(*flags, "zero-shot", "lora", backbone=decoder, data=[data], out="trained") == 1
    assert "no train file of COPA" in capsys.readouterr().err


def test_zero_shot_of_what_it_cannot_score(decoder, tmp_path, capsys):
    sample = tmp_path / "SQuAD"
    assert main(["zero-shot", str(decoder), str(sample)]) == 1
    assert f"{sample}: no sample, which has a prepared.json" in capsys.readouterr().err
    sample.mkdir()
    for stamp, words in (
        ({"source": {}}, ["its prepared.json is of other data than"]),
        (
            {"source": {"task": {"name": "SQuAD", "kind": "decoder", "training": "generation"}}},
            ["answers of SQuAD are written", f"\nfairseq-generate {sample}/data --user-dir ", "> generated.txt\npython -m "],
        ),
    ):
        (sample / "prepared.json").write_text(json.dumps(stamp))
        assert main(["zero-shot", str(decoder), str(sample)]) == 1
        shown = capsys.readouterr().err
        assert all(text in shown for text in words)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_a_whole_run(kind, files, tmp_path, request):
    size = ["--k", 4] if kind == "encoder" else ["--examples", 8]
    task = "SST-2"
    if kind == "decoder":
        settings = read_yaml(ROOT / "sharp_plugins/fewshot/tasks/decoder/SST-2.yaml")
        (tmp_path / "SST-2.yaml").write_text(yaml.safe_dump({**settings, "rows": {"valid": 6}}))
        task = tmp_path / "SST-2.yaml"
    flags = ["--backbone", request.getfixturevalue(kind), "--data", files, "--tasks", task, "--methods", "lora-nbar", "--seeds", 13]
    more = ["--set", "optimization.max_update=4", "--set", "dataset.validate_interval_updates=2"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sharp_plugins.fewshot",
            "run",
            *map(str, [*flags, *size, *more, "--cpu", "--out", tmp_path / "out"]),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "out").rglob("result.json")
    result = json.loads(path.read_text())
    assert result["updates"] == 4 and result["metrics"]["test"]["examples"] == 12
    assert result["metrics"]["valid"]["examples"] == {"encoder": 8, "decoder": 6}[kind]
    # The settings of encoders validate at no epoch's end.
    updates = [one["update"] for one in result["validations"]]
    assert updates == {"encoder": [2, 4], "decoder": [1, 2, 3, 4]}[kind] and "accuracy" in result["validations"][0]["metrics"]
    assert not list(path.parent.glob("checkpoint*.pt"))
