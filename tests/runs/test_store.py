"""A run's directory: what is read back, and what is refused."""

import json
import os
import shutil

import pytest

from sharp_plugins.runs.methods import find_method
from sharp_plugins.runs.record import Record, Result, Validation
from sharp_plugins.runs.store import (
    CONFIG,
    MADE_OF,
    RECORD,
    RESULT,
    Run,
    begin,
    check,
    check_made_of,
    directory_of,
    key,
    load_results,
    read_result,
    save_result,
    stored,
)

CONFIGURED = {"optimization": {"max_update": 10, "lr": [0.1]}, "task": {"data": "here"}}


def make_run(out, seed=1, config=CONFIGURED, **axes):
    record = Record("made-up", "RTE", "sam", seed, axes)
    return Run(record, find_method("sam"), directory_of(out, record), config, {"backbone": {"model.pt": "a"}, "data": "b"})


def make_result(run, value=50.0):
    validations = [Validation(5, 0.5, {"accuracy": 40.0}), Validation(10, 1.0, {"accuracy": value})]
    return Result(run.record, {"valid": {"accuracy": value}}, 1.5, 10, 10, 1 << 30, validations, {"files": "train.tsv"})


def test_what_is_written_is_read_back(tmp_path):
    runs = [make_run(tmp_path, seed, **{"optimizer.sam_rho": rho}) for rho in (0.05, 0.01) for seed in (2, 1)]
    results = [make_result(run, 50.0 + run.record.seed) for run in runs]
    for run, result in zip(runs, results):
        begin(run)
        save_result(run.directory, result, "kept")
    assert load_results(tmp_path, "made-up") == [results[3], results[2], results[1], results[0]]
    assert {key(record) for _, record in stored(tmp_path, "made-up")} == {key(run.record) for run in runs}


def test_the_path_is_only_a_print(tmp_path):
    run = make_run(tmp_path)
    begin(run)
    save_result(run.directory, make_result(run), "kept")
    (tmp_path / "elsewhere").mkdir()
    shutil.move(run.directory, tmp_path / "elsewhere" / "moved")
    assert stored(tmp_path, "made-up") == [(tmp_path / "elsewhere" / "moved", run.record)]
    assert load_results(tmp_path, "made-up") == [make_result(run)]
    shutil.copytree(tmp_path / "elsewhere" / "moved", tmp_path / "copy")
    with pytest.raises(ValueError, match="copy and .*moved both hold RTE sam seed 1; delete one"):
        stored(tmp_path, "made-up")


def test_a_task_may_be_on_another_disk(tmp_path):
    """A link is in its place. Links that lead back, or to what is there, are no other runs."""
    out, disk = tmp_path / "out", tmp_path / "disk"
    run = make_run(out)
    begin(run)
    save_result(run.directory, make_result(run), "kept")
    disk.mkdir()
    shutil.move(out / "RTE", disk / "RTE")
    (out / "RTE").symlink_to(disk / "RTE")
    (out / "again").symlink_to(disk / "RTE")
    (out / "own").symlink_to(out)
    (disk / "RTE" / "back").symlink_to(out)
    (disk / "RTE" / "itself").symlink_to(disk / "RTE")
    assert load_results(out, "made-up") == [make_result(run)] and run.is_finished


def test_a_path_never_leaves_the_directory(tmp_path):
    assert tmp_path in directory_of(tmp_path, Record("b", "t", "m", 1, {"x": "../../y"})).resolve().parents


def test_a_directory_with_another_run_is_refused(tmp_path):
    run = make_run(tmp_path)
    check(run)  # nothing there yet
    begin(run)
    check(run)
    check(run._replace(config={**CONFIGURED, "task": {"data": "elsewhere"}}))  # moved
    with pytest.raises(ValueError, match=r"seed1: .* differs in optimization\.max_update \(there 10, now 11\), .*--out"):
        check(run._replace(config={**CONFIGURED, "optimization": {"max_update": 11, "lr": [0.1]}}))
    with pytest.raises(ValueError, match="differs in the backbone, the data, "):
        check(run._replace(made_of={"backbone": {}, "data": "c"}))
    check_made_of(run.directory, {"backbone": {"model.pt": "a"}})  # all that other tasks share
    with pytest.raises(ValueError, match="differs in the backbone, and"):
        check_made_of(run.directory, {"backbone": {"model.pt": "c"}})


def test_another_benchmarks_runs_and_those_without_a_record_are_refused(tmp_path):
    run = make_run(tmp_path)
    begin(run)
    with pytest.raises(ValueError, match="a run of 'made-up', not of 'other'; choose another --out"):
        stored(tmp_path, "other")
    (run.directory / RECORD).unlink()
    with pytest.raises(ValueError, match="seed1: a run without a record.json"):
        stored(tmp_path, "made-up")


@pytest.mark.parametrize("name", [MADE_OF, CONFIG])
def test_a_damaged_file_of_a_run_is_named(tmp_path, name):
    run = make_run(tmp_path)
    begin(run)
    (run.directory / name).write_text("{[")
    with pytest.raises(ValueError, match=f"{name}: cannot be read: .*; delete .*seed1 to run it again"):
        check(run)


@pytest.mark.parametrize(
    "changed", [{"seed": "1"}, {"seed": True}, {"task": 3}, {"axes": {"x": []}}, {"axes": 1}, {"unknown": 1}, {"method": ""}]
)
def test_a_record_that_is_none_is_named(tmp_path, changed):
    run = make_run(tmp_path)
    begin(run)
    path = run.directory / RECORD
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(ValueError, match="record.json: not a run's record; delete"):
        stored(tmp_path, "made-up")


@pytest.mark.parametrize(
    "changed",
    [
        {"metrics": []},
        {"metrics": {"valid": {"accuracy": "high"}}},
        {"metrics": {"valid": 3}},
        {"minutes": None},
        {"validations": [{}]},
        {"validations": [{"update": 1, "minutes": 1, "metrics": {"a": "b"}}]},
        {"record": {}},
        {"notes": 1},
        {"unknown": 1},
    ],
)
def test_a_result_that_is_none_is_named(tmp_path, changed):
    run = make_run(tmp_path)
    save_result(run.directory, make_result(run), "kept")
    path = run.directory / RESULT
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(ValueError, match="result.json: not a run's result: .*; delete it to run it again"):
        read_result(path)


def test_a_result_of_another_run_is_named(tmp_path):
    one, other = make_run(tmp_path, 1), make_run(tmp_path, 2)
    begin(one)
    save_result(one.directory, make_result(other), "kept")
    with pytest.raises(ValueError, match="result.json: not its run's: RTE sam seed 2"):
        load_results(tmp_path, "made-up")


def test_what_a_killed_process_left_unfinished_is_no_run(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    begin(run)
    for name in (RECORD, CONFIG):
        left = run.directory / f".unfinished-{name}"
        left.mkdir()
        (left / name).write_text("{")
    assert [directory for directory, _ in stored(tmp_path, "made-up")] == [run.directory]


def test_a_directory_that_goes_while_runs_are_looked_for_is_none(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    begin(run)
    going = run.directory / "going"
    going.mkdir()
    scan = os.scandir

    def scandir(path="."):
        if str(path) == str(going):
            shutil.rmtree(going, ignore_errors=True)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert [directory for directory, _ in stored(tmp_path, "made-up")] == [run.directory] and not going.exists()
