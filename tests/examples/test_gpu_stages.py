"""What `examples/benchmarks/gpu.sh` is made of: stages with time limits, their summary, and the wheels that it takes along."""

import math
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "examples" / "benchmarks"


@pytest.fixture
def stages(script):
    return script("stages")


def says(stages, name, code, limit=60.0, **more):
    """A stage that runs *code*, and whose table is what is in its log."""
    return stages.Stage(name, [sys.executable, "-c", code], limit, f"{name}.log", **more)


def outcomes(runner):
    return {outcome.stage.name: outcome.status for outcome in runner.outcomes}


# ---------------------------------------------------------------------- the runner


def test_a_failing_stage_stops_no_other(stages, tmp_path):
    runner = stages.Runner(tmp_path, 60, "Title")
    runner.run([says(stages, "first", "print('one'); raise SystemExit(3)")])
    runner.run([stages.Stage("missing", ["/there/is/no/such/program"], 60.0, "missing.log")])
    runner.run([says(stages, "second", "print('two')", tables=lambda: "| a table |")])
    assert outcomes(runner) == {"first": "failed: exit status 3", "missing": stages.NOT_BEGUN, "second": stages.DONE}
    assert runner.failed == ["first", "missing"]
    assert "one" in (tmp_path / "first.log").read_text() and "two" in (tmp_path / "second.log").read_text()
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("# Title\n") and "| first | failed: exit status 3 |" in summary
    assert "| second | done |" in summary and summary.endswith("| a table |\n")


def test_a_stage_that_hangs_is_ended_with_all_that_it_started(stages, tmp_path):
    """Its child too, which ignores the first signal; what it wrote until then is kept."""
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    code = (
        f"import subprocess, sys, time\nprint(subprocess.Popen([sys.executable, '-c', {child!r}]).pid, flush=True); time.sleep(600)"
    )
    runner, log = stages.Runner(tmp_path, 60, "Title"), tmp_path / "slow.log"
    stage = says(stages, "slow", code, limit=15.0, tables=lambda: f"so far: {len(log.read_text().splitlines())} lines")
    start = time.monotonic()
    runner.run([stage])
    runner.run([says(stages, "next", "pass")])
    assert time.monotonic() - start < 50
    assert outcomes(runner) == {"slow": stages.LATE, "next": stages.DONE}
    assert "so far: " in (tmp_path / "summary.md").read_text()
    *_, pid, word = log.read_text().split()
    assert word == "deaf"
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # until it is reaped, by whoever does that on this machine
            os.kill(int(pid), 0)
            if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
                raise ProcessLookupError
            time.sleep(0.1)


def test_stages_side_by_side(stages, tmp_path):
    """Each waits for a file that the other writes."""
    code = "import pathlib, time; pathlib.Path({own!r}).touch()\nwhile not pathlib.Path({other!r}).exists(): time.sleep(0.05)"
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    runner = stages.Runner(tmp_path / "out", 60, "Title")
    runner.run([says(stages, "one", code.format(own=a, other=b)), says(stages, "two", code.format(own=b, other=a))])
    assert outcomes(runner) == {"one": stages.DONE, "two": stages.DONE}


def test_without_time_left_nothing_is_begun(stages, tmp_path):
    runner = stages.Runner(tmp_path, stages.LEAST / 2, "Title")
    runner.run([says(stages, "late", "print('ran')")])
    assert outcomes(runner) == {"late": stages.LEFT_OUT} and not (tmp_path / "late.log").exists()
    assert "| late | left out: no time left |" in (tmp_path / "summary.md").read_text()


def test_the_time_of_all_bounds_the_time_of_each(stages, tmp_path):
    runner = stages.Runner(tmp_path, stages.LEAST + 2, "Title")
    start = time.monotonic()
    runner.run([says(stages, "slow", "import time; time.sleep(600)", limit=600.0)])
    assert outcomes(runner) == {"slow": stages.LATE} and time.monotonic() - start < 30


def test_a_stage_leaves_the_time_of_those_after_it(stages, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "LEAST", 1.0)
    runner = stages.Runner(tmp_path, 12, "Title")
    runner.run([says(stages, "greedy", "import time; time.sleep(600)", limit=math.inf, spare=1000.0)])  # a third is left
    runner.run([says(stages, "report", "print('told')")])
    assert outcomes(runner) == {"greedy": stages.LATE, "report": stages.DONE}
    assert "told" in (tmp_path / "report.log").read_text()


def test_where_no_more_than_the_spare_time_is_left_only_the_later_stages_run(stages, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "LEAST", 45.0)
    runner = stages.Runner(tmp_path, 60, "Title")  # at most a third is spared
    runner.run([says(stages, "next study", "pass", limit=math.inf, spare=200.0), says(stages, "beside it", "pass")])
    runner.run([says(stages, "report", "pass")])
    assert outcomes(runner) == {"next study": stages.LEFT_OUT, "beside it": stages.DONE, "report": stages.DONE}


def test_closing_stages_run_without_time_left_and_within_their_limits(stages, tmp_path):
    runner = stages.Runner(tmp_path, 0, "Title")
    runner.run(
        [says(stages, "tidy", "print('up')"), says(stages, "hangs", "import time; time.sleep(600)", limit=2.0)], is_closing=True
    )
    assert outcomes(runner) == {"tidy": stages.DONE, "hangs": stages.LATE}


def test_an_end_from_outside_keeps_what_there_is(tmp_path):
    """SIGTERM, as from a machine that is taken back: the stage is ended, its table is in the summary."""
    code = f"""
import signal, sys
sys.path[:0] = [{str(BENCHMARKS)!r}]
from stages import Runner, Stage
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
slow = [sys.executable, "-c", "print('begun', flush=True); import time; time.sleep(600)"]
Runner({str(tmp_path)!r}, 600, "Title").run([Stage("slow", slow, 600.0, "slow.log", tables=lambda: "half a table")])
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        for _ in range(600):
            if (tmp_path / "slow.log").exists() and "begun" in (tmp_path / "slow.log").read_text().split():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 7
    finally:
        process.kill()
    summary = (tmp_path / "summary.md").read_text()
    assert "| slow | ended from outside |" in summary and summary.endswith("half a table\n")


# ---------------------------------------------------------------------- its stages


def test_the_stages_are_all_there_in_their_order(script, tmp_path):
    gpu = script("gpu_stages")
    (tmp_path / "fairseq.whl").touch()
    given = ["--wheels", tmp_path, "--minilm", tmp_path, "--glue", tmp_path, "--out", tmp_path / "out"]
    groups = gpu.plan(gpu.arguments([str(part) for part in given]), tmp_path)
    names = [stage.name for group in groups for stage in group if stage.name != "contract"]
    timed = [f"{file} {one}" for file in ("step_time", "adapters") for one in ("bf16", "fp32", "fp16")]
    assert names[:4] == ["set-up", "machine", "tests", "waits"] and names[4:10] == timed
    assert names[10] == "bar alone" and len([name for name in names if name.startswith("memory, ")]) == 6
    assert names[-1] == "glue, table"
    stages = {stage.name: stage for group in groups for stage in group}
    assert tmp_path / "fairseq.whl" in stages["set-up"].command
    assert all("roberta-large" in stages[name].command for name in timed)
    # The logs and the summary, of which the machine sends eight files back.
    assert len({stage.log for stage in stages.values()} | {"summary.md"}) <= 8
    assert sum(max(stage.limit for stage in group) for group in groups[:5]) < 9 * 60


def test_glue_wants_both_its_directories(script, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script("gpu_stages").arguments(["--glue", str(tmp_path)])
    assert "--minilm" in capsys.readouterr().err


LOG = """\
[gw1] [  2%] PASSED tests/gpu/test_a.py::test_one[fp16-sam]
[gw0] [  5%] FAILED tests/gpu/test_a.py::test_two[a b]
[gw0] [  7%] SKIPPED tests/gpu/test_b.py::test_three
[gw0] [  9%] ERROR tests/gpu/test_b.py::test_four
tests/gpu/test_b.py::test_five
SKIPPED [2] tests/gpu/test_b.py:7: needs a GPU: one reason
SKIPPED [3] tests/gpu/test_a.py:9: needs a GPU: one reason
"""


def test_what_the_tests_said_is_counted(script):
    text = script("gpu_stages").tests_table("tests", LOG)
    assert "| tests/gpu/test_a.py | 1 | 1 | 0 |" in text and "| tests/gpu/test_b.py | 0 | 1 | 1 |" in text
    assert "* FAILED: `tests/gpu/test_a.py::test_two[a b]`" in text and "* ERROR: `tests/gpu/test_b.py::test_four`" in text
    assert "* skipped 5: needs a GPU: one reason" in text


@pytest.mark.slow
def test_a_dry_run(tmp_path):
    """On a CPU, of three stages: the tests that want a GPU are found and skip, a script makes its table."""
    command = [
        "bash",
        BENCHMARKS / "gpu.sh",
        "--device",
        "cpu",
        "--quick",
        "--out",
        tmp_path,
        "--only",
        "machine",
        "tests",
        "adapters",
    ]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run([str(part) for part in command], env=environment, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    summary = (tmp_path / "summary.md").read_text()
    for row in ("| machine | done |", "| tests | done |", "| adapters bf16 | done |", "| oBAR / LoRA |", "| numpy |"):
        assert row in summary
    assert "### tests" in summary and "needs a GPU: " in summary and "* FAILED" not in summary


def test_what_would_run_nothing_is_refused(tmp_path):
    """A misspelt stage had ended with 0 stages, and success; without wheels all stages had failed, one after the other."""
    for flags, words in (
        (["--only", "machine", "tset"], "error: --only tset: no stage's name begins so; there are machine, "),
        (["--wheels", tmp_path], f"--wheels {tmp_path}: there is no wheel in it; gpu_wheels.sh makes them"),
    ):
        command = [sys.executable, BENCHMARKS / "gpu_stages.py", "--device", "cpu", "--quick", "--out", tmp_path / "out", *flags]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        assert done.returncode != 0 and words in done.stderr


# ---------------------------------------------------------------------- what is taken along


def test_fairseqs_wheel_without_what_is_not_used(script, tmp_path):
    wheel, record = tmp_path / "ve_fairseq-0.whl", "ve_fairseq-0.dist-info/RECORD"
    names = ["fairseq/__init__.py", "fairseq/examples/big/model.py", "fairseq/libnat.cpython-312.so", "fairseq/data/examples.py"]
    with zipfile.ZipFile(wheel, "w") as file:
        for name in names:
            file.writestr(name, name)
        file.writestr(record, "".join(f"{name},sha256=x,1\n" for name in names))
    for _ in range(2):
        script("gpu_wheels").main(str(tmp_path))
        with zipfile.ZipFile(wheel) as file:
            assert file.namelist() == [names[0], names[3], record]
            assert file.read(names[3]).decode() == names[3]
            assert [line.split(",")[0] for line in file.read(record).decode().splitlines()] == [names[0], names[3]]
