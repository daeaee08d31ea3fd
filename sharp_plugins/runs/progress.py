"""The progress of all runs on one screen: a changing line for each on a terminal, else a line for each validation.

What counts is in files: where nothing can be printed, as on a full disk or to a pipe that is closed, the runs go on in silence.
"""

import os
import shutil
import sys
import threading
from contextlib import suppress
from typing import Dict

# What a stream raises that cannot be written to; a closed one raises ValueError.
UNPRINTABLE = (OSError, ValueError)


def say(text: str, stream=None) -> None:
    """Print to *stream*, by default the standard output, if that can be.

    >>> say("a line")
    a line
    """
    with suppress(*UNPRINTABLE):
        print(text, file=stream or sys.stdout, flush=True)


def give_up_unprintable() -> None:
    """Drop what could not be printed: Python would try again as it ends, complain, and end with another exit status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except UNPRINTABLE:
            with suppress(*UNPRINTABLE):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Screen:
    """Lines that stay, and below them on a terminal one changing line for each run. Threads may share it.

    >>> Screen(sys.stdout).tell("a line that stays")
    a line that stays
    """

    def __init__(self, stream=None, errors=None):
        self.stream, self.errors = stream or sys.stdout, errors or sys.stderr
        self.is_terminal = self.stream.isatty()
        self._lines: Dict[str, str] = {}
        self._drawn = 0
        self._lock = threading.Lock()

    def tell(self, text: str, is_error: bool = False) -> None:
        """Print lines that stay."""
        with self._lock:
            self._wipe()
            say(text, self.errors if is_error else self.stream)
            self._draw()

    def show(self, name: str, line: str) -> None:
        """Set the changing line of a run."""
        with self._lock:
            self._wipe()
            self._lines[name] = line
            self._draw()

    def remove(self, name: str) -> None:
        """Take a run's changing line away."""
        with self._lock:
            self._wipe()
            self._lines.pop(name, None)
            self._draw()

    def _wipe(self) -> None:
        drawn, self._drawn = self._drawn, 0
        if drawn:
            self._write("\r" + "\033[A" * (drawn - 1) + "\033[J")

    def _draw(self) -> None:
        if self.is_terminal and self._lines:
            width = shutil.get_terminal_size().columns - 1  # a longer line would take two
            self._drawn = len(self._lines)
            self._write("\n".join(line[:width] for line in self._lines.values()))

    def _write(self, text: str) -> None:
        with suppress(*UNPRINTABLE):
            self.stream.write(text)
            self.stream.flush()


class Progress:
    """Shows how far a run's training is, from the entries of fairseq's log.

    Args:
        start: what each line begins with.
        config: the run's.
    """

    def __init__(self, start: str, config: Dict, screen: Screen):
        self.start, self.screen = start, screen
        self.updates = config.get("optimization", {}).get("max_update")
        self.metric = config.get("checkpoint", {}).get("best_checkpoint_metric", "loss")
        self.value = ""

    def __call__(self, entry: Dict) -> None:
        validated = entry.get(f"valid_{self.metric}")
        if validated is not None:
            self.value = f", {self.metric} {validated}"
        number = next((entry[key] for key in ("num_updates", "valid_num_updates") if key in entry), None)
        if number is None:
            return
        of = f" of {self.updates}" if self.updates else ""
        line = f"{self.start}: epoch {entry['epoch']}, update {number}{of}{self.value}"
        if self.screen.is_terminal:
            self.screen.show(self.start, line)
        elif validated is not None:
            self.screen.tell(line)

    def end(self) -> None:
        """Take the changing line away."""
        self.screen.remove(self.start)
