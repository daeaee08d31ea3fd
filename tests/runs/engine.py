"""What the tests of the engine share: calls of the made-up benchmark, and its checkpoints without training."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def start(directory: Path, *flags, change: str = "") -> subprocess.Popen:
    """Start the made-up benchmark in a process group of its own; its output goes to DIRECTORY/shown.

    Args:
        change: code that changes the benchmark before it is called.
    """
    code = f"import sys; sys.path[:0] = {[str(ROOT), str(HERE)]!r}\nimport made_up\n{change}\n"
    code += "sys.exit(made_up.main(made_up.Backwards(), sys.argv[1:]))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(directory / "shown", "a") as shown:
        line = [sys.executable, "-c", code, "--out", "out", "--cpu", *map(str, flags)]
        how = {"cwd": directory, "env": environment, "stdout": shown, "stderr": shown, "start_new_session": True}
        return subprocess.Popen(line, preexec_fn=_heed_ctrl_c, **how)


def _heed_ctrl_c() -> None:
    """As a program does that is started from a terminal: one in the background of a script inherits that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def save(path: Path, updates=10, epoch=2, minutes=1.5, **more) -> Path:
    """A checkpoint, as far as the engine reads it; *more* is of its extra_state."""
    place = {"epoch": epoch, "iterations_in_epoch": 0}
    extra = {"train_iterator": place, "previous_training_time": 60 * minutes, **more}
    history = [{"num_updates": 3}, {"num_updates": updates}]
    torch.save({"optimizer_history": history, "extra_state": extra, "model": {"w": torch.zeros(3)}}, path)
    return path


def python(code: str):
    return ["python", "-c", code]


def trained(call):
    return [name.removesuffix(", train") for name in call.done if name.endswith(", train")]
