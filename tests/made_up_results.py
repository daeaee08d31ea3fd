"""Made-up results for the tests of tables."""

from sharp_plugins.runs.record import Measure, Record, Result

ACCURACY = Measure("valid", "accuracy", "accuracy")
F1 = Measure("valid", "f1", "F1")
LOSS = Measure("valid", "loss", "loss", higher_is_better=False)


def result(task, method, seed, minutes=1.0, axes=None, validations=(), updates=100, memory=None, split="valid", **metrics):
    record = Record("made up", task, method, seed, axes or {})
    return Result(record, {split: metrics}, minutes, updates, None, memory, list(validations), {})


def cells(text, heading):
    """The rows of the first table after a heading."""
    rows = []
    for line in text.split(heading, 1)[1].splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    return [rows[0], *rows[2:]]
