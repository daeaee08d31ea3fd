"""Files of tasks as a user writes them."""

from pathlib import Path

import yaml

CLOZE = {
    "kind": "cloze",
    "files": {"train": ["own/train"], "test": ["own/test"]},
    "fields": {"text": ["text", "sentence"]},
    "label": ["label"],
    "labels": {"bad": ["0"], "good": ["1"]},
    "sentences": ["{text}"],
    "layout": {"template": [{"sentence": 1}, " It was", "<mask>", "."], "words": {"bad": "bad", "good": "good"}, "max_length": 64},
}
DECODER = {
    **{name: CLOZE[name] for name in ("files", "fields", "label", "labels")},
    "kind": "decoder",
    "prompt": "{text|strip} It was",
    "candidates": {"bad": " bad", "good": " good"},
}


def written(directory: Path, settings) -> Path:
    path = directory / "own.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path
