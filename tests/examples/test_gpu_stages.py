"""What `examples/benchmarks/gpu.sh` is made of: stages with time limits, their summary, and the wheels that it takes along."""

import importlib
import io
import json
import math
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "examples" / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Imports a script of examples/benchmarks by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


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
    stage = says(stages, "slow", code, limit=3.0, tables=lambda: f"so far: {len(log.read_text().splitlines())} lines")
    start = time.monotonic()
    runner.run([stage])
    runner.run([says(stages, "next", "pass")])
    assert time.monotonic() - start < 30
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


def test_where_no_more_than_the_spare_time_is_left_only_the_later_stages_run(stages, tmp_path):
    runner = stages.Runner(tmp_path, stages.LEAST + 5, "Title")
    runner.run([says(stages, "next study", "pass", limit=math.inf, spare=20.0), says(stages, "beside it", "pass")])
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


def test_cells_of_studies_are_made_one_after_the_other(script, tmp_path, capsys):
    """After each its report and its results are in the output: a machine may be taken back at any time."""
    gpu = script("gpu_stages")
    given = ["--minilm", str(tmp_path), "--glue", str(tmp_path), "--out", str(tmp_path / "out"), "--studies"]
    groups = gpu.plan(gpu.arguments([*given, "few:CoLA-300", "noise:MRPC-1000-noise0.2"]), tmp_path)
    assert [[stage.name for stage in group] for group in groups] == [
        ["machine"],
        ["studies, convert"],
        ["studies, MPS"],
        ["studies, few CoLA-300"],
        ["studies, few's report after CoLA-300"],
        ["studies, results after CoLA-300"],
        ["studies, noise MRPC-1000-noise0.2"],
        ["studies, noise's report after MRPC-1000-noise0.2"],
        ["studies, results after MRPC-1000-noise0.2"],
    ]
    # The models that are for other data stay there, and so they are measured there.
    sets = [tmp_path / "snli.tsv", tmp_path / "RTE" / "dev.tsv.gz"]
    for path in sets:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    more = gpu.plan(gpu.arguments([*given, "elsewhere:MNLI-1000", "survives", "--snli", str(sets[0])]), tmp_path)
    assert [group[0].name for group in more[3:]] == [
        "studies, elsewhere MNLI-1000",
        "studies, elsewhere's report after MNLI-1000",
        "studies, elsewhere's other sets after MNLI-1000",
        "studies, results after MNLI-1000",
        "studies, survives",
        "studies, results after survives",
    ]
    elsewhere, survives = ([str(word) for word in more[place][0].command] for place in (5, 7))
    assert {"--snli", "--rte", *map(str, sets), str(tmp_path / "studies")} <= set(elsewhere)
    assert str(tmp_path / "studies" / "survives") in survives and "--jobs" in survives
    for command in (elsewhere, survives):  # the scripts know the flags
        known = subprocess.run(
            [sys.executable, *command[1:2], "--help"], stdout=subprocess.PIPE, text=True, cwd=BENCHMARKS.parents[1]
        )
        assert all(word in known.stdout for word in command if word.startswith("--"))
    work, out = tmp_path / "studies", tmp_path / "out"
    for path in (work / "few" / "result.json", work / "few" / "checkpoint_last.pt", work / "few" / "data" / "train.bin"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    out.mkdir()
    subprocess.run([str(part) for part in groups[5][0].command], check=True)
    assert sorted(tarfile.open(out / "studies.tgz").getnames()) == ["studies", "studies/few", "studies/few/result.json"]
    flags = ["--minilm", str(tmp_path), "--glue", str(tmp_path), "--sts", str(tmp_path)]
    groups = gpu.plan(gpu.arguments([*flags, "--text", str(tmp_path / "text")]), tmp_path)
    names = ["studies, convert three layers", "studies, similarity", "studies, similarity's results"]
    assert [group[0].name for group in groups[3:]] == names
    with pytest.raises(SystemExit):
        gpu.arguments(flags)
    assert "--sts wants --text" in capsys.readouterr().err
    for wrong, words in (("few:SST-2-5", "the cells of few are SST-2-300"), ("some:x", "the study is one of few")):
        with pytest.raises(SystemExit):
            gpu.arguments([*given, wrong])
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gpu.arguments(["--studies", "few:CoLA-300"])
    assert "--studies wants --minilm and --glue" in capsys.readouterr().err


@pytest.mark.parametrize("minutes", ["3", "90"])
def test_what_trains_may_take_all_the_time_but_that_of_the_stages_after_it(script, tmp_path, minutes):
    gpu = script("gpu_stages")
    for path in (tmp_path / "snli.tsv", tmp_path / "RTE" / "dev.tsv"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    given = [
        "--minilm",
        tmp_path,
        "--glue",
        tmp_path,
        "--snli",
        tmp_path / "snli.tsv",
        "--sts",
        tmp_path,
        "--text",
        tmp_path / "text",
    ]
    given += ["--minutes", minutes, "--studies", "few:CoLA-300", "elsewhere:MNLI-1000", "survives"]
    cells, end = {}, script("gpu_studies").END_LIMIT
    for [stage] in gpu.plan(gpu.arguments(list(map(str, given))), tmp_path)[3:]:
        if stage.limit == math.inf:
            cells[stage.name] = after = []
            spare = stage.spare
        elif "convert" not in stage.name:
            after.append(stage.limit)
            assert sum(after) + end <= spare and not stage.spare
    cells = {name: (len(after), sum(after)) for name, after in cells.items()}
    assert cells == {
        "studies, few CoLA-300": (2, 40),
        "studies, elsewhere MNLI-1000": (3, 190),
        "studies, survives": (1, 20),
        "studies, similarity": (1, 20),
    }


def test_what_does_not_fit_is_refused_before_anything_is_trained(script, tmp_path, capsys):
    """A model that cannot be measured now is deleted with all the others."""
    both = ["--minilm", str(tmp_path), "--glue", str(tmp_path)]
    elsewhere, snli = [*both, "--studies", "elsewhere:MNLI-1000"], tmp_path / "snli.tsv"
    few, packed = [*both, "--studies", "few:CoLA-300"], tmp_path / "studies.tgz"

    def refusal(line):
        with pytest.raises(SystemExit) as end:
            script("gpu_stages").arguments(line)
        assert end.value.code == 2
        return capsys.readouterr().err

    assert "--studies elsewhere wants --snli" in refusal(elsewhere)
    assert f"{snli} is not there" in refusal([*elsewhere, "--snli", str(snli)])
    snli.touch()
    assert f"wants {tmp_path / 'RTE' / 'dev.tsv'}, or dev.tsv.gz" in refusal([*elsewhere, "--snli", str(snli)])
    assert f"--resume {packed}: there is no such file" in refusal([*few, "--resume", str(packed)])
    packed.touch()
    assert "--resume wants --studies or --sts" in refusal([*both, "--resume", str(packed)])
    assert script("gpu_stages").arguments([*few, "--resume", os.path.relpath(packed)]).resume == packed


# ---------------------------------------------------------------------- results that are kept, and gone on from

# The main program with a study in the place of the real ones. `sys.argv` has its own code, and then the arguments.
MAIN = f"""
import sys
sys.path[:0] = [{str(BENCHMARKS)!r}]
import gpu_stages, gpu_studies
study = sys.argv.pop(1)
def stages(args, scratch, environment):
    begin = [gpu_studies.Stage(gpu_studies.BEGINS_MPS, ["bash", "-c", gpu_studies.BEGIN], 60, "studies.log")]
    run = [sys.executable, "-c", study, scratch / "studies" / "few"]
    return [begin, [gpu_studies.Stage("studies, few", run, 600, "studies.log")]]
gpu_stages.study_stages = stages
sys.exit(gpu_stages.main())
"""
# It finishes a run, and goes on.
STUDY = """
import pathlib, sys, time
few = pathlib.Path(sys.argv[1])
few.mkdir(parents=True, exist_ok=True)
(few / f"run{len(list(few.iterdir()))}.json").write_text("{}")
(few / "model.pt").touch()
print("begun", flush=True)
"""


@pytest.fixture
def main(tmp_path):
    """Begins the program with a study's code and flags; its MPS is a script that tells what it was asked for."""
    for name in ("bin", "scratch"):
        (tmp_path / name).mkdir()
    mps = tmp_path / "bin" / "nvidia-cuda-mps-control"
    mps.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/mps\n[ "$1" = -d ] || cat >> {tmp_path}/mps\n')
    mps.chmod(0o755)
    environment = {**os.environ, "TMPDIR": str(tmp_path / "scratch"), "PATH": f"{mps.parent}:{os.environ['PATH']}"}
    given = ["--minilm", tmp_path, "--glue", tmp_path, "--out", tmp_path / "out", "--only", "studies", "--studies", "few:CoLA-300"]
    begun = []

    def begin(study, *more):
        line = [sys.executable, "-c", MAIN, study, *given, *more]
        begun.append(subprocess.Popen([str(word) for word in line], env=environment, stderr=subprocess.PIPE, text=True))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def kept(tmp_path):
    with tarfile.open(tmp_path / "out" / "studies.tgz") as file:
        return sorted(name for name in file.getnames() if name.endswith((".json", ".pt")))


def test_a_signal_keeps_the_raw_results_and_ends_mps(main, tmp_path):
    """A second one, as of an impatient machine, ends neither."""
    process = main(STUDY + "time.sleep(600)")
    log = tmp_path / "out" / "studies.log"
    for _ in range(600):
        if log.is_file() and "begun" in log.read_text().splitlines():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert kept(tmp_path) == ["studies/few/run0.json"]
    assert (tmp_path / "mps").read_text().split() == ["-d", "quit"]
    assert not list((tmp_path / "scratch").iterdir())
    summary = (tmp_path / "out" / "summary.md").read_text()
    for row in ("few | ended from outside", "results at the end | done", "MPS' end | done"):
        assert f"| studies, {row} |" in summary


def test_mps_that_could_not_be_begun_is_somebody_elses(main, tmp_path):
    (tmp_path / "bin" / "nvidia-cuda-mps-control").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/mps; exit 1\n')
    assert main(STUDY).wait(60) == 1
    assert kept(tmp_path) == ["studies/few/run0.json"] and (tmp_path / "mps").read_text() == "-d\n"


def test_a_later_call_goes_on_from_the_results_of_an_earlier_one(main, tmp_path):
    """They may be the file that it writes itself."""
    assert main(STUDY).wait(60) == 0
    assert main(STUDY, "--resume", tmp_path / "out" / "studies.tgz").wait(60) == 0
    assert kept(tmp_path) == ["studies/few/run0.json", "studies/few/run1.json"]


def pack(path, *members):
    """A file of results; a member is a name with its content, or a `tarfile.TarInfo`."""
    with tarfile.open(path, "w:gz") as file:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member)
                continue
            info, content = tarfile.TarInfo(member[0]), member[1].encode()
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("name", ["site/fairseq.py", "studies/../site/x", "/studies/x", "studies", "studies/link"])
def test_results_that_would_go_elsewhere_are_refused(main, tmp_path, name):
    packed, kind = tmp_path / "out" / "studies.tgz", tarfile.SYMTYPE if name in ("studies", "studies/link") else tarfile.REGTYPE
    packed.parent.mkdir()
    bad = tarfile.TarInfo(name)
    bad.type, bad.linkname = kind, "few" if kind == tarfile.SYMTYPE else ""
    pack(packed, ("studies/few/run0.json", "{}"), bad)
    before = packed.read_bytes()
    process = main(STUDY, "--resume", packed)
    assert f"error: --resume {packed}: {name} is no file of studies/" in process.communicate(timeout=60)[1]
    assert process.returncode == 1 and packed.read_bytes() == before and not list((tmp_path / "scratch").iterdir())


def test_results_that_are_cut_off_are_refused_and_stay_as_they_are(main, tmp_path):
    packed = tmp_path / "out" / "studies.tgz"
    packed.parent.mkdir()
    pack(packed, ("studies/few/run0.json", os.urandom(20_000).hex()))
    packed.write_bytes(packed.read_bytes()[:-9_000])
    before = packed.read_bytes()
    process = main(STUDY, "--resume", packed)
    assert f"error: --resume {packed}: " in process.communicate(timeout=60)[1]
    assert process.returncode == 1 and packed.read_bytes() == before


def test_runs_whose_models_are_still_to_be_measured_are_trained_again(script, tmp_path, monkeypatch):
    """No model is packed, and without its model a finished run could never be measured."""
    kept, gone = json.dumps({"checkpoints": "kept"}), json.dumps({"checkpoints": "deleted"})
    few, elsewhere = "studies/CoLA-300/base/final/seed1", "studies/MNLI-1000/sam/final/seed"
    first, home = "studies/survives/SST-2-1000/base/final/x/seed", "studies/survives/SST-2-1000+MRPC-1000/base/seed"
    stays = {
        f"{few}/result.json": gone,
        f"{elsewhere}1/result.json": kept,
        f"{elsewhere}1/elsewhere.json": json.dumps({"SNLI": {}, "RTE": {}}),
        f"{elsewhere}2/elsewhere.json": json.dumps({"SNLI": {}}),
        f"{elsewhere}3/run.yaml": "{}",
        f"{first}1/result.json": kept,
        f"{first}2/run.yaml": "{}",
        f"{home}1/scores.json": "{}",
        f"{home}1/runs/seed1/result.json": kept,
    }
    goes = [f"{elsewhere}2/result.json", f"{elsewhere}3/result.json", f"{first}2/result.json", f"{home}2/runs/seed2/result.json"]
    pack(tmp_path / "studies.tgz", *stays.items(), *((name, kept) for name in goes), (f"{home}2/trained.sha256", "of its model"))
    studies = script("gpu_studies")
    studies.unpack(tmp_path / "studies.tgz", tmp_path)
    there = {str(path.relative_to(tmp_path)) for path in (tmp_path / "studies").rglob("*") if path.is_file()}
    assert there == set(stays)
    # The scripts' own names.
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "studies"))
    assert studies.SETS_FILE == importlib.import_module("elsewhere").MEASURED
    assert studies.SCORES_FILE == importlib.import_module("survives").SCORES


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
