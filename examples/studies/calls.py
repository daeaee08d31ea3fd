"""Calls of the engine of runs: what interrupts a study interrupts its engine too, and a study goes on where a run fails."""

import signal
import subprocess
import sys
from typing import Callable, Sequence

from sharp_plugins.command_line import MENDABLE
from sharp_plugins.runs.command import INTERRUPTED


class Unfinished(Exception):
    """Runs are not finished. The engine has told why."""


def run_program(line: Sequence[str]) -> int:
    """Run a program to its end, and return its exit status.

    Where this one is told to end, so is that, and it is waited for: it stops its trainings, and nothing is left behind that
    another call would compete with.
    """
    process = subprocess.Popen(line)

    def end(*_):
        process.terminate()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        return process.wait()
    except KeyboardInterrupt:  # Ctrl-C comes to both
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
