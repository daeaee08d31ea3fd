"""The studies that `examples/benchmarks/gpu.sh` makes: their stages, what is kept of them however they end, and how they go on."""

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
from pathlib import Path

import published
import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "examples" / "benchmarks"


# ---------------------------------------------------------------------- the stages


def test_cells_of_studies_are_made_one_after_the_other(script, tmp_path, capsys):
    """After each its report and its results are in the output: a machine may be taken back at any time."""
    gpu = script("gpu_stages")
    given = ["--minilm", str(tmp_path), "--glue", str(tmp_path), "--out", str(tmp_path / "out"), "--studies"]
    groups = gpu.plan(gpu.arguments([*given, "few:CoLA-300", "noise:MRPC-1000-noise0.2"]), tmp_path)
    assert [[stage.name for stage in group] for group in groups] == [
        ["machine"],
        ["studies, convert"],
        ["studies, MPS"],
        ["studies, GPU"],
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
    assert [group[0].name for group in more[4:]] == [
        "studies, elsewhere MNLI-1000",
        "studies, elsewhere's report after MNLI-1000",
        "studies, elsewhere's other sets after MNLI-1000",
        "studies, results after MNLI-1000",
        "studies, survives",
        "studies, results after survives",
    ]
    elsewhere, survives = ([str(word) for word in more[place][0].command] for place in (6, 8))
    assert {"--snli", "--rte", *map(str, sets), str(tmp_path / "studies")} <= set(elsewhere)
    assert str(tmp_path / "studies" / "survives") in survives and "--jobs" in survives
    for command in (elsewhere, survives):  # the scripts know the flags
        known = subprocess.check_output([sys.executable, *command[1:2], "--help"], text=True, cwd=ROOT)
        assert all(word in known for word in command if word.startswith("--"))
    work, out = tmp_path / "studies", tmp_path / "out"
    for path in (work / "few" / "result.json", work / "few" / "checkpoint_last.pt", work / "few" / "data" / "train.bin"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    out.mkdir()
    subprocess.run([str(part) for part in groups[6][0].command], check=True)
    found = ["studies", "studies/few", "studies/few/result.json"]
    work.rename(tmp_path / "gone")
    assert subprocess.run([str(part) for part in groups[6][0].command]).returncode == 1  # the file before it stays
    assert sorted(tarfile.open(out / "studies.tgz").getnames()) == found and len(list(out.iterdir())) == 1
    flags = ["--minilm", str(tmp_path), "--glue", str(tmp_path), "--sts", str(tmp_path)]
    groups = gpu.plan(gpu.arguments([*flags, "--text", str(tmp_path / "text")]), tmp_path)
    names = ["studies, convert three layers", "studies, similarity", "studies, similarity's results"]
    assert [group[0].name for group in groups[4:]] == names
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


def test_what_trains_may_take_all_the_time_but_that_of_the_stages_after_it(script, tmp_path):
    gpu = script("gpu_stages")
    for path in (tmp_path / "snli.tsv", tmp_path / "RTE" / "dev.tsv"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    given = [word for flag in ("--minilm", "--glue", "--sts", "--text") for word in (flag, tmp_path)]
    given += ["--snli", tmp_path / "snli.tsv", "--studies", "few:CoLA-300", "elsewhere:MNLI-1000", "survives"]
    cells, end = {}, script("gpu_studies").END_LIMIT
    for [stage] in gpu.plan(gpu.arguments(list(map(str, given))), tmp_path)[4:]:
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

# The main program with a study in the place of the real ones: `sys.argv` has its code, and then the arguments.
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
    mps.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/mps\n[ "$1" = -d ] || (cat; sleep 2; echo ended) >> {tmp_path}/mps\n')
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
    process, mps = main(STUDY + "time.sleep(600)"), tmp_path / "mps"
    for log, word in ((tmp_path / "out" / "studies.log", "begun"), (mps, "quit")):
        for _ in range(600):
            if log.is_file() and word in log.read_text().splitlines():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert kept(tmp_path) == ["studies/few/run0.json"] and mps.read_text().split() == ["-d", "quit", "ended"]
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


def pack(path, contents, links=()):
    """A file of results by their names, and links to nowhere."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz") as file:
        for name in (*contents, *links):
            info, content = tarfile.TarInfo(name), contents.get(name, "").encode()
            info.type, info.linkname, info.size = tarfile.SYMTYPE if name in links else tarfile.REGTYPE, "few", len(content)
            file.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("name", ["site/fairseq.py", "studies/../site/x", "/studies/x", "studies", "studies/link"])
def test_results_that_would_go_elsewhere_are_refused(main, tmp_path, name):
    packed, links = tmp_path / "out" / "studies.tgz", [name] if name in ("studies", "studies/link") else []
    pack(packed, {"studies/few/run0.json": "{}", **({} if links else {name: "x"})}, links)
    before, process = packed.read_bytes(), main(STUDY, "--resume", packed)
    assert f"error: --resume {packed}: {name} is no file of studies/" in process.communicate(timeout=60)[1]
    assert process.returncode == 1 and packed.read_bytes() == before and not list((tmp_path / "scratch").iterdir())


def test_results_that_are_cut_off_are_refused_and_stay_as_they_are(main, tmp_path):
    packed = tmp_path / "out" / "studies.tgz"
    pack(packed, {"studies/few/run0.json": os.urandom(20_000).hex()})
    packed.write_bytes(packed.read_bytes()[:-9_000])
    before, process = packed.read_bytes(), main(STUDY, "--resume", packed)
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
    pack(tmp_path / "studies.tgz", {**stays, **dict.fromkeys(goes, kept), f"{home}2/trained.sha256": "of its model"})
    studies = script("gpu_studies")
    studies.unpack(tmp_path / "studies.tgz", tmp_path)
    there = {str(path.relative_to(tmp_path)) for path in (tmp_path / "studies").rglob("*") if path.is_file()}
    assert there == set(stays)
    # The scripts' own names.
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "studies"))
    assert studies.SETS_FILE == importlib.import_module("elsewhere").MEASURED
    assert studies.SCORES_FILE == importlib.import_module("survives").SCORES


@pytest.mark.slow
def test_a_study_that_takes_all_the_time_leaves_its_report_and_results(tmp_path):
    """On a CPU, of a tiny model. What is finished by then is in the results."""
    published.write_bert(tmp_path / "bert", max_position_embeddings=512)
    (tmp_path / "GLUE" / "MRPC").mkdir(parents=True)
    for name, rows in (("train", 900), ("dev", 60)):
        lines = [f"{i % 2}\t{i}\t{i}\tthe cat is number {i}.\t{'the dog runs' if i % 2 else 'on the mat'}" for i in range(rows)]
        text = "\n".join(["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", *lines]) + "\n"
        (tmp_path / "GLUE" / "MRPC" / f"{name}.tsv").write_text(text)
    command = [sys.executable, BENCHMARKS / "gpu_stages.py", "--device", "cpu", "--minutes", 1.5, "--studies", "few:MRPC-300"]
    command += ["--minilm", tmp_path / "bert", "--glue", tmp_path / "GLUE", "--out", tmp_path / "out"]
    # The runs side by side are as many as the cores let: on one core none is finished in time.
    on_one_core = lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # noqa: E731
    start = time.monotonic()
    done = subprocess.run([str(word) for word in command], preexec_fn=on_one_core)
    assert done.returncode == 1 and time.monotonic() - start < 200
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert "| studies, few MRPC-300 | out of time |" in summary and "| studies, results after MRPC-300 | done |" in summary
    # No fresh run was finished, which the report says.
    assert "no finished run of few" in (tmp_path / "out" / "studies.log").read_text()
    with tarfile.open(tmp_path / "out" / "studies.tgz") as file:
        assert [name for name in file.getnames() if name.endswith("/train.log")]
