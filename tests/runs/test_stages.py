"""Stages as processes: what is done once, gone on with, and told. Training is a stand-in."""

import errno
import fcntl
import json
import os
import sys
import threading
import time

import pytest
from engine import python, save

from sharp_plugins.runs import locks, memory, processes, stages
from sharp_plugins.runs.locks import RunBusy, locked
from sharp_plugins.runs.methods import find_method
from sharp_plugins.runs.processes import Stop, follow, interpreter, run_process
from sharp_plugins.runs.record import Record
from sharp_plugins.runs.stages import RunFailed, Stage, is_done, perform, remaining
from sharp_plugins.runs.store import Run

CONFIG = {"optimization": {"max_update": 10}}


@pytest.fixture
def run(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    return Run(Record("made-up", "RTE", "sam", 1, {}), find_method("sam"), directory, CONFIG, {})


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(processes, "PAUSE", 0.02)


def do(run, *listed, stop=None, show=lambda entry: None):
    """What a call does; returns the names of the stages that it began."""
    begun = []
    with locked(run.directory, run.name) as lock:
        for stage in remaining(run, listed):
            begun.append(stage.name)
            perform(run, stage, lock, stop or Stop(), show)
    return begun


def training(run, tmp_path, before="pass"):
    whole = save(tmp_path / "whole.pt")
    return Stage("train", python(f"{before}; import shutil; shutil.copy({str(whole)!r}, 'checkpoint_last.pt')"))


def writer(name, makes, text="x", before="pass"):
    return Stage(name, python(f"{before}; open({makes!r}, 'w').write({text!r})"), makes)


def test_each_stage_is_done_once(run, tmp_path):
    listed = (
        training(run, tmp_path),
        Stage("generate", python("print('words')"), "out.txt", takes_output=True),
        writer("score", "s"),
    )
    assert do(run, *listed) == ["train", "generate", "score"]
    assert (run.directory / "out.txt").read_text() == "words\n" and do(run, *listed) == []
    # A file that is gone is made again, and what follows it.
    (run.directory / "out.txt").unlink()
    assert do(run, *listed) == ["generate", "score"]
    # So is what another command would make.
    other = listed[1]._replace(command=python("print('other words')"))
    assert do(run, listed[0], other, listed[2]) == ["generate", "score"]
    (run.directory / "checkpoint_last.pt").unlink()
    assert do(run, *listed) == ["train", "generate", "score"]


def test_what_follows_is_done_again_after_a_failure_between(run, tmp_path):
    listed = [writer("merge", "merged"), writer("score", "scores")]
    do(run, *listed)
    (run.directory / "merged").unlink()
    failing = Stage("score", python("raise SystemExit(3)"), "scores")
    with pytest.raises(RunFailed):
        do(run, listed[0], failing)
    assert do(run, *listed) == ["score"]  # its file is of the old merged one


def test_training_is_over_by_its_last_checkpoint(run):
    failing = Stage("train", python("raise SystemExit(3)"))
    save(run.directory / "checkpoint_last.pt", updates=9)
    with pytest.raises(RunFailed, match="RTE sam seed 1: python ended with 3"):
        do(run, failing)
    save(run.directory / "checkpoint_last.pt", updates=10)
    assert do(run, failing) == []


def test_training_that_patience_ended_is_over_though_the_engine_was_killed(run):
    """The training may outlive the engine, which has no mark of it then. fairseq would go on: it asks after a validation alone."""
    failing = Stage("train", python("raise SystemExit(3)"))
    save(run.directory / "checkpoint_last.pt", updates=4, should_stop_early={"best": 3.0, "num_runs": 1})
    assert not is_done(run, failing)
    assert is_done(run._replace(config={**CONFIG, "checkpoint": {"patience": 1}}), failing)


def test_training_that_ends_before_its_limits_is_over(run, tmp_path):
    """For a reason of which no checkpoint tells."""
    short = save(tmp_path / "short.pt", updates=4)
    stage = Stage("train", python(f"import shutil; shutil.copy({str(short)!r}, 'checkpoint_last.pt')"))
    assert do(run, stage) == ["train"] and is_done(run, stage)


def test_training_is_not_over_where_its_last_checkpoint_cannot_be_read(run, tmp_path):
    stage = training(run, tmp_path)
    do(run, stage)
    (run.directory / "checkpoint_last.pt").write_bytes(b"half")
    assert do(run, stage) == ["train"]


def test_a_limit_of_time_is_of_the_runs_own_training(run, tmp_path):
    """fairseq's clock goes on from that of the checkpoint that training starts from."""
    start = save(tmp_path / "start.pt", minutes=20)
    run = run._replace(config={"optimization": {"stop_time_hours": 0.5}, "checkpoint": {"finetune_from_model": str(start)}})
    name, _, hours = stages.train(run).command[-1].partition("=")
    assert name == "optimization.stop_time_hours" and float(hours) == pytest.approx(50 / 60)
    for minutes, is_over in ((45, False), (51, True)):
        save(run.directory / "checkpoint_last.pt", minutes=minutes)
        assert is_done(run, stages.train(run)) is is_over
    start.unlink()
    assert stages.train(run) == Stage("train", stages.TRAIN) and is_done(run, stages.train(run))
    without = run._replace(config={**run.config, "optimization": {"max_update": 10}})
    save(tmp_path / "start.pt", minutes=20)
    assert stages.train(without) == Stage("train", stages.TRAIN)


def test_the_end_of_the_log_tells_why(run):
    stage = Stage("score", python("print('out of patience'); raise SystemExit(3)"), "s", title="scoring the best epoch")
    words = "RTE sam seed 1: scoring the best epoch ended with 3; .*score.log ends with(.|\n)*out of patience"
    for _ in range(2):  # the next call is free to try again
        with pytest.raises(RunFailed, match=words):
            do(run, stage)
    assert (run.directory / "score.log").read_text().count("out of patience") == 2
    with pytest.raises(RunFailed, match="python did not write s"):
        do(run, Stage("score", python("pass"), "s"))


def test_half_an_output_is_none(run):
    """The process fails, or is interrupted, after it has written some."""
    code = "import sys, time; print('half'); sys.stdout.flush(); print('{\"epoch\": 1}', file=sys.stderr, flush=True); {}"
    for end, error in (("sys.exit(1)", RunFailed), ("time.sleep(60)", KeyboardInterrupt)):
        stop = Stop()
        stage = Stage("generate", python(code.replace("{}", end)), "out.txt", takes_output=True)

        def show(entry, stop=stop, wanted=error is KeyboardInterrupt):
            if wanted:
                stop.ask()

        with pytest.raises(error):
            do(run, stage, stop=stop, show=show)
        assert not (run.directory / "out.txt").exists() and not is_done(run, stage)
        assert not list(run.directory.glob(".unfinished*"))
    again = stage._replace(command=python("print('whole')"))
    assert do(run, again) == ["generate"] and (run.directory / "out.txt").read_text() == "whole\n"


@pytest.mark.parametrize("is_deaf", [False, True])
def test_an_interruption_stops_the_process(run, monkeypatch, is_deaf):
    monkeypatch.setattr(processes, "PATIENCE", 0.5)
    code = "import os, pathlib, signal, sys, time; pathlib.Path('pid').write_text(str(os.getpid())); "
    handler = "None" if is_deaf else "(pathlib.Path('stopped').touch(), sys.exit(0))"
    code += f"signal.signal(signal.SIGTERM, lambda *_: {handler}); print('{{\"epoch\": 1}}', flush=True); "
    code += "exec('while True: time.sleep(0.1)')"
    stop = Stop()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        do(run, Stage("train", python(code)), stop=stop, show=lambda entry: stop.ask())
    assert (run.directory / "stopped").exists() is not is_deaf and time.monotonic() - start < 15
    with pytest.raises(ProcessLookupError):
        os.kill(int((run.directory / "pid").read_text()), 0)


def test_a_process_that_the_terminal_ended_is_no_failure(run):
    """Ctrl-C reaches all processes of a terminal, and this one may learn of it last."""
    stop = Stop()
    threading.Timer(0.2, stop.ask).start()
    with pytest.raises(KeyboardInterrupt):
        do(run, Stage("train", python("raise SystemExit(130)")), stop=stop)


def test_modules_in_a_runs_directory_are_not_run(run):
    """A directory that was copied from elsewhere may hold some."""
    for name in ("torch", "fairseq_cli", "fairseq", "hydra", "json", "multiprocessing", "atexit", "runpy"):
        (run.directory / name).mkdir()
        (run.directory / name / "__init__.py").write_text(f"print('{name} of the run'); raise SystemExit(0)")
    (run.directory / "run.yaml").write_text("no_such_part: {x: 1}\n")
    with pytest.raises(RunFailed, match="fairseq-hydra-train ended with 1(.|\n)*no_such_part"):
        do(run, stages.train(run))
    with pytest.raises(RunFailed, match="json|Expecting"):
        do(run, Stage("score", ["python", "-m", "json.tool", "run.yaml"], "s"))
    assert "of the run" not in (run.directory / "train.log").read_text() + (run.directory / "score.log").read_text()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 looks there in processes that are spawned")
def test_nor_are_they_by_the_processes_that_it_starts(run):
    (run.directory / "multiprocessing").mkdir()
    (run.directory / "multiprocessing" / "__init__.py").write_text("print('of the run')")
    spawn = "from multiprocessing import get_context as of; child = of('spawn').Process(target=print, args=('done',)); "
    spawn += "child.start(); child.join(); sys.exit(child.exitcode)"
    do(run, Stage("spawn", python(spawn), "o", takes_output=True))
    assert (run.directory / "o").read_text() == "done\n"


def test_fairseq_is_imported_without_collections_and_runs_with_them(tmp_path, monkeypatch):
    (tmp_path / "fairseq_cli").mkdir()
    (tmp_path / "fairseq_cli" / "__init__.py").touch()
    (tmp_path / "fairseq_cli" / "train.py").write_text(
        "import gc\n\nprint('import', gc.isenabled())\n\n\ndef cli_main():\n    print('run', gc.isenabled())\n"
    )
    monkeypatch.setattr(processes, "START", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); ")
    log = tmp_path / "log"
    assert run_process(interpreter(["fairseq-train"]), tmp_path, log, Stop()) == 0
    assert log.read_text() == "import False\nrun True\n"


def test_what_processes_print_is_utf8(tmp_path, monkeypatch):
    """In a terminal of another encoding, too."""
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    assert run_process(python("print('Be\\u015fikta\\u015f')"), tmp_path, tmp_path / "log", Stop(), output=tmp_path / "out") == 0
    assert (tmp_path / "out").read_text(encoding="utf-8") == "Be\u015fikta\u015f\n"


def test_a_run_is_not_taken_for_a_task_of_slurms_or_torchruns(run, monkeypatch):
    """fairseq would take the number of workers from there, and not from the run's config."""
    stage = Stage("tell", python("import os; print(*os.environ)"), "o", takes_output=True)
    plain = stage.line(run.directory, {"A": "b"})
    for name in processes.LAUNCHERS:
        monkeypatch.setenv(name, "2")
    do(run, stage)
    assert not set((run.directory / "o").read_text().split()) & {*processes.LAUNCHERS}
    unset = " ".join(f"-u {name}" for name in processes.LAUNCHERS)
    assert stage.line(run.directory, {"A": "b"}) == plain.replace("; A=b", f"; env {unset} A=b")


def test_the_most_memory_of_a_runs_processes_is_remembered(run, tmp_path):
    big = training(run, tmp_path, "x = bytearray(300 << 20); del x")
    with locked(run.directory, run.name) as lock:
        perform(run, big, lock, Stop())
        first = memory.read(run.directory / "memory.json")
        perform(run, training(run, tmp_path, "x = bytearray(1 << 20)"), lock, Stop())
    assert 300 << 20 <= first < 600 << 20 and memory.read(run.directory / "memory.json") == first
    for text in ("{", "[]", '{"bytes": "many"}', '{"bytes": -1}'):
        (run.directory / "memory.json").write_text(text)
        assert memory.read(run.directory / "memory.json") is None


def test_what_a_launcher_of_several_workers_holds_is_not_the_trainings_memory(run, tmp_path):
    run = run._replace(config={**CONFIG, "distributed_training": {"distributed_world_size": 2}})
    assert do(run, training(run, tmp_path)) == ["train"] and not (run.directory / "memory.json").exists()


def test_threads_are_shared_and_remembered(run, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = stages.environment_of(run, device="3", share=2)
    assert (found["OMP_NUM_THREADS"], found["CUDA_VISIBLE_DEVICES"]) == ("2", "3")
    assert stages.environment_of(run, share=7)["OMP_NUM_THREADS"] == "2"  # what it began with
    code = "import os; print(os.environ['OMP_NUM_THREADS'])"
    do(run, Stage("tell", python(code), "o", takes_output=True))
    assert (run.directory / "o").read_text() == "2\n"


def test_a_shell_does_the_same(run, tmp_path, monkeypatch):
    import subprocess

    monkeypatch.setenv("RANK", "0")
    stage = Stage("generate", python("import sys; print('a  b'); print('c', file=sys.stderr)"), "o u t", takes_output=True)
    line = stage.line(run.directory).replace("python", sys.executable, 1)
    subprocess.run(["bash", "-c", line], check=True, cwd=tmp_path)
    assert (run.directory / "o u t").read_text() == "a  b\n" and (run.directory / "generate.log").read_text() == "c\n"


# ---------------------------------------------------------------------- the log, and locks


@pytest.mark.parametrize(
    "line, expected",
    [
        ('{"epoch": 1, "valid_accuracy": "53.8"}', {"epoch": 1, "valid_accuracy": "53.8"}),
        ("Saving checkpoint", None),
        ('{"epoch": 1, "val', None),
        ('{"other": 1}', None),
    ],
)
def test_entries_of_the_log(line, expected):
    assert processes.parse(line) == expected


def test_entries_are_shown_while_the_process_runs(tmp_path, monkeypatch):
    log = tmp_path / "log"
    log.write_text('{"epoch": 0, "of": "an earlier process"}\n')
    # An entry in two halves, and the last one without the end of its line.
    code = (
        "import sys, time\n"
        "for part in ('noise\\n{\"epoch\": 1, ', '\"a\": 1}\\n', '{\"epoch\": 2}\\n'):\n"
        "    sys.stdout.write(part); sys.stdout.flush(); time.sleep(0.2)\n"
    )
    shown = []
    assert run_process(interpreter(python(code)), tmp_path, log, Stop(), show=shown.append) == 0
    assert shown == [{"epoch": 1, "a": 1}, {"epoch": 2}]
    assert callable(follow) and log.read_text().startswith('{"epoch": 0')


def test_a_run_that_another_process_is_at_is_left_alone(run):
    with open(run.directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunBusy, match="RTE sam seed 1: another process"), locked(run.directory, run.name):
            raise AssertionError("both have it")
    assert [path.name for path in run.directory.iterdir()] == ["lock"]


def test_the_last_of_a_killed_process_is_waited_for(run, monkeypatch):
    """Its workers hold the lock too, and go some seconds later."""
    monkeypatch.setattr(locks, "PATIENCE", 3600)
    waited = []
    with open(run.directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def wait(seconds):
            waited.append(seconds)
            if len(waited) == 3:
                fcntl.flock(lock, fcntl.LOCK_UN)

        with locked(run.directory, run.name, wait):
            assert len(waited) == 3
        fcntl.flock(lock, fcntl.LOCK_EX)
        stop = Stop()
        stop.ask()  # a Ctrl-C
        with pytest.raises(RunBusy), locked(run.directory, run.name, stop.wait):
            pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(run, monkeypatch, number):
    def flock(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    words = rf"run/lock: its file system has no locks \({os.strerror(number)}\), .*; choose an --out on another"
    with pytest.raises(OSError, match=words), locked(run.directory, run.name):
        pass


def test_a_process_that_outlives_its_call_keeps_the_run(run):
    """The call is killed; its training goes on, and no other call begins a second one."""
    import subprocess

    with locked(run.directory, run.name) as lock:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=[lock.fileno()])
    try:
        with pytest.raises(RunBusy), locked(run.directory, run.name):
            raise AssertionError("both have it")
    finally:
        process.kill()
        process.wait()
    with locked(run.directory, run.name):
        pass


def test_leftovers_of_a_killed_process_go(run):
    (run.directory / ".unfinished-abc").mkdir()
    for name in (".unfinished-abc/out.txt", "checkpoint_best.pt.tmp", "checkpoint_best.pt"):
        (run.directory / name).write_text("")
    with locked(run.directory, run.name):
        assert sorted(path.name for path in run.directory.iterdir()) == ["checkpoint_best.pt", "lock"]


def test_a_damaged_record_of_stages_is_named(run):
    (run.directory / stages.STAGES).write_text("{[")
    with pytest.raises(OSError, match="stages.json: cannot be read: .*; delete it"):
        is_done(run, writer("score", "s"))
    (run.directory / stages.STAGES).write_text(json.dumps({"score": ["another"]}))
    assert not is_done(run, writer("score", "s"))


@pytest.mark.skipif(not any("VmHWM" in line for line in open("/proc/self/status")), reason="the system does not tell it")
def test_it_is_not_the_memory_of_the_process_that_started_it(run, tmp_path):
    held = bytearray(300 << 20)
    del held
    do(run, training(run, tmp_path))
    assert 0 < memory.read(run.directory / "memory.json") < 200 << 20


def test_an_old_output_is_not_taken_for_a_new_one(run):
    (run.directory / "s").write_text("of another command")
    with pytest.raises(RunFailed, match="python did not write s"):
        do(run, Stage("score", python("pass"), "s"))
    assert not (run.directory / "s").exists()


def test_only_the_training_makes_no_file(run):
    stages.check_stages([stages.train(run), Stage("score", python("pass"), "s")])
    for listed, words in (
        (
            [stages.train(run), Stage("score", python("pass"))],
            "stage score: say in Stage.makes which file it makes; only the training",
        ),
        ([stages.train(run), stages.train(run)], "stage train: there is more than one of that name"),
    ):
        with pytest.raises(ValueError, match=words):
            stages.check_stages(listed)
