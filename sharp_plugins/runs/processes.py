"""A stage's process: how it is started, followed and ended."""

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence

# Modules are found where they are found here. Python would look into the run's directory first, where the process works, and
# run a torch.py that came with a copied one.
SEARCHED = [os.path.abspath(place) for place in sys.path]
START = f"import sys; sys.path[:] = {SEARCHED!r}; "
# What fairseq's console scripts call; the scripts themselves may not be on the PATH. A quarter of a process's time until it trains
# would go into Python's collector, which looks again and again at the objects of the import, which stay.
SCRIPT = "import gc; gc.disable(); from fairseq_cli.{} import cli_main; gc.freeze(); gc.enable(); cli_main()"
SCRIPTS = {
    "fairseq-train": "train",
    "fairseq-hydra-train": "hydra_train",
    "fairseq-generate": "generate",
    "fairseq-preprocess": "preprocess",
    "fairseq-validate": "validate",
    "fairseq-interactive": "interactive",
    "fairseq-score": "score",
}
# A run is on one machine, with as many workers as its config says. In a job of Slurm's or torchrun's fairseq would take the
# workers from these instead, and the port from the number of the job, which runs side by side have in common.
LAUNCHERS = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_JOB_ID", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")
LAUNCHERS += ("LOCAL_RANK",)
# Seconds between two looks at the log.
PAUSE = 0.3
# Seconds that a process gets to stop.
PATIENCE = 20
# Seconds in which a Ctrl-C that has ended a process, as a terminal sends it to all, reaches this one too.
GRACE = 0.5


class Stop:
    """Tells the threads that follow processes to end them; asked for a second time, to kill them."""

    def __init__(self):
        self._asked, self._is_urgent = threading.Event(), False

    def ask(self) -> None:
        self._is_urgent = self._asked.is_set()
        self._asked.set()

    def wait(self, seconds: float) -> bool:
        """Whether it was asked for within so many seconds."""
        return self._asked.wait(seconds)

    @property
    def patience(self) -> float:
        """Seconds that a process gets to stop."""
        return 0 if self._is_urgent else PATIENCE


def interpreter(command: Sequence[str], memory: Optional[Path] = None) -> List[str]:
    """The arguments that a command is started with: fairseq's scripts and ``python`` become this interpreter, safely started.

    Args:
        memory: a file for the most memory that the process held, see `sharp_plugins.runs.memory`.

    >>> interpreter(["true"])
    ['true']
    """
    program, *rest = command
    if program in SCRIPTS:
        code = SCRIPT.format(SCRIPTS[program])
    elif program == "python" and rest[:1] == ["-m"]:
        code, rest = f"import runpy; runpy.run_module({rest[1]!r}, run_name='__main__', alter_sys=True)", rest[2:]
    elif program == "python" and rest[:1] == ["-c"]:
        code, rest = rest[1], rest[2:]
    else:
        return [sys.executable, *rest] if program == "python" else list(command)
    if memory is not None:
        home = str(Path(__file__).with_name("memory.py"))
        code = f"import runpy; runpy.run_path({home!r})['remember']({str(memory)!r}); {code}"
    return [sys.executable, "-c", START + code, *rest]


def shell_line(
    command: Sequence[str], directory: Path, log: str, output: Optional[str] = None, environment: Mapping[str, str] = {}
) -> str:
    """A command as a line for a shell, which a user can copy; without what a launcher may have set, see `LAUNCHERS`.

    Args:
        environment: what it finds changed there, such as the number of threads.

    >>> shell_line(["fairseq-generate", "a b"], Path("runs/x"), "generate.log", "generated.txt")
    "cd runs/x; fairseq-generate 'a b' > generated.txt 2>> generate.log"
    >>> shell_line(["fairseq-train", "data"], Path("x"), "train.log", environment={"OMP_NUM_THREADS": "1"})
    'cd x; OMP_NUM_THREADS=1 fairseq-train data >> train.log 2>&1'
    """
    without = [f"-u {name}" for name in LAUNCHERS if name in os.environ]
    words = ["env", *without] if without else []
    words += [*(f"{name}={shlex.quote(value)}" for name, value in environment.items()), shlex.join(command)]
    to = f"> {shlex.quote(output)} 2>> {log}" if output else f">> {log} 2>&1"
    return f"cd {shlex.quote(str(directory))}; {' '.join(words)} {to}"


def run_process(
    line: Sequence[str],
    directory: Path,
    log: Path,
    stop: Stop,
    lock=None,
    output: Optional[Path] = None,
    environment: Mapping[str, str] = {},
    show: Callable[[Dict], None] = lambda entry: None,
) -> int:
    """Run a process in a run's directory to its end, and return its exit status.

    Args:
        line: from `interpreter`.
        log: is appended to.
        lock: an open file that the process keeps open too.
        output: a file for the standard output; the log by default.
        environment: what is changed in this process's, without `LAUNCHERS`.
        show: is given each entry of fairseq's log as it appears.

    Raises:
        KeyboardInterrupt: *stop* was asked for; the process has been ended.
    """
    # The process's own processes do not look into the run's directory either (Python 3.11 and later).
    # What they print is read as UTF-8, whatever the terminal's encoding is.
    settings = {name: value for name, value in os.environ.items() if name not in LAUNCHERS}
    settings.update({"PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "utf-8:surrogateescape", **environment})
    with open(log, "a") as said, open(output, "w") if output else nullcontext(said) as out:
        start = said.tell()
        # The process holds the lock too: it keeps others away should it outlive this one.
        process = subprocess.Popen(
            list(line),
            cwd=directory,
            pass_fds=[] if lock is None else [lock.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=said if output else subprocess.STDOUT,
            env=settings,
        )
    try:
        follow(process, log, start, show, stop)
    finally:
        end(process, stop)
    if process.returncode != 0 and stop.wait(GRACE):
        raise KeyboardInterrupt
    return process.returncode


def end(process, stop: Stop) -> None:
    """End a process that has not ended: it is asked to stop, and killed when its time is over."""
    if process.poll() is not None:
        return
    process.terminate()
    start = time.monotonic()
    while process.poll() is None:
        if time.monotonic() - start > stop.patience:
            process.kill()
            process.wait()
        time.sleep(0.02)


def follow(process, log: Path, start: int, show: Callable[[Dict], None], stop: Stop) -> None:
    """Hand the entries of a log to *show* as they appear, until the process has ended.

    Raises:
        KeyboardInterrupt: *stop* was asked for.
    """
    rest = ""
    with open(log, encoding="utf-8", errors="replace") as file:
        file.seek(start)
        while True:
            has_ended = process.poll() is not None
            *lines, rest = (rest + file.read()).split("\n")
            for line in lines:
                entry = parse(line)
                if entry is not None:
                    with suppress(Exception):  # what is shown is not worth a training
                        show(entry)
            if has_ended:
                return
            if stop.wait(PAUSE):
                raise KeyboardInterrupt


def parse(line: str) -> Optional[Dict]:
    """An entry of fairseq's log with ``--log-format json``; None for other lines.

    >>> parse('{"epoch": 1, "valid_loss": "2.5"}')["valid_loss"]
    '2.5'
    """
    if not line.startswith('{"epoch"'):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None
