"""What is seen of runs on a terminal, and elsewhere."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
import toy

from sharp_plugins.runs.processes import Stop, run_process
from sharp_plugins.runs.progress import Progress, Screen

CONFIG = {"optimization": {"max_update": 20}, "checkpoint": {"best_checkpoint_metric": "mcc"}}
ENTRIES = [
    {"epoch": 1, "num_updates": "5", "loss": "1"},
    {"epoch": 1, "valid_mcc": "12.5", "valid_num_updates": "8"},
    {"epoch": 1, "train_loss": "0.9", "train_num_updates": "8"},
    {"epoch": 2, "num_updates": "9"},
]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(text, width=200):
    """The lines of a terminal after *text*: a carriage return, a line up, and wiping all below the cursor."""
    lines, row, column = [""], 0, 0
    for part in re.split(r"(\r|\n|\033\[A|\033\[J)", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part == "\033[A":
            row -= 1
        elif part == "\033[J":
            lines = [*lines[:row], lines[row][:column]]
        else:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return lines


def test_progress():
    log, terminal = io.StringIO(), Terminal()
    for stream in (log, terminal):
        progress = Progress("[1/2] CoLA sam seed 1", CONFIG, Screen(stream))
        for number, entry in enumerate(ENTRIES):
            progress(entry)
            if stream is terminal and number == 3:
                assert shown(terminal.getvalue()) == ["[1/2] CoLA sam seed 1: epoch 2, update 9 of 20, mcc 12.5"]
        progress.end()
    assert log.getvalue() == "[1/2] CoLA sam seed 1: epoch 1, update 8 of 20, mcc 12.5\n"
    assert shown(terminal.getvalue()) == [""]


def test_all_runs_on_one_screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    screen = Screen(terminal)
    one, two = Progress("one", CONFIG, screen), Progress("two", CONFIG, screen)
    one(ENTRIES[0])
    two(ENTRIES[0])
    assert shown(terminal.getvalue()) == ["one: epoch 1, update 5 of 20", "two: epoch 1, update 5 of 20"]
    screen.tell("a line that stays")
    one(ENTRIES[3])
    assert shown(terminal.getvalue()) == ["a line that stays", "one: epoch 2, update 9 of 20", "two: epoch 1, update 5 of 20"]
    two(ENTRIES[1])
    one.end()
    assert shown(terminal.getvalue()) == ["a line that stays", "two: epoch 1, update 8 of 20, mcc 12.5"]
    screen.show("long", "x" * 100)
    assert shown(terminal.getvalue())[2] == "x" * 39
    screen.remove("long")
    two.end()
    screen.tell("the end")
    assert shown(terminal.getvalue()) == ["a line that stays", "the end", ""]


# ---------------------------------------------------------------------- nothing can be printed


class Full(io.StringIO):
    """A terminal, or a file, on a full disk."""

    error, is_terminal = OSError(28, "No space left on device"), True

    def isatty(self):
        return self.is_terminal

    def flush(self):
        raise self.error


@pytest.mark.parametrize("error", [Full.error, ValueError("I/O operation on closed file")])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_where_nothing_can_be_printed_the_runs_go_on(error, is_terminal):
    stream = Full()
    stream.error, stream.is_terminal = error, is_terminal
    screen = Screen(stream, stream)
    progress = Progress("one", CONFIG, screen)
    for entry in ENTRIES:
        progress(entry)
    screen.tell("a line")
    screen.tell("an error", is_error=True)
    progress.end()


def test_what_is_shown_ends_no_process(tmp_path):
    def show(entry):
        raise OSError(5, "Input/output error")

    code = "import time; print('{\"epoch\": 1}', flush=True); time.sleep(0.5); open('made', 'w')"
    assert run_process([sys.executable, "-c", code], tmp_path, tmp_path / "log", Stop(), show=show) == 0
    assert (tmp_path / "made").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="stands for a file on a full disk")
def test_what_cannot_be_printed_does_not_change_the_exit_status():
    code = "from sharp_plugins.runs.progress import give_up_unprintable, say; say('a line'); give_up_unprintable()"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], cwd=Path(toy.PLUGIN).parent, stdout=full, stderr=full)
    assert done.returncode == 0
