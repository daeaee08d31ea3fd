"""Real fairseq processes for the tests: command lines, runs, and what their logs and checkpoints say."""

import argparse
import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing import forkserver
from pathlib import Path

import torch

# Seconds that no run comes near unless it hangs, on a busy machine either.
LIMIT = 900
# What the console scripts `fairseq-train` and so on call, which may not be on the PATH.
ENTRIES = {
    f"fairseq-{name.replace('_', '-')}": name for name in ("train", "generate", "interactive", "validate", "eval_lm", "hydra_train")
}

BACKENDS = ["legacy_ddp", "pytorch_ddp"]

# fairseq saves the weights of rank 0 alone; this writes those of every rank beside each checkpoint.
EVERY_RANK = """
import os
import sharp_plugins
import torch
from fairseq import checkpoint_utils

sharp_plugins.register()

stock = checkpoint_utils.save_checkpoint


def save_checkpoint(cfg, trainer, *args):
    os.makedirs(cfg.save_dir, exist_ok=True)
    path = os.path.join(cfg.save_dir, f"weights{trainer.data_parallel_rank}.pt")
    torch.save(trainer.get_model().state_dict(), path)
    return stock(cfg, trainer, *args)


if not hasattr(checkpoint_utils, "_every_rank"):
    checkpoint_utils._every_rank = True
    checkpoint_utils.save_checkpoint = save_checkpoint
"""

# Every run is a process of its own. Those of `start` are forked from one that has imported fairseq (and nothing of the
# plugin, which is imported by --user-dir), because importing it takes longer than the tests' training.
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["fork_server"])


def _fork(target, *arguments) -> multiprocessing.Process:
    """Start *target* in a fork. Python's fork server finds what it imports by PYTHONPATH alone."""
    before = os.environ.get("PYTHONPATH")
    path = {"PYTHONPATH": str(Path(__file__).parent), **({} if before is None else {"SHARP_TEST_PYTHONPATH": before})}
    process = _forks.Process(target=target, args=arguments)
    os.environ.update(path)
    try:
        forkserver.ensure_running()
    finally:
        for name in path:
            del os.environ[name]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    process.start()
    return process


def line(data, save_dir, *flags, user_dir=None, model=None, criterion=None, validates=False):
    """The arguments of a `fairseq-train` whose log `stats` understands; it trains alone, or *validates* too."""
    import toy  # which imports the plugin, and this module is imported by the forks too

    user_dir, model, criterion = user_dir or toy.PLUGIN, model or toy.MODEL, criterion or toy.CRITERION
    parts = [data, "--user-dir", user_dir, "--task", "translation", *model, *criterion, "--cpu", "--save-dir", save_dir]
    parts += "--seed 7 --num-workers 0 --required-batch-size-multiple 1".split()
    parts += [] if validates else ["--disable-validation"]
    parts += "--no-epoch-checkpoints --log-format json --log-interval 1".split()
    return [str(part) for part in (*parts, *flags)]


class Run:
    """A process, and the file that its output goes to."""

    def __init__(self, process, log: Path):
        self.process, self.log = process, log

    @property
    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait(self) -> "Run":
        self.process.join(LIMIT)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"hangs:\n{self.text[-5000:]}")
        return self

    def succeed(self) -> "Run":
        self.wait()
        assert self.process.exitcode == 0, self.text[-5000:]
        return self

    def fail(self) -> str:
        """Wait for a non-zero exit; returns what was printed, on one line (argparse wraps its messages)."""
        self.wait()
        assert self.process.exitcode not in (0, None), self.text[-5000:]
        return " ".join(self.text.split())

    def wait_for(self, words: str) -> None:
        """Wait until *words* are in the log."""
        start = time.monotonic()
        while words not in self.text:
            assert self.process.exitcode is None and time.monotonic() - start < LIMIT, self.text[-5000:]
            time.sleep(0.005)


def _print_to(log) -> None:
    with open(log, "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    torch.set_num_threads(1)


def _execute(code, log) -> None:
    _print_to(log)
    exec(compile(code, "code", "exec"), {"__name__": "code"})


def fork(code: str, log: Path) -> Run:
    """Run *code* in a fresh fork that has imported fairseq, and nothing of the plugin; its output goes to *log*."""
    return Run(_fork(_execute, code, str(log)), log)


def _enter(name, arguments, log, directory=None) -> None:
    """What the console script does, in a fresh fork."""
    _print_to(log)
    if directory is not None:
        os.chdir(directory)
    sys.argv = [name, *arguments]
    importlib.import_module(f"fairseq_cli.{ENTRIES[name]}").cli_main()


def start(arguments, log: Path) -> Run:
    """Start `fairseq-train` with *arguments*; its output goes to *log*."""
    log.parent.mkdir(parents=True, exist_ok=True)
    return Run(_fork(_enter, "fairseq-train", [str(a) for a in arguments], str(log)), log)


def train(data, save_dir: Path, *flags, **parts) -> Run:
    """Train to the end; the log is ``train.log`` in *save_dir*."""
    return start(line(data, save_dir, *flags, **parts), save_dir / "train.log").succeed()


def console(name: str, *arguments, directory: Path, is_fresh: bool = False) -> str:
    """Run a program of fairseq in *directory*, from a fork or from a *fresh* interpreter; returns what it printed."""
    if not is_fresh:
        with tempfile.TemporaryDirectory() as place:
            log = Path(place) / "log"
            return Run(_fork(_enter, name, [str(one) for one in arguments], str(log), str(directory)), log).succeed().text
    code = f"from fairseq_cli.{ENTRIES[name]} import cli_main; cli_main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return execute(command, directory)


def execute(command, directory: Path) -> str:
    """Run a command in *directory*; returns what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    done = subprocess.run(command, cwd=directory, env=environment, timeout=LIMIT, **output)
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def start_ranks(data, save_dir: Path, *flags, ranks: int = 2, **parts):
    """Start one process per rank, over gloo on this machine."""
    save_dir.mkdir(parents=True, exist_ok=True)
    # A file is nobody else's, and a free port might be taken before it is used.
    meeting = tempfile.mktemp(prefix="meeting-", dir=save_dir)
    place = f"--distributed-world-size {ranks} --distributed-init-method file://{meeting}".split()
    place += "--distributed-backend gloo --distributed-no-spawn".split()
    return [
        start(line(data, save_dir, *place, "--distributed-rank", rank, *flags, **parts), save_dir / f"rank{rank}.log")
        for rank in range(ranks)
    ]


def train_ranks(data, save_dir: Path, *flags, **parts):
    """Train to the end on all ranks; their logs are ``rank0.log`` and so on in *save_dir*."""
    runs = start_ranks(data, save_dir, *flags, **parts)
    try:
        return [run.succeed() for run in runs]
    finally:
        for run in runs:  # the others of one that failed would wait for it
            run.process.kill()


# ---------------------------------------------------------------------- logs and checkpoints


def stats(text: str, tag: str = "train_inner"):
    """The entries of a json log: one dict of floats per line with *tag*; without what was not measured (null)."""
    entries = [entry.split(f"| {tag} | ")[1] for entry in text.splitlines() if f"| {tag} | " in entry]
    return [{key: float(value) for key, value in json.loads(entry).items() if value is not None} for entry in entries]


def checkpoint(path: Path):
    """A checkpoint, read by torch's safe loader."""
    add_safe_globals = getattr(torch.serialization, "add_safe_globals", None)
    if add_safe_globals is not None:
        add_safe_globals([argparse.Namespace])
    return torch.load(path, map_location="cpu", weights_only=True)


def last(save_dir: Path):
    return checkpoint(save_dir / "checkpoint_last.pt")


def assert_equal(first, second, where: str = "") -> None:
    """Bit for bit, in nested dicts and lists."""
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_equal(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for index, (one, other) in enumerate(zip(first, second)):
            assert_equal(one, other, f"{where}[{index}]")
    elif torch.is_tensor(first):
        assert first.dtype == second.dtype and torch.equal(first, second), where
    else:
        assert first == second, where


def assert_same_training(first: Path, second: Path) -> None:
    """The last checkpoints of two runs agree bit for bit in all that training goes on from."""
    one, other = last(first), last(second)
    for key in ("model", "last_optimizer_state"):
        assert_equal(one[key], other[key], key)
    # Earlier entries tell of earlier processes.
    assert_equal(one["optimizer_history"][-1], other["optimizer_history"][-1], "optimizer_history")
    assert_equal(one["extra_state"]["train_iterator"], other["extra_state"]["train_iterator"], "train_iterator")


def assert_close(first, second, relative: float) -> None:
    """The weights of two models agree, tensor by tensor, to a share of the tensor's norm."""
    assert first.keys() == second.keys()
    for name in first:
        distance = torch.linalg.vector_norm(first[name].double() - second[name].double())
        assert distance <= relative * torch.linalg.vector_norm(second[name].double()) + 1e-12, (name, distance)


# ---------------------------------------------------------------------- several ranks


def weights_of(save_dir, rank):
    """What a rank of a run with the fixture every_rank as --user-dir wrote."""
    return torch.load(save_dir / f"weights{rank}.pt", weights_only=True)


def assert_ranks_agree(save_dir):
    """Bit for bit, and finite."""
    one, other = weights_of(save_dir, 0), weights_of(save_dir, 1)
    assert_equal(one, other)
    assert all(value.isfinite().all() for value in one.values())
