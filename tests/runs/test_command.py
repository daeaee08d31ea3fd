"""The command on the made-up benchmark: what it refuses, what it goes on with, what it leaves. No training but in a stand-in."""

import fcntl
import io
import json
import os
import re
import signal
import sys
import time

import engine
import made_up
import pytest

from sharp_plugins.runs import execution, schedule
from sharp_plugins.runs.command import INTERRUPTED, RUNS_FAILED
from sharp_plugins.runs.stages import RunFailed


def test_what_another_call_finished_meanwhile_with_other_settings_is_in_no_table_of_this_one(call, capsys):
    """Seed 2 is planned here; while seed 1 trains, another call does seed 2 with another learning rate."""
    line = "--tasks short --methods base --seeds {} --set optimization.lr={}"
    assert call(line.format(2, 0.5)) == 0
    there, aside = call.out / "short" / "base" / "seed2", call.out.parent / "aside"
    there.rename(aside)

    def before(run, stage):
        if run.record.seed == 1 and aside.is_dir():
            aside.rename(there)

    call.before = before
    assert call(line.format("1 2", 0.25)) == 1
    assert "holds a run that differs in optimization.lr (there [0.5], now [0.25])" in capsys.readouterr().err
    assert not [name for name in call.done if "seed 2" in name]


# ---------------------------------------------------------------------- before training


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--seeds 1 2 1", "--seeds: 1 given more than once"),
        ("--tasks short short", "--tasks: short given more than once"),
        ("--tasks wide", "--tasks wide: there is no such task; choose from short, long"),
        ("--methods sgd", "--methods sgd: there is no such method; it is base, untrained, or"),
        ("--methods nbar", "--methods nbar: BAR balances LoRA"),
        ("--methods freelb", "there is no criterion freelb_label_smoothed_cross_entropy"),
        ("--methods lora", "--methods lora: starts from short base seed 1, which is not finished; put base before it"),
        ("--set lr=3", "--set lr=3: should be part.name=value"),
        ("--set common.seed=3", "--set common.seed=3: each run has a common.seed of its own"),
        ("--set optimizer.bar_variant=obar", "--set optimizer.bar_variant=obar: each run has a optimizer.bar_variant of its own"),
        ("--set optimizer.unknown=1", "short dsam: fairseq does not know such a setting"),
        ("--set optimizer.sam_rho=two", "short dsam: sam_rho cannot have this value: "),
        ("--set optimisation.max_update=1", "short base: fairseq does not know such a part of a config: optimisation; see --set"),
        (
            "--sweep optimisation.max_update=1,2",
            "short base: fairseq does not know such a part of a config: optimisation; see --set",
        ),
        ("--set optimization.max_update=x", "optimization.max_update is x, and should be a whole number from 1"),
        ("--set dataset.max_tokens=4k", "dataset.max_tokens is 4k, and should be a whole number from 0; see --set"),
        ("--set dataset.max_tokens=[4,8]", "dataset.max_tokens is [4, 8], and should be a whole number from 0"),
        ("--set dataset.validate_after_updates=x", "dataset.validate_after_updates is x, and should be a whole number from 0"),
        ("--set dataset.required_batch_size_multiple=0", "required_batch_size_multiple is 0, and should be a whole number from 1"),
        ("--set dataset.required_batch_size_multiple=null", "required_batch_size_multiple is None, and should be a whole number"),
        ("--set checkpoint.best_checkpoint_metric=5", "checkpoint.best_checkpoint_metric is 5, and should be the name of a metric"),
        ("--set optimization.update_freq=[0]", "optimization.update_freq is 0, and should be a whole number from 1"),
        ("--set lr_scheduler.warmup_updates=x", "lr_scheduler.warmup_updates is x, and should be a whole number from 0"),
        ("--set checkpoint.no_save=true", "checkpoint.no_save leaves no checkpoint to measure"),
        ("--set checkpoint.no_last_checkpoints=true", "short base: checkpoint.no_last_checkpoints leaves no last checkpoint; see"),
        (
            "--set checkpoint.no_save_optimizer_state=true",
            "short base: checkpoint.no_save_optimizer_state leaves none that a stopped run could go on from; see --set",
        ),
        *(
            (f"--set checkpoint.reset_{what}=true", f"checkpoint.reset_{what} would begin anew in each run that goes on")
            for what in ("optimizer", "lr_scheduler", "meters", "dataloader")
        ),
        ("--set checkpoint.restore_file=a.pt", "checkpoint.restore_file is the run's own checkpoint_last.pt here"),
        ("--set checkpoint.checkpoint_suffix=-a", "checkpoint.checkpoint_suffix gives checkpoints other names"),
        ("--set common.suppress_crashes=true", "common.suppress_crashes would call a training that failed finished"),
        ("--set lr_scheduler._name=constant", "short base: lr_scheduler._name is constant, and fairseq has none of that name"),
        ("--set optimization.lr=[]", "optimization.lr has no value"),
        ("--set dataset.validate_interval=0", "dataset.validate_interval is 0, and should be a whole number from 1"),
        ("--set common.log_interval=0", "common.log_interval is 0, and should be a whole number from 1"),
        ("--set model.dropout=[1,2", "--set: while parsing a flow sequence"),
        ("--sweep optimization.lr=[1e-4,2e-4", "--sweep optimization.lr=[1e-4,2e-4: while parsing a flow sequence"),
        ("--set dataset.disable_validation=true", "short base: dataset.disable_validation leaves no best checkpoint to measure"),
        (
            "--set dataset.validate_after_updates=9 --set optimization.max_update=8",
            "short base: dataset.validate_after_updates leaves no best checkpoint to measure",
        ),
        (
            "--set distributed_training.distributed_world_size=2",
            "short base seed 1: distributed_training.distributed_world_size is 2, and GPUs that a run has here: 0; see --set",
        ),
        ("--seeds -1", "--seeds -1: should be from 0 to 4294967295"),
        ("--set model.lora_rnak=1", "fairseq does not know such a setting"),
        ("--set criterion.r3f_nosie=1", "fairseq does not know such a setting"),
        ("--sweep optimizer.sam_rho=0.1", "--sweep optimizer.sam_rho=0.1: should be"),
        ("--methods sam --sweep optimizer.sam_roh=0.1,0.2", "fairseq does not know such a setting"),
        ("--jobs 0", "--jobs 0: should be at least 1"),
        ("--devices 0", "--devices 0: --cpu asks for none"),
        ("--sentences 1", "--sentences 1: should be at least 8"),
    ],
)
def test_what_does_not_fit_is_told_before_training(call, capsys, flags, words):
    assert call("--tasks short --methods base --seeds 1", *flags.split()) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and words in shown and "Traceback" not in shown and call.done == []


@pytest.mark.parametrize("part", [{"lr_scheduler": "polynomial_decay"}, {"distributed_training": None}])
def test_a_part_of_the_settings_that_has_none_by_name(call, capsys, monkeypatch, part):
    for settings in (made_up.Settings({**made_up.DSAM, **part}), made_up.Settings(made_up.DSAM, lora=part)):
        monkeypatch.setattr(made_up.Backwards, "settings", lambda self, task: settings)
        assert call() == 1 and call.done == []
        assert capsys.readouterr().err == f"error: short: {next(iter(part))}: settings by name are expected\n"


def test_a_table_is_of_one_data_set_and_settings(call, capsys):
    """Also where the call's own runs are others than those that are there."""
    assert call() == 0
    assert call("--tasks short --methods sam --seeds 2 --set dataset.batch_size=3") == 1
    assert "base/seed1: holds a run that differs in dataset.batch_size (there " in capsys.readouterr().err
    assert call("--tasks short --methods sam --seeds 2 --sentences 48") == 1
    assert "base/seed1: holds a run that differs in the data," in capsys.readouterr().err
    made_of = call.out / "short" / "base" / "seed1" / "made_of.json"
    made_of.write_text(json.dumps({**json.loads(made_of.read_text()), "maker": "another"}))
    assert call("--tasks long --methods base --seeds 1") == 1
    assert "base/seed1: holds a run that differs in the maker," in capsys.readouterr().err
    assert call.done == []


def test_what_is_in_the_place_of_a_run_is_named(call, capsys):
    assert call() == 0
    record = call.out / "short" / "base" / "seed1" / "record.json"
    text = record.read_text()
    record.write_text(text.replace('"base"', '"old-sam"'))
    assert call() == 1
    assert "base/seed1: in a run's place, and old-sam is no method; move it away" in capsys.readouterr().err
    record.write_text(text.replace('"short"', '"wide"'))
    assert call() == 1 and call.done == []
    assert "base/seed1: in a run's place, and wide is no task; move it away" in capsys.readouterr().err


# ---------------------------------------------------------------------- the order of runs, and what they leave


def test_missing_runs_are_done_and_finished_ones_skipped(call, capsys):
    line = "--tasks short --methods base sam --seeds 1 2"
    assert call(line) == 0
    assert engine.trained(call) == ["short base seed 1", "short sam seed 1", "short base seed 2", "short sam seed 2"]
    shown = capsys.readouterr().out
    assert "4 runs, 0 of them finished before" in shown and str(call.out / "table.md") in shown
    assert "[2/4] short sam seed 1: words in place, % 50.00 in epoch 1; 12 updates, 1.5 min" in shown
    assert re.search(r"\n\+ cd \S+/short/sam/seed1; (\w+=\S+ )*fairseq-hydra-train --config-dir . --config-name run", shown)
    assert re.search(r"\n\+ cd \S+/seed1; (\w+=\S+ )*fairseq-generate .* > generated.txt 2>> generate.log", shown)
    assert not list(call.out.rglob("checkpoint*.pt"))
    assert call(line) == 0 and call.done == []
    assert call("--tasks short --methods base rdrop --seeds 1") == 0 and engine.trained(call) == ["short rdrop seed 1"]
    assert "2 runs, 1 of them finished before" in capsys.readouterr().out
    text = (call.out / "table.md").read_text()
    assert all(method in text for method in ("rdrop", "base", "sam"))


@pytest.mark.parametrize(
    "error, status", [(RunFailed("out of memory"), RUNS_FAILED), (OSError("checkpoint_last.pt: cannot be read"), 1)]
)
def test_a_run_that_fails_does_not_stop_the_others(call, capsys, error, status):
    """The exit status says whether what is missing has failed by itself."""

    def before(run, stage):
        if run.record.method == "base":
            raise error

    call.before = before
    assert call("--tasks short --methods base sam lora --seeds 1") == status
    shown = capsys.readouterr()
    assert f"error: {error}" in shown.err and "2 of 3 runs are not finished" in shown.err
    assert "short lora seed 1: not begun; it needs short base seed 1, which is not finished" in shown.err
    assert "short sam seed 1: words in place" in shown.out and "sam" in (call.out / "table.md").read_text()
    call.before = lambda run, stage: None
    assert call("--tasks short --methods base sam lora --seeds 1") == 0
    assert engine.trained(call) == ["short base seed 1", "short lora seed 1"]


def test_a_need_keeps_its_checkpoints_until_it_is_met(call, capsys):
    seen = []
    call.before = lambda run, stage: seen.append(run.needs and (run.needs.directory / "checkpoint_best.pt").is_file())
    line = "--tasks short --methods lora base --seeds 1"
    assert call(line) == 0 and engine.trained(call) == ["short base seed 1", "short lora seed 1"]
    assert seen == [None] * 3 + [True] * 3 and not list(call.out.rglob("checkpoint*.pt"))
    result = json.loads((call.out / "short" / "lora" / "seed1" / "result.json").read_text())
    assert result["minutes"] == 0  # the stand-in's clock did not go on
    assert call("--tasks short --methods lora-sam --seeds 1") == 1
    assert "starts from short base seed 1, whose checkpoint is gone; delete" in capsys.readouterr().err


def test_what_a_killed_call_left_of_finished_runs_goes(call, monkeypatch):
    def killed(run, benchmark):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(execution, "clean_up", killed)
        assert call() == INTERRUPTED
    left = call.out / "short" / "base" / "seed1" / "checkpoint_best.pt"
    assert left.exists()
    line = "--tasks short --methods base --seeds 1"
    assert call(line, "--keep-checkpoints") == 0 and left.exists()
    assert call(line) == 0 and not left.exists() and call.done == []


def test_what_cannot_be_cleaned_up_ends_no_call(call, monkeypatch, capsys):
    def refused(run, benchmark):
        raise PermissionError(13, "Permission denied", "checkpoint_best.pt")

    assert call("--tasks short --methods base --seeds 1") == 0
    engine.save(call.out / "short" / "base" / "seed1" / "checkpoint_best.pt")
    monkeypatch.setattr(execution, "clean_up", refused)
    assert call("--tasks short --methods base --seeds 1") == 0
    assert "error: [Errno 13] Permission denied: 'checkpoint_best.pt'" in capsys.readouterr().err


def test_checkpoints_that_were_to_be_kept_stay(call):
    assert call("--tasks short --methods base --seeds 1 --keep-checkpoints") == 0 and call() == 0
    assert len(list(call.out.rglob("checkpoint*.pt"))) == 2


def test_checkpoints_stay_where_a_result_does_not_say_what_was_wanted(call):
    """Who reads all results says what is wrong with one."""
    assert call() == 0
    directory = call.out / "short" / "base" / "seed1"
    engine.save(directory / "checkpoint_best.pt")
    result = json.loads((directory / "result.json").read_text())
    del result["checkpoints"]
    for text in (json.dumps(result), "{[", "[]"):
        (directory / "result.json").write_text(text)
        call()
        assert (directory / "checkpoint_best.pt").exists() and call.done == []


def test_what_another_call_has_done_is_not_a_failure(call, capsys):
    """The other call is at the second run while this one passes it, and has finished it before this one ends."""
    busy = call.out / "short" / "sam" / "seed1"
    busy.mkdir(parents=True)
    with open(busy / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert call("--tasks short --methods base sam --seeds 1") == 1
        assert "short sam seed 1: another process is at it" in capsys.readouterr().err

        def before(run, stage):
            text = (call.out / "short" / "base" / "seed1" / "result.json").read_text()
            (busy / "result.json").write_text(text.replace('"base"', '"sam"'))
            (busy / "record.json").write_text(json.dumps({**run.record._asdict(), "method": "sam"}))

        call.before = before
        assert call("--tasks short --methods sam rdrop --seeds 1") == 0 and engine.trained(call) == ["short rdrop seed 1"]


def test_runs_are_done_where_nothing_can_be_printed(call, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Full())
        patch.setattr(sys, "stderr", Full())
        assert call() == 0 and (call.out / "table.md").is_file()


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interruption_says_how_to_go_on(call, capsys, jobs):
    def before(run, stage):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.3)
        raise KeyboardInterrupt  # as a real stage does when it is stopped

    handler = signal.getsignal(signal.SIGTERM)
    call.before = before
    assert call("--tasks short --methods base sam --seeds 1", "--jobs", jobs) == INTERRUPTED
    assert "interrupted; run the same command again to go on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is handler


# ---------------------------------------------------------------------- sweeps


def test_a_sweep_trains_each_value_where_it_is_used(call, capsys):
    call.value = lambda run: 60 + 100 * run.record.axes.get("optimizer.sam_rho", 0) + run.record.seed
    line = "--tasks short --methods base sam --seeds 1 2 --sweep optimizer.sam_rho=0.01,0.02"
    assert call(line) == 0
    assert len(engine.trained(call)) == 6 and "short sam optimizer.sam_rho=0.02 seed 2" in engine.trained(call)
    directory = call.out / "short" / "sam" / "optimizer.sam_rho=0.02" / "seed1"
    assert "sam_rho: 0.02" in (directory / "run.yaml").read_text()
    assert json.loads((directory / "record.json").read_text())["axes"] == {"optimizer.sam_rho": 0.02}
    assert "| 0.02 | 2 | 63.50 | 0.71 | chosen |" in " ".join((call.out / "table.md").read_text().split())
    assert call(line) == 0 and call.done == []
    # One value more.
    assert call(line.replace("0.01,", "0.01,0.05,")) == 0 and len(engine.trained(call)) == 2


def test_a_sweep_does_not_choose_on_test_data_by_oversight(call, capsys, monkeypatch):
    monkeypatch.setattr(made_up.Backwards, "measures", lambda self, task: [made_up.Measure("test", "words", "words")])
    line = "--tasks short --methods sam --seeds 1 --sweep optimizer.sam_rho=0.01,0.02"
    assert call(line) == 1 and call.done == []
    assert "--sweep: backwards has no selection of its own, and its first measure of short is on test" in capsys.readouterr().err


def test_what_a_printed_command_finds_in_its_environment_is_printed(call, capsys, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("sharp_plugins.runs.threads.for_run", lambda path, environment=None: {"OMP_NUM_THREADS": "1"})
    assert call() == 0
    assert "; OMP_NUM_THREADS=1 fairseq-hydra-train --config-dir ." in capsys.readouterr().out


# ---------------------------------------------------------------------- what goes wrong in one run


def test_a_damaged_file_of_one_run_does_not_stop_the_others(call, capsys):
    directory = call.out / "short" / "base" / "seed1"
    directory.mkdir(parents=True)
    (directory / "threads.json").write_text("{")
    assert call("--tasks short --methods base sam --seeds 1") == 1
    assert "threads.json: is to hold whole numbers" in capsys.readouterr().err and engine.trained(call) == ["short sam seed 1"]


def test_two_calls_write_their_tables_one_after_the_other(call, monkeypatch):
    """What a call has looked at is what it writes: no other writes in between."""
    free = []

    def report(self, out, results):
        with open(out / ".report.lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                free.append(False)
            else:
                free.append(True)
        return []

    monkeypatch.setattr(made_up.Backwards, "report", report)
    assert call("--tasks short --methods base --seeds 1") == 0 and free == [False]


def test_a_report_that_fails_does_not_stop_the_runs(call, capsys, monkeypatch):
    def fails(self, out, results):
        raise ValueError("the report has no ink")

    monkeypatch.setattr(made_up.Backwards, "report", fails)
    assert call("--tasks short --methods base sam --seeds 1 2") == 1
    assert len(engine.trained(call)) == 4 and "error: the report has no ink" in capsys.readouterr().err


def test_metrics_of_another_shape_are_refused_before_they_are_saved(call, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(made_up.Backwards, "collect", lambda self, run: {"bleu": 31.5})
        assert call() == RUNS_FAILED
    shown = capsys.readouterr().err
    assert "short base seed 1: no metrics: Benchmark.collect is to return numbers by split and name" in shown
    assert "'bleu': 31.5" in shown and len(list(call.out.rglob("checkpoint*.pt"))) == 2
    assert call() == 0 and call.done == []  # what was trained is there


@pytest.mark.parametrize("workers, flags, words", [(4, [], "2"), (2, ["--devices", "0,1"], "1"), (2, [], None)])
def test_a_run_has_no_more_workers_than_gpus(tmp_path, monkeypatch, capsys, workers, flags, words):
    import torch

    begun = []

    def begin(runs, *_):
        begun.extend(run.name for run in runs)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(schedule, "side_by_side", begin)
    line = f"--tasks short --methods base --seeds 1 --set distributed_training.distributed_world_size={workers}".split()
    status = made_up.main(made_up.Backwards(), ["--out", str(tmp_path / "out"), *line, *flags])
    if words is None:
        assert status == INTERRUPTED and begun == ["short base seed 1"]
    else:
        assert status == 1 and begun == []
        assert f"distributed_world_size is {workers}, and GPUs that a run has here: {words};" in capsys.readouterr().err


def test_devices_that_are_not_there_are_refused(tmp_path, monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert made_up.main(made_up.Backwards(), ["--out", str(tmp_path / "out"), "--devices", "0,2"]) == 1
    assert "error: --devices 0,2: there is no GPU 2; they are 0,1" in capsys.readouterr().err
