"""Made-up files of few-shot tasks: the label says whether a sentence has more x or more y."""

import json
from pathlib import Path
from typing import Dict, List


def sentence(number: int) -> str:
    letter = "xy"[number % 2]
    return letter * (2 + number % 3) + "z" + letter * (number % 4)


def write_table(path: Path, columns: List[str], rows: List[List[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in [columns, *rows]), encoding="utf-8")
    return path


def write_lines(path: Path, rows: List[Dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write(directory: Path) -> Path:
    """SST-2 for encoders and decoders, COPA and SQuAD."""
    for name, count in (("train", 60), ("dev", 12)):
        rows = [[f"{sentence(i)} {i}", str(i % 2)] for i in range(count)]
        write_table(directory / "SST-2" / f"{name}.tsv", ["sentence", "label"], rows)
    for name, count in (("train", 130), ("val", 8)):
        parts = {"choice1": "It fell.", "choice2": "I ran.", "question": "cause"}
        rows = [{"premise": f"It broke {i}.", **parts, "label": i % 2} for i in range(count)]
        write_lines(directory / "COPA" / f"{name}.jsonl", rows)
    for name, count in (("train", 520), ("dev", 6)):
        rows = [{"title": "X", "context": f"It is {i}.", "question": " What? ", "answers": [str(i), f"{i}!"]} for i in range(count)]
        write_lines(directory / f"{name}-v1.1.jsonl", rows)
    return directory
