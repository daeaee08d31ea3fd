"""Runs that start from another one: which one it is, and how long its checkpoints stay. Training is a stand-in."""

import fcntl
import json

import made_up
import pytest
from engine import trained

from sharp_plugins.runs import needs
from sharp_plugins.runs.checkpoints import LAST
from sharp_plugins.runs.command import RUNS_FAILED
from sharp_plugins.runs.stages import RunFailed, Stage, train


def checkpoint(call, method="base", *axes):
    return call.out.joinpath("short", method, *axes, "seed1", "checkpoint_best.pt")


# ---------------------------------------------------------------------- which run it is


def test_a_swept_setting_that_both_have_use_for(call):
    started = {}
    call.before = lambda run, stage: started.update({run.name: run.needs and run.needs.name})
    assert call("--tasks short --methods base lora --seeds 1 --sweep optimization.lr=[0.01],[0.02]") == 0
    assert len(trained(call)) == 4 and not list(call.out.rglob("checkpoint*.pt"))
    for value in ("[0.01]", "[0.02]"):
        assert started[f"short lora optimization.lr={value} seed 1"] == f"short base optimization.lr={value} seed 1"


def test_a_swept_setting_that_the_needed_method_has_no_use_for(call):
    line = "--tasks short --methods base lora --seeds 1 --sweep model.lora_rank=4,8"
    assert call(line) == 0
    names = ["short base seed 1", "short lora model.lora_rank=4 seed 1", "short lora model.lora_rank=8 seed 1"]
    assert trained(call) == names and not list(call.out.rglob("checkpoint*.pt"))
    assert call("--tasks short --methods base lora --seeds 1 --sweep model.lora_alpha=1,2") == 1  # the checkpoint is gone


def test_without_the_flag_runs_of_a_sweep_have_the_same_needs(call):
    """They are checked with each call; here the settings' own value is one of those that were swept."""
    assert (
        call(
            "--tasks short --methods base lora --seeds 1 --sweep optimization.lr=[0.01],[0.02] model.lora_rank=4,8".replace(
                " model", " --sweep model"
            )
        )
        == 0
    )
    assert len(trained(call)) == 6
    assert call("--tasks short --methods sam --seeds 1") == 0 and trained(call) == ["short sam seed 1"]


def test_one_that_a_sweep_leaves_out_is_told(call, capsys, monkeypatch):
    monkeypatch.setattr(
        made_up.Backwards,
        "needs",
        lambda self, record: record._replace(method="base", axes={}) if record.method.startswith("lora") else None,
    )
    assert call("--tasks short --methods base lora --seeds 1 --sweep optimization.lr=[0.01],[0.02]") == 1
    words = "starts from short base seed 1, which is not finished; finish it first, in a call without --sweep and with --keep"
    assert words in capsys.readouterr().err and call.done == []


# ---------------------------------------------------------------------- its checkpoints


def failing_lora(call):
    def before(run, stage):
        if run.record.method == "lora":
            raise RunFailed("interrupted")

    call.before = before
    assert call("--tasks short --methods base lora --seeds 1") == RUNS_FAILED
    call.before = lambda run, stage: None


def test_a_call_keeps_what_a_run_of_another_call_needs(call):
    failing_lora(call)
    assert call("--tasks short --methods base --seeds 1") == 0 and checkpoint(call).exists()
    assert call("--tasks short --methods base sam --seeds 1") == 0 and checkpoint(call).exists()
    assert call("--tasks short --methods lora --seeds 1") == 0 and trained(call) == ["short lora seed 1"]
    assert not list(call.out.rglob("checkpoint*.pt"))


def test_it_is_kept_for_a_run_that_is_planned_and_not_begun(call):
    """The other call waits with its runs, while this one does the needed run."""

    def before(run, stage):
        if stage.trains and run.record.method == "base":
            assert (call.out / "short" / "lora" / "seed1" / "record.json").is_file()
            raise RunFailed("killed here")

    call.before = before
    assert call("--tasks short --methods base lora --seeds 1") == RUNS_FAILED
    call.before = lambda run, stage: None
    assert call("--tasks short --methods base --seeds 1") == 0 and checkpoint(call).exists()
    assert call("--tasks short --methods lora --seeds 1") == 0 and not checkpoint(call).exists()


def test_checkpoints_are_not_deleted_while_another_process_is_at_the_run(call):
    failing_lora(call)
    with open(checkpoint(call).parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert call("--tasks short --methods lora --seeds 1") == 0 and checkpoint(call).exists()
    assert call("--tasks short --methods base --seeds 1") == 0 and not checkpoint(call).exists()


def test_one_that_goes_before_the_run_begins_is_told(call, capsys, monkeypatch):
    failing_lora(call)
    monkeypatch.setattr("sharp_plugins.runs.plan.check_start", lambda run, benchmark: checkpoint(call).unlink(missing_ok=True))
    assert call("--tasks short --methods lora --seeds 1") == 1 and call.done == []
    assert "starts from short base seed 1, whose checkpoint is gone; delete" in capsys.readouterr().err


def test_it_is_the_checkpoint_that_is_measured(call, capsys, monkeypatch):
    monkeypatch.setattr(made_up.Backwards, "measured", LAST)
    failing_lora(call)
    checkpoint(call).unlink()
    assert call("--tasks short --methods lora --seeds 1") == 0
    assert callable(needs.is_needed)


# ---------------------------------------------------------------------- what a benchmark answers


def test_an_axis_that_the_benchmark_does_not_know_any_more_is_named(call, capsys, monkeypatch):
    asked = {"values": (8, 16)}
    place = made_up.Backwards.place

    def looked_up(self, config, run):
        place(self, config, run)
        dict.fromkeys(asked["values"])[run.record.axes["examples"]]

    monkeypatch.setattr(made_up.Backwards, "axes", lambda self: {"examples": asked["values"]})
    monkeypatch.setattr(made_up.Backwards, "place", looked_up)
    assert call() == 0 and len(trained(call)) == 2
    asked["values"] = (16,)
    assert call() == 1 and call.done == []
    shown = capsys.readouterr().err
    assert "examples=8/seed1: its axes are examples=8, and the benchmark finds nothing for 8; use the flags" in shown
    record = call.out / "short" / "base" / "examples=8" / "seed1" / "record.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "axes": {}}))
    assert call() == 1
    assert "its axes are none, and the benchmark finds nothing for 'examples'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["score", "train"])
def test_stages_that_would_not_be_done_are_refused_before_training(call, capsys, monkeypatch, name):
    monkeypatch.setattr(made_up.Backwards, "stages", lambda self, run: [train(run), Stage(name, ["python", "-c", "pass"])])
    assert call() == 1 and call.done == []
    assert f"error: stage {name}: " in capsys.readouterr().err
