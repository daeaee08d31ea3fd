"""What is seen of runs on a terminal, and elsewhere."""

import io
import re

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
