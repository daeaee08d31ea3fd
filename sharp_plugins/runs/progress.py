"""The progress of all runs on one screen: a changing line for each on a terminal, else a line for each validation."""

import shutil
import sys
import threading
from typing import Dict


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
            print(text, file=self.errors if is_error else self.stream, flush=True)
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
        if self._drawn:
            self.stream.write("\r" + "\033[A" * (self._drawn - 1) + "\033[J")
            self.stream.flush()
        self._drawn = 0

    def _draw(self) -> None:
        if self.is_terminal and self._lines:
            width = shutil.get_terminal_size().columns - 1  # a longer line would take two
            self.stream.write("\n".join(line[:width] for line in self._lines.values()))
            self._drawn = len(self._lines)
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
