"""``python -m sharp_plugins.glue run``: what it refuses before any training, what it goes on with, and what its tables say."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import glue_files
import processes
import pytest
import torch
from made_up_results import cells

from sharp_plugins.glue import benchmark, binarize
from sharp_plugins.glue.__main__ import main
from sharp_plugins.glue.tasks import TASKS
from sharp_plugins.runs import stages
from sharp_plugins.runs.command import INTERRUPTED, RUNS_FAILED
from sharp_plugins.runs.stages import RunFailed
from sharp_plugins.text.encoder_directory import load_backbone

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("tokenizers")  # backbones are converted with it


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    for task in ("RTE", "STS-B", "CoLA"):
        glue_files.write_task(directory, task, counts=(64, 40, 4))
    return directory


def save(path, updates):
    """A checkpoint, as far as the engine reads it."""
    place = {"epoch": 3, "iterations_in_epoch": 0}
    history = [{"num_updates": updates}]
    torch.save({"optimizer_history": history, "extra_state": {"train_iterator": place, "previous_training_time": 90.0}}, path)


@pytest.fixture
def start(bert, data, tmp_path, monkeypatch, no_pictures):
    """Calls the command in this process; `start.done` lists the stages that were done, which make what real ones make."""
    done, perform = [], stages.perform

    def stand_in(run, stage, *rest):
        done.append(f"{run.name}, {stage.name}")
        start.before(run, stage)
        if stage.trains:
            for name in ("checkpoint_best.pt", "checkpoint_last.pt"):
                save(run.directory / name, run.config["optimization"]["max_update"])
        elif start.value is None:
            perform(run, stage, *rest)
        else:
            metric = benchmark.TASKS[run.record.task].selected
            (run.directory / stage.makes).write_text(json.dumps(start.scores(run) or {"valid": {metric: start.value(run)}}))
            stages._mark(run, {**stages._marks(run), stage.name: list(stage.command)})

    def start(*flags, backbone=bert, data=data, out="out"):
        done.clear()
        line = ["--backbone", backbone, "--data", data, "--out", tmp_path / out, "--max-positions", 64, "--cpu", *flags]
        return main(["run", *(str(part) for part in line)])

    monkeypatch.setattr(stages, "perform", stand_in)
    start.done, start.before, start.value = done, lambda run, stage: None, lambda run: 50.0
    start.scores = lambda run: None
    return start


def trained(start):
    return [name.removesuffix(", train") for name in start.done if name.endswith(", train")]


def fail(run, stage):
    raise RunFailed(f"{run.name}: {stage.name} failed")


# ---------------------------------------------------------------------- before training


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--seeds 1 2 1", "--seeds: 1 given more than once"),
        ("--tasks RTE CoLA RTE", "--tasks: RTE given more than once"),
        ("--methods sam sam", "--methods: sam given more than once"),
        ("--tasks WNLI", "--tasks WNLI: there is no such task; choose from CoLA"),
        ("--tasks sst2 --sweep optimizer.sam_rho=0.1,0.2", "--tasks sst2: there is no such task; choose from CoLA"),
        ("--methods sgd", "--methods sgd: there is no such method"),
        ("--methods nbar", "--methods nbar: BAR balances LoRA"),
        ("--tasks MNLI", "MNLI/train.tsv: not there"),
        ("--max-positions 999", "--max-positions must be"),
        ("--set lr=3", "--set lr=3: should be part.name=value"),
        ("--configs /nowhere", "RTE.yaml: not there"),
        ("--set checkpoint.best_checkpoint_metric=f1", "metric=f1: of RTE choose from loss, nll_loss, accuracy"),
        (
            "--set criterion.report_mcc=true --set checkpoint.best_checkpoint_metric=mcc",
            "--set criterion.report_mcc=true: fairseq tells it of labels that are numbers, and RTE's are words",
        ),
        ("--set criterion.report_acc_and_f1=true", "report_acc_and_f1=true: fairseq tells it of labels that are numbers"),
        ("--set criterion.report_pearson_and_spearman=true", "report_pearson_and_spearman=true: fairseq tells it of labels that"),
        ("--set checkpoint.best_checkpoint_metric=bleu", "metric=bleu: of RTE choose from loss, nll_loss, accuracy"),
        ("--set generation.beam=3", "RTE base: generation.beam would change nothing"),
        ("--set checkpoint.no_last_checkpoints=true", "checkpoint.no_last_checkpoints leaves no last checkpoint"),
        ("--set dataset.disable_validation=true", "dataset.disable_validation leaves no best checkpoint to measure"),
        ("--train-rows 20 0", "--train-rows 0: give a number of rows"),
        ("--train-rows 20 20", "--train-rows: a value is given more than once"),
        ("--train-rows 65", "RTE/train.tsv: --train-rows 65: the training set has 64 rows"),
        ("--tasks RTE STS-B --label-noise 0.2", "the labels of STS-B are numbers: leave it out of --tasks"),
        (
            "--methods sam --set optimizer.sam_start=50 --set optimization.max_update=6",
            "RTE sam: --sam-start 50: the first climb would be after 50 updates of 6; the engine",
        ),
        ("--label-noise 1", "--label-noise 1.0: give a share"),
        ("--selection-rows -1", "--selection-rows -1: give a number of rows"),
        ("--selection-noise --selection-rows 9", "--selection-noise makes labels of the rows"),
        ("--submission --train-rows 9", "--submission is of models of the whole training set"),
        ("--methods r3f --set criterion.r3f_eps=0", "RTE r3f: --r3f-eps must be a finite number that is larger than 0, and is 0"),
        ("--methods rdrop --sweep criterion.rdrop_alpha=1,-1", "RTE rdrop: --rdrop-alpha must be a finite number"),
        ("--data-seed 3", "--data-seed draws a part of the training set"),
    ],
)
def test_what_does_not_fit_is_told_before_training(start, capsys, flags, words):
    assert start(*"--tasks RTE --methods base --seeds 1".split(), *flags.split()) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and words in shown and "Traceback" not in shown
    assert start.done == []


@pytest.mark.parametrize("epochs, status", [(2000, 0), (10, 1)])  # of 4 updates
def test_a_late_first_validation_is_seen_against_the_updates_of_the_epochs(start, capsys, epochs, status):
    """And not against the settings' own number, which --set optimization.max_epoch replaces."""
    changes = f"--set optimization.max_epoch={epochs} --set dataset.validate_after_updates=3000"
    assert start(*"--tasks RTE --methods base --seeds 1".split(), *changes.split()) == status
    assert ("validate_after_updates leaves no best checkpoint" in capsys.readouterr().err) == bool(status)


@pytest.mark.parametrize(
    "flags, words",
    [
        ("", "the epoch with the best value of the task's first metric; of equal ones the last."),
        ("--set checkpoint.best_checkpoint_metric=loss", "the epoch with the best loss; of equal ones the last."),
        (
            "--set checkpoint.best_checkpoint_metric=loss --selection-rows 9",
            "The epoch is chosen by loss on 9 other rows of the training set, and of equal ones the last;",
        ),
        ("--selection-rows 9", "The epoch is chosen on 9 other rows of the training set, and of equal ones the last;"),
    ],
)
def test_the_table_says_what_chose_the_epoch(start, tmp_path, flags, words):
    assert start(*"--tasks RTE --methods base --seeds 1".split(), *flags.split()) == 0
    assert words in (tmp_path / "out" / "table.md").read_text()


def test_a_backbone_that_is_missing_or_does_not_fit(start, bert, tmp_path, capsys):
    assert start("--tasks", "RTE", backbone=tmp_path / "nowhere") == 1
    assert "--backbone wants what `python -m sharp_plugins.convert` wrote" in capsys.readouterr().err
    shutil.copytree(bert, tmp_path / "bert")
    with open(tmp_path / "bert" / "dict.txt", "a") as file:
        file.write("extra 1\n")
    assert start("--tasks", "RTE", backbone=tmp_path / "bert") == 1
    assert "vocabulary does not fit" in capsys.readouterr().err
    assert start.done == []


def test_all_data_are_read_before_the_first_run(start, data, tmp_path, capsys):
    shutil.copytree(data, tmp_path / "data")
    with open(tmp_path / "data" / "CoLA" / "dev.tsv", "a") as file:
        file.write("gj04\t7\t\tA sentence .\n")
    assert start("--tasks", "RTE", "CoLA", data=tmp_path / "data") == 1
    assert "dev.tsv:41: the label is '7'" in capsys.readouterr().err and start.done == []


def test_a_second_call_with_other_settings_is_refused(start, capsys):
    start.before = fail
    flags = "--tasks RTE --methods base --seeds 1".split()
    assert start(*flags) == RUNS_FAILED  # its directory stays
    assert start(*flags, "--set", "dataset.batch_size=3") == 1
    assert "differs in dataset.batch_size" in capsys.readouterr().err


def test_a_table_is_of_one_backbone_data_and_settings(start, bert, tmp_path, capsys):
    """Also where the call's own runs are others than those that are there."""
    start.before = fail
    assert start(*"--tasks RTE --methods base --seeds 1".split()) == RUNS_FAILED
    capsys.readouterr()
    other = "--methods sam --seeds 2".split()
    assert start("--tasks", "RTE", *other, "--set", "dataset.batch_size=3") == 1
    assert "base/seed1: holds a run that differs in dataset.batch_size (there " in capsys.readouterr().err
    # The data of the run that is there are not replaced.
    stamp = (tmp_path / "out" / "data" / "RTE" / "prepared.json").read_text()
    assert start("--tasks", "RTE", *other, "--max-positions", 32) == 1
    assert "base/seed1: holds a run that differs in the data," in capsys.readouterr().err
    assert (tmp_path / "out" / "data" / "RTE" / "prepared.json").read_text() == stamp
    another = shutil.copytree(bert, tmp_path / "another")
    with open(another / "tokenizer.json", "a") as file:
        file.write("\n")
    assert start("--tasks", "CoLA", *other, backbone=another) == 1  # of another task, even
    assert "base/seed1: holds a run that differs in the backbone," in capsys.readouterr().err
    assert not (tmp_path / "out" / "data" / "CoLA").exists()


@pytest.mark.parametrize(
    "setting",
    [
        "optimizer.unknown=1",
        "optimizer.bar_alhpa=1",
        "optimization.max_updates=3",
        "task.clases=2",
        "criterion.rdrop_beta=1",
        "criterion.unknown=1",
        "model.lora_rnak=4",
        "model.adapter_sizes=4",
        "model.unknown=1",
    ],
)
def test_settings_that_fairseq_does_not_know_are_told_before_training(start, capsys, setting):
    assert start(*"--tasks RTE --methods base sam --seeds 1".split(), "--set", setting) == 1
    shown = capsys.readouterr().err
    assert "error: RTE " in shown and ": fairseq does not know such a setting" in shown and start.done == []
    assert setting.split("=")[0].split(".")[1] in shown


def test_what_is_in_the_place_of_a_run_is_named(start, tmp_path, capsys):
    line = "--tasks RTE --methods base --seeds 1".split()
    assert start(*line) == 0
    record = tmp_path / "out" / "RTE" / "base" / "seed1" / "record.json"
    text = record.read_text()
    record.write_text(text.replace('"base"', '"old-sam"'))
    assert start(*line) == 1 and start.done == []
    assert "out/RTE/base/seed1: in a run's place, and old-sam is no method" in capsys.readouterr().err
    record.write_text(text.replace('"RTE"', '"WNLI"'))
    assert start(*line) == 1 and start.done == []
    assert "out/RTE/base/seed1: in a run's place, and WNLI is no task" in capsys.readouterr().err


def test_data_that_another_call_has_replaced_train_no_run(start, bert, data, tmp_path, capsys):
    """As long as no run of a task has begun, its data may be made anew."""

    def before(run, stage):
        if run.record.task == "CoLA" and stage.trains:
            place = tmp_path / "out" / "data" / "RTE"
            binarize.prepare(data, load_backbone(bert), TASKS["RTE"], place, 32, replaces=True)  # as another call of the engine

    start.before = before
    assert start("--tasks", "CoLA", "RTE", "--methods", "base", "--seeds", 1) == 1
    assert trained(start) == ["CoLA base seed 1"] and not list((tmp_path / "out" / "RTE").rglob("record.json"))
    assert "error: RTE base seed 1: not begun: another call has made " in capsys.readouterr().err
    assert start("--tasks", "CoLA", "RTE", "--methods", "base", "--seeds", 1) == 0 and trained(start) == ["RTE base seed 1"]


def test_runs_of_older_versions_are_refused(start, tmp_path, capsys):
    """Their result.json has no record beside it, and other names in it."""
    line = "--tasks RTE --methods base --seeds 1".split()
    assert start(*line) == 0
    (tmp_path / "out" / "RTE" / "base" / "seed1" / "record.json").unlink()
    assert start(*line) == 1 and start.done == []
    assert "RTE/base/seed1: a run without a record.json, as older versions left it; move it away" in capsys.readouterr().err


def test_submissions_that_cannot_be_written_are_told_before_training(start, data, tmp_path, capsys):
    flags = "--tasks RTE --methods base --seeds 1".split()
    assert start(*flags) == 0
    assert start(*flags, "--submission") == 1
    assert "--submission: " in (shown := capsys.readouterr().err) and "seed1 was finished without it" in shown
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "RTE" / "test.tsv").unlink()
    assert start(*flags, "--submission", data=tmp_path / "data", out="other") == 1
    assert "--submission: there is no test set of RTE" in capsys.readouterr().err


def test_data_are_fetched_where_they_are_missing(start, tmp_path, monkeypatch):
    asked = []

    def download(task, directory):
        asked.append(task.name)
        glue_files.write_task(Path(directory), task.name)

    monkeypatch.setattr(benchmark, "download", download)
    line = ("--tasks", "RTE", "--methods", "base", "--seeds", 1, "--download")
    assert start(*line, "--configs", "/nowhere", data=tmp_path / "new") == 1 and asked == []  # what is wrong is told first
    assert start(*line, data=tmp_path / "new") == 0
    assert asked == ["RTE"] and trained(start) == ["RTE base seed 1"]


def test_the_help_has_all_flags_and_imports_no_fairseq():
    code = "import sys\nfrom sharp_plugins.glue.__main__ import main\ntry:\n    main(['run', '--help'])\n"
    code += "except SystemExit as end:\n    assert end.code == 0 and 'fairseq' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("usage: python -m sharp_plugins.glue run ")
    engines = "--tasks --methods --seeds --out --set --sweep --jobs --devices --cpu --keep-checkpoints"
    own = "--data --backbone --max-positions --skip-malformed --download --configs --submission"
    assert all(f"\n  {flag} " in done.stdout or f"\n  {flag}\n" in done.stdout for flag in (engines + " " + own).split())


def test_the_settings_come_with_the_package():
    assert benchmark.CONFIGS.is_relative_to(Path(benchmark.__file__).parent)
    found = {path.relative_to(benchmark.CONFIGS) for path in benchmark.CONFIGS.glob("*/*.yaml")}
    assert len(found) == 3 * (len(benchmark.TASKS) + 2)


# ---------------------------------------------------------------------- the order of runs, and what they leave


def test_missing_runs_are_done_and_finished_ones_skipped(start, tmp_path, capsys):
    values = iter([60.0, 62.0, 61.0, 65.0, 40.0])
    start.value = lambda run: next(values)
    assert start("--tasks", "RTE", "--methods", "base", "sam", "--seeds", 1, 2) == 0
    assert trained(start) == ["RTE base seed 1", "RTE sam seed 1", "RTE base seed 2", "RTE sam seed 2"]
    shown = capsys.readouterr().out
    assert "4 runs, 0 of them finished before" in shown and "train: 64 rows of train.tsv" in shown
    assert "[2/4] RTE sam seed 1: accuracy 62.00 in epoch 2; 2036 updates, 1.5 min" in shown
    assert re.search(
        r"\n\+ cd \S+/RTE/sam/seed1; \S+=\S+ .*python -m sharp_plugins.glue evaluate checkpoint_best.pt \S+/out/data/RTE --json",
        shown,
    )
    text = (tmp_path / "out" / "table.md").read_text()
    rows = [row[2:7] for row in cells(text, "## All runs")[1:]]
    assert rows == [["base", "2", "60.50", "0.71", "61.00"], ["sam", "2", "63.50", "2.12", "65.00"]]  # 60, 61; 62, 65
    # One more method: its run alone.
    assert start("--tasks", "RTE", "--methods", "base", "lora", "--seeds", 1) == 0
    assert trained(start) == ["RTE lora seed 1"]
    assert "2 runs, 1 of them finished before" in capsys.readouterr().out
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| lora " in text and "| sam " in text


@pytest.mark.parametrize("error", [RunFailed("RTE base seed 1: out of memory"), OSError("checkpoint_last.pt: cannot be read: x")])
def test_a_run_that_fails_does_not_stop_the_others(start, tmp_path, capsys, error):
    def before(run, stage):
        if run.method.name == "base":
            raise error

    start.before = before
    assert start("--tasks", "RTE", "--methods", "base", "sam", "--seeds", 1) == (RUNS_FAILED if isinstance(error, RunFailed) else 1)
    shown = capsys.readouterr()
    assert f"error: {error}" in shown.err and "1 of 2 runs are not finished" in shown.err
    assert "RTE sam seed 1: accuracy 50.00" in shown.out and "| sam " in (tmp_path / "out" / "table.md").read_text()


def test_an_error_in_the_evaluation_does_not_stop_the_others(start, tmp_path, capsys):
    """It is a process of its own, and here finds a checkpoint without a model."""
    start.value = None
    assert start(*"--tasks RTE --methods base sam --seeds 1".split()) == RUNS_FAILED
    assert trained(start) == ["RTE base seed 1", "RTE sam seed 1"]
    shown = capsys.readouterr().err
    assert "RTE base seed 1: scoring the best epoch ended with 1" in shown
    assert shown.count("error: checkpoint_best.pt: no classifier with 2 outputs, as RTE wants it") == 2
    assert sorted(path.name for path in (tmp_path / "out" / "RTE" / "base" / "seed1").glob("*.pt")) == [
        "checkpoint_best.pt",
        "checkpoint_last.pt",
    ]
    # Training is over; the evaluation is done again.
    start.value = lambda run: 50.0
    assert start(*"--tasks RTE --methods base --seeds 1".split()) == 0 and start.done == ["RTE base seed 1, evaluate"]
    assert not list((tmp_path / "out" / "RTE" / "base" / "seed1").glob("*.pt"))


def test_what_the_evaluation_is_asked_for(start, tmp_path):
    seen = []
    start.before = lambda run, stage: seen.append((stage.name, stage.log, " ".join(stage.command)))
    assert start(*"--tasks RTE --methods base --seeds 1 --submission".split()) == 0
    data = (tmp_path / "out" / "data" / "RTE").resolve()
    line = f"python -m sharp_plugins.glue evaluate checkpoint_best.pt {data} --json scores.json"
    line += " --device cpu --submission submission"
    assert [one[:2] for one in seen] == [("train", "train.log"), ("evaluate", "evaluate.log")] and seen[1][2] == line
    result = json.loads((tmp_path / "out" / "RTE" / "base" / "seed1" / "result.json").read_text())
    files = {"train": "train.tsv", "valid": "dev.tsv", "test": "test.tsv"}
    assert result["notes"] == {"best_epoch": 2, "files": files, "chosen_by": "accuracy"}
    assert (result["minutes"], result["updates"], result["checkpoints"]) == (1.5, 2036, "deleted")


def test_an_interruption_says_how_to_go_on(start, capsys):
    def before(run, stage):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)

    handler = signal.getsignal(signal.SIGTERM)
    start.before = before
    assert start("--tasks", "RTE", "--methods", "base", "--seeds", 1) == INTERRUPTED
    assert "run the same command again" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is handler


# ---------------------------------------------------------------------- real processes

TINY = "optimization.max_update={} optimization.lr=[0.01] lr_scheduler.warmup_updates=2 common.log_interval=1"


@pytest.fixture
def found(monkeypatch):
    """Processes in other directories find the package."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def command(bert, data, out, updates, *flags):
    line = [
        sys.executable,
        "-m",
        "sharp_plugins.glue",
        "run",
        "--backbone",
        bert,
        "--data",
        data,
        "--out",
        out,
        "--max-positions",
        64,
        "--cpu",
    ]
    for change in TINY.format(updates).split():
        line += ["--set", change]
    return [str(part) for part in (*line, *flags)]


def entries(log):
    """The whole entries of a log; a killed process leaves half a line at its end."""
    lines = [line for line in log.read_text().splitlines() if line.startswith('{"epoch"') and line.endswith("}")]
    return [json.loads(line) for line in lines]


@pytest.mark.slow
@pytest.mark.usefixtures("found")
def test_real_runs(bert, data, tmp_path):
    methods = ("lora-nbar", "dsam-r3f", "houlsby", "smart")
    flags = f"--tasks RTE --methods {' '.join(methods)} --seeds 3 --submission".split()
    line = command(bert, data, tmp_path / "out", 20, *flags)
    shown = processes.execute(line, tmp_path)
    assert "4 runs, 0 of them finished before" in shown and "DEBUG" not in shown
    logs = {}
    for method in methods:
        directory = tmp_path / "out" / "RTE" / method / "seed3"
        result = json.loads((directory / "result.json").read_text())
        found = entries(directory / "train.log")
        # fairseq's own validations: the best of them, the last of equal ones, and its epoch.
        validated = [(float(entry["valid_accuracy"]), entry["epoch"]) for entry in found if "valid_accuracy" in entry]
        assert [epoch for _, epoch in validated] == [1, 2, 3]  # 64 rows in batches of 8: 8, 16, 20 updates
        best, epoch = max(validated)
        assert result["metrics"]["valid"]["accuracy"] == pytest.approx(best, abs=0.051)
        assert result["notes"]["best_epoch"] == epoch and result["updates"] == 20
        wall = max(float(entry["train_wall"]) for entry in found if "train_wall" in entry)
        assert 0 < result["minutes"] * 60 <= wall + 5
        assert f"RTE {method} seed 3: accuracy {result['metrics']['valid']['accuracy']:.2f}" in shown
        assert not list(directory.glob("*.pt"))
        submitted = (directory / "submission" / "RTE.tsv").read_text().splitlines()
        assert submitted[0] == "index\tprediction" and len(submitted) == 5
        logs[method] = found
    last = {method: [entry for entry in found if "num_updates" in entry][-1] for method, found in logs.items()}
    assert "bar_alpha" in last["lora-nbar"] and "bar_alpha" not in last["smart"]
    assert {"dsam_r", "sam_radius", "symm_kl"} <= last["dsam-r3f"].keys() and "sam_radius" not in last["smart"]
    assert "smart_bregman" in last["smart"]
    trained = {
        m: re.search(r"adapters of size 64: ([\d,]+) of", (tmp_path / "out/RTE" / m / "seed3/train.log").read_text())
        for m in methods
    }
    assert [method for method in methods if trained[method]] == ["houlsby"]
    # Again: nothing is trained, and the table is the same.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "RTE").rglob("*")}
    table = (tmp_path / "out" / "table.md").read_text()
    assert "4 runs, 4 of them finished before" in processes.execute(line, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "RTE").rglob("*")} == before
    assert (tmp_path / "out" / "table.md").read_text() == table


@pytest.mark.slow
@pytest.mark.usefixtures("found")
def test_real_runs_of_other_metrics(data, tmp_path):
    roberta = glue_files.convert_small(tmp_path, "roberta")
    line = command(roberta, data, tmp_path / "out", 16, *"--tasks STS-B CoLA --methods sam --seeds 1".split())
    processes.execute(line, tmp_path)
    for task, metric in (("STS-B", "pearson"), ("CoLA", "mcc")):
        directory = tmp_path / "out" / task / "sam" / "seed1"
        metrics = json.loads((directory / "result.json").read_text())["metrics"]["valid"]
        logged = [entry.get(f"valid_{metric}") for entry in entries(directory / "train.log")]
        logged = [float(value) for value in logged if value is not None]
        assert metrics[metric] == pytest.approx(max(logged), abs=0.051) and len(logged) > 1
        assert set(metrics) == {"STS-B": {"pearson", "spearman"}, "CoLA": {"mcc"}}[task]


def kill_when(process, directory, log_words):
    """Kill a process and all its children once *log_words* are in the run's log."""
    start = time.monotonic()
    log = directory / "train.log"
    while not (log.exists() and log_words in log.read_text()):
        assert process.poll() is None and time.monotonic() - start < processes.LIMIT
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.usefixtures("found")
def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been_killed(bert, data, tmp_path):
    flags = "--tasks RTE --methods dsam --seeds 1 --keep-checkpoints".split()
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    line = command(bert, data, killed, 80, *flags)
    process = subprocess.Popen(line, env=environment, start_new_session=True, **quiet)
    directory = killed / "RTE" / "dsam" / "seed1"
    kill_when(process, directory, "Saved checkpoint")
    assert not (directory / "result.json").exists() and (directory / "checkpoint_last.pt").exists()
    before = len(entries(directory / "train.log"))

    assert "1 runs, 0 of them finished before" in processes.execute(line, tmp_path)
    resumed = entries(directory / "train.log")[before:]
    assert int(resumed[0]["num_updates"]) > 8  # not from the beginning
    processes.execute(command(bert, data, whole, 80, *flags), tmp_path)
    processes.assert_same_training(directory, whole / "RTE" / "dsam" / "seed1")
    ours, theirs = (json.loads((out / "RTE" / "dsam" / "seed1" / "result.json").read_text()) for out in (killed, whole))
    for key in ("metrics", "notes", "best_update", "updates"):
        assert ours[key] == theirs[key]


# ---------------------------------------------------------------------- parts of the training set


def test_each_size_noise_and_seed_is_a_run_on_rows_of_its_own(start, tmp_path):
    configs = {}
    start.before = lambda run, stage: configs.update({run.name: run.config})
    sampled = "--train-rows 20 32 --label-noise 0 0.25 --tasks RTE --methods base sam --seeds 1 2".split()
    assert start(*sampled) == 0 and len(trained(start)) == 16
    data = tmp_path / "out" / "data" / "RTE-samples"
    drawn = {place.name: json.loads((place / "sample.json").read_text()) for place in data.iterdir()}
    assert len(drawn) == 8 and len({json.dumps(one) for one in drawn.values()}) == 8
    config = configs["RTE sam train-rows=32 label-noise=0.25 seed 2"]
    assert config["task"]["data"] == str((data / "rows32-noise0.25-seed2").resolve())
    # As many passes as the settings make over the published 2,490 rows.
    assert config["optimization"]["max_update"] == round(2036 * 32 / 2490)
    rows = cells((tmp_path / "out" / "table.md").read_text(), "## All runs")
    assert len(rows) == 1 + 8 and {"train-rows", "label-noise"} <= set(rows[0])
    assert start(*sampled) == 0 and trained(start) == []
    # Without noise is the same run as with a noise of 0.
    assert start(*"--train-rows 20 --tasks RTE --methods base sam --seeds 1 2".split()) == 0 and trained(start) == []


def test_runs_without_wrong_labels_have_the_updates_of_those_with_them(start):
    """The file has 64 rows and is no published one, though its name is: the table compares as many passes."""
    configs = {}
    start.before = lambda run, stage: configs.update({run.record.axes["label-noise"]: run.config})
    flags = "--label-noise 0 0.25 --tasks RTE --methods base --seeds 1".split()
    assert start(*flags) == 0
    updates = {share: config["optimization"]["max_update"] for share, config in configs.items()}
    assert updates == {0.0: round(2036 * 64 / 2490), 0.25: round(2036 * 64 / 2490)}


def test_a_warm_up_of_none_stays_none_with_parts_of_the_training_set(start, tmp_path):
    configs = {}
    shutil.copytree(benchmark.CONFIGS, tmp_path / "configs")
    path = tmp_path / "configs" / "bert" / "RTE.yaml"
    path.write_text(path.read_text().replace("warmup_updates: 122", "warmup_updates: 0"))
    start.before = lambda run, stage: configs.update({run.name: run.config})
    flags = ["--train-rows", "20", *"--tasks RTE --methods base --seeds 1 --configs".split(), str(tmp_path / "configs")]
    assert start(*flags) == 0
    assert [config["lr_scheduler"]["warmup_updates"] for config in configs.values()] == [0]


def test_rows_of_the_training_set_choose_and_the_development_set_is_reported(start, tmp_path, capsys):
    start.value = lambda run: 40.0
    flags = "--tasks RTE --methods base --seeds 1 --train-rows 20 --selection-rows 16".split()
    start.scores = lambda run: {"valid": {"accuracy": 40.0}, "dev": {"accuracy": 60.0}}
    assert start(*flags) == 0
    text = (tmp_path / "out" / "table.md").read_text()
    assert "chosen on 16 other rows of the training set" in text and "60.0" in text and "40.0" not in text
    assert start(*flags[:-2], "--selection-rows", "8") == 1
    assert "differs in the drawn rows (--selection-rows" in capsys.readouterr().err
    assert start(*flags[:-2]) == 1  # without: the development set would choose


def test_one_data_seed_draws_the_rows_of_all_runs(start, tmp_path):
    assert start(*"--tasks RTE --methods base --seeds 1 2 --train-rows 20 --data-seed 9".split()) == 0
    assert [place.name for place in (tmp_path / "out" / "data" / "RTE-samples").iterdir()] == ["rows20-noise0-seed9"]
