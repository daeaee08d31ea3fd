"""The made-up benchmark with real fairseq processes: run, killed in each stage, shared by two calls, interrupted side by side."""

import json
import os
import shutil
import signal
import time

import engine
import made_up
import processes
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    benchmark = made_up.Backwards()
    benchmark.sentences, benchmark.data = 32, tmp_path_factory.mktemp("data") / "data"
    benchmark.prepare("short")
    return benchmark.data


@pytest.fixture
def place(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "out" / "data")
    return tmp_path


def run_of(place, method, seed=1):
    return place / "out" / "short" / method / f"seed{seed}"


def until(is_so, process, place):
    """Wait."""
    start = time.monotonic()
    while not is_so():
        assert process.poll() is None and time.monotonic() - start < processes.LIMIT, (place / "shown").read_text()
        time.sleep(0.02)


def end(process, place, status=0):
    assert process.wait(processes.LIMIT) == status, (place / "shown").read_text()
    text = (place / "shown").read_text()
    assert "Traceback" not in text
    return text


def has(path, words):
    return lambda: path.exists() and words in path.read_text()


def test_real_runs_side_by_side(place):
    line = "--tasks short --methods lora-nbar base sam untrained --seeds 1 --jobs 2".split()
    begin = time.monotonic()
    end(engine.start(place, *line), place)
    took = (time.monotonic() - begin) / 60
    found = {}
    for method in ("base", "lora-nbar", "sam", "untrained"):
        directory = run_of(place, method)
        result = json.loads((directory / "result.json").read_text())
        assert 0 <= result["metrics"]["valid"]["words"] <= 100 and 0 < result["minutes"] < took
        assert 1 << 26 < result["memory"] < 1 << 34
        assert len((directory / "generated.txt").read_text().split("\nH-")) > 1
        assert not list(directory.glob("*.pt")) and (directory / "threads.json").is_file()
        entries = [json.loads(one) for one in (directory / "train.log").read_text().splitlines() if one.startswith('{"epoch"')]
        found[method] = [entry for entry in entries if "num_updates" in entry]
        updates = 1 if method == "untrained" else 12
        assert result["updates"] == updates and [one["update"] for one in result["validations"]][-1] == updates
        assert all(one["metrics"]["loss"] > 0 for one in result["validations"])
    assert "sam_radius" in found["sam"][0] and "bar_alpha" in found["lora-nbar"][0] and "sam_radius" not in found["base"][0]
    assert "checkpoint_best.pt" in (run_of(place, "lora-nbar") / "run.yaml").read_text()
    before = {path: path.stat().st_mtime_ns for path in (place / "out" / "short").rglob("*")}
    assert "4 runs, 4 of them finished before" in end(engine.start(place, *line), place)
    assert {path: path.stat().st_mtime_ns for path in (place / "out" / "short").rglob("*")} == before


def test_killed_in_each_stage_and_completed(place):
    line = "--tasks short --methods base --seeds 1 --keep-checkpoints --set optimization.max_update=40".split()
    directory = run_of(place, "base")
    whole = place / "whole"
    whole.mkdir()
    shutil.copytree(place / "out" / "data", whole / "out" / "data")
    end(engine.start(whole, *line), whole)
    # Each stage in turn waits long enough to be killed.
    slow = "stages = made_up.Backwards.stages\nSLOW = {!r}\n"
    slow += "def slowly(self, run):\n    wait = 'import time; print(\"waits\", flush=True); time.sleep(600); '\n"
    slow += "    code = ['python', '-c', wait]\n"
    slow += "    return [s._replace(command=code) if s.name == SLOW else s for s in stages(self, run)]\n"
    slow += "made_up.Backwards.stages = slowly"
    for stage, log, words in (
        ("", "train.log", '"num_updates": "10"'),
        ("generate", "generated.txt", ""),
        ("score", "score.log", "waits"),
    ):
        process = engine.start(place, *line, change=slow.replace("{!r}", repr(stage)))
        if stage == "generate":
            until(
                lambda: any("waits" in path.read_text() for path in directory.glob(".unfinished-*/generated.txt")), process, place
            )
        else:
            until(has(directory / log, words), process, place)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (directory / "result.json").exists() and (stage == "score") == (directory / "generated.txt").exists()
    end(engine.start(place, *line), place)
    assert not list(directory.glob(".unfinished*"))
    text = (directory / "train.log").read_text()
    assert text.count("done training") == 1 and "Loaded checkpoint" in text
    processes.assert_same_training(directory, run_of(whole, "base"))
    one, other = (json.loads((path / "result.json").read_text()) for path in (directory, run_of(whole, "base")))
    assert one["metrics"] == other["metrics"] and one["updates"] == other["updates"] == 40
    told = [[(v["update"], v["metrics"]["loss"]) for v in result["validations"]] for result in (one, other)]
    assert told[0] == told[1] and len(told[0]) == 10


def test_two_calls_share_a_directory(place):
    line = "--tasks short --methods base sam --seeds 1 --set optimization.max_update=20".split()
    both = [engine.start(place, *line) for _ in range(2)]
    assert {process.wait(processes.LIMIT) for process in both} <= {0, 1}
    errors = [one for one in end(engine.start(place, *line), place).splitlines() if one.startswith("error: ")]
    assert all(one.endswith(("another process is at it", "are not finished; see above")) for one in errors)
    for method in ("base", "sam"):
        directory = run_of(place, method)
        assert (directory / "train.log").read_text().count("done training") == 1 and (directory / "result.json").is_file()


@pytest.mark.parametrize("who", ["the terminal's processes", "the call"])
def test_an_interruption_ends_all_runs_cleanly(place, who):
    line = "--tasks short --methods base sam --seeds 1 --jobs 2 --set optimization.max_update=100000".split()
    process = engine.start(place, *line)
    logs = [run_of(place, method) / "train.log" for method in ("base", "sam")]
    until(lambda: all(has(log, '"num_updates": "9"')() for log in logs), process, place)
    os.killpg(process.pid, signal.SIGINT) if who != "the call" else process.terminate()
    text = end(process, place, 130)
    assert "interrupted; run the same command again to go on" in text and "error" not in text
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody is left
    assert not list(place.rglob(".unfinished*"))
