"""Calls of the engine of runs: what interrupts a study interrupts its engine too, and a study goes on where a run fails."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Callable, List, Mapping, Sequence

from sharp_plugins.command_line import MENDABLE
from sharp_plugins.runs.command import INTERRUPTED

ROOT = Path(__file__).resolve().parents[2]


class Unfinished(Exception):
    """Runs are not finished. The engine has told why."""


def run_program(line: Sequence[str]) -> int:
    """Run a program to its end, and return its exit status; see `run_programs`."""
    return run_programs([line])[0]


def run_programs(lines: Sequence[Sequence[str]], environment: Mapping[str, str] = {}) -> List[int]:
    """Run programs side by side to their end, and return their exit statuses.

    Where this one is told to end, so are they, and they are waited for: they stop their trainings, and nothing is left behind that
    another call would compete with.

    Args:
        environment: what they find changed there.
    """
    processes: List[subprocess.Popen] = []
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])  # the plugin of this repository

    def end(*_):
        for process in processes:
            process.terminate()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        for line in lines:
            processes.append(subprocess.Popen(line, env={**os.environ, "PYTHONPATH": path, **environment}))
        return [process.wait() for process in processes]
    except KeyboardInterrupt:  # Ctrl-C comes to all of them
        for process in processes:
            process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def guarded(work: Callable[[], int]) -> int:
    """A study's exit status; what a user can mend, and an interrupt, are told in one line."""
    try:
        return work()
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    except (*MENDABLE, Unfinished) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
